//! Another root key: what the former one has sealed is sealed again, a secret at a time.

use berth_access::RootKey;
use berth_database::Database;

use crate::{
    Error, keys, providers, settings, storage,
    store::{Sealed, Store},
};

/// Seals again, by the current root key, every secret that the former one has sealed; how many. Cut short, it can be called
/// again. Nobody else may write the database meanwhile.
pub async fn reseal(database: Database, root: &RootKey) -> Result<u64, Error> {
    let store = Store::new(database);
    let mut resealed = 0;
    for (sealed, purpose) in [
        (Sealed::TokenKeys, settings::KEY_PURPOSE),
        (Sealed::InstanceKeys, keys::PURPOSE),
        (Sealed::Stores, storage::SECRET_PURPOSE),
        (Sealed::IdentityProviders, providers::SECRET_PURPOSE),
    ] {
        for (id, envelope) in store.sealed(sealed).await? {
            if root.is_by_former(&envelope) {
                let secret = root.open(purpose, &id, &envelope)?;
                store.reseal(sealed, &id, root.seal(purpose, &id, &secret)?).await?;
                resealed += 1;
            } else {
                // It opens, or there is nothing that could seal it again.
                root.open(purpose, &id, &envelope)?;
            }
        }
    }
    Ok(resealed)
}
