//! The keys that sign tokens: one signs, the next one is published long before it does, and the former one as long as
//! tokens of it may be valid. So no pull fails over a change.

use std::{sync::Arc, time::Duration};

use berth_access::{RootKey, SigningKey};
use berth_model::InstanceId;
use berth_service::Ids;

use crate::{
    Error,
    actor::Actor,
    settings::{KEY_PURPOSE, SettingsBoard},
    store::{Rotation, Store, StoredKey},
};

/// How long a key is published before it signs: longer than a gateway serves without having heard of it.
pub(crate) const PUBLISHED: Duration = Duration::from_secs(120);

/// Makes, seals and changes keys.
#[derive(Clone, Debug)]
pub(crate) struct TokenKeys {
    pub(crate) store: Store,
    pub(crate) settings: SettingsBoard,
    pub(crate) root: Arc<RootKey>,
    pub(crate) ids: Ids,
    /// How long a key signs.
    pub(crate) period: Duration,
}

/// A fresh key, sealed.
pub(crate) fn fresh(root: &RootKey, active: bool) -> Result<StoredKey, Error> {
    let pkcs8 = SigningKey::generate()?;
    let public = SigningKey::from_pkcs8(&pkcs8)?.public().clone();
    let sealed = root.seal(KEY_PURPOSE, &public.id, &pkcs8)?;
    Ok(StoredKey { id: public.id, sealed, jwk: public.jwk, active })
}

impl TokenKeys {
    async fn change(&self, actor: &Actor, home: InstanceId, older_than: Duration) -> Result<Rotation, Error> {
        let new = fresh(&self.root, false)?;
        let entry = actor.entry(&self.ids, home, "token_key.rotated", format!("token_key:{}", new.id));
        let changed = self.store.rotate_token_key(new, older_than, PUBLISHED, entry).await?;
        self.settings.refresh().await?;
        Ok(changed)
    }

    /// Signs with the next key from now on.
    pub(crate) async fn rotate(&self, actor: &Actor) -> Result<Rotation, Error> {
        let Some(home) = self.settings.current().home() else {
            return Err(Error::Inconsistent("no default instance"));
        };
        self.change(actor, home, Duration::ZERO).await
    }

    /// Changes the key when it has signed long enough, and forgets former ones.
    pub(crate) async fn tend(&self) -> Result<(), Error> {
        if let Some(home) = self.settings.current().home() {
            self.change(&Actor::system(), home, self.period).await?;
        }
        if self.store.forget_token_keys().await? {
            self.settings.refresh().await?;
        }
        Ok(())
    }
}
