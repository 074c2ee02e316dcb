//! Groups of people and robots.

use berth_model::Permission;
use berth_proto::instance_manager as wire;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    answer::{Created, Done, Entity, Page, Versioned},
    call::Call,
    input::{Json, List, NoFilter, Nothing},
    operation::{Operation, Routes, Rule},
    problem::{Result, invalid},
    users::{self, Filter, find, reference},
    values::{Moment, given},
};

/// A group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Group {
    id: String,
    name: String,
    description: String,
    /// What it was given opens nothing.
    disabled: bool,
    created_at: Moment,
    updated_at: Moment,
    version: i64,
}

impl Versioned for Group {
    fn version(&self) -> i64 {
        self.version
    }
}

impl From<wire::PrincipalEntry> for Group {
    fn from(entry: wire::PrincipalEntry) -> Self {
        Self {
            id: entry.id,
            name: entry.name,
            description: entry.description,
            disabled: entry.disabled,
            created_at: Moment(entry.created_at),
            updated_at: Moment(entry.updated_at),
            version: entry.version,
        }
    }
}

/// A group to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewGroup {
    /// 1 to 128 lower-case letters, digits and . _ -
    name: String,
    #[serde(default)]
    description: String,
}

/// What is to be changed; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GroupChange {
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    /// What it was given opens nothing.
    disabled: Option<bool>,
}

/// Somebody in a group.
#[derive(Serialize, ToSchema)]
struct Member {
    id: String,
    /// user or robot.
    kind: String,
    name: String,
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    let all = "/instances/{instance}/groups";
    let one = "/instances/{instance}/groups/{group}";
    let listing = Operation::get(all, "groups.list", "List the groups", Rule::Needs(P::GroupRead));
    routes.add(listing, async |call: Call, asked: List<Filter>| {
        users::list::<Group>(&call, asked, "group").await
    });
    let make = Operation::post(all, "groups.create", "Make a group", Rule::Needs(P::GroupCreate));
    routes.add(make.repeatable(), create);
    routes.add(Operation::get(one, "groups.get", "Show a group", Rule::Needs(P::GroupRead)), get);
    let change = Operation::patch(one, "groups.update", "Change a group", Rule::Needs(P::GroupUpdate));
    routes.add(change.conditional(), update);
    let end =
        Operation::delete(one, "groups.delete", "Delete a group and its grants", Rule::Needs(P::GroupDelete));
    routes.add(end.conditional(), async |call: Call, _: Nothing| users::delete(&call, "group").await);
    let members = "/instances/{instance}/groups/{group}/members";
    let member = "/instances/{instance}/groups/{group}/members/{kind}/{member}";
    routes.add(
        Operation::get(members, "groups.list_members", "List who is in a group", Rule::Needs(P::GroupRead)),
        list_members,
    );
    let put =
        Operation::put(member, "groups.add_member", "Put somebody into a group", Rule::Needs(P::GroupUpdate));
    routes.add(put.describe("Nobody gives others more than one has oneself."), add_member);
    let take = Operation::delete(
        member,
        "groups.delete_member",
        "Take somebody out of a group",
        Rule::Needs(P::GroupUpdate),
    );
    routes.add(take, delete_member);
}

async fn create(call: Call, Json(new): Json<NewGroup>) -> Result<Created<Group>> {
    let request = wire::CreateGroupRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        name: new.name,
        description: new.description,
    };
    let made: Group = call.parts.principals.clone().create_group(request).await?.into_inner().into();
    Ok(Created { location: call.below(&format!("groups/{}", made.id)), made })
}

async fn get(call: Call, _: Nothing) -> Result<Entity<Group>> {
    Ok(Entity(find(&call, "group").await?.into()))
}

async fn update(call: Call, Json(change): Json<GroupChange>) -> Result<Entity<Group>> {
    let found = find(&call, "group").await?;
    let request = wire::UpdatePrincipalRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        principal: Some(reference("group", &found.id)),
        version: call.version()?,
        description: change.description.map(Option::unwrap_or_default),
        email: None,
        disabled: change.disabled,
        expires_at: None,
    };
    let changed = call.checked(call.parts.principals.clone().update_principal(request).await)?;
    Ok(Entity(changed.into()))
}

async fn list_members(call: Call, List { paging, .. }: List<NoFilter>) -> Result<Page<Member>> {
    let request = wire::ListMembersRequest {
        instance_id: call.instance_id().to_owned(),
        group: Some(reference("group", call.param("group"))),
        limit: paging.size + 1,
        after: paging.after.clone(),
    };
    let mut found = call.parts.principals.clone().list_members(request).await?.into_inner().members;
    let next = paging.cut(&mut found, |member| &member.id);
    let member = |member: wire::MemberEntry| Member { id: member.id, kind: member.kind, name: member.name };
    Ok(Page { items: found.into_iter().map(member).collect(), next })
}

fn member(call: &Call) -> Result<wire::PrincipalReference> {
    let kind = call.param("kind");
    if !["user", "robot"].contains(&kind) {
        return Err(invalid("a member is a user or a robot"));
    }
    Ok(reference(kind, call.param("member")))
}

async fn add_member(call: Call, _: Nothing) -> Result<Done> {
    let request = wire::AddMemberRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        group: Some(reference("group", call.param("group"))),
        member: Some(member(&call)?),
    };
    call.parts.principals.clone().add_member(request).await?;
    Ok(Done)
}

async fn delete_member(call: Call, _: Nothing) -> Result<Done> {
    let request = wire::DeleteMemberRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        group: Some(reference("group", call.param("group"))),
        member: Some(member(&call)?),
    };
    call.parts.principals.clone().delete_member(request).await?;
    Ok(Done)
}
