//! Reviews of manifests: what no tag, no index and no subject keeps.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use berth_database::{Engine, Transaction, args};
use berth_model::RepositoryId;
use berth_oci::{Digest, ErrorCode};
use berth_service::Timestamp;

use super::{PRINCIPAL, Seen, Verdict, is_deleted};
use crate::{
    Metadata,
    access::{Access, Binding, Origin},
    dissociation::Dissociated,
    error::{Error, Result},
    manifest,
    store::{self, collect_statements as sql},
};

/// How long a referrer that came first waits for its subject.
const REFERRER_GRACE: Duration = Duration::from_secs(24 * 3600);

/// What decides about a manifest.
#[derive(Clone, Debug)]
struct Facts {
    instance: String,
    path: String,
    keep_untagged: bool,
    pushed_at: Timestamp,
    tagged: bool,
    in_index: bool,
    has_subject: bool,
    subject_present: bool,
}

/// What they say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judgement {
    Keep,
    Wait(Timestamp),
    Delete,
}

impl Facts {
    async fn read(tx: &mut Transaction, repository: &str, digest: &[u8]) -> Result<Option<Self>> {
        let Some(row) = tx.optional(&sql::MANIFEST_FACTS, args![repository, digest]).await? else {
            return Ok(None);
        };
        Ok(Some(Self {
            instance: row.get(0)?,
            path: row.get(1)?,
            keep_untagged: row.get(2)?,
            pushed_at: Timestamp(row.get(3)?),
            tagged: row.get(4)?,
            in_index: row.get(5)?,
            has_subject: row.get(6)?,
            subject_present: row.get(7)?,
        }))
    }

    /// `released`: its holder went, so that being untagged keeps it no longer.
    fn judge(&self, released: bool, now: Timestamp) -> Judgement {
        if self.tagged || self.in_index {
            return Judgement::Keep;
        }
        if self.has_subject {
            let until = self.pushed_at.plus(REFERRER_GRACE);
            return match self.subject_present {
                true => Judgement::Keep,
                false if !released && until > now => Judgement::Wait(until),
                false => Judgement::Delete,
            };
        }
        if self.keep_untagged && !released { Judgement::Keep } else { Judgement::Delete }
    }

    /// Who acts, for the event.
    fn access(&self, repository: &str) -> Result<Access> {
        let unreadable = || Error::new(ErrorCode::Internal, "a stored repository can't be read");
        let id: RepositoryId = repository.parse().map_err(|_| unreadable())?;
        Ok(Access {
            instance: self.instance.parse().map_err(|_| unreadable())?,
            path: self.path.parse().map_err(|_| unreadable())?,
            bound_to: Binding::Repository(id),
            principal: PRINCIPAL.to_owned(),
            keeps_tags: false,
            origin: Origin::default(),
        })
    }
}

/// Whether somebody holds a review among `digests`. Waiting for one could close a circle: they come in digest order, and
/// the review that is held already may be anywhere in it. Nobody makes such a row unseen and then waits for the held one:
/// whoever queues a manifest together with what lived with it goes by a tag or an index that holds it, and then it is kept.
async fn is_any_held(tx: &mut Transaction, repository: &str, digests: &BTreeSet<Digest>) -> Result<bool> {
    if tx.engine() == Engine::Sqlite || digests.is_empty() {
        return Ok(false);
    }
    let args = || args![repository, store::digests(digests)];
    let locked = tx.all(&sql::TRY_LOCK_QUEUED_MANIFESTS, args()).await?.len();
    Ok(tx.all(&sql::QUEUED_MANIFESTS, args()).await?.len() > locked)
}

async fn review(tx: &mut Transaction, metadata: &Metadata, seen: &Seen) -> Result<Option<Verdict>> {
    let now = tx.now();
    let Some(row) = tx.optional(&sql::NEXT_MANIFEST, args![now]).await? else { return Ok(None) };
    let repository: String = row.get(0)?;
    let stored: Vec<u8> = row.get(1)?;
    let key = || args![repository.as_str(), stored.as_slice()];
    seen.note(key(), row.get(2)?);
    let released = row.get(3)?;
    let put_off = |until: Timestamp| {
        let mut args = key();
        args.push(until.into());
        args
    };
    let Some(facts) = Facts::read(tx, &repository, &stored).await? else {
        tx.execute(&sql::DROP_MANIFEST_REVIEW, key()).await?;
        return Ok(Some(Verdict::Kept));
    };
    match facts.judge(released, now) {
        Judgement::Delete => {}
        Judgement::Keep => {
            tx.execute(&sql::DROP_MANIFEST_REVIEW, key()).await?;
            return Ok(Some(Verdict::Kept));
        }
        Judgement::Wait(until) => {
            tx.execute(&sql::PUT_OFF_MANIFEST, put_off(until)).await?;
            return Ok(Some(Verdict::PutOff));
        }
    }
    let digest = store::digest(&row, 1)?;
    let freed = Dissociated::of(tx, &repository, &digest).await?;
    let busy = now.plus(metadata.busy_wait());
    if is_any_held(tx, &repository, &freed.dependants).await? {
        tx.execute(&sql::PUT_OFF_MANIFEST, put_off(busy)).await?;
        return Ok(Some(Verdict::PutOff));
    }
    // Harmless if the manifest turns out to be kept: its dependants' reviews find it there.
    freed.queue(tx, &repository, now.plus(metadata.freed_after())).await?;
    let Some(locked) = tx.optional(&sql::TRY_LOCK_MANIFEST, key()).await? else {
        tx.execute(&sql::PUT_OFF_MANIFEST, put_off(busy)).await?;
        return Ok(Some(Verdict::PutOff));
    };
    if !freed.covers(&Dissociated::of(tx, &repository, &digest).await?) {
        // Somebody has just pushed what belongs to it.
        tx.execute(&sql::PUT_OFF_MANIFEST, put_off(busy)).await?;
        return Ok(Some(Verdict::PutOff));
    }
    // A tag or an index may have come until the row was locked; from here on none can.
    let facts = Facts::read(tx, &repository, &stored).await?;
    tx.execute(&sql::DROP_MANIFEST_REVIEW, key()).await?;
    let Some(facts) = facts.filter(|facts| facts.judge(released, now) == Judgement::Delete) else {
        return Ok(Some(Verdict::Kept));
    };
    let access = facts.access(&repository)?;
    let artifact = manifest::described(&access, &repository, &digest, &locked)?;
    manifest::remove(tx, metadata, &access, &repository, &digest, artifact).await?;
    Ok(Some(Verdict::Deleted))
}

impl Metadata {
    /// Reviews the manifest that is due first: deleted unless a tag, an index, its subject or the repository's wish
    /// to keep what is untagged holds it. `None` when nothing is due.
    pub(crate) async fn review_next_manifest(&self) -> Result<Option<Verdict>> {
        let seen = Seen::default();
        let input = Arc::new((self.clone(), seen.clone()));
        let outcome = self
            .database
            .write("review_next_manifest", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move {
                    let outcome = review(tx, &input.0, &input.1).await;
                    if is_deleted(&outcome) {
                        berth_service::crash::point("collect_manifest.before_commit");
                    }
                    outcome
                })
            })
            .await;
        if is_deleted(&outcome) {
            berth_service::crash::point("collect_manifest.committed");
        }
        let verdict = self.settle(outcome, &seen, &sql::BACK_OFF_MANIFEST).await?;
        if verdict == Some(Verdict::Deleted) {
            self.nudge.nudge();
        }
        Ok(verdict)
    }
}
