//! The first start, and every other one: the default instance, its administrator, two token keys. Each step does
//! nothing where it was done before, so it may be cut off anywhere and two processes may do it at once.

use berth_access::{GrantScope, Passwords, RootKey, random_secret};
use berth_model::{GrantId, INSTANCE_ADMIN, InstanceId, OPERATOR, PrincipalId, PrincipalKind};
use berth_service::Ids;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error, PasswordKeeper,
    actor::Actor,
    store::{NewGrant, NewPrincipal, Seed, Store},
    token_keys::fresh,
};

/// The name of the first administrator.
pub const ADMIN: &str = "admin";

const DEFAULT_INSTANCE: &str = "default";

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
            keys: [fresh(self.root, true)?, fresh(self.root, false)?],
        };
        let instance = self.store.bootstrap(seed).await?;
        let absent = self.store.principal_by_name(instance, PrincipalKind::User, ADMIN).await?.is_none();
        if !absent {
            self.ensure_operator(instance).await?;
        }
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
        let id = PrincipalId::new(self.ids.ulid());
        let actor = Actor::system();
        let grant = |role: &str, scope| NewGrant {
            id: GrantId::new(self.ids.ulid()),
            principal: id,
            role: role.to_owned(),
            scope,
            created_by: actor.name(),
        };
        let admin = NewPrincipal {
            id,
            instance,
            kind: PrincipalKind::User,
            name: ADMIN.to_owned(),
            description: "the first administrator".to_owned(),
            password_hash: Some(self.passwords.hash(password).await?),
            email: String::new(),
            expires_at: None,
            grants: vec![
                grant(INSTANCE_ADMIN, GrantScope::Instance(instance)),
                grant(OPERATOR, GrantScope::Deployment),
            ],
            secret: None,
        };
        let entry = actor.entry(self.ids, instance, "user.created", format!("user:{id}")).called(ADMIN);
        Ok(self.store.add_principal(admin, entry).await?.is_some())
    }

    /// The administrator of a version before there were operators is the first one.
    async fn ensure_operator(&self, instance: InstanceId) -> Result<(), Error> {
        if self.store.has_operator(instance).await? {
            return Ok(());
        }
        let Some(admin) = self.store.principal_by_name(instance, PrincipalKind::User, ADMIN).await? else {
            return Ok(());
        };
        let (id, actor) = (GrantId::new(self.ids.ulid()), Actor::system());
        let entry =
            actor.entry(self.ids, instance, "grant.created", format!("{} grant:{id}", admin.principal()));
        let entry = entry.called(format!("{OPERATOR} for {ADMIN} in the deployment"));
        let grant = NewGrant {
            id,
            principal: admin.id,
            role: OPERATOR.to_owned(),
            scope: GrantScope::Deployment,
            created_by: actor.name(),
        };
        self.store.create_grant(instance, grant, entry).await?;
        Ok(())
    }

    async fn change_password(&self, instance: InstanceId, password: &SecretString) -> Result<(), Error> {
        let admin = self.store.principal_by_name(instance, PrincipalKind::User, ADMIN).await?;
        let admin = admin.ok_or(Error::Inconsistent("no administrator"))?;
        if !self.passwords.verify(ADMIN, password, admin.password_hash.as_deref()).await? {
            let hash = self.passwords.hash(password).await?;
            let entry =
                Actor::system().entry(self.ids, instance, "user.password_set", admin.principal().to_string());
            let entry = entry.called(ADMIN);
            if self.store.set_password(instance, admin.id, admin.password_hash, hash, entry).await? {
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
