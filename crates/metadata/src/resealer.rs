//! After a rotation: seals again, page by page, what a former key of an instance has sealed, while everything is served,
//! and lets the key go once no row names it. It may be cut off anywhere and done twice.

use std::{
    cmp::min,
    time::{Duration, Instant},
};

use berth_proto::{
    from_status,
    instance_manager::{
        DataKey, DropFormerKeyRequest, FormerKey, ListFormerKeysRequest, RewrapDataKeysRequest,
        instance_keys_client::InstanceKeysClient,
    },
};
use berth_service::{Channel, Registry, Tasks};
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::CancellationToken;

use crate::{
    Metadata,
    error::Result,
    sealing::{Named, PAGE, Resealed},
};

/// How long the right to do this lasts without being renewed.
const LEASE: Duration = Duration::from_secs(30);
/// The most former keys that are looked at in one round.
const KEYS: u32 = 100;
/// The longest pause after failures.
const MAX_OUTAGE: Duration = Duration::from_secs(60);

/// What an operator sees of it.
#[derive(Clone, Default, Debug)]
pub(crate) struct Metrics {
    resealed: Counter,
    failed: Counter,
    dropped: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { resealed, failed, dropped } = metrics.clone();
        registry.register("berth_keys_resealed", "Data keys that were sealed by a newer key", resealed);
        registry.register("berth_keys_unopened", "Data keys that a former key does not open", failed);
        registry.register("berth_keys_dropped", "Former keys that nothing named any more", dropped);
        metrics
    }
}

/// Works off former keys.
#[derive(Debug)]
pub(crate) struct Resealer {
    metadata: Metadata,
    keys: InstanceKeysClient<Channel>,
    metrics: Metrics,
    holder: String,
    claimed: Option<Instant>,
    outages: u32,
}

impl Resealer {
    pub(crate) fn new(metadata: Metadata, keys: Channel, metrics: Metrics) -> Self {
        let holder = metadata.ids.ulid().to_string();
        let keys = InstanceKeysClient::new(keys);
        Self { metadata, keys, metrics, holder, claimed: None, outages: 0 }
    }

    /// Starts the loop; it ends soon after `tasks` are told to stop.
    pub(crate) fn spawn(self, tasks: &Tasks) {
        let stopping = tasks.stopping();
        tasks.spawn("seal data keys again", self.run(stopping));
    }

    async fn run(mut self, stopping: CancellationToken) {
        let poll = self.metadata.config.collection_poll();
        while !stopping.is_cancelled() {
            let round = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                round = self.round() => round,
            };
            let pause = match round {
                Ok(()) => {
                    self.outages = 0;
                    poll
                }
                Err(error) => {
                    self.outages = self.outages.saturating_add(1);
                    if self.outages == 2 {
                        tracing::warn!(%error, "sealing data keys again waits");
                    }
                    min(poll.saturating_mul(1 << min(self.outages, 8)), MAX_OUTAGE)
                }
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Every former key once.
    pub(crate) async fn round(&mut self) -> Result<()> {
        if !self.claim().await? {
            return Ok(());
        }
        let request = ListFormerKeysRequest { after: String::new(), limit: KEYS };
        let former = self.keys.list_former_keys(request).await.map_err(|status| from_status(&status))?;
        for key in former.into_inner().keys {
            self.reseal_all(&key).await?;
            let waits = self.metadata.config.longest_operation().as_secs();
            if key.former_for < waits || !self.metadata.give_up_key(&key.key_id).await? {
                continue;
            }
            let request = DropFormerKeyRequest { key_id: key.key_id.clone() };
            self.keys.drop_former_key(request).await.map_err(|status| from_status(&status))?;
            self.metrics.dropped.inc();
            tracing::info!(key = key.key_id, instance = key.instance_id, "a former key was destroyed");
        }
        Ok(())
    }

    async fn claim(&mut self) -> Result<bool> {
        if self.claimed.is_some_and(|at| at.elapsed() < LEASE / 3) {
            return Ok(true);
        }
        let claimed = self.metadata.claim_resealing(&self.holder, LEASE).await?;
        self.claimed = claimed.then(Instant::now);
        Ok(claimed)
    }

    /// Seals again whatever a key has sealed.
    async fn reseal_all(&mut self, key: &FormerKey) -> Result<()> {
        for sessions in [false, true] {
            let mut after: Option<Named> = None;
            loop {
                if !self.claim().await? {
                    return Ok(());
                }
                let page = match sessions {
                    false => self.metadata.blobs_of_key(&key.key_id, after.as_ref()).await?,
                    true => self.metadata.sessions_of_key(&key.key_id, after.as_ref()).await?,
                };
                let last = page.len() < PAGE;
                after = page.last().cloned();
                self.reseal_page(key, page).await?;
                if last {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn reseal_page(&mut self, key: &FormerKey, page: Vec<Named>) -> Result<()> {
        if page.is_empty() {
            return Ok(());
        }
        let keys = page.iter().map(|named| DataKey {
            object: named.session().unwrap_or_default(),
            key_id: key.key_id.clone(),
            wrapped_key: named.wrapped_key.clone().into(),
        });
        let request = RewrapDataKeysRequest { instance_id: key.instance_id.clone(), keys: keys.collect() };
        let answer = self.keys.rewrap_data_keys(request).await.map_err(|status| from_status(&status))?;
        let answer = answer.into_inner();
        let mut resealed = Vec::with_capacity(page.len());
        for (named, wrapped_key) in page.into_iter().zip(answer.wrapped_keys) {
            if wrapped_key.is_empty() {
                self.metrics.failed.inc();
                tracing::error!(object = named.object_key, key = key.key_id, "a data key does not open");
                continue;
            }
            resealed.push(Resealed { named, wrapped_key: wrapped_key.into() });
        }
        let changed = self.metadata.reseal(&key.key_id, &answer.key_id, resealed).await?;
        self.metrics.resealed.inc_by(changed);
        Ok(())
    }
}
