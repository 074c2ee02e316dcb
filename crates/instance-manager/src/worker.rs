//! Follows the settings' revision: another process may have raised it.

use std::time::Duration;

use berth_service::Tasks;

use crate::settings::SettingsBoard;

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
