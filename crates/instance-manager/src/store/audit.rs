//! The audit's rows: added, never changed, and gone when they are older than what is kept.

use std::{fmt, str::FromStr};

use berth_database::{Engine, Once, Row, Statement, Transaction, args};
use berth_model::{AuditKind, DONE, EventId, InstanceId};
use berth_service::Timestamp;

use super::{Store, audit_statements as sql, id};
use crate::Error;

/// An audit entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AuditRow {
    pub(crate) event_id: EventId,
    pub(crate) instance: InstanceId,
    /// What was done: the name of an [`AuditKind`], or of one that a newer version knows.
    pub(crate) kind: String,
    /// Who did it, by what kind of credential, from where, in which request.
    pub(crate) principal: String,
    pub(crate) credential: String,
    pub(crate) address: String,
    pub(crate) request_id: String,
    /// done, or why not.
    pub(crate) result: String,
    /// To what, where that is no artifact, and what that was called.
    pub(crate) subject: String,
    pub(crate) name: String,
    pub(crate) repository_id: String,
    pub(crate) repository: String,
    pub(crate) digest: String,
    pub(crate) tag: String,
    /// So many that are equal.
    pub(crate) count: i64,
    /// The first of them. 0: when it is recorded.
    pub(crate) occurred_at: i64,
    /// The last of them. 0: the same moment.
    pub(crate) last_at: i64,
    /// Set by recording.
    pub(crate) recorded_at: i64,
    /// The request whose effect this is, and what was made by it: recorded with the entry.
    pub(crate) recorded: Option<Recorded>,
}

/// A request that is to have its effect once, and its answer, sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Recorded {
    pub(crate) once: Once,
    pub(crate) answer: Vec<u8>,
}

impl AuditRow {
    /// An entry that says nothing but what was done.
    pub(crate) fn new(event_id: EventId, instance: InstanceId, kind: impl Into<String>) -> Self {
        Self {
            event_id,
            instance,
            kind: kind.into(),
            principal: String::new(),
            credential: String::new(),
            address: String::new(),
            request_id: String::new(),
            result: DONE.to_owned(),
            subject: String::new(),
            name: String::new(),
            repository_id: String::new(),
            repository: String::new(),
            digest: String::new(),
            tag: String::new(),
            count: 1,
            occurred_at: 0,
            last_at: 0,
            recorded_at: 0,
            recorded: None,
        }
    }

    /// What it was done to is called so.
    pub(crate) fn called(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }
}

/// A place in an order by time and id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Cursor {
    pub(crate) at: i64,
    pub(crate) event: EventId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.at, self.event)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a cursor is what an entry or a page says it is";
        let (at, event) = text.split_once('.').ok_or(wrong)?;
        Ok(Self { at: at.parse().map_err(|_| wrong)?, event: event.parse().map_err(|_| wrong)? })
    }
}

/// Which entries are meant; what is empty fits all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AuditFilter {
    pub(crate) instance: InstanceId,
    /// From this moment on, and before that one.
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) principal: String,
    pub(crate) kind: String,
    pub(crate) repository: String,
    pub(crate) repository_id: String,
    pub(crate) request_id: String,
    pub(crate) result: String,
    pub(crate) namespace: String,
}

impl AuditFilter {
    /// All of an instance.
    pub(crate) fn all(instance: InstanceId) -> Self {
        Self {
            instance,
            from: 0,
            to: i64::MAX,
            principal: String::new(),
            kind: String::new(),
            repository: String::new(),
            repository_id: String::new(),
            request_id: String::new(),
            result: String::new(),
            namespace: String::new(),
        }
    }

    /// The statement whose index leaves the least to look at.
    fn statement(&self) -> &'static Statement {
        let by = [
            (&self.request_id, &sql::PAGE_BY_REQUEST),
            (&self.repository_id, &sql::PAGE_BY_REPOSITORY_ID),
            (&self.repository, &sql::PAGE_BY_REPOSITORY),
            (&self.principal, &sql::PAGE_BY_PRINCIPAL),
            (&self.kind, &sql::PAGE_BY_TYPE),
        ];
        let found = by.into_iter().find(|(text, _)| !text.is_empty());
        found.map_or(&sql::PAGE_BY_TIME, |(_, statement)| statement)
    }

    /// Whether an entry of the instance and the time fits the rest.
    fn fits(&self, row: &AuditRow) -> bool {
        let equal = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let in_namespace = || {
            let below = row.repository.strip_prefix(self.namespace.as_str());
            below.is_some_and(|rest| rest.starts_with('/'))
                || (row.name == self.namespace && row.subject.starts_with("namespace:"))
        };
        equal(&self.principal, &row.principal)
            && equal(&self.kind, &row.kind)
            && equal(&self.repository, &row.repository)
            && equal(&self.repository_id, &row.repository_id)
            && equal(&self.request_id, &row.request_id)
            && equal(&self.result, &row.result)
            && (self.namespace.is_empty() || in_namespace())
    }
}

/// A step of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ExportStep {
    /// What of the step fits.
    pub(crate) rows: Vec<AuditRow>,
    /// Where to go on.
    pub(crate) after: Option<Cursor>,
    /// There was nothing more just now.
    pub(crate) is_end: bool,
    /// What was recorded before this moment was looked at, and which moment it is.
    pub(crate) settled: i64,
    pub(crate) now: i64,
}

/// Records an entry, unless it is there; how many are new.
pub(super) async fn add_audit(tx: &mut Transaction, row: AuditRow, now: Timestamp) -> Result<u64, Error> {
    if let Some(Recorded { once, answer }) = row.recorded {
        if once.begin(tx).await?.is_some() {
            // Another was faster: what this unit has done is undone, and its caller finds the record.
            return Err(Error::Repeated);
        }
        once.end(tx, answer).await?;
    }
    let occurred_at = if row.occurred_at == 0 { now.0 } else { row.occurred_at };
    let values = args![
        occurred_at,
        row.event_id.to_string(),
        row.instance.to_string(),
        row.kind,
        row.principal,
        row.credential,
        row.address,
        row.request_id,
        row.result,
        row.subject,
        row.name,
        row.repository_id,
        row.repository,
        row.digest,
        row.tag,
        row.count,
        row.last_at.max(occurred_at),
        now,
    ];
    Ok(tx.execute(&sql::ADD, values).await?)
}

fn read(instance: InstanceId, row: &Row) -> Result<AuditRow, Error> {
    Ok(AuditRow {
        event_id: id(row, 1)?,
        instance,
        kind: row.get(2)?,
        principal: row.get(3)?,
        credential: row.get(4)?,
        address: row.get(5)?,
        request_id: row.get(6)?,
        result: row.get(7)?,
        subject: row.get(8)?,
        name: row.get(9)?,
        repository_id: row.get(10)?,
        repository: row.get(11)?,
        digest: row.get(12)?,
        tag: row.get(13)?,
        count: row.get(14)?,
        occurred_at: row.get(0)?,
        last_at: row.get(15)?,
        recorded_at: row.get(16)?,
        recorded: None,
    })
}

impl Store {
    /// Records entries, each once; returns how many were new.
    pub(crate) async fn record(&self, rows: Vec<AuditRow>) -> Result<u64, Error> {
        let new = self
            .database
            .write("record_audit", move |tx| {
                let rows = rows.clone();
                Box::pin(async move {
                    let now = tx.now();
                    let mut new = 0;
                    for row in rows {
                        new += add_audit(tx, row, now).await?;
                    }
                    berth_service::crash::point("audit.before_commit");
                    Ok::<_, Error>(new)
                })
            })
            .await?;
        berth_service::crash::point("audit.committed");
        Ok(new)
    }

    /// A page of entries before a place, newest first.
    pub(crate) async fn audit_page(
        &self,
        filter: &AuditFilter,
        before: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<AuditRow>, Error> {
        // The place bounds the time as well, which is what leads to few partitions.
        let place = before.map_or((filter.to, String::new()), |place| (place.at, place.event.to_string()));
        let (at, event) = place.min((filter.to, String::new()));
        let prefix = |end: &str| match filter.namespace.as_str() {
            "" => String::new(),
            namespace => format!("{namespace}{end}"),
        };
        let values = args![
            filter.instance.to_string(),
            filter.from,
            at,
            event,
            &filter.principal,
            &filter.kind,
            &filter.repository,
            &filter.repository_id,
            &filter.request_id,
            &filter.result,
            // What comes after a slash is before what comes after the next byte.
            prefix("/"),
            prefix("0"),
            &filter.namespace,
            limit,
        ];
        let rows = self.database.read_all(filter.statement(), values).await?;
        rows.iter().map(|row| read(filter.instance, row)).collect()
    }

    /// Looks at `look_at` entries after a place, in the order of recording, and gives those that fit. What is recorded
    /// later comes after them.
    pub(crate) async fn export_audit(
        &self,
        filter: &AuditFilter,
        after: Option<Cursor>,
        look_at: i64,
    ) -> Result<ExportStep, Error> {
        let settled = self.database.read_optional(&sql::SETTLED, args![]).await?;
        let settled = settled.ok_or(Error::Inconsistent("no time"))?;
        let (settled, now): (i64, i64) = (settled.get(0)?, settled.get(1)?);
        let (at, event) = after.map_or((0, String::new()), |place| (place.at, place.event.to_string()));
        let instance = filter.instance;
        let values = args![instance.to_string(), filter.from, filter.to, at, event, settled, look_at];
        let found = self.database.read_all(&sql::EXPORT, values).await?;
        let is_end = i64::try_from(found.len()).unwrap_or(i64::MAX) < look_at;
        let mut rows = found.iter().map(|row| read(instance, row)).collect::<Result<Vec<_>, _>>()?;
        let last = rows.last().map(|row| Cursor { at: row.recorded_at, event: row.event_id });
        rows.retain(|row| filter.fits(row));
        Ok(ExportStep { rows, after: last.or(after), is_end, settled, now })
    }

    /// Sees to it that there is a place for what is recorded at a moment, where rows lie in one for each month.
    pub(crate) async fn make_audit_month(&self, moment: Timestamp) -> Result<bool, Error> {
        self.database
            .write("make_audit_month", move |tx| {
                Box::pin(async move {
                    let made = tx.optional(&sql::MAKE_MONTH, args![moment]).await?;
                    Ok::<_, Error>(made.map(|row| row.get(0)).transpose()?.unwrap_or(false))
                })
            })
            .await
    }

    /// Deletes some of what is older than a moment, if there is such: a month at once, or at most `most` entries. `entry`
    /// is recorded with what was deleted. False: there is nothing to delete.
    pub(crate) async fn expire_audit(
        &self,
        moment: Timestamp,
        most: i64,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        self.database
            .write("expire_audit", move |tx| {
                let mut entry = entry.clone();
                Box::pin(async move {
                    let now = tx.now();
                    let month = tx.optional(&sql::DROP_MONTH, args![moment]).await?;
                    if let Some(month) = month.map(|row| row.get::<Option<String>>(0)).transpose()?.flatten()
                    {
                        entry.name = month;
                        add_audit(tx, entry, now).await?;
                        return Ok(true);
                    }
                    let dropped = match tx.engine() {
                        Engine::Sqlite => tx.execute(&sql::DROP_OLD, args![moment, most]).await?,
                        Engine::Postgres => {
                            tx.one(&sql::DROP_OLD, args![moment, most]).await?.get::<i64>(0)?.unsigned_abs()
                        }
                    };
                    if dropped == 0 {
                        return Ok(false);
                    }
                    entry.count = i64::try_from(dropped).unwrap_or(i64::MAX);
                    add_audit(tx, entry, now).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }
}

/// What the worker says when it deletes.
pub(crate) fn expired(event: EventId, instance: InstanceId) -> AuditRow {
    let mut entry = AuditRow::new(event, instance, AuditKind::AuditExpired.as_str());
    entry.principal = "system:retention".to_owned();
    entry.credential = "none".to_owned();
    entry.address = "local".to_owned();
    entry.request_id = event.to_string();
    entry.subject = "audit".to_owned();
    entry
}
