//! What a handler is given: the request whose instance is known, and everything it may use.

use std::{fmt, sync::Arc};

use berth_audit::{Audit, Origin, Seen};
use berth_blobs::Blobs;
use berth_oci::ErrorCode;
use berth_proto::{
    WarmReads,
    instance_manager::{instance_manager_client::InstanceManagerClient, logins_client::LoginsClient},
    metadata::metadata_client::MetadataClient,
};
use berth_service::{Channel, Connection, Ids, Tasks};
use http::{HeaderValue, header, request::Parts as Head};

use crate::{
    body::Pace,
    cache::Contents,
    failure::{Failure, Result},
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
    pub(crate) logins: LoginsClient<Channel>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) audit: Arc<Audit>,
    /// Reads that metadata answers from memory, when it is in this process.
    pub(crate) warm: Option<Arc<dyn WarmReads>>,
    pub(crate) contents: Contents,
    pub(crate) recall: Recall,
    pub(crate) whole: Whole,
    pub(crate) ids: Ids,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    /// How slowly a client may send.
    pub(crate) pace: Pace,
    /// The largest blob.
    pub(crate) blob_bytes: u64,
    pub(crate) external_url: String,
    /// The domain whose names say which instance is meant; empty: there is the default one only.
    pub(crate) base_domain: String,
}

/// A request whose instance is known, without its body.
pub(crate) struct Request {
    pub(crate) parts: Arc<Parts>,
    pub(crate) head: Head,
    pub(crate) instance: Arc<Instance>,
    pub(crate) origin: Origin,
}

impl Request {
    /// Counts something for the audit.
    pub(crate) fn saw(&self, seen: &Seen<'_>) {
        self.parts.audit.saw(seen, self.origin, self.parts.settings.now());
    }

    /// Scheme and authority under which the client reaches this registry.
    pub(crate) fn base_url(&self) -> String {
        let external = &self.parts.external_url;
        let many = !self.parts.base_domain.is_empty();
        if !external.is_empty() && !many {
            return external.clone();
        }
        let tls = self.head.extensions.get::<Connection>().is_some_and(|connection| connection.tls);
        let scheme = match external.split_once("://") {
            Some((scheme, _)) => scheme,
            None if tls => "https",
            None => "http",
        };
        format!("{scheme}://{}", authority(&self.head).unwrap_or_default())
    }
}

/// The host that the client asked, as it may stand in a challenge.
pub(crate) fn authority(head: &Head) -> Result<&str> {
    let host = match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || b".-_:[]".contains(&c);
    if host.is_empty() || host.len() > 300 || !host.bytes().all(plain) {
        return Err(Failure::new(ErrorCode::RequestInvalid, "the request needs a valid Host header"));
    }
    Ok(host)
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("instance", &self.instance).field("uri", &self.head.uri).finish()
    }
}

/// Where a request came from: the address of the peer.
pub(crate) fn peer(head: &Head) -> Option<std::net::IpAddr> {
    let peer = head.extensions.get::<Connection>().and_then(|connection| connection.peer);
    peer.map(|peer| peer.ip().to_canonical())
}

/// 405, with the methods that the resource has.
pub(crate) fn not_allowed(methods: &'static str) -> Box<Failure> {
    Failure::new(ErrorCode::Unsupported, format!("this resource has only {methods}"))
        .with_header(header::ALLOW, HeaderValue::from_static(methods))
}
