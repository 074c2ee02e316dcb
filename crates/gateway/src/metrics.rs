//! What the gateway counts. Labels are closed sets: never a tenant, a repository or a tag.

use std::time::Duration;

use berth_service::Registry;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

/// The labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) route: &'static str,
    pub(crate) method: &'static str,
    pub(crate) status: u16,
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    running: Gauge,
    seconds: Histogram,
    pub(crate) uploaded_bytes: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("berth_gateway");
        let metrics = Self {
            requests: Family::default(),
            running: Gauge::default(),
            seconds: Histogram::new(exponential_buckets(0.000_1, 4.0, 10)),
            uploaded_bytes: Counter::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register("requests_running", "Requests without a response yet", metrics.running.clone());
        registry.register(
            "request_seconds",
            "Time from a request's head to its response's head",
            metrics.seconds.clone(),
        );
        registry.register("uploaded_bytes", "Bytes taken in by uploads", metrics.uploaded_bytes.clone());
        metrics
    }

    /// Counts a request as running until what this gives is dropped.
    pub(crate) fn began(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }

    pub(crate) fn answered(&self, labels: &RequestLabels, took: Duration) {
        self.requests.get_or_create(labels).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

/// A request that has no response yet.
#[derive(Debug)]
pub(crate) struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
