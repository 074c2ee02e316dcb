//! `berth admin`: identity providers of an instance, whom they know, and which of their workloads are robots.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use berth_proto::instance_manager::{
    ClaimCondition, CreateIdentityProviderRequest, CreateTrustRequest, DeleteIdentityProviderRequest,
    DeleteTrustRequest, IdentityProviderEntry, LinkUserRequest, ListIdentityProvidersRequest,
    ListTrustsRequest, ProviderGroup, ProviderGroups, Texts, TrustEntry, UnlinkUserRequest,
    UpdateIdentityProviderRequest, identity_providers_client::IdentityProvidersClient,
};
use berth_service::Channel;
use clap::{ArgAction, Args, Subcommand};

use crate::{
    admin::said,
    people::{password, reference, robot},
    terminal,
};

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Who else may say who somebody is: OpenID Connect issuers
    IdentityProvider {
        #[command(subcommand)]
        command: ProviderCommand,
    },
    /// Which workloads of an identity provider are which robot
    Trust {
        #[command(subcommand)]
        command: TrustCommand,
    },
}

/// What may be said of a provider.
#[derive(Debug, Args)]
pub(crate) struct About {
    /// The id that the provider has given this registry
    #[arg(long)]
    client_id: Option<String>,
    /// File with the secret that belongs to the client id; - is standard input, an empty one is none
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// A scope to ask for beside openid, such as profile; may be repeated
    #[arg(long = "scope")]
    scopes: Vec<String>,
    /// For whom ID tokens may be beside the client, when they are shown as a password; may be repeated
    #[arg(long = "audience")]
    audiences: Vec<String>,
    /// The claim that names new users
    #[arg(long)]
    username_claim: Option<String>,
    /// The claim that lists groups
    #[arg(long)]
    groups_claim: Option<String>,
    /// Puts whoever has a value in that claim into a group, and takes others out: VALUE=GROUP; may be repeated
    #[arg(long = "group", value_parser = pair)]
    groups: Vec<(String, String)>,
    /// Whether people may log in by it
    #[arg(long, action = ArgAction::Set)]
    login: Option<bool>,
    /// Whether users are made when they log in for the first time
    #[arg(long, action = ArgAction::Set)]
    create_users: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProviderCommand {
    /// Make one
    Create {
        /// Its name, which stands in the URL of logins
        name: String,
        /// Its issuer: a URL, exactly as its tokens name it
        issuer: String,
        #[command(flatten)]
        about: About,
    },
    /// Change what is said of one; what is not named stays
    Set {
        /// Its name
        name: String,
        #[command(flatten)]
        about: About,
    },
    /// Print them
    List,
    /// Delete one, its trusts and links; what came of it ends
    Delete {
        /// Its name
        name: String,
    },
    /// Let whom it knows by a subject be a user
    Link {
        /// Its name
        name: String,
        /// The user's name
        user: String,
        /// The claim sub of that person's tokens
        subject: String,
    },
    /// Let a user be nobody whom it knows
    Unlink {
        /// Its name
        name: String,
        /// The user's name
        user: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Let workloads be a robot, whose tokens meet all conditions
    Create {
        /// The identity provider's name
        provider: String,
        /// The robot's name
        robot: String,
        /// Whom tokens have to be for
        #[arg(long)]
        audience: String,
        /// A claim and what it has to be: CLAIM=VALUE, where * stands for any text; may be repeated
        #[arg(long = "claim", value_parser = pair, required = true)]
        claims: Vec<(String, String)>,
    },
    /// Print them
    List,
    /// Delete one; the robot's tokens end
    Delete {
        /// Its id
        id: String,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has to be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn groups(pairs: Vec<(String, String)>) -> Vec<ProviderGroup> {
    pairs.into_iter().map(|(value, group)| ProviderGroup { value, group }).collect()
}

fn secret(file: Option<PathBuf>) -> Result<Option<String>> {
    match file {
        Some(file) if file.as_os_str() == "-" => password(None).map(Some),
        Some(file) => password(Some(file)).map(Some),
        None => Ok(None),
    }
}

/// A list that was named; none: it stays.
fn named(texts: Vec<String>) -> Option<Texts> {
    (!texts.is_empty()).then_some(Texts { texts })
}

fn print_provider(entry: &IdentityProviderEntry) {
    let groups: Vec<String> =
        entry.groups.iter().map(|group| format!("{}={}", group.value, group.group)).collect();
    let line = serde_json::json!({
        "name": entry.name,
        "issuer": entry.issuer,
        "client_id": entry.client_id,
        "has_client_secret": entry.has_client_secret,
        "scopes": entry.scopes,
        "audiences": entry.audiences,
        "username_claim": entry.username_claim,
        "groups_claim": entry.groups_claim,
        "groups": groups,
        "login": entry.login,
        "create_users": entry.create_users,
    });
    terminal::line(&line.to_string());
}

fn print_trust(entry: &TrustEntry) {
    let claims: Vec<String> =
        entry.conditions.iter().map(|one| format!("{}={}", one.claim, one.pattern)).collect();
    let line = serde_json::json!({
        "id": entry.id,
        "provider": entry.provider,
        "robot": entry.robot,
        "audience": entry.audience,
        "claims": claims,
        "created_by": entry.created_by,
    });
    terminal::line(&line.to_string());
}

/// Runs one command.
pub(crate) async fn run(
    client: IdentityProvidersClient<Channel>,
    instance_id: String,
    command: IdentityCommand,
) -> Result<()> {
    match command {
        IdentityCommand::IdentityProvider { command } => provider(client, instance_id, command).await,
        IdentityCommand::Trust { command } => trust(client, instance_id, command).await,
    }
}

async fn provider(
    mut client: IdentityProvidersClient<Channel>,
    instance_id: String,
    command: ProviderCommand,
) -> Result<()> {
    let refused = |status: tonic::Status| said(&status);
    match command {
        ProviderCommand::Create { name, issuer, about } => {
            let request = CreateIdentityProviderRequest {
                actor: None,
                instance_id,
                name,
                issuer,
                client_id: about.client_id.unwrap_or_default(),
                client_secret: secret(about.client_secret_file)?.unwrap_or_default(),
                scopes: about.scopes,
                audiences: about.audiences,
                username_claim: about.username_claim.unwrap_or_default(),
                groups_claim: about.groups_claim.unwrap_or_default(),
                groups: groups(about.groups),
                login: about.login.unwrap_or_default(),
                create_users: about.create_users.unwrap_or_default(),
            };
            print_provider(&client.create_identity_provider(request).await.map_err(refused)?.into_inner());
        }
        ProviderCommand::Set { name, about } => {
            let list = (!about.groups.is_empty()).then(|| ProviderGroups { groups: groups(about.groups) });
            let request = UpdateIdentityProviderRequest {
                actor: None,
                instance_id,
                name,
                version: 0,
                client_id: about.client_id,
                client_secret: secret(about.client_secret_file)?,
                scopes: named(about.scopes),
                audiences: named(about.audiences),
                username_claim: about.username_claim,
                groups_claim: about.groups_claim,
                groups: list,
                login: about.login,
                create_users: about.create_users,
            };
            print_provider(&client.update_identity_provider(request).await.map_err(refused)?.into_inner());
        }
        ProviderCommand::List => {
            let request = ListIdentityProvidersRequest { instance_id };
            let listed = client.list_identity_providers(request).await.map_err(refused)?;
            listed.into_inner().providers.iter().for_each(print_provider);
        }
        ProviderCommand::Delete { name } => {
            let request =
                DeleteIdentityProviderRequest { instance_id, name: name.clone(), ..Default::default() };
            client.delete_identity_provider(request).await.map_err(refused)?;
            terminal::line(&format!("the identity provider {name} is gone"));
        }
        ProviderCommand::Link { name, user, subject } => {
            let request = LinkUserRequest {
                actor: None,
                instance_id,
                provider: name.clone(),
                subject: subject.clone(),
                user: Some(reference(&user)),
            };
            client.link_user(request).await.map_err(refused)?;
            terminal::line(&format!("{subject} of {name} is {user}"));
        }
        ProviderCommand::Unlink { name, user } => {
            let who = Some(reference(&user));
            let request = UnlinkUserRequest { actor: None, instance_id, provider: name.clone(), user: who };
            client.unlink_user(request).await.map_err(refused)?;
            terminal::line(&format!("{user} is nobody whom {name} knows"));
        }
    }
    Ok(())
}

async fn trust(
    mut client: IdentityProvidersClient<Channel>,
    instance_id: String,
    command: TrustCommand,
) -> Result<()> {
    let refused = |status: tonic::Status| said(&status);
    match command {
        TrustCommand::Create { provider, robot: name, audience, claims } => {
            let conditions =
                claims.into_iter().map(|(claim, pattern)| ClaimCondition { claim, pattern }).collect();
            let request = CreateTrustRequest {
                actor: None,
                instance_id,
                provider,
                robot: robot(&name),
                audience,
                conditions,
            };
            print_trust(&client.create_trust(request).await.map_err(refused)?.into_inner());
        }
        TrustCommand::List => {
            let mut after = String::new();
            loop {
                let request = ListTrustsRequest { instance_id: instance_id.clone(), after, limit: 0 };
                let page = client.list_trusts(request).await.map_err(refused)?.into_inner().trusts;
                let Some(last) = page.last() else { return Ok(()) };
                after = last.id.clone();
                page.iter().for_each(print_trust);
            }
        }
        TrustCommand::Delete { id } => {
            if id.is_empty() {
                return Err(anyhow!("name the trust by its id; see trust list"));
            }
            let request = DeleteTrustRequest { actor: None, instance_id, trust_id: id.clone() };
            client.delete_trust(request).await.map_err(refused)?;
            terminal::line(&format!("the trust {id} is gone"));
        }
    }
    Ok(())
}
