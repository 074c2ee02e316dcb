//! Following instance-manager: token keys and instances, always the newest, never asked for on the request path.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use berth_access::{NotBefores, Verifier};
use berth_model::{BlobDelivery, InstanceId, InstanceState, own_part};
use berth_proto::instance_manager::{
    self as wire, WatchRequest, instance_manager_client::InstanceManagerClient,
};
use berth_service::{Channel, Clock, SharedClock, Tasks, Timestamp, ToldClock};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::rate::{Meter, Shared};

/// Without a word from instance-manager for this long the gateway is not ready, and then refuses.
const SILENCE: Duration = Duration::from_secs(60);

/// One revision of the settings.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) revision: u64,
    pub(crate) jwks: String,
    pub(crate) default_instance: Option<Arc<Instance>>,
    /// Under what comes before the deployment's domain: `<name>-registry.<region>`.
    by_host: HashMap<String, Arc<Instance>>,
    /// The instances whose reads are counted.
    meters: HashMap<InstanceId, Arc<Meter>>,
}

impl Snapshot {
    /// The instance that a host means: an instance's own name within the deployment's domain, or that domain itself,
    /// which is the default instance.
    pub(crate) fn at(&self, host: &str, domain: &str) -> Option<Arc<Instance>> {
        match &*own_part(host, domain)? {
            "" => self.default_instance.clone(),
            own => self.by_host.get(own).cloned(),
        }
    }
}

/// An instance as the gateway needs it.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) name: String,
    pub(crate) blob_delivery: BlobDelivery,
    /// The store that takes new blobs; empty: the deployment's.
    pub(crate) store_id: String,
    /// Whether that store keeps the bytes of an upload aside.
    pub(crate) store_stages: bool,
    pub(crate) default: bool,
    pub(crate) state: InstanceState,
    /// Reads of manifests; none: they are not counted.
    pub(crate) meter: Option<Arc<Meter>>,
}

/// The newest settings, and when instance-manager was last heard.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Trusts the keys of the newest settings.
    pub(crate) verifier: Verifier,
    /// The deployment's time, as instance-manager tells it.
    clock: Arc<ToldClock>,
    current: ArcSwap<Option<Snapshot>>,
    /// What it takes to count reads with the other gateways; none: this one counts alone.
    shared: Option<Shared>,
    /// Not the wall clock: when that steps, nothing was said and nothing was missed.
    heard: Mutex<Option<Instant>>,
}

impl Settings {
    fn new(clock: SharedClock, shared: Option<Shared>) -> Self {
        let clock = ToldClock::over(clock);
        Self {
            verifier: Verifier::new(clock.clone()),
            clock,
            current: ArcSwap::from_pointee(None),
            shared,
            heard: Mutex::new(None),
        }
    }

    /// The deployment's time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The settings, unless they are missing or too old to be trusted.
    pub(crate) fn current(&self) -> Option<arc_swap::Guard<Arc<Option<Snapshot>>>> {
        let guard = self.current.load();
        (guard.is_some() && self.fresh()).then_some(guard)
    }

    /// Whether instance-manager was heard lately.
    pub(crate) fn fresh(&self) -> bool {
        let heard = *self.heard.lock();
        heard.is_some_and(|heard| heard.elapsed() <= SILENCE)
    }

    fn apply(&self, settings: wire::Settings) {
        *self.heard.lock() = Some(Instant::now());
        // 0: an instance-manager of the version before.
        if settings.now > 0 {
            self.clock.tell(Timestamp(settings.now));
        }
        let before = self.current.load();
        let before = before.as_ref().as_ref();
        if before.map(|before| before.revision) == Some(settings.revision) || settings.jwks.is_empty() {
            return;
        }
        if let Err(error) = self.verifier.trust(&settings.jwks, &settings.issuer) {
            tracing::error!(%error, revision = settings.revision, "settings with unusable token keys are ignored");
            return;
        }
        let mut meters = HashMap::new();
        let (mut default_instance, mut by_host) = (None, HashMap::with_capacity(settings.instances.len()));
        for told in &settings.instances {
            let Some(instance) = instance(told, before, self.shared.as_ref()) else { continue };
            if let Some(meter) = &instance.meter {
                meters.insert(instance.id, Arc::clone(meter));
            }
            if told.default {
                default_instance = Some(Arc::clone(&instance));
            }
            if !told.region.is_empty() {
                by_host.insert(format!("{}-registry.{}", told.name, told.region), instance);
            }
        }
        self.verifier.refuse(not_befores(&settings.not_befores));
        tracing::debug!(revision = settings.revision, "settings taken over");
        self.current.store(Arc::new(Some(Snapshot {
            revision: settings.revision,
            jwks: settings.jwks,
            default_instance,
            by_host,
            meters,
        })));
    }
}

/// What has been read counts on, unless the rate is another.
fn meter(
    id: InstanceId,
    rate: u64,
    before: Option<&Arc<Meter>>,
    shared: Option<&Shared>,
) -> Option<Arc<Meter>> {
    match before {
        _ if rate == 0 => None,
        Some(before) if before.rate() == rate => Some(Arc::clone(before)),
        _ => Some(Arc::new(Meter::of(id, rate, shared))),
    }
}

fn instance(
    told: &wire::Instance,
    before: Option<&Snapshot>,
    shared: Option<&Shared>,
) -> Option<Arc<Instance>> {
    let id = told.id.parse().ok()?;
    Some(Arc::new(Instance {
        id,
        meter: meter(id, told.pull_rate, before.and_then(|before| before.meters.get(&id)), shared),
        name: told.name.clone(),
        // Another word is of another version: streaming is always right.
        blob_delivery: told.blob_delivery.parse().unwrap_or_default(),
        store_id: told.store_id.clone(),
        store_stages: told.store_stages,
        default: told.default,
        // Another word is a reason to serve nothing, and none is of a version that knew no other.
        state: match told.state.as_str() {
            "" => InstanceState::Running,
            state => state.parse().unwrap_or(InstanceState::Stopped),
        },
    }))
}

/// What was taken away, as the verifier wants it.
fn not_befores(listed: &[wire::NotBefore]) -> NotBefores {
    let mut found = NotBefores::default();
    for not_before in listed {
        let at = Timestamp(not_before.at);
        let instance = not_before.subject.strip_prefix("instance:").and_then(|id| id.parse().ok());
        match instance {
            Some(instance) => found.instances.insert(instance, at),
            None => found.principals.insert(not_before.subject.clone(), at),
        };
    }
    found
}

/// Starts following.
pub(crate) fn follow(
    client: InstanceManagerClient<Channel>,
    clock: SharedClock,
    shared: Option<Shared>,
    tasks: &Tasks,
) -> Arc<Settings> {
    let settings = Arc::new(Settings::new(clock, shared));
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

#[cfg(test)]
mod tests {
    use berth_access::{KeySet, SigningKey};
    use berth_service::{ManualClock, Timestamp};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_in_time_that_passes_not_in_steps_of_the_clock() {
        let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
        let settings = Settings::new(clock.clone(), None);
        assert!(!settings.fresh());
        let key = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
        let jwks = KeySet::publish([key.public().jwk.as_str()]);
        settings.apply(wire::Settings {
            revision: 1,
            jwks,
            issuer: "berth".to_owned(),
            ..Default::default()
        });
        clock.advance(Duration::from_secs(3600));
        assert!(settings.fresh() && settings.current().is_some());
        tokio::time::advance(SILENCE).await;
        assert!(settings.fresh());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!settings.fresh() && settings.current().is_none());
    }
}
