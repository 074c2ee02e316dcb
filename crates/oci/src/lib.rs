//! The OCI vocabulary: digests, names, tags, media types, descriptors, the manifest view, error codes, request paths
//! and ranges. Pure: it does no I/O and nothing here is async.
//!
//! Everything that comes from a network is parsed here, once, into a type that can't hold a wrong value.
//! Manifest bytes are never written back from these types: what was pushed is what is stored and served.

mod descriptor;
mod digest;
mod manifest;
mod media_type;
mod name;
mod problem;
mod range;
mod route;
mod tag;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use manifest::{MAX_DEPTH, MAX_MANIFEST_BYTES, MAX_REFERENCES, ManifestError, ManifestView};
pub use media_type::MediaType;
pub use name::{NameError, RepositoryName};
pub use problem::{ErrorCode, Problem};
pub use range::{ByteRange, ContentRange, RangeOutcome, parse_range};
pub use route::{Method, Route, RouteError};
pub use tag::{Reference, ReferenceError, Tag, TagError};
