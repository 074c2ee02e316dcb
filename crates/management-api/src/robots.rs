//! Robots and their secrets.

use berth_model::Permission;
use berth_proto::instance_manager as wire;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    answer::{Created, Done, Entity, Page, Versioned},
    call::Call,
    grants::GrantedRole,
    input::{Json, List, Nothing},
    operation::{Operation, Routes, Rule},
    problem::Result,
    users::{self, Filter, find, reference},
    values::{Moment, given},
};

/// A robot.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Robot {
    id: String,
    name: String,
    /// What it logs in as, with a secret.
    login: String,
    description: String,
    /// It may not act.
    disabled: bool,
    /// From when on it may not act; absent: it does not end.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<Moment>,
    created_at: Moment,
    updated_at: Moment,
    version: i64,
}

impl Versioned for Robot {
    fn version(&self) -> i64 {
        self.version
    }
}

impl From<wire::PrincipalEntry> for Robot {
    fn from(entry: wire::PrincipalEntry) -> Self {
        Self {
            id: entry.id,
            name: entry.name,
            login: entry.login,
            description: entry.description,
            disabled: entry.disabled,
            expires_at: Moment::some(entry.expires_at),
            last_used_at: Moment::some(entry.last_used_at),
            created_at: Moment(entry.created_at),
            updated_at: Moment(entry.updated_at),
            version: entry.version,
        }
    }
}

/// A robot to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRobot {
    /// 1 to 128 lower-case letters, digits and . _ -
    name: String,
    #[serde(default)]
    description: String,
    /// Absent: it does not end.
    expires_at: Option<Moment>,
    /// What it may do from the start: nothing that its maker may not.
    #[serde(default)]
    grants: Vec<GrantedRole>,
}

/// A robot with its first secret.
#[derive(Serialize, ToSchema)]
struct FreshRobot {
    #[serde(flatten)]
    robot: Robot,
    secret_id: String,
    /// It is told once.
    secret: String,
}

/// What is to be changed; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RobotChange {
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    /// It may not act.
    disabled: Option<bool>,
    /// null: it does not end.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Moment>)]
    expires_at: Option<Option<Moment>>,
}

/// A secret that nobody can read any more.
#[derive(Serialize, ToSchema)]
struct RobotSecret {
    id: String,
    created_at: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<Moment>,
}

/// A secret that is new.
#[derive(Serialize, ToSchema)]
struct FreshRobotSecret {
    id: String,
    /// It is told once.
    secret: String,
}

pub(crate) fn add(routes: &mut Routes) {
    use Permission as P;
    let all = "/instances/{instance}/robots";
    let one = "/instances/{instance}/robots/{robot}";
    let listing = Operation::get(all, "robots.list", "List the robots", Rule::Needs(P::RobotRead));
    routes.add(listing, async |call: Call, asked: List<Filter>| {
        users::list::<Robot>(&call, asked, "robot").await
    });
    let make = Operation::post(all, "robots.create", "Make a robot", Rule::Needs(P::RobotCreate));
    routes.add(make.repeatable().describe("With its first secret, which is told once."), create);
    routes.add(Operation::get(one, "robots.get", "Show a robot", Rule::Needs(P::RobotRead)), get);
    let change = Operation::patch(one, "robots.update", "Change a robot", Rule::Needs(P::RobotUpdate));
    routes.add(change.conditional(), update);
    let end = Operation::delete(
        one,
        "robots.delete",
        "Delete a robot, its grants and its secrets",
        Rule::Needs(P::RobotDelete),
    );
    routes.add(end.conditional(), async |call: Call, _: Nothing| users::delete(&call, "robot").await);
    let secrets = "/instances/{instance}/robots/{robot}/secrets";
    let secret = "/instances/{instance}/robots/{robot}/secrets/{secret}";
    routes.add(
        Operation::get(
            secrets,
            "robots.list_secrets",
            "List the secrets of a robot",
            Rule::Needs(P::RobotRead),
        ),
        list_secrets,
    );
    let more = Operation::post(
        secrets,
        "robots.add_secret",
        "Give a robot another secret",
        Rule::Needs(P::RobotUpdate),
    )
    .describe("There are two at most: give the new one to whoever uses the robot, then delete the old one.");
    routes.add(more.repeatable(), add_secret);
    let less = Operation::delete(
        secret,
        "robots.delete_secret",
        "Take a secret from a robot",
        Rule::Needs(P::RobotUpdate),
    );
    routes.add(less.describe("What came of it ends as well."), delete_secret);
}

async fn create(call: Call, Json(new): Json<NewRobot>) -> Result<Created<FreshRobot>> {
    let request = wire::CreateRobotRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        name: new.name,
        description: new.description,
        expires_at: new.expires_at.map_or(0, |moment| moment.0),
        grants: new.grants.into_iter().map(Into::into).collect(),
    };
    let made = call.parts.principals.clone().create_robot(request).await?.into_inner();
    let robot: Robot = made.robot.unwrap_or_default().into();
    let location = call.below(&format!("robots/{}", robot.id));
    Ok(Created { location, made: FreshRobot { robot, secret_id: made.secret_id, secret: made.secret } })
}

async fn get(call: Call, _: Nothing) -> Result<Entity<Robot>> {
    Ok(Entity(find(&call, "robot").await?.into()))
}

async fn update(call: Call, Json(change): Json<RobotChange>) -> Result<Entity<Robot>> {
    let found = find(&call, "robot").await?;
    let request = wire::UpdatePrincipalRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        principal: Some(reference("robot", &found.id)),
        version: call.version()?,
        description: change.description.map(Option::unwrap_or_default),
        email: None,
        disabled: change.disabled,
        expires_at: change.expires_at.map(|end| end.map_or(0, |moment| moment.0)),
    };
    let changed = call.checked(call.parts.principals.clone().update_principal(request).await)?;
    Ok(Entity(changed.into()))
}

async fn list_secrets(call: Call, _: Nothing) -> Result<Page<RobotSecret>> {
    let request = wire::ListRobotSecretsRequest {
        instance_id: call.instance_id().to_owned(),
        robot: Some(reference("robot", call.param("robot"))),
    };
    let found = call.parts.principals.clone().list_robot_secrets(request).await?.into_inner();
    let secret = |secret: wire::RobotSecretEntry| RobotSecret {
        id: secret.id,
        created_at: Moment(secret.created_at),
        last_used_at: Moment::some(secret.last_used_at),
    };
    Ok(Page { items: found.secrets.into_iter().map(secret).collect(), next: None })
}

async fn add_secret(call: Call, _: Nothing) -> Result<Created<FreshRobotSecret>> {
    let request = wire::AddRobotSecretRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        robot: Some(reference("robot", call.param("robot"))),
    };
    let made = call.parts.principals.clone().add_robot_secret(request).await?.into_inner();
    let location = call.below(&format!("robots/{}/secrets/{}", call.param("robot"), made.secret_id));
    Ok(Created { location, made: FreshRobotSecret { id: made.secret_id, secret: made.secret } })
}

async fn delete_secret(call: Call, _: Nothing) -> Result<Done> {
    let request = wire::DeleteRobotSecretRequest {
        actor: call.actor(),
        instance_id: call.instance_id().to_owned(),
        robot: Some(reference("robot", call.param("robot"))),
        secret_id: call.param("secret").to_owned(),
    };
    call.parts.principals.clone().delete_robot_secret(request).await?;
    Ok(Done)
}
