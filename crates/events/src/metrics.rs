//! What an operator sees of a relay.

use berth_service::Registry;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

type Labels = [(&'static str, String); 1];

/// The metrics of all relays of a process, one series for each subscriber.
#[derive(Clone, Default, Debug)]
pub struct RelayMetrics {
    depth: Family<Labels, Gauge>,
    oldest: Family<Labels, Gauge>,
    dead_letters: Family<Labels, Gauge>,
    delivered: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    dead: Family<Labels, Counter>,
}

/// The series of one subscriber.
#[derive(Clone, Debug)]
pub(crate) struct SubscriberMetrics {
    pub(crate) depth: Gauge,
    pub(crate) oldest: Gauge,
    pub(crate) dead_letters: Gauge,
    pub(crate) delivered: Counter,
    pub(crate) failed: Counter,
    pub(crate) dead: Counter,
}

impl RelayMetrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "berth_events_outbox_depth",
            "Events that wait for a subscriber",
            metrics.depth.clone(),
        );
        registry.register(
            "berth_events_outbox_oldest_age_seconds",
            "Age of the oldest event that waits for a subscriber",
            metrics.oldest.clone(),
        );
        registry.register(
            "berth_events_dead_letters",
            "Events whose delivery was given up and that wait for an operator",
            metrics.dead_letters.clone(),
        );
        registry.register(
            "berth_events_delivered",
            "Events that a subscriber acknowledged",
            metrics.delivered.clone(),
        );
        registry.register(
            "berth_events_delivery_failures",
            "Deliveries that a subscriber did not acknowledge",
            metrics.failed.clone(),
        );
        registry.register("berth_events_given_up", "Events that became dead letters", metrics.dead.clone());
        metrics
    }

    pub(crate) fn of(&self, subscriber: &str) -> SubscriberMetrics {
        let labels = [("subscriber", subscriber.to_owned())];
        SubscriberMetrics {
            depth: self.depth.get_or_create_owned(&labels),
            oldest: self.oldest.get_or_create_owned(&labels),
            dead_letters: self.dead_letters.get_or_create_owned(&labels),
            delivered: self.delivered.get_or_create_owned(&labels),
            failed: self.failed.get_or_create_owned(&labels),
            dead: self.dead.get_or_create_owned(&labels),
        }
    }
}
