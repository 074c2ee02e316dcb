//! The admin listener: `/healthz` (the process lives), `/readyz` (it can serve), `/metrics` (Prometheus text).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, http::StatusCode, http::header::CONTENT_TYPE, routing::get};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;

type Check = Arc<dyn Fn() -> bool + Send + Sync>;

/// Whether this process is ready: started, not draining, and every check holds.
#[derive(Clone, Default)]
pub struct Health {
    started: Arc<AtomicBool>,
    draining: Arc<AtomicBool>,
    checks: Arc<Mutex<Vec<(&'static str, Check)>>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("unready", &self.unready()).finish()
    }
}

impl Health {
    /// Not started yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds something that has to hold for readiness. It must answer at once.
    pub fn check(&self, name: &'static str, check: impl Fn() -> bool + Send + Sync + 'static) {
        self.checks.lock().push((name, Arc::new(check)));
    }

    /// Everything is built and listening.
    pub fn started(&self) {
        self.started.store(true, Ordering::SeqCst);
    }

    /// The process is about to stop.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Why the process is not ready; empty when it is.
    pub fn unready(&self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if !self.started.load(Ordering::SeqCst) {
            reasons.push("starting");
        }
        if self.draining.load(Ordering::SeqCst) {
            reasons.push("draining");
        }
        let checks = self.checks.lock().clone();
        reasons.extend(checks.iter().filter(|(_, check)| !check()).map(|(name, _)| *name));
        reasons
    }
}

/// The routes of the admin listener.
pub fn admin_routes(health: Health, registry: Registry) -> Router {
    let registry = Arc::new(registry);
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                let reasons = health.unready();
                if reasons.is_empty() {
                    (StatusCode::OK, "ready\n".to_owned())
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", reasons.join(", ")))
                }
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                let mut text = String::new();
                match prometheus_client::encoding::text::encode(&mut text, &registry) {
                    Ok(()) => (
                        StatusCode::OK,
                        [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
                        text,
                    ),
                    Err(_) => (
                        StatusCode::INTERNAL_SERVER_ERROR,
                        [(CONTENT_TYPE, "text/plain; charset=utf-8")],
                        String::new(),
                    ),
                }
            }),
        )
}
