//! Which keys of instances rows name. A key is named before anything depends on it and given up only when no row names
//! it, each under the key's lock: what is sealed is never left without its key.

use std::sync::Arc;

use berth_blobs::ObjectKey;
use berth_database::{Transaction, args};
use berth_oci::ErrorCode;

use crate::{
    Metadata,
    error::{Error, Result},
    store::sealing_statements as sql,
};

/// Rows of a page.
pub(crate) const PAGE: usize = 100;

/// A row whose data key is sealed by a former key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) row: NamedRow,
    pub(crate) object_key: String,
    pub(crate) wrapped_key: Vec<u8>,
}

/// Which row it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NamedRow {
    Blob { instance: String, digest: Vec<u8> },
    Session { id: String },
}

impl Named {
    /// The name that the data key was sealed for.
    pub(crate) fn session(&self) -> Option<String> {
        self.object_key.parse::<ObjectKey>().ok().map(|key| key.session().to_owned())
    }
}

/// A data key that was sealed again.
#[derive(Clone, Debug)]
pub(crate) struct Resealed {
    pub(crate) named: Named,
    pub(crate) wrapped_key: Vec<u8>,
}

/// Makes certain that a key is there until this unit has ended, which is about to name it.
pub(crate) async fn name_key(tx: &mut Transaction, key_id: &str) -> Result<()> {
    let row = match tx.optional(&sql::LOCK_KEY, args![key_id]).await? {
        Some(row) => row,
        None => {
            tx.execute(&sql::ADD_KEY, args![key_id]).await?;
            tx.one(&sql::LOCK_KEY, args![key_id]).await?
        }
    };
    if row.get(0)? {
        let message = "the key that sealed these bytes was replaced meanwhile; go on from the upload's state";
        return Err(Error::new(ErrorCode::Unavailable, message));
    }
    Ok(())
}

impl Metadata {
    /// Blobs whose data key a key has sealed, after the last of the page before.
    pub(crate) async fn blobs_of_key(&self, key_id: &str, after: Option<&Named>) -> Result<Vec<Named>> {
        let (instance, digest) = match after.map(|named| &named.row) {
            Some(NamedRow::Blob { instance, digest }) => (instance.as_str(), digest.as_slice()),
            _ => ("", &[][..]),
        };
        let args = args![key_id, instance, digest, PAGE as i64];
        let rows = self.database.read_all(&sql::BLOBS_OF_KEY, args).await?;
        let read = |row: berth_database::Row| {
            let named = NamedRow::Blob { instance: row.get(0)?, digest: row.get(1)? };
            Ok(Named { row: named, object_key: row.get(2)?, wrapped_key: row.get(3)? })
        };
        rows.into_iter().map(read).collect()
    }

    /// The same of uploads.
    pub(crate) async fn sessions_of_key(&self, key_id: &str, after: Option<&Named>) -> Result<Vec<Named>> {
        let id = match after.map(|named| &named.row) {
            Some(NamedRow::Session { id }) => id.as_str(),
            _ => "",
        };
        let rows = self.database.read_all(&sql::SESSIONS_OF_KEY, args![key_id, id, PAGE as i64]).await?;
        let read = |row: berth_database::Row| {
            let named = NamedRow::Session { id: row.get(0)? };
            Ok(Named { row: named, object_key: row.get(2)?, wrapped_key: row.get(3)? })
        };
        rows.into_iter().map(read).collect()
    }

    /// Records data keys that were sealed again by `new`, where `old` still names them; how many.
    pub(crate) async fn reseal(&self, old: &str, new: &str, resealed: Vec<Resealed>) -> Result<u64> {
        let input = Arc::new((old.to_owned(), new.to_owned(), resealed));
        self.database
            .write("reseal", move |tx| {
                let input = Arc::clone(&input);
                Box::pin(async move {
                    let (old, new, resealed) = &*input;
                    name_key(tx, new).await?;
                    let mut changed = 0;
                    for Resealed { named, wrapped_key } in resealed {
                        let (old, new, wrapped) = (old.as_str(), new.as_str(), wrapped_key.as_slice());
                        changed += match &named.row {
                            NamedRow::Blob { instance, digest } => {
                                let key = named.object_key.as_str();
                                let args =
                                    args![instance.as_str(), digest.as_slice(), key, old, new, wrapped];
                                tx.execute(&sql::RESEAL_BLOB, args).await?
                            }
                            NamedRow::Session { id } => {
                                tx.execute(&sql::RESEAL_SESSION, args![id.as_str(), old, new, wrapped])
                                    .await?
                            }
                        };
                    }
                    Ok::<_, Error>(changed)
                })
            })
            .await
    }

    /// Gives a key up, unless a row names it: from here on none ever will.
    pub(crate) async fn give_up_key(&self, key_id: &str) -> Result<bool> {
        let key_id = key_id.to_owned();
        self.database
            .write("give_up_key", move |tx| {
                let key_id = key_id.clone();
                Box::pin(async move {
                    let key = || args![key_id.as_str()];
                    tx.execute(&sql::ADD_KEY, key()).await?;
                    if tx.one(&sql::LOCK_KEY_ALONE, key()).await?.get(0)? {
                        return Ok(true);
                    }
                    if tx.optional(&sql::KEY_IS_NAMED, key()).await?.is_some() {
                        return Ok(false);
                    }
                    tx.execute(&sql::GIVE_UP_KEY, key()).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }
}
