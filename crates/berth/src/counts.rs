//! What the whole process counts, whatever its roles: statements of its databases and, in builds with debug assertions,
//! allocations.

use berth_database::Database;
use berth_service::Registry;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::Counter},
};

/// The databases of this process, by name.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    databases: Vec<(&'static str, Counter)>,
}

impl Counts {
    pub(crate) fn database(&mut self, name: &'static str, database: &Database) {
        self.databases.push((name, database.statements()));
    }

    /// Shows them among the metrics.
    pub(crate) fn register(self, registry: &mut Registry) {
        registry.register_collector(Box::new(self));
    }
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        if !self.databases.is_empty() {
            let help = "Statements sent to a database, BEGIN and its kin included";
            let mut family =
                encoder.encode_descriptor("berth_database_statements", help, None, MetricType::Counter)?;
            for (name, statements) in &self.databases {
                statements.encode(family.encode_family(&[("database", *name)])?)?;
            }
        }
        #[cfg(debug_assertions)]
        {
            use prometheus_client::metrics::counter::ConstCounter;
            let (allocations, bytes) = crate::allocations::so_far();
            for (name, help, value) in [
                ("berth_allocations", "How often memory was asked for", allocations),
                ("berth_allocated_bytes", "Bytes of memory asked for", bytes),
            ] {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                ConstCounter::new(value).encode(metric)?;
            }
        }
        Ok(())
    }
}
