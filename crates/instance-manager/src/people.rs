//! People and their grants.

use std::sync::Arc;

use berth_access::{Decider, Grant, GrantScope, Passwords, Place, PrincipalGrants};
use berth_model::{Action, GrantId, InstanceId, NamespaceId, RepositoryId, Role, UserId};
use berth_oci::{ErrorCode, Problem, RepositoryName};
use berth_service::Ids;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error,
    error::{invalid, no_instance},
    paths::Paths,
    settings::SettingsBoard,
    store::{NewUser, Store, StoredUser},
};

/// What a principal may read.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Readable {
    pub(crate) everything: bool,
    pub(crate) namespaces: Vec<NamespaceId>,
    pub(crate) repositories: Vec<RepositoryId>,
}

/// People and their grants.
#[derive(Clone, Debug)]
pub(crate) struct People {
    pub(crate) store: Store,
    pub(crate) settings: SettingsBoard,
    pub(crate) passwords: Passwords,
    pub(crate) decider: Decider,
    pub(crate) paths: Arc<dyn Paths>,
    pub(crate) ids: Ids,
    /// The grants of a user as of a revision.
    pub(crate) grants: moka::future::Cache<(UserId, i64), PrincipalGrants>,
}

/// A user name: what Basic credentials can carry and a person can tell apart.
fn is_name(name: &str) -> bool {
    let letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=128).contains(&name.len())
        && name.bytes().all(|c| letter(c) || matches!(c, b'.' | b'_' | b'-' | b'@' | b'+'))
        && name.bytes().next().is_some_and(letter)
}

impl People {
    /// A user's grants. They are read after the user's row, so they are at least as new as its revision.
    pub(crate) async fn grants_of(&self, user: &StoredUser) -> Result<PrincipalGrants, Error> {
        let key = (user.id, user.grants_revision);
        if let Some(grants) = self.grants.get(&key).await {
            return Ok(grants);
        }
        let grants = PrincipalGrants {
            principal: format!("user:{}", user.id).into(),
            revision: user.grants_revision,
            grants: self.store.grants(user.id).await?.into(),
        };
        self.grants.insert(key, grants.clone()).await;
        Ok(grants)
    }

    /// What the principal of a token may read: `user:<id>` by its grants, anyone else nothing.
    pub(crate) async fn readable(&self, instance: InstanceId, principal: &str) -> Result<Readable, Error> {
        let Some(id) = principal.strip_prefix("user:").and_then(|id| id.parse().ok()) else {
            return Ok(Readable::default());
        };
        let Some(user) = self.store.user_by_id(instance, id).await? else { return Ok(Readable::default()) };
        let who = self.grants_of(&user).await?;
        let mut readable = Readable::default();
        let whole = Place { instance, namespace: None, repository: None };
        readable.everything = self.decider.allowed(&who, whole, Action::Pull).await;
        if readable.everything {
            return Ok(readable);
        }
        for grant in who.grants.iter().filter(|grant| grant.role.actions().contains(&Action::Pull)) {
            match grant.scope {
                GrantScope::Instance(_) => {}
                GrantScope::Namespace(id) => readable.namespaces.push(id),
                GrantScope::Repository(id) => readable.repositories.push(id),
            }
        }
        readable.namespaces.sort_unstable();
        readable.namespaces.dedup();
        readable.repositories.sort_unstable();
        readable.repositories.dedup();
        Ok(readable)
    }

    /// Makes a person without grants.
    pub(crate) async fn create_user(
        &self,
        instance: InstanceId,
        name: &str,
        password: SecretString,
    ) -> Result<UserId, Error> {
        if !self.settings.current().has(instance) {
            return Err(no_instance().into());
        }
        if !is_name(name) {
            return Err(invalid(
                "a user name has 1 to 128 lower-case letters, digits and . _ - @ +, and starts with a letter or digit",
            )
            .into());
        }
        if !(8..=1024).contains(&password.expose_secret().len()) {
            return Err(invalid("a password has 8 to 1024 bytes").into());
        }
        let new = NewUser {
            id: UserId::new(self.ids.ulid()),
            instance,
            name: name.to_owned(),
            password_hash: self.passwords.hash(&password).await?,
            grant: None,
        };
        let taken =
            || Problem::new(ErrorCode::AlreadyExists, format!("there is a user named {name} already"));
        Ok(self.store.create_user(new).await?.ok_or_else(taken)?)
    }

    /// Gives a role: in a repository, a namespace, or with neither in the whole instance.
    pub(crate) async fn create_grant(
        &self,
        instance: InstanceId,
        user: &str,
        role: Role,
        namespace: &str,
        repository: &str,
    ) -> Result<GrantId, Error> {
        if !self.settings.current().has(instance) {
            return Err(no_instance().into());
        }
        let scope = match (namespace, repository) {
            ("", "") => GrantScope::Instance(instance),
            (namespace, "") => {
                let name: RepositoryName =
                    namespace.parse().map_err(|error| invalid(format!("namespace: {error}")))?;
                if name.depth() != 1 {
                    return Err(invalid(
                        "a namespace is the first part of a repository's name, without a slash",
                    )
                    .into());
                }
                // Any path in the namespace leads to it.
                let inside =
                    format!("{namespace}/any").parse().map_err(|error| invalid(format!("{error}")))?;
                GrantScope::Namespace(self.place(instance, inside).await?.namespace.ok_or_else(|| {
                    Problem::new(ErrorCode::NotFound, format!("there is no namespace {namespace}"))
                })?)
            }
            ("", repository) => {
                let name = repository.parse().map_err(|error| invalid(format!("repository: {error}")))?;
                GrantScope::Repository(self.place(instance, name).await?.repository.ok_or_else(|| {
                    Problem::new(ErrorCode::NotFound, format!("there is no repository {repository}"))
                })?)
            }
            _ => return Err(invalid("a grant is for a namespace or a repository, not both").into()),
        };
        let fits = match role {
            Role::InstanceAdmin => matches!(scope, GrantScope::Instance(_)),
            Role::NamespaceAdmin => !matches!(scope, GrantScope::Repository(_)),
            Role::Maintainer | Role::Developer | Role::Reader => true,
        };
        if !fits {
            return Err(invalid(format!("the role {role} can't be given for so little")).into());
        }
        let grant_id = GrantId::new(self.ids.ulid());
        let granted = self.store.create_grant(grant_id, instance, user, Grant { role, scope }).await?;
        let absent = || Problem::new(ErrorCode::NotFound, format!("there is no user {user}"));
        Ok(granted.ok_or_else(absent)?)
    }

    async fn place(&self, instance: InstanceId, path: RepositoryName) -> Result<Place, Error> {
        let identities = self.paths.lookup(instance, &[path]).await?;
        Ok(identities.first().ok_or(Error::Inconsistent("no answer for a path"))?.place)
    }
}
