//! The metrics of a store. No label names a tenant, a repository or an object.

use berth_blobs::BlobsError;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ErrorLabels {
    kind: &'static str,
}

/// Counters of one store. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) written: Counter,
    pub(crate) read: Counter,
    pub(crate) syncs: Counter,
    pub(crate) deletes: Counter,
    pub(crate) room: Gauge,
    errors: Family<ErrorLabels, Counter>,
}

impl Metrics {
    /// Registers the counters under `berth_blob_store`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("berth_blob_store");
        let written = metrics.written.clone();
        registry.register_with_unit("written", "Bytes written to objects", Unit::Bytes, written);
        let read = metrics.read.clone();
        registry.register_with_unit("read", "Bytes of objects opened for reading", Unit::Bytes, read);
        registry.register("syncs", "Syncs of objects to the device", metrics.syncs.clone());
        registry.register("deletes", "Objects deleted", metrics.deletes.clone());
        let room = metrics.room.clone();
        registry.register_with_unit("room", "Bytes that the device still has room for", Unit::Bytes, room);
        registry.register("errors", "Failed calls, by kind", metrics.errors.clone());
        metrics
    }

    /// Counts an error on its way out. A taken-over upload is no error of the store.
    pub(crate) fn count(&self, error: &BlobsError) {
        let kind = match error {
            BlobsError::Stale => return,
            BlobsError::NotFound => "not_found",
            BlobsError::Full => "full",
            BlobsError::Short { .. } => "short",
            BlobsError::Damaged(_) => "damaged",
            BlobsError::KeyGone => "key_gone",
            BlobsError::Invalid(_) => "invalid",
            BlobsError::Io { .. } | BlobsError::Remote(_) => "io",
            BlobsError::Unavailable(_) => "unavailable",
        };
        self.errors.get_or_create(&ErrorLabels { kind }).inc();
    }
}
