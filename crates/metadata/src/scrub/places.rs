//! Where objects are: the deployment's storage, and what instances have of their own. Stores whose objects are in the
//! same bucket or folder are looked through together, or each would take the others' objects for orphans.

use std::collections::{BTreeMap, BTreeSet};

use berth_database::args;
use berth_proto::instance_manager::ListStoresRequest;

use super::{
    Scrubber,
    check::{Interrupted, Step},
};
use crate::store::scrub_statements as sql;

/// Ids of stores by their places.
pub(super) type Places = BTreeMap<String, BTreeSet<String>>;

impl Scrubber {
    /// All places, those of stores that hold nothing too.
    pub(super) async fn places(&self) -> Step<Places> {
        let mut places = Places::new();
        let mut known = BTreeSet::new();
        let mut after = String::new();
        while let Some(client) = &self.metadata.stores {
            let asked =
                client.clone().list_stores(ListStoresRequest { after: after.clone(), limit: 0 }).await;
            let page = asked.map_err(|status| {
                let message = berth_proto::from_status(&status).message;
                Interrupted::Store(format!("instance-manager does not say which stores there are: {message}"))
            })?;
            let Some(last) = page.get_ref().stores.last() else { break };
            after.clone_from(&last.id);
            for store in page.into_inner().stores {
                known.insert(store.id.clone());
                places.entry(store.place).or_default().insert(store.id);
            }
        }
        let mut own = vec![self.metadata.config.store_id.clone()];
        for row in self.metadata.database.read_all(&sql::STORES, args![]).await? {
            own.push(row.get(0)?);
        }
        for id in own.into_iter().filter(|id| !known.contains(id)) {
            places.entry(format!("shared:{id}")).or_default().insert(id);
        }
        Ok(places)
    }
}
