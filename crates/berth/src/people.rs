//! `berth admin`: people, robots, groups, roles and grants of the default instance.

use std::{io::Read, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use berth_model::{PrincipalKind, RobotName};
use berth_oci::RepositoryName;
use berth_proto::instance_manager::{
    AddMemberRequest, AddRobotSecretRequest, AuthorizeRequest, CreateGrantRequest, CreateGroupRequest,
    CreateRobotRequest, CreateRoleRequest, CreateUserRequest, DeleteGrantRequest, DeleteMemberRequest,
    DeletePrincipalRequest, DeleteRobotSecretRequest, DeleteRoleRequest, Effect, GetPrincipalRequest,
    GrantWish, ListGrantsRequest, ListPrincipalsRequest, ListRobotSecretsRequest, ListRolesRequest,
    PrincipalEntry, PrincipalReference, SetPasswordRequest, UpdatePrincipalRequest,
    principals_client::PrincipalsClient, roles_client::RolesClient,
};
use berth_service::{Channel, Clock, SystemClock};
use clap::{Args, Subcommand};

use crate::{admin::said, terminal};

/// A place in the instance.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// Only in this namespace
    #[arg(long, conflicts_with = "repository")]
    namespace: Option<String>,
    /// Only in this repository
    #[arg(long)]
    repository: Option<RepositoryName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeopleCommand {
    /// Make a user; the password is read from standard input or a file
    CreateUser {
        /// Name to log in with
        name: String,
        /// File with the password, instead of standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Set a user's password, read from standard input or a file; what the old one opened is shut
    SetPassword {
        /// The user's name
        name: String,
        /// File with the password, instead of standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Make a robot, and print the secret that it logs in with; it is not shown again
    CreateRobot {
        /// Its name; it logs in as robot+NAME
        name: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// For how long it is valid, such as 90d; without it there is no end
        #[arg(long, value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
    },
    /// Print another secret for a robot; it has two at most, so that one can take the other's place
    AddRobotSecret {
        /// The robot's name
        name: String,
    },
    /// Print the secrets of a robot: when they were made and last used
    RobotSecrets {
        /// The robot's name
        name: String,
    },
    /// Take a secret from a robot, and all tokens that came of it
    DeleteRobotSecret {
        /// The robot's name
        name: String,
        /// The secret's id
        secret: String,
    },
    /// Make a group
    CreateGroup {
        /// Its name
        name: String,
    },
    /// Put a user or a robot (robot+NAME) into a group
    AddMember {
        /// The group's name
        group: String,
        /// Who
        member: String,
    },
    /// Take a user or a robot (robot+NAME) out of a group
    DeleteMember {
        /// The group's name
        group: String,
        /// Who
        member: String,
    },
    /// Print users, robots or groups
    Principals {
        /// user, robot or group
        kind: PrincipalKind,
    },
    /// Let nobody log in as this one any more, and end its tokens
    Disable {
        /// A user, robot+NAME, or group:NAME
        principal: String,
    },
    /// Let it log in again
    Enable {
        /// A user, robot+NAME, or group:NAME
        principal: String,
    },
    /// Delete a user, a robot or a group
    DeletePrincipal {
        /// A user, robot+NAME, or group:NAME
        principal: String,
    },
    /// Give a role: in the whole instance, or in one namespace or repository
    Grant {
        /// A user, robot+NAME, or group:NAME
        principal: String,
        /// The role's name; see the command roles
        role: String,
        #[command(flatten)]
        at: At,
        /// In all instances, for operators
        #[arg(long, conflicts_with_all = ["namespace", "repository"])]
        deployment: bool,
    },
    /// Print who has which role where
    Grants {
        /// Only of a user, robot+NAME, or group:NAME
        #[arg(long)]
        principal: Option<String>,
    },
    /// Take a role back, and end the tokens that rest on it
    DeleteGrant {
        /// The grant's id
        grant: String,
    },
    /// Print the roles, and what they allow
    Roles,
    /// Make a role
    CreateRole {
        /// Its name
        name: String,
        /// What it allows, such as artifact:pull or repository:*; may be repeated
        #[arg(long = "permission", required = true)]
        permissions: Vec<String>,
        /// Where it may be given: instance, namespace, repository; may be repeated
        #[arg(long = "scope", default_values = ["instance", "namespace", "repository"])]
        scopes: Vec<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Delete a role that nobody has
    DeleteRole {
        /// Its name
        name: String,
    },
    /// Say whether somebody may do something, and why
    CheckAccess {
        /// A user or robot+NAME
        principal: String,
        /// Such as artifact:push
        permission: String,
        #[command(flatten)]
        at: At,
    },
}

pub(crate) fn reference(text: &str) -> PrincipalReference {
    let (kind, name) = match (RobotName::of(text), text.strip_prefix("group:")) {
        (Some(robot), _) => (PrincipalKind::Robot, robot),
        (None, Some(group)) => (PrincipalKind::Group, group),
        (None, None) => (PrincipalKind::User, text),
    };
    PrincipalReference { id: String::new(), kind: kind.to_string(), name: name.to_owned() }
}

pub(crate) fn robot(name: &str) -> Option<PrincipalReference> {
    Some(reference(&RobotName::login(name)))
}

pub(crate) fn password(file: Option<PathBuf>) -> Result<String> {
    let text = match file {
        Some(file) => {
            std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?
        }
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("can't read the password")?;
            text
        }
    };
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn wish(role: String, at: At, deployment: bool) -> GrantWish {
    GrantWish {
        role,
        namespace: at.namespace.unwrap_or_default(),
        repository: at.repository.map(|repository| repository.to_string()).unwrap_or_default(),
        deployment,
    }
}

fn print(entry: &PrincipalEntry) {
    let moment = |micros: i64| (micros != 0).then_some(micros);
    let line = serde_json::json!({
        "id": entry.id,
        "kind": entry.kind,
        "name": entry.name,
        "login": entry.login,
        "description": entry.description,
        "disabled": entry.disabled,
        "expires_at": moment(entry.expires_at),
        "last_used_at": moment(entry.last_used_at),
    });
    terminal::line(&line.to_string());
}

/// Runs one command.
pub(crate) async fn run(
    mut people: PrincipalsClient<Channel>,
    mut roles: RolesClient<Channel>,
    instance_id: String,
    command: PeopleCommand,
) -> Result<()> {
    let refused = |status: tonic::Status| said(&status);
    match command {
        PeopleCommand::CreateUser { name, password_file } => {
            let password = password(password_file)?;
            if password.is_empty() {
                bail!("a password has 8 to 1024 bytes");
            }
            let request =
                CreateUserRequest { instance_id, name: name.clone(), password, ..Default::default() };
            let made = people.create_user(request).await.map_err(refused)?;
            terminal::line(&format!("user {name} is {}", made.into_inner().id));
        }
        PeopleCommand::SetPassword { name, password_file } => {
            let (user, password) = (Some(reference(&name)), password(password_file)?);
            let request = SetPasswordRequest { instance_id, user, password, ..Default::default() };
            people.set_password(request).await.map_err(refused)?;
            terminal::line(&format!("{name} has a new password"));
        }
        PeopleCommand::CreateRobot { name, description, expires_in } => {
            let expires_at = expires_in.map_or(0, |left| SystemClock.now().plus(left).0);
            let request =
                CreateRobotRequest { instance_id, name, description, expires_at, ..Default::default() };
            let made = people.create_robot(request).await.map_err(refused)?.into_inner();
            let robot = made.robot.ok_or_else(|| anyhow!("the registry did not say which robot it made"))?;
            let line = serde_json::json!({
                "id": robot.id, "login": robot.login, "secret_id": made.secret_id, "secret": made.secret,
            });
            terminal::line(&line.to_string());
        }
        PeopleCommand::AddRobotSecret { name } => {
            let request = AddRobotSecretRequest { instance_id, robot: robot(&name), ..Default::default() };
            let made = people.add_robot_secret(request).await.map_err(refused)?.into_inner();
            let line = serde_json::json!({ "secret_id": made.secret_id, "secret": made.secret });
            terminal::line(&line.to_string());
        }
        PeopleCommand::RobotSecrets { name } => {
            let request = ListRobotSecretsRequest { instance_id, robot: robot(&name) };
            for secret in people.list_robot_secrets(request).await.map_err(refused)?.into_inner().secrets {
                let used = (secret.last_used_at != 0).then_some(secret.last_used_at);
                let line = serde_json::json!({
                    "secret_id": secret.id, "created_at": secret.created_at, "last_used_at": used,
                });
                terminal::line(&line.to_string());
            }
        }
        PeopleCommand::DeleteRobotSecret { name, secret } => {
            let robot = robot(&name);
            let request = DeleteRobotSecretRequest {
                instance_id,
                robot,
                secret_id: secret.clone(),
                ..Default::default()
            };
            people.delete_robot_secret(request).await.map_err(refused)?;
            terminal::line(&format!("{name} has lost the secret {secret}"));
        }
        PeopleCommand::CreateGroup { name } => {
            let request = CreateGroupRequest { instance_id, name: name.clone(), ..Default::default() };
            let made = people.create_group(request).await.map_err(refused)?;
            terminal::line(&format!("group {name} is {}", made.into_inner().id));
        }
        PeopleCommand::AddMember { group, member } => {
            let (inside, who) = (Some(reference(&format!("group:{group}"))), Some(reference(&member)));
            let request = AddMemberRequest { instance_id, group: inside, member: who, ..Default::default() };
            people.add_member(request).await.map_err(refused)?;
            terminal::line(&format!("{member} is in the group {group}"));
        }
        PeopleCommand::DeleteMember { group, member } => {
            let (inside, who) = (Some(reference(&format!("group:{group}"))), Some(reference(&member)));
            let request =
                DeleteMemberRequest { instance_id, group: inside, member: who, ..Default::default() };
            people.delete_member(request).await.map_err(refused)?;
            terminal::line(&format!("{member} is not in the group {group}"));
        }
        PeopleCommand::Principals { kind } => {
            let mut after = String::new();
            loop {
                let request = ListPrincipalsRequest {
                    instance_id: instance_id.clone(),
                    kind: kind.to_string(),
                    limit: 0,
                    after,
                    search: String::new(),
                };
                let page = people.list_principals(request).await.map_err(refused)?.into_inner().principals;
                let Some(last) = page.last() else { return Ok(()) };
                after = last.name.clone();
                page.iter().for_each(print);
            }
        }
        PeopleCommand::Disable { principal } => {
            set_disabled(&mut people, instance_id, &principal, true).await?;
        }
        PeopleCommand::Enable { principal } => {
            set_disabled(&mut people, instance_id, &principal, false).await?;
        }
        PeopleCommand::DeletePrincipal { principal } => {
            let who = Some(reference(&principal));
            let request = DeletePrincipalRequest { instance_id, principal: who, ..Default::default() };
            people.delete_principal(request).await.map_err(refused)?;
            terminal::line(&format!("{principal} is gone"));
        }
        PeopleCommand::Grant { principal, role, at, deployment } => {
            let grant = Some(wish(role.clone(), at, deployment));
            let who = Some(reference(&principal));
            let request = CreateGrantRequest { instance_id, principal: who, grant, ..Default::default() };
            let made = roles.create_grant(request).await.map_err(refused)?;
            terminal::line(&format!("{principal} is {role} by grant {}", made.into_inner().id));
        }
        PeopleCommand::Grants { principal } => {
            let principal = principal.as_deref().map(reference);
            let mut after = String::new();
            loop {
                let (instance_id, principal) = (instance_id.clone(), principal.clone());
                let request = ListGrantsRequest { instance_id, principal, after, ..Default::default() };
                let page = roles.list_grants(request).await.map_err(refused)?.into_inner().grants;
                let Some(last) = page.last() else { return Ok(()) };
                after = last.id.clone();
                for grant in page {
                    let line = serde_json::json!({
                        "id": grant.id,
                        "principal": format!("{}:{}", grant.principal_kind, grant.principal_name),
                        "role": grant.role,
                        "scope": grant.scope_kind,
                        "scope_id": grant.scope_id,
                        "created_by": grant.created_by,
                    });
                    terminal::line(&line.to_string());
                }
            }
        }
        PeopleCommand::DeleteGrant { grant } => {
            let request = DeleteGrantRequest { instance_id, grant_id: grant.clone(), ..Default::default() };
            roles.delete_grant(request).await.map_err(refused)?;
            terminal::line(&format!("the grant {grant} was taken back"));
        }
        PeopleCommand::Roles => {
            for role in
                roles.list_roles(ListRolesRequest { instance_id }).await.map_err(refused)?.into_inner().roles
            {
                let line = serde_json::json!({
                    "name": role.name,
                    "built_in": role.built_in,
                    "description": role.description,
                    "scopes": role.scopes,
                    "permissions": role.permissions,
                });
                terminal::line(&line.to_string());
            }
        }
        PeopleCommand::CreateRole { name, permissions, scopes, description } => {
            let request = CreateRoleRequest {
                instance_id,
                name: name.clone(),
                description,
                scopes,
                permissions,
                ..Default::default()
            };
            let made = roles.create_role(request).await.map_err(refused)?;
            terminal::line(&format!("role {name} is {}", made.into_inner().id));
        }
        PeopleCommand::DeleteRole { name } => {
            let request = DeleteRoleRequest { instance_id, role: name.clone(), ..Default::default() };
            roles.delete_role(request).await.map_err(refused)?;
            terminal::line(&format!("the role {name} is gone"));
        }
        PeopleCommand::CheckAccess { principal, permission, at } => {
            let who = Some(reference(&principal));
            let request = GetPrincipalRequest { instance_id: instance_id.clone(), principal: who };
            let found = people.get_principal(request).await.map_err(refused)?.into_inner();
            let effect = Effect {
                permission,
                namespace: at.namespace.unwrap_or_default(),
                repository: at.repository.map(|repository| repository.to_string()).unwrap_or_default(),
            };
            let request = AuthorizeRequest {
                instance_id: instance_id.clone(),
                principal: format!("{}:{}", found.kind, found.id),
                principal_instance_id: instance_id,
                effects: vec![effect],
            };
            for decision in roles.authorize(request).await.map_err(refused)?.into_inner().decisions {
                let line = serde_json::json!({
                    "allowed": decision.allowed, "reason": decision.reason, "grants": decision.grant_ids,
                });
                terminal::line(&line.to_string());
            }
        }
    }
    Ok(())
}

async fn set_disabled(
    people: &mut PrincipalsClient<Channel>,
    instance_id: String,
    principal: &str,
    disabled: bool,
) -> Result<()> {
    let request = UpdatePrincipalRequest {
        instance_id,
        principal: Some(reference(principal)),
        disabled: Some(disabled),
        ..Default::default()
    };
    people.update_principal(request).await.map_err(|status| said(&status))?;
    terminal::line(&format!("{principal} {}", if disabled { "is disabled" } else { "is enabled" }));
    Ok(())
}
