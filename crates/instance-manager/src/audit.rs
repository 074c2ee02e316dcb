//! The audit: what happened, each entry recorded once under its id, never changed, read by page or as a stream, and
//! deleted when it is older than what is kept.

use std::time::Duration;

use berth_model::{EventId, InstanceId};
use berth_oci::Problem;
use berth_proto::{
    events::{Event, event::Payload},
    instance_manager as wire, optional, parse,
};
use berth_service::{Ids, SharedClock, Timestamp};
use futures::Stream;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    error::invalid,
    settings::SettingsBoard,
    store::{AuditFilter, AuditRow, Cursor, ExportStep, Store, expired},
};

/// The most events of one delivery, and entries of one call.
pub(crate) const MAX_DELIVERY: usize = 1_000;

/// The most entries of one page.
pub(crate) const MAX_PAGE: u32 = 100;

/// How many entries an export looks at with one statement.
const STEP: i64 = 1_000;

/// How often an export that follows looks for more.
const POLL: Duration = Duration::from_millis(500);

/// How often, and how many times at most, an export that does not follow looks whether transactions that were under way
/// when it began have ended.
const SETTLE: Duration = Duration::from_millis(50);
const PATIENCE: u32 = 40;

/// How many entries are deleted in one transaction.
const EXPIRE: i64 = 1_000;

/// The longest text of an entry, in bytes.
const MAX_TEXT: usize = 1_024;

const DAY: i64 = 86_400_000_000;

/// A text cut to so many bytes, without zeros, which PostgreSQL does not take.
pub(crate) fn bounded(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
    if text.contains('\0') { text.replace('\0', "") } else { text }
}

fn cut(row: &mut AuditRow) {
    let texts = [
        &mut row.kind,
        &mut row.principal,
        &mut row.credential,
        &mut row.address,
        &mut row.request_id,
        &mut row.result,
        &mut row.subject,
        &mut row.name,
        &mut row.repository_id,
        &mut row.repository,
        &mut row.digest,
        &mut row.tag,
    ];
    for text in texts {
        *text = bounded(std::mem::take(text), MAX_TEXT);
    }
}

fn row(event: Event) -> Result<AuditRow, Problem> {
    let id: EventId = parse("id", &event.id)?;
    let mut row = AuditRow::new(id, parse("instance_id", &event.instance_id)?, event.r#type);
    row.occurred_at = event.occurred_at;
    match event.payload {
        Some(Payload::Artifact(artifact)) => {
            row.principal = artifact.principal;
            row.credential = artifact.credential;
            row.address = artifact.address;
            row.request_id = artifact.request_id;
            row.repository_id = artifact.repository_id;
            row.repository = artifact.repository;
            row.digest = artifact.digest;
            row.tag = artifact.tag;
        }
        Some(Payload::Management(management)) => {
            row.principal = management.principal;
            row.credential = management.credential;
            row.address = management.address;
            row.request_id = management.request_id;
            if let Some(id) = management.subject.strip_prefix("repository:") {
                row.repository_id = id.to_owned();
                row.repository.clone_from(&management.name);
            }
            row.name = management.name;
            row.subject = management.subject;
        }
        None => return Err(invalid(format!("event {id} has no payload that is known here"))),
    }
    // What an operator did through the socket, or the registry by itself, came from this deployment.
    if row.principal.starts_with("system:") {
        for (text, said) in [(&mut row.credential, "none"), (&mut row.address, "local")] {
            if text.is_empty() {
                said.clone_into(text);
            }
        }
        if row.request_id.is_empty() {
            row.request_id = id.to_string();
        }
    }
    cut(&mut row);
    Ok(row)
}

/// Records a delivery, in one transaction; what was recorded before stays as it is. Returns how many were new.
pub(crate) async fn apply(store: &Store, events: Vec<Event>) -> Result<u64, Error> {
    if events.len() > MAX_DELIVERY {
        return Err(invalid(format!("a delivery has at most {MAX_DELIVERY} events")).into());
    }
    let rows = events.into_iter().map(row).collect::<Result<Vec<_>, _>>()?;
    record(store, rows).await
}

async fn record(store: &Store, mut rows: Vec<AuditRow>) -> Result<u64, Error> {
    // Two relays may deliver the same events; in one order they can't wait for each other in a circle.
    rows.sort_unstable_by_key(|row| (row.occurred_at, row.event_id));
    if rows.is_empty() { Ok(0) } else { store.record(rows).await }
}

/// Records what a gateway has gathered.
pub(crate) async fn record_gathered(store: &Store, entries: Vec<wire::AuditEntry>) -> Result<u64, Error> {
    if entries.len() > MAX_DELIVERY {
        return Err(invalid(format!("a call has at most {MAX_DELIVERY} entries")).into());
    }
    let read = |entry: wire::AuditEntry| {
        let id = parse("event_id", &entry.event_id)?;
        let mut row = AuditRow::new(id, parse("instance_id", &entry.instance_id)?, entry.r#type);
        row.principal = entry.principal;
        row.credential = entry.credential;
        row.address = entry.address;
        row.request_id = entry.request_id;
        row.result = entry.result;
        row.subject = entry.subject;
        row.name = entry.name;
        row.repository_id = entry.repository_id;
        row.repository = entry.repository;
        row.digest = entry.digest;
        row.tag = entry.tag;
        row.count = entry.count.max(1);
        row.occurred_at = entry.occurred_at;
        row.last_at = entry.last_at;
        cut(&mut row);
        Ok::<_, Problem>(row)
    };
    let rows = entries.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    record(store, rows).await
}

/// Reads a filter.
pub(crate) fn filter(wanted: Option<wire::AuditFilter>) -> Result<AuditFilter, Problem> {
    let wanted = berth_proto::require("filter", wanted)?;
    let mut filter = AuditFilter::all(parse("filter.instance_id", &wanted.instance_id)?);
    if wanted.from < 0 || wanted.to < 0 {
        return Err(invalid("field filter: times are after 1970"));
    }
    filter.from = wanted.from;
    if wanted.to > 0 {
        filter.to = wanted.to;
    }
    match wanted.repository.contains('/') {
        true => filter.repository = wanted.repository,
        false => filter.repository_id = wanted.repository,
    }
    filter.principal = wanted.principal;
    filter.kind = wanted.r#type;
    filter.namespace = wanted.namespace;
    filter.result = wanted.result;
    filter.request_id = wanted.request_id;
    let texts = [
        &filter.repository,
        &filter.repository_id,
        &filter.principal,
        &filter.kind,
        &filter.namespace,
        &filter.result,
        &filter.request_id,
    ];
    if texts.iter().any(|text| text.len() > MAX_TEXT || text.contains('\0')) {
        return Err(invalid(format!("field filter: a text has at most {MAX_TEXT} bytes, and no zeros")));
    }
    Ok(filter)
}

/// An entry as it is told, with a place where the caller may go on.
pub(crate) fn entry(row: AuditRow, cursor: Cursor) -> wire::AuditEntry {
    wire::AuditEntry {
        event_id: row.event_id.to_string(),
        instance_id: row.instance.to_string(),
        r#type: row.kind,
        principal: row.principal,
        credential: row.credential,
        address: row.address,
        request_id: row.request_id,
        result: row.result,
        subject: row.subject,
        name: row.name,
        repository_id: row.repository_id,
        repository: row.repository,
        digest: row.digest,
        tag: row.tag,
        count: row.count,
        occurred_at: row.occurred_at,
        last_at: row.last_at,
        recorded_at: row.recorded_at,
        cursor: cursor.to_string(),
    }
}

/// A page, newest first, and where the next one begins.
pub(crate) async fn page(
    store: &Store,
    request: wire::ListAuditRequest,
) -> Result<wire::ListAuditResponse, Error> {
    let filter = filter(request.filter)?;
    let before = optional("before", &request.before)?;
    let limit = if request.limit == 0 { MAX_PAGE } else { request.limit.min(MAX_PAGE) };
    let mut rows = store.audit_page(&filter, before, i64::from(limit) + 1).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let cursor = |row: &AuditRow| Cursor { at: row.occurred_at, event: row.event_id };
    let next = rows.last().filter(|_| more).map(|row| cursor(row).to_string());
    let exported = |row: AuditRow| {
        let place = Cursor { at: row.recorded_at, event: row.event_id };
        entry(row, place)
    };
    Ok(wire::ListAuditResponse {
        entries: rows.into_iter().map(exported).collect(),
        next: next.unwrap_or_default(),
    })
}

/// What an export has still to do. It holds one step of entries, and no transaction.
#[derive(Debug)]
struct Export {
    store: Store,
    filter: AuditFilter,
    after: Option<Cursor>,
    /// Of the step, last first.
    ready: Vec<AuditRow>,
    left: u64,
    follow: bool,
    is_end: bool,
    /// What was recorded before this moment is given before the end.
    until: Option<i64>,
    patience: u32,
    ended: CancellationToken,
}

impl Export {
    async fn next(&mut self) -> Result<Option<wire::AuditEntry>, Error> {
        loop {
            if self.left == 0 {
                return Ok(None);
            }
            if let Some(row) = self.ready.pop() {
                self.left -= 1;
                let place = Cursor { at: row.recorded_at, event: row.event_id };
                return Ok(Some(entry(row, place)));
            }
            if self.is_end && !self.follow && self.patience == 0 {
                return Ok(None);
            }
            if self.is_end {
                self.patience = self.patience.saturating_sub(1);
                tokio::select! {
                    () = self.ended.cancelled() => return Ok(None),
                    () = tokio::time::sleep(if self.follow { POLL } else { SETTLE }) => {}
                }
            }
            let ExportStep { mut rows, after, is_end, settled, now } =
                self.store.export_audit(&self.filter, self.after, STEP).await?;
            if settled > *self.until.get_or_insert(now) {
                self.patience = 0;
            }
            rows.reverse();
            (self.ready, self.after, self.is_end) = (rows, after, is_end);
        }
    }
}

/// Everything that fits, in the order of recording.
pub(crate) fn export(
    store: Store,
    request: wire::ExportAuditRequest,
    ended: CancellationToken,
) -> Result<impl Stream<Item = Result<wire::AuditEntry, Error>> + Send, Problem> {
    let after = optional("after", &request.after)?;
    let export = Export {
        store,
        filter: filter(request.filter)?,
        after,
        ready: Vec::new(),
        left: if request.limit == 0 { u64::MAX } else { request.limit },
        follow: request.follow,
        is_end: false,
        until: None,
        patience: PATIENCE,
        ended,
    };
    Ok(futures::stream::unfold(Some(export), |export| async move {
        let mut export = export?;
        match export.next().await {
            Ok(entry) => entry.map(|entry| (Ok(entry), Some(export))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// Keeps the audit's time: places made ahead, and what is too old deleted.
#[derive(Clone, Debug)]
pub(crate) struct Retention {
    pub(crate) store: Store,
    pub(crate) settings: SettingsBoard,
    pub(crate) clock: SharedClock,
    pub(crate) ids: Ids,
    pub(crate) days: u32,
}

impl Retention {
    /// Makes the places of this month and the next two, then deletes what is older than what is kept, step by step.
    pub(crate) async fn tend(&self) -> Result<(), Error> {
        let now = self.clock.now();
        // Two steps of at most a month each.
        for days in [0, 28, 56] {
            self.store.make_audit_month(Timestamp(now.0 + days * DAY)).await?;
        }
        let home: InstanceId =
            self.settings.current().home().ok_or(Error::Inconsistent("no default instance"))?;
        let kept_from = Timestamp(now.0.saturating_sub(i64::from(self.days.max(1)) * DAY));
        loop {
            let entry = expired(EventId::new(self.ids.ulid()), home);
            if !self.store.expire_audit(kept_from, EXPIRE, entry).await? {
                return Ok(());
            }
        }
    }
}
