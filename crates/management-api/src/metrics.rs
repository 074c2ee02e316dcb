//! What the API counts. Labels are closed sets: operations and statuses, never a tenant.

use std::time::Duration;

use berth_service::Registry;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
};

/// The labels of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Labels {
    pub(crate) operation: &'static str,
    pub(crate) status: u16,
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    calls: Family<Labels, Counter>,
    seconds: Histogram,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("berth_management_api");
        let metrics =
            Self { calls: Family::default(), seconds: Histogram::new(exponential_buckets(0.001, 4.0, 8)) };
        registry.register("calls", "Calls answered", metrics.calls.clone());
        registry.register("call_seconds", "Time from a call to its answer", metrics.seconds.clone());
        metrics
    }

    pub(crate) fn answered(&self, labels: &Labels, took: Duration) {
        self.calls.get_or_create(labels).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}
