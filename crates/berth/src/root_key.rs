//! `berth rotate-root-key`: another root sealing key, while no instance-manager runs.

use anyhow::{Context, bail};
use berth_access::RootKey;
use berth_database::DataLock;
use berth_service::Tasks;

use crate::{arguments::ConfigArguments, config, failure::Failure, roles::Role, serve, terminal};

/// Makes another key, seals every secret again, and removes the former key. Cut short, it goes on when it is run again.
pub(crate) async fn run(arguments: &ConfigArguments) -> Result<(), Failure> {
    let config = config::load(arguments)?;
    if !config.roles().contains(&Role::InstanceManager) {
        let message = "this configuration has no instance-manager, whose secrets the root key seals";
        return Err(Failure::Config(message.to_owned()));
    }
    let _lock =
        DataLock::acquire(&config.data).context("can't change the root key while the registry runs")?;
    let path = config.data.join("root.key");
    if !path.is_file() {
        return Err(Failure::Config(format!("there is no root key at {}", path.display())));
    }
    let database = serve::instance_manager_database(&config, &Tasks::new()).await?;
    change(&path, &database).await?;
    database.close().await;
    Ok(())
}

async fn change(path: &std::path::Path, database: &berth_database::Database) -> anyhow::Result<()> {
    let key = RootKey::open_file(path).context("can't use the root sealing key")?;
    // Everything opens before anything changes; and what a run before left is done first.
    berth_instance_manager::reseal(database.clone(), &key).await.context("a secret can't be opened")?;
    if !RootKey::rotate(path).context("can't make another root key")? {
        RootKey::forget_former(path).context("can't remove the former root key")?;
        if !RootKey::rotate(path).context("can't make another root key")? {
            bail!("somebody else changes the root key");
        }
    }
    let key = RootKey::open_file(path).context("can't use the new root key")?;
    let count = berth_instance_manager::reseal(database.clone(), &key).await.context("can't seal again")?;
    RootKey::forget_former(path).context("can't remove the former root key")?;
    terminal::line(&format!("{count} secrets are sealed by the new root key; back up {}", path.display()));
    Ok(())
}
