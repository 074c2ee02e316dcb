//! What a handler is given: the request whose instance is known, and everything it may use.

use std::{fmt, sync::Arc, time::Duration};

use berth_blobs::Blobs;
use berth_oci::ErrorCode;
use berth_proto::{
    instance_manager::instance_manager_client::InstanceManagerClient,
    metadata::metadata_client::MetadataClient,
};
use berth_service::{Channel, Ids, Tasks};
use http::{HeaderValue, header, request::Parts as Head};

use crate::{
    cache::Manifests,
    failure::Failure,
    metrics::Metrics,
    recall::Recall,
    settings::{Instance, Settings},
    verified::Whole,
};

/// Everything a handler may use.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) metadata: MetadataClient<Channel>,
    pub(crate) instance_manager: InstanceManagerClient<Channel>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) manifests: Manifests,
    pub(crate) recall: Recall,
    pub(crate) whole: Whole,
    pub(crate) ids: Ids,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pub(crate) upload_idle: Duration,
    pub(crate) external_url: String,
}

/// A request whose instance is known, without its body.
pub(crate) struct Request {
    pub(crate) parts: Arc<Parts>,
    pub(crate) head: Head,
    pub(crate) instance: Instance,
    /// Scheme and authority under which the client reaches this registry.
    pub(crate) base_url: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("instance", &self.instance).field("uri", &self.head.uri).finish()
    }
}

/// 405, with the methods that the resource has.
pub(crate) fn not_allowed(methods: &'static str) -> Box<Failure> {
    Failure::new(ErrorCode::Unsupported, format!("this resource has only {methods}"))
        .with_header(header::ALLOW, HeaderValue::from_static(methods))
}
