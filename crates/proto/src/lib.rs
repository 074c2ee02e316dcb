//! The contracts between services: generated messages, clients and servers, the typed reading of their fields, and the
//! one mapping between error codes, gRPC and HTTP.

mod fields;
mod problem;
mod warm;

pub use fields::{optional, parse, require};
pub use problem::{from_status, to_status};
pub use warm::{ReferrersPage, TagsPage, WarmAnswer, WarmReads, WarmReference, WarmRepository};

/// The largest message in either direction, in bytes: a 4 MiB manifest and its envelope fit.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// In the metadata of a refused login: the principal that was meant, and the kind of credential that was shown.
pub const LOGIN_PRINCIPAL: &str = "berth-login-principal";
/// See [`LOGIN_PRINCIPAL`].
pub const LOGIN_CREDENTIAL: &str = "berth-login-credential";

macro_rules! generated {
    ($(#[$doc:meta])* $module:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(
            clippy::all,
            clippy::allow_attributes_without_reason,
            missing_docs,
            missing_debug_implementations,
            unreachable_pub,
            unused_qualifications,
            reason = "generated from the .proto files, which carry the documentation"
        )]
        pub mod $module {
            tonic::include_proto!($package);
        }
    };
}

generated!(
    /// Messages, client and server of metadata.
    metadata, "berth.metadata.v1"
);
generated!(
    /// Messages, client and server of instance-manager.
    instance_manager, "berth.instance_manager.v1"
);
generated!(
    /// Messages, client and server of blob-store.
    blob_store, "berth.blob_store.v1"
);
generated!(
    /// Messages of tasks, which several services have.
    tasks, "berth.tasks.v1"
);
generated!(
    /// Events, and the subscriber's client and server.
    events, "berth.events.v1"
);
