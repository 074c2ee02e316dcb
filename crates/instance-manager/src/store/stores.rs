//! The rows of instances' stores. Secrets pass through here sealed.

use berth_database::{Row, args};
use berth_model::InstanceId;

use super::{AuditRow, Store, add_audit, id, statements as sql};
use crate::Error;

/// A store that takes new blobs from now on.
#[derive(Clone, Debug)]
pub(crate) struct NewStore {
    pub(crate) id: String,
    pub(crate) instance: InstanceId,
    pub(crate) kind: String,
    pub(crate) settings: String,
    pub(crate) sealed: Option<Vec<u8>>,
    pub(crate) encrypted: bool,
    pub(crate) stages: bool,
    pub(crate) place: String,
}

/// A store without its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredStore {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) settings: String,
    pub(crate) encrypted: bool,
    /// It takes new blobs; not known where it is read alone.
    pub(crate) current: bool,
    pub(crate) created_at: i64,
}

fn read(row: &Row) -> Result<StoredStore, Error> {
    Ok(StoredStore {
        id: row.get(0)?,
        kind: row.get(1)?,
        settings: row.get(2)?,
        encrypted: row.get(3)?,
        current: row.get(4)?,
        created_at: row.get(5)?,
    })
}

impl Store {
    /// Lets new blobs of an instance go to the deployment's storage. False: they do already.
    pub(crate) async fn use_shared(&self, instance: InstanceId, entry: AuditRow) -> Result<bool, Error> {
        self.database
            .write("use_shared_storage", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    let row = tx.one(&sql::LOCK_STORAGE, args![instance.to_string()]).await?;
                    if row.get::<Option<String>>(0)?.is_none() {
                        return Ok(false);
                    }
                    tx.execute(&sql::SET_STORE, args![instance.to_string(), None::<String>]).await?;
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// Records a store, anew or with other settings, and lets new blobs of its instance go there. False: another row has
    /// its place.
    pub(crate) async fn use_store(&self, new: NewStore, entry: AuditRow) -> Result<bool, Error> {
        self.database
            .write("use_store", move |tx| {
                let (new, entry) = (new.clone(), entry.clone());
                Box::pin(async move {
                    let instance = new.instance.to_string();
                    tx.one(&sql::LOCK_STORAGE, args![instance.clone()]).await?;
                    let at = args![instance.clone(), new.place.as_str(), new.encrypted];
                    let known = tx.optional(&sql::STORE_AT, at).await?;
                    if let Some(row) = known
                        && row.get::<String>(0)? != new.id
                    {
                        return Ok(false);
                    }
                    let now = tx.now();
                    let values = args![
                        new.id.as_str(),
                        instance.clone(),
                        new.kind,
                        new.settings,
                        new.sealed,
                        new.encrypted,
                        new.stages,
                        new.place,
                        now,
                    ];
                    tx.execute(&sql::PUT_STORE, values).await?;
                    tx.execute(&sql::SET_STORE, args![instance, new.id]).await?;
                    add_audit(tx, entry, now).await?;
                    tx.execute(&sql::BUMP_SETTINGS, args![]).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// Gives the store `known.0` other settings and another secret, if its settings are `known.1` still.
    pub(crate) async fn rotate(
        &self,
        instance: InstanceId,
        known: (String, String),
        settings: String,
        sealed: Option<Vec<u8>>,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        self.database
            .write("rotate_store", move |tx| {
                let (known, settings, sealed, entry) =
                    (known.clone(), settings.clone(), sealed.clone(), entry.clone());
                Box::pin(async move {
                    let values = args![instance.to_string(), known.0, known.1, settings, sealed];
                    if tx.execute(&sql::ROTATE_STORE, values).await? == 0 {
                        return Ok(false);
                    }
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// The store of an instance at a place.
    pub(crate) async fn store_at(
        &self,
        instance: InstanceId,
        place: &str,
        encrypted: bool,
    ) -> Result<Option<String>, Error> {
        let values = args![instance.to_string(), place, encrypted];
        let row = self.database.read_optional(&sql::STORE_AT, values).await?;
        Ok(row.map(|row| row.get(0)).transpose()?)
    }

    /// The stores that an instance has or had, by age.
    pub(crate) async fn stores_of(&self, instance: InstanceId) -> Result<Vec<StoredStore>, Error> {
        let rows = self.database.read_all(&sql::STORES_OF, args![instance.to_string()]).await?;
        rows.iter().map(read).collect()
    }

    /// A store, whose it is, and its sealed secret.
    pub(crate) async fn store_with_secret(
        &self,
        store: &str,
    ) -> Result<Option<(InstanceId, StoredStore, Option<Vec<u8>>)>, Error> {
        let row = self.database.read_optional(&sql::STORE_WITH_SECRET, args![store]).await?;
        row.map(|row| Ok((id(&row, 6)?, read(&row)?, row.get(7)?))).transpose()
    }

    /// Ids and places of stores after an id.
    pub(crate) async fn store_places(&self, after: &str, limit: i64) -> Result<Vec<(String, String)>, Error> {
        let rows = self.database.read_all(&sql::STORE_PLACES, args![after, limit]).await?;
        rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
    }
}
