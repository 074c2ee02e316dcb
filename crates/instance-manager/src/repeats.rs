//! Requests that may come twice: what was made under a key is recorded in the transaction that made it, by way of its
//! entry in the audit, and the second request is answered with that. Secrets are in the record, so it is sealed.

use std::{future::Future, sync::Arc};

use berth_access::RootKey;

use crate::{
    Error,
    actor::Actor,
    store::{AuditRow, Recorded, Store},
};

/// What the root key seals records for.
const PURPOSE: &str = "idempotency";

/// What was made.
#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Made {
    pub(crate) id: String,
    /// Told once: to whoever asks under the key.
    pub(crate) secret: String,
    pub(crate) secret_id: String,
    pub(crate) ends: i64,
}

impl Made {
    /// Something that has an id and no secret.
    pub(crate) fn of(id: &impl ToString) -> Self {
        Self { id: id.to_string(), ..Self::default() }
    }
}

/// Records requests and knows them again.
#[derive(Clone, Debug)]
pub(crate) struct Repeats {
    pub(crate) store: Store,
    pub(crate) root: Arc<RootKey>,
}

impl Repeats {
    /// Has what is made recorded together with its entry in the audit, when the request came with a key.
    pub(crate) fn record(&self, actor: &Actor, mut entry: AuditRow, made: &Made) -> Result<AuditRow, Error> {
        let Some(once) = actor.once() else { return Ok(entry) };
        let text =
            serde_json::to_vec(made).map_err(|_| Error::Inconsistent("a record that can't be written"))?;
        let answer = self.root.seal(PURPOSE, once.key(), &text)?;
        entry.recorded = Some(Recorded { once: once.clone(), answer });
        Ok(entry)
    }

    async fn known(&self, actor: &Actor) -> Result<Option<Made>, Error> {
        let Some(once) = actor.once() else { return Ok(None) };
        let Some(answer) = self.store.recorded(once).await? else { return Ok(None) };
        // Another root key has come since: it was done, and what it told can't be told again.
        let Ok(text) = self.root.open(PURPOSE, once.key(), &answer) else {
            let message = "this was done under this key before, and its answer can't be read any more";
            return Err(berth_oci::Problem::new(berth_oci::ErrorCode::Conflict, message).into());
        };
        let made = serde_json::from_slice(&text);
        made.map(Some).map_err(|_| Error::Inconsistent("a record that can't be read"))
    }

    /// Does something, unless it was done under the same key before: then the record says what was made.
    pub(crate) async fn once<T>(
        &self,
        actor: &Actor,
        does: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<Result<T, Made>, Error> {
        if let Some(made) = self.known(actor).await? {
            return Ok(Err(made));
        }
        match does.await {
            Ok(done) => Ok(Ok(done)),
            // Another with the same key may have been faster: what is refused for that was done.
            Err(error) => match self.known(actor).await? {
                Some(made) => Ok(Err(made)),
                None => Err(error),
            },
        }
    }
}
