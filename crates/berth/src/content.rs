//! `berth admin`: namespaces and repositories of an instance.

use anyhow::Result;
use berth_model::Visibility;
use berth_oci::RepositoryName;
use berth_proto::metadata::{
    CreateNamespaceRequest, CreateRepositoryRequest, DeleteNamespaceRequest, DeleteRepositoryRequest,
    GetRepositoryRequest, ListNamespacesRequest, NamespaceEntry, RepositoryEntry, UpdateNamespaceRequest,
    UpdateRepositoryRequest, repositories_client::RepositoriesClient,
};
use berth_service::Channel;
use clap::{Args, Subcommand};

use crate::{admin::said, terminal};

/// Settings of a namespace.
#[derive(Debug, Args)]
pub(crate) struct NamespaceSettings {
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// Whether pushes make repositories in it
    #[arg(long)]
    create_on_push: Option<bool>,
    /// Who may pull repositories that are made in it: public or private
    #[arg(long)]
    default_visibility: Option<Visibility>,
    /// Whether tags of repositories that are made in it can't be moved
    #[arg(long)]
    default_immutable: Option<bool>,
}

/// Settings of a repository.
#[derive(Debug, Args)]
pub(crate) struct RepositorySettings {
    /// One line about it
    #[arg(long)]
    summary: Option<String>,
    /// All about it, in Markdown
    #[arg(long)]
    description: Option<String>,
    /// public or private
    #[arg(long)]
    visibility: Option<Visibility>,
    /// Whether tags that are there can't be moved; latest always can
    #[arg(long)]
    immutable_tags: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContentCommand {
    /// Make a namespace
    CreateNamespace {
        /// Its name
        name: String,
        #[command(flatten)]
        settings: NamespaceSettings,
    },
    /// Print the namespaces
    Namespaces,
    /// Change the settings of a namespace
    SetNamespace {
        /// Its name
        name: String,
        #[command(flatten)]
        settings: NamespaceSettings,
    },
    /// Remove a namespace with all that is in it
    DeleteNamespace {
        /// Its name
        name: String,
    },
    /// Make a repository
    CreateRepository {
        /// Its name, in a namespace that is there
        repository: RepositoryName,
        #[command(flatten)]
        settings: RepositorySettings,
    },
    /// Print a repository and its settings
    ShowRepository {
        /// Its name
        repository: RepositoryName,
    },
    /// Change the settings of a repository
    SetRepository {
        /// Its name
        repository: RepositoryName,
        #[command(flatten)]
        settings: RepositorySettings,
        /// Whether manifests that lost their last tag stay
        #[arg(long)]
        keep_untagged: Option<bool>,
    },
    /// Remove a repository with all that is in it; it is gone at once
    DeleteRepository {
        /// Its name
        repository: RepositoryName,
    },
}

fn public(visibility: Option<Visibility>) -> Option<bool> {
    visibility.map(|visibility| visibility == Visibility::Public)
}

fn word(public: bool) -> &'static str {
    if public { Visibility::Public.as_str() } else { Visibility::Private.as_str() }
}

fn print_namespace(entry: &NamespaceEntry) {
    let line = serde_json::json!({
        "id": entry.id,
        "name": entry.name,
        "description": entry.description,
        "create_on_push": entry.create_on_push,
        "default_visibility": word(entry.default_public),
        "default_immutable": entry.default_immutable,
        "removing": entry.removing,
    });
    terminal::line(&line.to_string());
}

fn print_repository(entry: &RepositoryEntry) {
    let line = serde_json::json!({
        "id": entry.id,
        "path": entry.path,
        "summary": entry.summary,
        "description": entry.description,
        "visibility": word(entry.public),
        "immutable_tags": entry.immutable_tags,
        "keep_untagged": entry.keep_untagged,
        "provisional": entry.provisional,
    });
    terminal::line(&line.to_string());
}

/// Runs one command.
pub(crate) async fn run(
    mut repositories: RepositoriesClient<Channel>,
    instance_id: String,
    command: ContentCommand,
) -> Result<()> {
    let refused = |status: tonic::Status| said(&status);
    match command {
        ContentCommand::CreateNamespace { name, settings } => {
            let request = CreateNamespaceRequest {
                manager: None,
                instance_id,
                name,
                description: settings.description.unwrap_or_default(),
                create_on_push: settings.create_on_push.unwrap_or(true),
                default_public: public(settings.default_visibility).unwrap_or(false),
                default_immutable: settings.default_immutable.unwrap_or(false),
            };
            print_namespace(repositories.create_namespace(request).await.map_err(refused)?.get_ref());
        }
        ContentCommand::Namespaces => {
            let mut after = String::new();
            loop {
                let request = ListNamespacesRequest {
                    instance_id: instance_id.clone(),
                    limit: 100,
                    after,
                    ..ListNamespacesRequest::default()
                };
                let page =
                    repositories.list_namespaces(request).await.map_err(refused)?.into_inner().namespaces;
                let Some(last) = page.last() else { return Ok(()) };
                after = last.name.clone();
                page.iter().for_each(print_namespace);
            }
        }
        ContentCommand::SetNamespace { name, settings } => {
            let request = UpdateNamespaceRequest {
                manager: None,
                instance_id,
                name,
                version: 0,
                description: settings.description,
                create_on_push: settings.create_on_push,
                default_public: public(settings.default_visibility),
                default_immutable: settings.default_immutable,
            };
            print_namespace(repositories.update_namespace(request).await.map_err(refused)?.get_ref());
        }
        ContentCommand::DeleteNamespace { name } => {
            let request =
                DeleteNamespaceRequest { manager: None, instance_id, name: name.clone(), version: 0 };
            repositories.delete_namespace(request).await.map_err(refused)?;
            terminal::line(&format!("the namespace {name} is being removed"));
        }
        ContentCommand::CreateRepository { repository, settings } => {
            let request = CreateRepositoryRequest {
                manager: None,
                instance_id,
                path: repository.to_string(),
                summary: settings.summary.unwrap_or_default(),
                description: settings.description.unwrap_or_default(),
                public: public(settings.visibility),
                immutable_tags: settings.immutable_tags,
            };
            print_repository(repositories.create_repository(request).await.map_err(refused)?.get_ref());
        }
        ContentCommand::ShowRepository { repository } => {
            let request =
                GetRepositoryRequest { instance_id, path: repository.to_string(), ..Default::default() };
            print_repository(repositories.get_repository(request).await.map_err(refused)?.get_ref());
        }
        ContentCommand::SetRepository { repository, settings, keep_untagged } => {
            let request = UpdateRepositoryRequest {
                manager: None,
                instance_id,
                path: repository.to_string(),
                version: 0,
                summary: settings.summary,
                description: settings.description,
                public: public(settings.visibility),
                immutable_tags: settings.immutable_tags,
                keep_untagged,
            };
            print_repository(repositories.update_repository(request).await.map_err(refused)?.get_ref());
        }
        ContentCommand::DeleteRepository { repository } => {
            let path = repository.to_string();
            let request =
                DeleteRepositoryRequest { manager: None, instance_id, path: path.clone(), version: 0 };
            repositories.delete_repository(request).await.map_err(refused)?;
            terminal::line(&format!("{path} is gone"));
        }
    }
    Ok(())
}
