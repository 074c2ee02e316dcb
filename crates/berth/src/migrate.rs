//! `berth migrate`: brings the databases of the configured roles up to date, under the data folder's lock.

use anyhow::Context;
use berth_database::DataLock;
use berth_service::Tasks;

use crate::{arguments::ConfigArguments, config, failure::Failure, roles::Role, serve, terminal};

/// Migrates and exits.
pub(crate) async fn run(arguments: &ConfigArguments) -> Result<(), Failure> {
    let config = config::load(arguments)?;
    let _lock = DataLock::acquire(&config.data).context("can't migrate")?;
    let tasks = Tasks::new();
    for role in config.roles() {
        let database = match role {
            Role::Metadata => serve::metadata_database(&config, &tasks).await?,
            Role::InstanceManager => serve::instance_manager_database(&config, &tasks).await?,
            Role::Gateway | Role::ManagementApi | Role::BlobStore => continue,
        };
        database.close().await;
        terminal::line(&format!("{} is up to date", role.as_str()));
    }
    Ok(())
}
