//! What an operator sees of instance-manager.

use berth_oci::{ErrorCode, Problem};
use berth_service::Registry;
use prometheus_client::metrics::{counter::Counter, family::Family};

use crate::Error;

type Labels = [(&'static str, &'static str); 1];

/// The counters.
#[derive(Clone, Default, Debug)]
pub(crate) struct Metrics {
    tokens: Family<Labels, Counter>,
    audit: Family<Labels, Counter>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("berth_tokens", "Requests for an access token, by outcome", metrics.tokens.clone());
        registry.register(
            "berth_audit_events",
            "Events delivered to the audit: recorded, or repeated and dropped",
            metrics.audit.clone(),
        );
        metrics
    }

    pub(crate) fn token(&self, error: Option<&Error>) {
        let outcome = match error {
            None => "issued",
            Some(Error::Problem(Problem { code: ErrorCode::Unauthorized, .. })) => "refused",
            Some(Error::Problem(Problem {
                code: ErrorCode::RequestInvalid | ErrorCode::NotFound, ..
            })) => "invalid",
            Some(_) => "failed",
        };
        self.tokens.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn audit(&self, recorded: u64, repeated: u64) {
        self.audit.get_or_create(&[("outcome", "recorded")]).inc_by(recorded);
        self.audit.get_or_create(&[("outcome", "repeated")]).inc_by(repeated);
    }
}
