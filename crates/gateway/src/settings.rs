//! Following instance-manager: token keys and instances, always the newest, never asked for on the request path.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use berth_access::Verifier;
use berth_model::InstanceId;
use berth_proto::instance_manager::{
    self as wire, WatchRequest, instance_manager_client::InstanceManagerClient,
};
use berth_service::{Channel, SharedClock, Tasks, Timestamp};
use parking_lot::Mutex;

/// Without a word from instance-manager for this long the gateway is not ready, and then refuses.
const SILENCE: Duration = Duration::from_secs(60);

/// One revision of the settings.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) revision: u64,
    pub(crate) jwks: String,
    pub(crate) default_instance: Option<Instance>,
}

/// An instance as the gateway needs it.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) name: String,
}

/// The newest settings, and when instance-manager was last heard.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Trusts the keys of the newest settings.
    pub(crate) verifier: Verifier,
    current: ArcSwap<Option<Snapshot>>,
    heard: Mutex<Option<Timestamp>>,
    clock: SharedClock,
}

impl Settings {
    /// The settings, unless they are missing or too old to be trusted.
    pub(crate) fn current(&self) -> Option<arc_swap::Guard<Arc<Option<Snapshot>>>> {
        let guard = self.current.load();
        (guard.is_some() && self.fresh()).then_some(guard)
    }

    /// Whether instance-manager was heard lately.
    pub(crate) fn fresh(&self) -> bool {
        let heard = *self.heard.lock();
        heard.is_some_and(|heard| self.clock.now().since(heard) <= SILENCE)
    }

    fn apply(&self, settings: wire::Settings) {
        *self.heard.lock() = Some(self.clock.now());
        let known = self.current.load().as_ref().as_ref().map(|current| current.revision);
        if known == Some(settings.revision) {
            return;
        }
        if let Err(error) = self.verifier.trust(&settings.jwks, &settings.issuer) {
            tracing::error!(%error, revision = settings.revision, "settings with unusable token keys are ignored");
            return;
        }
        let default_instance =
            settings.instances.iter().find(|instance| instance.default).and_then(|instance| {
                Some(Instance { id: instance.id.parse().ok()?, name: instance.name.clone() })
            });
        tracing::debug!(revision = settings.revision, "settings taken over");
        self.current.store(Arc::new(Some(Snapshot {
            revision: settings.revision,
            jwks: settings.jwks,
            default_instance,
        })));
    }
}

/// Starts following.
pub(crate) fn follow(
    client: InstanceManagerClient<Channel>,
    clock: SharedClock,
    tasks: &Tasks,
) -> Arc<Settings> {
    let verifier = Verifier::new(Arc::clone(&clock));
    let current = ArcSwap::from_pointee(None);
    let settings = Arc::new(Settings { verifier, current, heard: Mutex::new(None), clock });
    let follower = Arc::clone(&settings);
    let stopping = tasks.stopping();
    tasks.spawn("follow settings", async move {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = follow_once(client.clone(), &follower) => {}
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
            }
        }
    });
    settings
}

async fn follow_once(mut client: InstanceManagerClient<Channel>, settings: &Settings) {
    let revision = settings.current.load().as_ref().as_ref().map_or(0, |current| current.revision);
    let mut stream = match client.watch(WatchRequest { revision }).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            tracing::debug!(code = ?status.code(), cause = status.message(), "instance-manager can't be watched");
            return;
        }
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => settings.apply(message),
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(code = ?status.code(), cause = status.message(), "the watch ended");
                return;
            }
        }
    }
}
