//! The scrubber compares rows and bytes in both directions and reports: what a row names is read back and hashed, and what
//! a store holds is looked up in the rows. It repairs nothing.
//!
//! It goes through everything in passes, a page at a time. A page's end, its counts and its findings are recorded in one
//! transaction, so a pass goes on after a restart and reports nothing twice.

mod begin;
mod check;
mod places;
mod worker;

use berth_database::{DatabaseError, Row, args};
use berth_oci::{Digest, ErrorCode};
use berth_service::Timestamp;

pub(crate) use begin::Pace;
pub(crate) use worker::{Metrics, Scrubber};

use crate::{
    Metadata,
    error::{Error, Result},
    store::{self, scrub_statements as sql},
    task,
};

/// Findings of one pass that are kept; all are counted and logged.
const MAX_KEPT: u64 = 10_000;
/// Findings of one page.
pub(crate) const FINDINGS_PAGE: usize = 1000;

/// What a pass goes through, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Blob rows, each read back and hashed.
    Blobs,
    /// Manifests, each hashed, and what they refer to.
    Manifests,
    /// Tags, and what they refer to.
    Tags,
    /// Objects, and whether a row names them.
    Objects,
    Done,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Blobs, Self::Manifests, Self::Tags, Self::Objects, Self::Done];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Manifests => "manifests",
            Self::Tags => "tags",
            Self::Objects => "objects",
            Self::Done => "done",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Blobs => Self::Manifests,
            Self::Manifests => Self::Tags,
            Self::Tags => Self::Objects,
            Self::Objects | Self::Done => Self::Done,
        }
    }
}

/// What can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    /// The object of a row is not there.
    Missing,
    /// The object has fewer bytes than its row says.
    Short,
    /// The bytes have another digest than their row says.
    WrongDigest,
    /// The store can't read the object.
    Unreadable,
    /// A store of an instance's own does not answer: the pass went on without it.
    Unreachable,
    /// A manifest or a tag refers to what is not there.
    Dangling,
    /// No row names the object: wasted room, and no harm.
    Orphan,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Short => "short",
            Self::WrongDigest => "wrong_digest",
            Self::Unreadable => "unreadable",
            Self::Unreachable => "unreachable",
            Self::Dangling => "dangling",
            Self::Orphan => "orphan",
        }
    }

    const ALL: [Self; 7] = [
        Self::Missing,
        Self::Short,
        Self::WrongDigest,
        Self::Unreadable,
        Self::Unreachable,
        Self::Dangling,
        Self::Orphan,
    ];
}

/// Something that is wrong. It names no repository: whoever reads a log need not know what is in which.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) object: Option<String>,
    pub(crate) digest: Option<Digest>,
}

/// What was counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    pub(crate) blobs: u64,
    pub(crate) manifests: u64,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) damaged: u64,
    pub(crate) orphans: u64,
}

/// Where a pass goes on: after this key of its phase.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    pub(crate) phase: Phase,
    text: String,
    bytes: Vec<u8>,
}

impl Position {
    fn start_of(phase: Phase) -> Self {
        Self { phase, text: String::new(), bytes: Vec::new() }
    }
}

/// A pass over everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pass {
    pub(crate) number: i64,
    pub(crate) paced: bool,
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) position: Position,
    steps: i64,
    pub(crate) counts: Counts,
    pub(crate) waits_for: String,
}

impl Pass {
    fn read(row: &Row) -> Result<Self> {
        let name: String = row.get(4)?;
        let phase = Phase::ALL.into_iter().find(|known| known.name() == name);
        let phase = phase.ok_or_else(|| unknown("phase", &name))?;
        let count = |index| store::size(row, index);
        Ok(Self {
            number: row.get(0)?,
            paced: row.get(1)?,
            started_at: Timestamp(row.get(2)?),
            ended_at: row.get::<Option<i64>>(3)?.map(Timestamp),
            position: Position { phase, text: row.get(5)?, bytes: row.get(6)? },
            steps: row.get(7)?,
            counts: Counts {
                blobs: count(8)?,
                manifests: count(9)?,
                objects: count(10)?,
                bytes: count(11)?,
                damaged: count(12)?,
                orphans: count(13)?,
            },
            waits_for: row.get::<Option<String>>(14)?.unwrap_or_default(),
        })
    }
}

/// What a step of a pass came to.
#[derive(Debug)]
struct Progress {
    position: Position,
    counts: Counts,
    findings: Vec<Finding>,
}

impl Progress {
    fn find(&mut self, kind: Kind, object: Option<String>, digest: Option<Digest>) {
        match kind {
            Kind::Orphan => self.counts.orphans += 1,
            _ => self.counts.damaged += 1,
        }
        self.findings.push(Finding { kind, object, digest });
    }
}

/// What a pass came to, in words.
fn outcome(damaged: u64, orphans: u64) -> String {
    match (damaged, orphans) {
        (0, 0) => String::new(),
        (damaged, 0) => format!("{damaged} are damaged; its findings say which"),
        (0, orphans) => format!("{orphans} objects have no row; its findings say which"),
        (damaged, orphans) => {
            format!("{damaged} are damaged, {orphans} objects have no row; its findings say which")
        }
    }
}

fn unknown(what: &str, name: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("a pass's {what} {name:?} is not known to this version"))
}

impl Metadata {
    /// The pass that runs, or the last that did. Number 0 stands for the day when there was nothing to look at.
    pub(crate) async fn newest_pass(&self) -> Result<Option<Pass>> {
        let row = self.database.read_optional(&sql::NEWEST_PASS, args![]).await?;
        row.as_ref().map(Pass::read).transpose()
    }

    /// Records a step; false when the pass was taken further, or given up, meanwhile.
    async fn advance_pass(&self, pass: &Pass, progress: &Progress) -> Result<bool> {
        let (number, steps) = (pass.number, pass.steps);
        let (position, counts) = (progress.position.clone(), progress.counts);
        let found = pass.counts.damaged + pass.counts.orphans;
        let room = usize::try_from(MAX_KEPT.saturating_sub(found)).unwrap_or(usize::MAX);
        let kept: Vec<Finding> = progress.findings.iter().take(room).cloned().collect();
        let first = store::stored_size(found + 1)?;
        let outcome = outcome(pass.counts.damaged + counts.damaged, pass.counts.orphans + counts.orphans);
        self.database
            .write("advance_pass", move |tx| {
                let (position, kept, outcome) = (position.clone(), kept.clone(), outcome.clone());
                Box::pin(async move {
                    let ended_at = (position.phase == Phase::Done).then(|| tx.now().0);
                    let mut args =
                        args![number, steps, position.phase.name(), position.text, position.bytes, ended_at];
                    for count in [
                        counts.blobs,
                        counts.manifests,
                        counts.objects,
                        counts.bytes,
                        counts.damaged,
                        counts.orphans,
                    ] {
                        args.push(store::stored_size(count)?.into());
                    }
                    if tx.execute(&sql::ADVANCE_PASS, args).await? == 0 {
                        return Ok(false);
                    }
                    for (number_of_finding, finding) in (first..).zip(kept) {
                        let digest = finding.digest.map(|digest| digest.to_bytes());
                        let args = args![
                            number,
                            number_of_finding,
                            finding.kind.name(),
                            finding.object,
                            berth_database::Arg::Bytes(digest),
                        ];
                        tx.execute(&sql::ADD_FINDING, args).await?;
                    }
                    let work = task::Kind::Scrub.of(&number.to_string());
                    if position.phase == Phase::Done {
                        work.end(tx, &outcome).await?;
                    } else {
                        work.step(tx, counts.blobs + counts.manifests + counts.objects).await?;
                    }
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// Says why a pass can't go on.
    async fn note_wait(&self, pass: i64, reason: String) -> Result<()> {
        self.database
            .write("note_scrub_wait", move |tx| {
                let reason = reason.replace('\0', "");
                Box::pin(async move {
                    task::Kind::Scrub.of(&pass.to_string()).wait(tx, &reason).await?;
                    tx.execute(&sql::PASS_WAITS, args![pass, reason]).await?;
                    Ok::<_, Error>(())
                })
            })
            .await
    }

    /// Findings of a pass after a number, each with its own.
    pub(crate) async fn findings(&self, pass: i64, after: u64) -> Result<Vec<(u64, Finding)>> {
        let (after, limit) = (store::stored_size(after)?, store::stored_size(FINDINGS_PAGE as u64)?);
        let rows = self.database.read_all(&sql::FINDINGS, args![pass, after, limit]).await?;
        let mut findings = Vec::with_capacity(rows.len());
        for row in rows {
            let finding = Finding {
                kind: kind(&row.get::<String>(1)?)?,
                object: row.get(2)?,
                digest: store::optional_digest(&row, 3)?,
            };
            findings.push((store::size(&row, 0)?, finding));
        }
        Ok(findings)
    }

    /// What a pass has found, by kind, as far as it is kept.
    async fn count_findings(&self, pass: i64) -> Result<Vec<(Kind, i64)>> {
        let rows = self.database.read_all(&sql::COUNT_FINDINGS, args![pass]).await?;
        rows.into_iter().map(|row| Ok((kind(&row.get::<String>(0)?)?, row.get(1)?))).collect()
    }
}

fn kind(name: &str) -> Result<Kind> {
    Kind::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| unknown("finding", name))
}

/// Whether it is the database that is away.
fn is_outage(error: &Error) -> bool {
    matches!(error, Error::Database(DatabaseError::Unavailable(_) | DatabaseError::Full(_)))
}
