//! Roles, built in or an instance's own, and who has them where.

use std::{collections::BTreeSet, sync::Arc};

use berth_access::Place;
use berth_model::{GrantId, InstanceId, Permission, PrincipalId, Role, ScopeKind};
use berth_oci::{ErrorCode, Problem};
use berth_service::Ids;

use crate::{
    Error,
    actor::Actor,
    authority::{Authority, Whereabouts, own_role},
    error::{gone, invalid, no_instance},
    repeats::{Made, Repeats},
    settings::SettingsBoard,
    store::{GrantRow, NewGrant, RoleText, Store, StoredPrincipal, StoredRole},
};

/// A role as it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct RoleWish {
    pub(crate) description: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) permissions: Vec<String>,
}

/// Roles and grants.
#[derive(Clone, Debug)]
pub(crate) struct Roles {
    pub(crate) repeats: Repeats,
    pub(crate) store: Store,
    pub(crate) settings: SettingsBoard,
    pub(crate) authority: Authority,
    pub(crate) ids: Ids,
}

fn no_role(name: &str) -> Problem {
    let built_in: Vec<&str> = Role::built_in().keys().map(String::as_str).collect();
    Problem::new(ErrorCode::NotFound, format!("no role named {name:?}; built in are {}", built_in.join(", ")))
}

fn is_name(name: &str) -> bool {
    let letter = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    (1..=64).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && letter(name.bytes().next())
        && letter(name.bytes().last())
}

/// The role that is asked for, checked: what it may be given to and what it allows.
fn checked(id: &str, name: &str, wish: &RoleWish) -> Result<Role, Problem> {
    if wish.description.len() > 1_000 || wish.description.chars().any(char::is_control) {
        return Err(invalid("the description has at most 1000 bytes, and no control characters"));
    }
    let mut scopes = BTreeSet::new();
    for text in &wish.scopes {
        let scope: ScopeKind = text.parse().map_err(invalid)?;
        if scope == ScopeKind::Deployment {
            return Err(invalid("a role of an instance can't be given in all instances"));
        }
        scopes.insert(scope);
    }
    let mut permissions = BTreeSet::new();
    for text in &wish.permissions {
        permissions.extend(Permission::parse_set(text).map_err(|error| invalid(error.to_string()))?);
    }
    if scopes.is_empty() || permissions.is_empty() {
        return Err(invalid("a role says where it may be given and what it allows: at least one of each"));
    }
    let description = wish.description.clone();
    Ok(Role { id: id.to_owned(), name: name.to_owned(), description, scopes, permissions })
}

fn text(role: &Role) -> RoleText {
    let list = |texts: Vec<&str>| serde_json::Value::from(texts).to_string();
    RoleText {
        description: role.description.clone(),
        scopes: list(role.scopes.iter().map(|scope| scope.as_str()).collect()),
        permissions: list(role.permissions.iter().map(|permission| permission.as_str()).collect()),
    }
}

impl Roles {
    /// An instance's own roles.
    pub(crate) async fn own(&self, instance: InstanceId) -> Result<Vec<(Role, i64)>, Error> {
        let stored = self.store.roles(instance).await?;
        stored.iter().map(|stored| Ok((own_role(stored)?, stored.version))).collect()
    }

    async fn own_named(&self, instance: InstanceId, name: &str) -> Result<StoredRole, Error> {
        if Role::built_in().contains_key(name) {
            return Err(invalid(format!("{name} is built in; make a role of another name")).into());
        }
        let found = self.store.roles(instance).await?.into_iter().find(|role| role.name == name);
        Ok(found.ok_or_else(|| no_role(name))?)
    }

    /// A role by its name: built in, or of the instance.
    pub(crate) async fn named(&self, instance: InstanceId, name: &str) -> Result<Arc<Role>, Error> {
        match Role::built_in().get(name) {
            Some(role) => Ok(role.clone()),
            None => Ok(Arc::new(own_role(&self.own_named(instance, name).await?)?)),
        }
    }

    /// The name of a role by its id.
    pub(crate) fn name_of(own: &[(Role, i64)], id: &str) -> String {
        own.iter()
            .find(|(role, _)| role.id == id)
            .map_or_else(|| id.to_owned(), |(role, _)| role.name.clone())
    }

    /// Makes a role of an instance. Its maker may do all that it allows.
    pub(crate) async fn create(
        &self,
        actor: &Actor,
        instance: InstanceId,
        name: &str,
        wish: &RoleWish,
    ) -> Result<(Role, i64), Error> {
        match self.repeats.once(actor, Box::pin(self.make(actor, instance, name, wish))).await? {
            Ok(made) => Ok(made),
            Err(made) => {
                let found = self.own(instance).await?.into_iter().find(|(role, _)| role.id == made.id);
                Ok(found.ok_or_else(gone)?)
            }
        }
    }

    async fn make(
        &self,
        actor: &Actor,
        instance: InstanceId,
        name: &str,
        wish: &RoleWish,
    ) -> Result<(Role, i64), Error> {
        if !self.settings.current().has(instance) {
            return Err(no_instance().into());
        }
        if !is_name(name) {
            return Err(
                invalid("a role's name has 1 to 64 lower-case letters, digits, and hyphens inside").into()
            );
        }
        let taken =
            || Problem::new(ErrorCode::AlreadyExists, format!("there is a role named {name} already"));
        if Role::built_in().contains_key(name) {
            return Err(taken().into());
        }
        let id = self.ids.ulid().to_string();
        let role = checked(&id, name, wish)?;
        self.authority.check_covers(actor, [(Arc::new(role.clone()), Place::instance(instance))]).await?;
        let entry = actor.entry(&self.ids, instance, "role.created", format!("role:{id}")).called(name);
        let entry = self.repeats.record(actor, entry, &Made::of(&id))?;
        if !self.store.add_role(instance, &id, name, text(&role), entry).await? {
            return Err(taken().into());
        }
        Ok((role, 1))
    }

    /// Changes what a role of an instance allows.
    pub(crate) async fn change(
        &self,
        actor: &Actor,
        instance: InstanceId,
        name: &str,
        version: Option<i64>,
        wish: &RoleWish,
    ) -> Result<(Role, i64), Error> {
        let stored = self.own_named(instance, name).await?;
        let before = own_role(&stored)?;
        let role = checked(&stored.id, name, wish)?;
        self.authority.check_covers(actor, [(Arc::new(role.clone()), Place::instance(instance))]).await?;
        let narrower =
            !(before.permissions.is_subset(&role.permissions) && before.scopes.is_subset(&role.scopes));
        let entry = actor.entry(&self.ids, instance, "role.updated", format!("role:{}", stored.id));
        let entry = entry.called(name);
        // What was compared is the version that is replaced.
        let seen = version.unwrap_or(stored.version);
        self.store.change_role(instance, &stored.id, Some(seen), text(&role), narrower, entry).await?;
        self.settings.refresh().await?;
        Ok((role, seen + 1))
    }

    /// Deletes a role that nobody has.
    pub(crate) async fn delete(
        &self,
        actor: &Actor,
        instance: InstanceId,
        name: &str,
        version: Option<i64>,
    ) -> Result<(), Error> {
        let stored = self.own_named(instance, name).await?;
        let entry = actor.entry(&self.ids, instance, "role.deleted", format!("role:{}", stored.id));
        let entry = entry.called(name);
        self.store.delete_role(instance, &stored.id, version, entry).await
    }

    /// A grant that may be made: the role exists, the place exists, and the actor may do there all that it allows.
    pub(crate) async fn wish(
        &self,
        actor: &Actor,
        instance: InstanceId,
        principal: PrincipalId,
        id: GrantId,
        role: &str,
        at: &Whereabouts,
    ) -> Result<NewGrant, Error> {
        let role = self.named(instance, role).await?;
        if at.deployment && !self.settings.current().is_home(instance) {
            return Err(invalid("only principals of the default instance run the deployment").into());
        }
        let (scope, place) = self.authority.scope(instance, &role, at).await?;
        let role_id = role.id.clone();
        self.authority.check_covers(actor, [(role, place)]).await?;
        Ok(NewGrant { id, principal, role: role_id, scope, created_by: actor.name() })
    }

    /// Gives a role.
    pub(crate) async fn grant(
        &self,
        actor: &Actor,
        instance: InstanceId,
        principal: &StoredPrincipal,
        role: &str,
        at: &Whereabouts,
    ) -> Result<GrantId, Error> {
        let id = GrantId::new(self.ids.ulid());
        let wish = self.wish(actor, instance, principal.id, id, role, at).await?;
        let entry = actor.entry(
            &self.ids,
            instance,
            "grant.created",
            format!("{} grant:{id}", principal.principal()),
        );
        let entry = entry.called(format!("{role} for {} {}", principal.name, at));
        let entry = self.repeats.record(actor, entry, &Made::of(&id))?;
        match self.repeats.once(actor, Box::pin(self.store.create_grant(instance, wish, entry))).await? {
            Ok(id) => Ok(id),
            Err(made) => made.id.parse().map_err(|_| Error::Inconsistent("a record without an id")),
        }
    }

    /// Takes a role back.
    pub(crate) async fn revoke(
        &self,
        actor: &Actor,
        instance: InstanceId,
        grant: GrantId,
    ) -> Result<(), Error> {
        let found = self.one_grant(instance, grant).await?;
        let own = self.own(instance).await?;
        let role = Self::name_of(&own, &found.role);
        // Nobody takes what one could not give.
        let place = self.authority.place_of(instance, found.scope);
        match self.named(instance, &role).await {
            Ok(role) => self.authority.check_covers(actor, [(role, place)]).await?,
            Err(Error::Problem(problem)) if problem.code == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
        let subject = format!("{}:{} grant:{grant}", found.kind, found.principal);
        let entry = actor.entry(&self.ids, instance, "grant.deleted", subject);
        let entry = entry.called(
            format!("{role} for {} in the {} {}", found.name, found.scope.kind(), found.scope.id())
                .trim_end(),
        );
        if !self.store.delete_grant(instance, grant, entry).await? {
            return self.one_grant(instance, grant).await.map(drop);
        }
        self.settings.refresh().await
    }

    /// A grant.
    pub(crate) async fn one_grant(&self, instance: InstanceId, grant: GrantId) -> Result<GrantRow, Error> {
        let absent = || Problem::new(ErrorCode::NotFound, format!("there is no grant {grant}"));
        Ok(self.store.grant(instance, grant).await?.ok_or_else(absent)?)
    }

    /// Grants by id, of a place or of all.
    pub(crate) async fn grants(
        &self,
        instance: InstanceId,
        principal: Option<PrincipalId>,
        place: &str,
        after: Option<GrantId>,
        limit: u32,
    ) -> Result<Vec<GrantRow>, Error> {
        self.store.list_grants(instance, principal, place, after, limit).await
    }
}
