//! Whether somebody may do something, and why.

use berth_model::Permission;
use berth_proto::instance_manager as wire;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    answer::Plain,
    call::Call,
    grants::Principal,
    input::Json,
    operation::{Operation, Routes, Rule},
    problem::{Result, invalid},
};

/// A question.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AccessCheck {
    /// Absent: the caller.
    principal: Option<Principal>,
    /// resource:action, such as artifact:push.
    permission: String,
    /// In this namespace; with neither in the whole instance.
    namespace: Option<String>,
    /// In the repository at this path.
    repository: Option<String>,
}

/// An answer.
#[derive(Serialize, ToSchema)]
struct AccessDecision {
    allowed: bool,
    /// Why, or why not.
    reason: String,
    /// The grants that allow it.
    grant_ids: Vec<String>,
}

pub(crate) fn add(routes: &mut Routes) {
    let check = Operation::post(
        "/instances/{instance}/access-checks",
        "access_checks.create",
        "Ask whether somebody may do something, and why",
        Rule::NeedsWhereBodySays(Permission::GrantRead),
    )
    .describe("Everybody may ask about oneself. Nothing is changed.");
    routes.add(check, ask);
}

async fn ask(call: Call, Json(check): Json<AccessCheck>) -> Result<Plain<AccessDecision>> {
    let caller = call.caller();
    let (principal, whose) = match &check.principal {
        None => {
            call.allow_oneself();
            (caller.principal.clone(), caller.instance_id.clone())
        }
        Some(principal) => {
            call.allow(Permission::GrantRead, crate::call::At::Instance).await?;
            if principal.kind == crate::grants::PrincipalKind::Group {
                return Err(invalid("groups do nothing themselves: ask about a user or a robot"));
            }
            let request = wire::GetPrincipalRequest {
                instance_id: call.instance_id().to_owned(),
                principal: Some(principal.into()),
            };
            let found = call.parts.principals.clone().get_principal(request).await?.into_inner();
            (format!("{}:{}", found.kind, found.id), found.instance_id)
        }
    };
    let effect = wire::Effect {
        permission: check.permission,
        namespace: check.namespace.unwrap_or_default(),
        repository: check.repository.unwrap_or_default(),
    };
    let request = wire::AuthorizeRequest {
        instance_id: call.instance_id().to_owned(),
        principal,
        principal_instance_id: whose,
        effects: vec![effect],
    };
    let found = call.parts.roles.clone().authorize(request).await?.into_inner().decisions;
    let decision = found.into_iter().next().unwrap_or_default();
    Ok(Plain(AccessDecision {
        allowed: decision.allowed,
        reason: decision.reason,
        grant_ids: decision.grant_ids,
    }))
}
