//! Tracked tasks: everything that runs beside a request is known, told to stop, and waited for.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// A group of tasks that are stopped together. Clones are the same group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task. It keeps the current log span and should end soon after [`Self::stopping`] is cancelled.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let span = tracing::info_span!("task", name);
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        tokio::spawn(self.tracker.track_future(future.instrument(span)))
    }

    /// Starts a task inside the current log span, for work that belongs to a request and outlives its connection.
    pub fn detach<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        tokio::spawn(self.tracker.track_future(future.in_current_span()))
    }

    /// Cancelled when the group is told to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Tells every task to stop and waits for them, at most `grace`. Returns whether all ended.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_waits_for_tasks_that_end_and_says_when_one_does_not() {
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        let handle = tasks.spawn("ends", async move {
            stopping.cancelled().await;
            7
        });
        assert!(tasks.stop(Duration::from_secs(60)).await);
        assert_eq!(handle.await.unwrap(), 7);

        tokio::time::pause();
        let tasks = Tasks::new();
        tasks.spawn("never ends", std::future::pending::<()>());
        assert!(!tasks.stop(Duration::from_millis(10)).await);
    }
}
