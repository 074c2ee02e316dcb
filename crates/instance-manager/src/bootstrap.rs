//! The first start, and every other one: the default instance, its administrator, two token keys. Each step does
//! nothing where it was done before, so it may be cut off anywhere and two processes may do it at once.

use berth_access::{Grant, GrantScope, Passwords, RootKey, SigningKey, random_secret};
use berth_model::{GrantId, InstanceId, Role, UserId};
use berth_service::Ids;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error,
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

/// Makes what is absent; returns the default instance, and the administrator's password if it was generated here.
pub(crate) async fn bootstrap(
    store: &Store,
    root: &RootKey,
    passwords: &Passwords,
    ids: &Ids,
    given: Option<SecretString>,
) -> Result<(InstanceId, Option<SecretString>), Error> {
    let seed = Seed {
        issuer: format!("berth:{}", ids.ulid()),
        instance: InstanceId::new(ids.ulid()),
        instance_name: DEFAULT_INSTANCE.to_owned(),
        keys: [new_key(root, true)?, new_key(root, false)?],
    };
    let instance = store.bootstrap(seed).await?;
    if store.user_by_name(instance, ADMIN).await?.is_none() {
        let password = match &given {
            Some(password) => password.clone(),
            None => random_secret()?,
        };
        let grant = Grant { role: Role::InstanceAdmin, scope: GrantScope::Instance(instance) };
        let admin = NewUser {
            id: UserId::new(ids.ulid()),
            instance,
            name: ADMIN.to_owned(),
            password_hash: passwords.hash(&password).await?,
            grant: Some((GrantId::new(ids.ulid()), grant)),
        };
        if store.create_user(admin).await?.is_some() {
            return Ok((instance, given.is_none().then_some(password)));
        }
    }
    if let Some(password) = given {
        let admin =
            store.user_by_name(instance, ADMIN).await?.ok_or(Error::Inconsistent("no administrator"))?;
        if !passwords.verify(ADMIN, &password, Some(&admin.password_hash)).await? {
            let hash = passwords.hash(&password).await?;
            if store.set_password(admin.id, admin.password_hash, hash).await? {
                tracing::info!("the password of {ADMIN} was set to the configured one");
            }
        }
    }
    Ok((instance, None))
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
