//! Follows the settings' revision: another process may have raised it.

use std::time::Duration;

use berth_service::Tasks;

use crate::{
    Error, audit::Retention, instances::Instances, settings::SettingsBoard, store::Store,
    token_keys::TokenKeys,
};

const POLL: Duration = Duration::from_secs(1);

/// Starts the poll; it ends with `tasks`.
pub(crate) fn follow_settings(board: SettingsBoard, tasks: &Tasks) {
    let stopping = tasks.stopping();
    tasks.spawn("settings", async move {
        let mut failing = false;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
            match board.refresh().await {
                Ok(()) => failing = false,
                Err(error) => {
                    if !failing {
                        tracing::warn!(error = &error as &dyn std::error::Error, "settings can't be read");
                    }
                    failing = true;
                }
            }
        }
    });
}

/// How often it is looked for instances whose limits metadata has not confirmed.
const TEND: Duration = Duration::from_secs(5);

/// Sees to it that what is wished for instances comes true or is given up; ends with `tasks`.
pub(crate) fn tend_instances(instances: Instances, tasks: &Tasks) {
    let stopping = tasks.stopping();
    tasks.spawn("instances", async move {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(TEND) => {}
            }
            if let Err(error) = tend_all(&instances).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "instances can't be tended");
            }
        }
    });
}

async fn tend_all(instances: &Instances) -> Result<(), Error> {
    let mut after = None;
    loop {
        let page = instances.store.tenants_to_tend(after, 100).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(*last);
        for instance in page {
            match instances.tend(instance).await {
                Ok(_) => {}
                // Metadata has said no, and the wish is gone.
                Err(Error::Problem(problem)) => {
                    tracing::info!(%instance, %problem, "a wish did not come true");
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// How often it is looked whether tokens need another key.
const TEND_KEYS: Duration = Duration::from_secs(60);

/// Changes the keys that sign tokens in time; ends with `tasks`.
pub(crate) fn tend_token_keys(keys: TokenKeys, tasks: &Tasks) {
    let stopping = tasks.stopping();
    tasks.spawn("token keys", async move {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(TEND_KEYS) => {}
            }
            if let Err(error) = keys.tend().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "token keys can't be tended");
            }
        }
    });
}

/// How often it is looked whether entries of the audit are too old, and whether there is a place for those to come.
const TEND_AUDIT: Duration = Duration::from_secs(3600);

/// Keeps the audit's time, at once and then by the hour; ends with `tasks`.
pub(crate) fn tend_audit(retention: Retention, tasks: &Tasks) {
    let stopping = tasks.stopping();
    tasks.spawn("audit", async move {
        loop {
            let tended = tokio::select! {
                () = stopping.cancelled() => return,
                tended = retention.tend() => tended,
            };
            if let Err(error) = tended {
                tracing::warn!(error = &error as &dyn std::error::Error, "the audit can't be tended");
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(TEND_AUDIT) => {}
            }
        }
    });
}

/// How often requests are forgotten that nobody repeats any more, and tasks that nobody asks for.
const FORGET: Duration = Duration::from_secs(600);

/// Forgets requests and tasks in time; ends with `tasks`.
pub(crate) fn forget_old(store: Store, tasks: &Tasks) {
    let stopping = tasks.stopping();
    tasks.spawn("forget", async move {
        loop {
            let forgotten = tokio::select! {
                () = stopping.cancelled() => return,
                forgotten = store.forget_old() => forgotten,
            };
            match forgotten {
                // There may be more.
                Ok(1..) => continue,
                Ok(0) => {}
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "what is old can't be forgotten"
                    );
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(FORGET) => {}
            }
        }
    });
}
