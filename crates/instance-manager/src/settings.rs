//! The settings that gateways watch, and the signer that belongs to them: one snapshot, replaced as a whole.

use std::{collections::HashMap, sync::Arc, time::Duration};

use berth_access::{KeySet, RootKey, Signer, SigningKey};
use berth_model::{Editions, InstanceId, InstanceState};
use berth_proto::instance_manager as wire;
use berth_service::{Ids, SharedClock, ToldClock};
use tokio::{sync::watch, time::Instant};

use crate::{Error, store::Store};

/// What token keys are sealed for.
pub(crate) const KEY_PURPOSE: &str = "token key";

/// How often a stream says that it is alive, and what time it is.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long it goes on saying so without a database.
const BLIND: Duration = Duration::from_secs(600);

/// What of an instance matters to tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Served {
    pub(crate) state: InstanceState,
    /// Whether a push may make namespaces.
    pub(crate) create_on_push: bool,
}

/// The settings as of one revision.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) wire: wire::Settings,
    pub(crate) signer: Signer,
    /// With what a token may be bound to in each.
    instances: HashMap<InstanceId, Served>,
    home: Option<InstanceId>,
}

impl Snapshot {
    pub(crate) fn has(&self, instance: InstanceId) -> bool {
        self.instances.contains_key(&instance)
    }

    /// Whether an instance is served, and what a push may make there.
    pub(crate) fn served(&self, instance: InstanceId) -> Option<Served> {
        self.instances.get(&instance).copied()
    }

    /// The instance whose principals may run the deployment.
    pub(crate) fn home(&self) -> Option<InstanceId> {
        self.home
    }

    /// Whether this is the instance whose principals may run the deployment.
    pub(crate) fn is_home(&self, instance: InstanceId) -> bool {
        self.home == Some(instance)
    }
}

#[derive(Clone, Debug)]
struct Latest {
    snapshot: Arc<Snapshot>,
    /// When the database last said so.
    confirmed: Instant,
}

/// The current snapshot, and its followers.
#[derive(Clone, Debug)]
pub(crate) struct SettingsBoard {
    store: Store,
    root: Arc<RootKey>,
    editions: Arc<Editions>,
    /// The database's clock, where it has one.
    clock: Arc<ToldClock>,
    ids: Ids,
    latest: Arc<watch::Sender<Latest>>,
}

async fn load(
    store: &Store,
    root: &RootKey,
    editions: &Editions,
    clock: SharedClock,
    ids: Ids,
) -> Result<Snapshot, Error> {
    let stored = store.settings().await?;
    let active =
        stored.keys.iter().find(|key| key.active).ok_or(Error::Inconsistent("no active token key"))?;
    let key = SigningKey::from_pkcs8(&root.open(KEY_PURPOSE, &active.id, &active.sealed)?)?;
    let signer = Signer::new(&stored.issuer, key, clock, ids);
    let instances = stored.instances.iter().map(|instance| wire::Instance {
        id: instance.id.to_string(),
        name: instance.name.clone(),
        default: instance.default,
        blob_delivery: instance.blob_delivery.as_str().to_owned(),
        store_id: instance.store_id.clone().unwrap_or_default(),
        store_stages: instance.store_stages,
        state: instance.state.to_string(),
        region: instance.region.clone(),
        pull_rate: editions
            .get(&instance.edition)
            .and_then(|edition| edition.pull_rate.per_second())
            .unwrap_or_default(),
    });
    let not_befores = stored
        .not_befores
        .into_iter()
        .map(|not_before| wire::NotBefore { subject: not_before.subject, at: not_before.at.0 });
    let wire = wire::Settings {
        revision: u64::try_from(stored.revision).unwrap_or_default(),
        jwks: KeySet::publish(stored.keys.iter().map(|key| key.jwk.as_str())),
        instances: instances.collect(),
        issuer: stored.issuer,
        now: 0,
        not_befores: not_befores.collect(),
    };
    let home = stored.instances.iter().find(|instance| instance.default).map(|instance| instance.id);
    let served = stored.instances.iter().map(|instance| {
        (instance.id, Served { state: instance.state, create_on_push: instance.create_on_push })
    });
    Ok(Snapshot { wire, signer, instances: served.collect(), home })
}

impl SettingsBoard {
    pub(crate) async fn open(
        store: Store,
        root: Arc<RootKey>,
        editions: Arc<Editions>,
        clock: SharedClock,
        ids: Ids,
    ) -> Result<Self, Error> {
        let clock = ToldClock::over(clock);
        if let (_, Some(now)) = store.revision().await? {
            clock.tell(now);
        }
        let snapshot = Arc::new(load(&store, &root, &editions, clock.clone(), ids.clone()).await?);
        let latest = Arc::new(watch::Sender::new(Latest { snapshot, confirmed: Instant::now() }));
        Ok(Self { store, root, editions, clock, ids, latest })
    }

    /// The deployment's time.
    pub(crate) fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.latest.borrow().snapshot.clone()
    }

    /// Asks the database, and publishes what is newer. Called every second, and by whatever raises the revision.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let (revision, now) = self.store.revision().await?;
        if let Some(now) = now {
            self.clock.tell(now);
        }
        let revision = u64::try_from(revision).unwrap_or_default();
        if revision == self.current().wire.revision {
            self.latest.send_if_modified(|latest| {
                latest.confirmed = Instant::now();
                false
            });
            return Ok(());
        }
        let snapshot =
            Arc::new(load(&self.store, &self.root, &self.editions, self.clock(), self.ids.clone()).await?);
        self.latest.send_if_modified(|latest| {
            // Two refreshes may end in the other order.
            let newer = snapshot.wire.revision > latest.snapshot.wire.revision;
            latest.confirmed = Instant::now();
            if newer {
                latest.snapshot = snapshot.clone();
            }
            newer
        });
        Ok(())
    }

    /// A follower of the settings.
    pub(crate) fn follow(&self) -> Follower {
        let mut latest = self.latest.subscribe();
        latest.mark_changed();
        Follower { latest, clock: self.clock(), sent: None }
    }
}

/// One stream of settings.
#[derive(Debug)]
pub(crate) struct Follower {
    latest: watch::Receiver<Latest>,
    clock: SharedClock,
    /// The revision that was sent last.
    sent: Option<u64>,
}

impl Follower {
    /// The settings: the first time at once, then when they change; and heartbeats. `None` ends the stream:
    /// nothing was heard of the database for so long that the follower has to look for another instance-manager.
    pub(crate) async fn next(&mut self) -> Option<wire::Settings> {
        if let Ok(Err(_)) = tokio::time::timeout(HEARTBEAT, self.latest.changed()).await {
            return None;
        }
        let latest = self.latest.borrow_and_update();
        if latest.confirmed.elapsed() >= BLIND {
            return None;
        }
        let settings = &latest.snapshot.wire;
        let now = self.clock.now().0;
        if self.sent.replace(settings.revision) == Some(settings.revision) {
            return Some(wire::Settings { revision: settings.revision, now, ..wire::Settings::default() });
        }
        Some(wire::Settings { now, ..settings.clone() })
    }
}
