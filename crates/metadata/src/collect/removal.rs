//! What is left of removed repositories, namespaces and instances, a bounded step at a time. Nobody can come to it any more: a removed
//! repository has no path. Its blobs are reviewed like any others.

use std::{sync::Arc, time::Duration};

use berth_database::{Statement, Transaction, args};

use super::{Seen, Verdict, is_deleted};
use crate::{
    Metadata,
    error::Result,
    managed,
    store::{collect_statements as sql, statements},
    task::{self, Kind},
};

/// How long what waits for something else is left alone.
const WAIT: Duration = Duration::from_secs(2);

/// The same for what waits for collection.
const LONG_WAIT: Duration = Duration::from_secs(60);

/// What a step came to.
enum Step {
    /// There is more to be done at once.
    More,
    /// Something else has to end first; look again after so long.
    Wait(Duration),
    /// Nothing is left.
    Done,
}

/// What goes before the manifests. In this order nothing is held by what comes after it. Reviews go first, so that none
/// looks at half a repository.
const PARTS: [&Statement; 5] = [
    &sql::REMOVE_MANIFEST_REVIEWS,
    &sql::REMOVE_LINK_REVIEWS,
    &sql::REMOVE_TAGS,
    &sql::REMOVE_MANIFEST_CHILDREN,
    &sql::REMOVE_MANIFEST_BLOBS,
];

async fn repository(tx: &mut Transaction, metadata: &Metadata, id: &str) -> Result<Step> {
    task::measure(tx, Kind::DeleteRepository, id).await?;
    for statement in PARTS {
        if tx.execute(statement, args![id]).await? > 0 {
            return Ok(Step::More);
        }
    }
    let manifests = tx.execute(&sql::REMOVE_MANIFESTS, args![id]).await?;
    if manifests > 0 {
        Kind::DeleteRepository.of(id).step(tx, manifests).await?;
        return Ok(Step::More);
    }
    let now = tx.now();
    if tx.execute(&sql::END_SESSIONS, args![id, now]).await? > 0 {
        return Ok(Step::More);
    }
    let links = tx.all(&sql::LINKS_TO_REMOVE, args![id]).await?;
    let freed = now.plus(metadata.freed_after());
    for link in &links {
        let (instance, digest): (String, Vec<u8>) = (link.get(0)?, link.get(1)?);
        tx.execute(&statements::REVIEW_BLOB, args![instance, digest, freed]).await?;
    }
    for link in &links {
        let digest: Vec<u8> = link.get(1)?;
        tx.execute(&statements::DROP_LINK, args![id, digest]).await?;
    }
    if !links.is_empty() {
        return Ok(Step::More);
    }
    if tx.optional(&sql::ANY_SESSION, args![id]).await?.is_some() {
        return Ok(Step::Wait(WAIT));
    }
    if let Some(dropped) = tx.optional(&sql::DROP_REMOVED, args![id]).await? {
        Kind::DeleteNamespace.of(&dropped.get::<String>(0)?).step(tx, 1).await?;
    }
    Kind::DeleteRepository.of(id).end(tx, "").await?;
    Ok(Step::Done)
}

async fn namespace(tx: &mut Transaction, id: &str) -> Result<Step> {
    let Some(row) = tx.optional(&sql::NAMESPACE_TO_REMOVE, args![id]).await? else {
        Kind::DeleteNamespace.of(id).end(tx, "").await?;
        return Ok(Step::Done);
    };
    let instance: String = row.get(0)?;
    tx.one(&statements::LOCK_LIMITS, args![&instance]).await?;
    task::measure(tx, Kind::DeleteNamespace, id).await?;
    let here = tx.all(&sql::REPOSITORIES_TO_REMOVE, args![id]).await?;
    for row in &here {
        managed::remove(tx, &instance, &row.get::<String>(0)?).await?;
    }
    if !here.is_empty() {
        return Ok(Step::More);
    }
    if tx.optional(&sql::ANY_REPOSITORY, args![id]).await?.is_some() {
        return Ok(Step::Wait(WAIT));
    }
    tx.execute(&sql::DROP_NAMESPACE, args![id]).await?;
    tx.execute(&statements::COUNT_MADE, args![instance, -1, 0]).await?;
    Kind::DeleteNamespace.of(id).end(tx, "").await?;
    Ok(Step::Done)
}

/// Namespaces, whose repositories release the blobs; then blobs, by their reviews; then the objects of both.
async fn instance(tx: &mut Transaction, metadata: &Metadata, id: &str) -> Result<Step> {
    tx.one(&statements::LOCK_LIMITS, args![id]).await?;
    let now = tx.now();
    let here = tx.all(&sql::NAMESPACES_TO_REMOVE, args![id]).await?;
    for row in &here {
        let namespace: String = row.get(0)?;
        tx.execute(&statements::REMOVE_NAMESPACE, args![&namespace, now]).await?;
        tx.execute(&statements::ADD_REMOVAL, args!["namespace", &namespace, now]).await?;
    }
    if !here.is_empty() {
        return Ok(Step::More);
    }
    if tx.optional(&sql::ANY_NAMESPACE, args![id]).await?.is_some() {
        return Ok(Step::Wait(WAIT));
    }
    // Reviews and graces take hours.
    let pause = metadata.config.review_floor().clamp(WAIT, LONG_WAIT);
    if tx.optional(&sql::ANY_BLOB, args![id]).await?.is_some() {
        return Ok(Step::Wait(pause));
    }
    let keys = args![format!("i/{id}/"), format!("i/{id}0")];
    if tx.optional(&sql::ANY_OBJECT_DELETE, keys).await?.is_some() {
        return Ok(Step::Wait(pause));
    }
    Ok(Step::Done)
}

async fn step(tx: &mut Transaction, metadata: &Metadata, seen: &Seen) -> Result<Option<Verdict>> {
    let now = tx.now();
    let Some(row) = tx.optional(&sql::NEXT_REMOVAL, args![now]).await? else { return Ok(None) };
    let (kind, id): (String, String) = (row.get(0)?, row.get(1)?);
    let key = || args![kind.as_str(), id.as_str()];
    seen.note(key(), row.get(2)?);
    let step = match kind.as_str() {
        "namespace" => namespace(tx, &id).await?,
        "instance" => instance(tx, metadata, &id).await?,
        _ => repository(tx, metadata, &id).await?,
    };
    let due = match step {
        Step::Done => {
            tx.execute(&sql::DROP_REMOVAL, key()).await?;
            return Ok(Some(Verdict::Deleted));
        }
        Step::More => now,
        Step::Wait(pause) => now.plus(pause),
    };
    tx.execute(&sql::PUT_OFF_REMOVAL, args![kind.as_str(), id.as_str(), due]).await?;
    Ok(Some(Verdict::PutOff))
}

impl Metadata {
    /// Goes on with the removal that is due first.
    pub(crate) async fn remove_next(&self) -> Result<Option<Verdict>> {
        let seen = Seen::default();
        let input = Arc::new((self.clone(), seen.clone()));
        let outcome = self
            .database
            .write("remove_next", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move {
                    let outcome = step(tx, &input.0, &input.1).await;
                    if is_deleted(&outcome) {
                        berth_service::crash::point("removal.before_commit");
                    }
                    outcome
                })
            })
            .await;
        if is_deleted(&outcome) {
            berth_service::crash::point("removal.committed");
        }
        self.settle(outcome, &seen, &sql::BACK_OFF_REMOVAL).await
    }
}
