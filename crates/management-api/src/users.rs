//! People of an instance, and what all principals have in common.

use berth_model::{Permission, PrincipalId};
use berth_proto::instance_manager as wire;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::{Created, Done, Entity, Page, Versioned},
    call::Call,
    input::{Json, List, Nothing},
    operation::{Operation, Routes, Rule},
    problem::{Refusal, Result, invalid},
    values::{Moment, Secret, given},
};

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct User {
    id: String,
    name: String,
    description: String,
    email: String,
    /// It may not act.
    disabled: bool,
    /// A password opens it.
    has_password: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<Moment>,
    /// The groups it is in; lists leave them out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    created_at: Moment,
    updated_at: Moment,
    version: i64,
}

impl Versioned for User {
    fn version(&self) -> i64 {
        self.version
    }
}

impl From<wire::PrincipalEntry> for User {
    fn from(entry: wire::PrincipalEntry) -> Self {
        Self {
            id: entry.id,
            name: entry.name,
            description: entry.description,
            email: entry.email,
            disabled: entry.disabled,
            has_password: entry.has_password,
            last_used_at: Moment::some(entry.last_used_at),
            groups: entry.groups,
            created_at: Moment(entry.created_at),
            updated_at: Moment(entry.updated_at),
            version: entry.version,
        }
    }
}

/// A user to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewUser {
    /// 1 to 128 lower-case letters, digits and . _ - @ +
    name: String,
    /// 8 to 1024 bytes. Absent: no password opens it.
    password: Option<Secret>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    email: String,
}

/// What is to be changed; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UserChange {
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    email: Option<Option<String>>,
    /// It may not act.
    disabled: Option<bool>,
}

/// A password to be set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    /// 8 to 1024 bytes.
    password: Secret,
    /// Needed when it is one's own.
    current_password: Option<Secret>,
}

/// Which principals.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// With what the name begins.
    pub(crate) search: Option<String>,
}

/// A principal in a path: by id or by name.
pub(crate) fn reference(kind: &str, named: &str) -> wire::PrincipalReference {
    match named.parse::<PrincipalId>() {
        Ok(_) => {
            wire::PrincipalReference { id: named.to_owned(), kind: kind.to_owned(), name: String::new() }
        }
        Err(_) => {
            wire::PrincipalReference { id: String::new(), kind: kind.to_owned(), name: named.to_owned() }
        }
    }
}

/// The principal of a kind that the path names.
pub(crate) async fn find(call: &Call, kind: &'static str) -> Result<wire::PrincipalEntry> {
    let request = wire::GetPrincipalRequest {
        instance_id: call.instance_id().to_owned(),
        principal: Some(reference(kind, call.param(kind))),
    };
    let found = call.parts.principals.clone().get_principal(request).await?.into_inner();
    // An id may be one of another kind.
    if found.kind == kind { Ok(found) } else { Err(crate::problem::absent(kind, call.param(kind))) }
}

/// A page of a kind.
pub(crate) async fn list<T: From<wire::PrincipalEntry>>(
    call: &Call,
    List { paging, filters }: List<Filter>,
    kind: &'static str,
) -> Result<Page<T>> {
    let request = wire::ListPrincipalsRequest {
        instance_id: call.instance_id().to_owned(),
        kind: kind.to_owned(),
        limit: paging.size + 1,
        after: paging.after.clone(),
        search: filters.search.unwrap_or_default(),
    };
    let mut found = call.parts.principals.clone().list_principals(request).await?.into_inner().principals;
    let next = paging.cut(&mut found, |principal| &principal.name);
    Ok(Page { items: found.into_iter().map(Into::into).collect(), next })
}

/// Deletes one of a kind.
pub(crate) async fn delete(call: &Call, kind: &'static str) -> Result<Done> {
    let found = find(call, kind).await?;
    let request = wire::DeletePrincipalRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        principal: Some(reference(kind, &found.id)),
        version: call.version()?,
    };
    call.checked(call.parts.principals.clone().delete_principal(request).await)?;
    Ok(Done)
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    let all = "/instances/{instance}/users";
    let one = "/instances/{instance}/users/{user}";
    let listing = Operation::get(all, "users.list", "List the users", Rule::Needs(P::UserRead));
    routes.add(listing, async |call: Call, asked: List<Filter>| list::<User>(&call, asked, "user").await);
    let make = Operation::post(all, "users.create", "Make a user", Rule::Needs(P::UserCreate));
    routes.add(make.repeatable(), create);
    routes.add(Operation::get(one, "users.get", "Show a user", Rule::Needs(P::UserRead)), get);
    let change = Operation::patch(one, "users.update", "Change a user", Rule::Needs(P::UserUpdate));
    routes.add(change.conditional(), update);
    let end = Operation::delete(
        one,
        "users.delete",
        "Delete a user, its grants and its tokens",
        Rule::Needs(P::UserDelete),
    );
    routes.add(end.conditional(), async |call: Call, _: Nothing| delete(&call, "user").await);
    let password = Operation::put(
        "/instances/{instance}/users/{user}/password",
        "users.set_password",
        "Set a user's password",
        Rule::NeedsWhereBodySays(P::UserUpdate),
    )
    .describe(
        "Shuts what the old one opened. Everybody may set one's own, and says the current one with it.",
    );
    routes.add(password, set_password);
}

async fn create(call: Call, Json(new): Json<NewUser>) -> Result<Created<User>> {
    let password = new.password.map(|password| password.expose());
    if password.as_ref().is_some_and(String::is_empty) {
        return Err(invalid("a password has 8 to 1024 bytes; leave it out for a user without one"));
    }
    let request = wire::CreateUserRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        name: new.name,
        password: password.unwrap_or_default(),
        description: new.description,
        email: new.email,
    };
    let made: User = call.parts.principals.clone().create_user(request).await?.into_inner().into();
    Ok(Created { location: call.below(&format!("users/{}", made.id)), made })
}

async fn get(call: Call, _: Nothing) -> Result<Entity<User>> {
    Ok(Entity(find(&call, "user").await?.into()))
}

async fn update(call: Call, Json(change): Json<UserChange>) -> Result<Entity<User>> {
    let found = find(&call, "user").await?;
    let request = wire::UpdatePrincipalRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        principal: Some(reference("user", &found.id)),
        version: call.version()?,
        description: change.description.map(Option::unwrap_or_default),
        email: change.email.map(Option::unwrap_or_default),
        disabled: change.disabled,
        expires_at: None,
    };
    let changed = call.checked(call.parts.principals.clone().update_principal(request).await)?;
    Ok(Entity(changed.into()))
}

async fn set_password(call: Call, Json(new): Json<NewPassword>) -> Result<Done> {
    let named = call.param("user").to_owned();
    let caller = call.caller();
    let same_instance = caller.instance_id == call.instance_id();
    let own = same_instance
        && (caller.name == named || caller.principal.strip_prefix("user:") == Some(named.as_str()))
        && caller.principal.starts_with("user:");
    if own {
        call.allow_oneself();
    } else {
        call.allow(Permission::UserUpdate, crate::call::At::Instance).await?;
    }
    if own && new.current_password.is_none() {
        let message = "say current_password as well: it is your own";
        return Err(Refusal::new(berth_oci::ErrorCode::RequestInvalid, message));
    }
    let text = |secret: Option<Secret>| secret.map(|secret| secret.expose());
    let request = wire::SetPasswordRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        user: Some(reference("user", &named)),
        password: new.password.expose(),
        current_password: text(new.current_password).unwrap_or_default(),
    };
    call.parts.principals.clone().set_password(request).await?;
    Ok(Done)
}
