//! The first start, and every other one: the default instance, its administrator, two token keys. Each step does
//! nothing where it was done before, so it may be cut off anywhere and two processes may do it at once.

use berth_access::{Grant, GrantScope, Passwords, RootKey, SigningKey, random_secret};
use berth_model::{GrantId, InstanceId, Role, UserId};
use berth_service::Ids;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error, PasswordKeeper,
    settings::KEY_PURPOSE,
    store::{NewUser, Seed, Store, StoredKey},
};

/// The name of the first administrator.
pub const ADMIN: &str = "admin";

const DEFAULT_INSTANCE: &str = "default";

fn new_key(root: &RootKey, active: bool) -> Result<StoredKey, Error> {
    let pkcs8 = SigningKey::generate()?;
    let public = SigningKey::from_pkcs8(&pkcs8)?.public().clone();
    let sealed = root.seal(KEY_PURPOSE, &public.id, &pkcs8)?;
    Ok(StoredKey { id: public.id, sealed, jwk: public.jwk, active })
}

/// What a start needs.
pub(crate) struct Start<'a> {
    pub(crate) store: &'a Store,
    pub(crate) root: &'a RootKey,
    pub(crate) passwords: &'a Passwords,
    pub(crate) ids: &'a Ids,
    pub(crate) given: Option<SecretString>,
    pub(crate) keeper: &'a dyn PasswordKeeper,
}

impl Start<'_> {
    /// Makes what is absent; returns the default instance, and whether the administrator's password was generated here.
    pub(crate) async fn run(self) -> Result<(InstanceId, bool), Error> {
        let seed = Seed {
            issuer: format!("berth:{}", self.ids.ulid()),
            instance: InstanceId::new(self.ids.ulid()),
            instance_name: DEFAULT_INSTANCE.to_owned(),
            keys: [new_key(self.root, true)?, new_key(self.root, false)?],
        };
        let instance = self.store.bootstrap(seed).await?;
        let absent = self.store.user_by_name(instance, ADMIN).await?.is_none();
        match &self.given {
            Some(password) => {
                if !absent || !self.make_admin(instance, password).await? {
                    self.change_password(instance, password).await?;
                }
                self.keeper.discard().map_err(Error::Keeper)?;
                Ok((instance, false))
            }
            None if absent => {
                let password = random_secret()?;
                // Kept first: once the hash is committed nobody can be told the password any more.
                self.keeper.keep(&password).map_err(Error::Keeper)?;
                let made = self.make_admin(instance, &password).await?;
                if !made {
                    self.keeper.discard().map_err(Error::Keeper)?;
                }
                Ok((instance, made))
            }
            None => Ok((instance, false)),
        }
    }

    /// False when another process was first.
    async fn make_admin(&self, instance: InstanceId, password: &SecretString) -> Result<bool, Error> {
        let grant = Grant { role: Role::InstanceAdmin, scope: GrantScope::Instance(instance) };
        let admin = NewUser {
            id: UserId::new(self.ids.ulid()),
            instance,
            name: ADMIN.to_owned(),
            password_hash: self.passwords.hash(password).await?,
            grant: Some((GrantId::new(self.ids.ulid()), grant)),
        };
        Ok(self.store.create_user(admin).await?.is_some())
    }

    async fn change_password(&self, instance: InstanceId, password: &SecretString) -> Result<(), Error> {
        let admin = self.store.user_by_name(instance, ADMIN).await?;
        let admin = admin.ok_or(Error::Inconsistent("no administrator"))?;
        if !self.passwords.verify(ADMIN, password, Some(&admin.password_hash)).await? {
            let hash = self.passwords.hash(password).await?;
            if self.store.set_password(admin.id, admin.password_hash, hash).await? {
                tracing::info!("the password of {ADMIN} was set to the configured one");
            }
        }
        Ok(())
    }
}

/// Whether a configured password can be used at all.
pub(crate) fn check_given(password: Option<&SecretString>) -> Result<(), Error> {
    match password.map(|password| password.expose_secret().len()) {
        Some(0) => Err(crate::error::invalid("the administrator's password is empty").into()),
        Some(length) if length > 1024 => {
            Err(crate::error::invalid("the administrator's password is longer than 1024 bytes").into())
        }
        _ => Ok(()),
    }
}
