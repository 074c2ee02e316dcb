//! Media types, compared without parameters.

use std::{fmt, str::FromStr, sync::Arc};

/// A media type such as `application/vnd.oci.image.manifest.v1+json`, without parameters and in lower case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Arc<str>);

/// Not a media type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a media type has the form type/subtype with at most 127 characters on each side")]
pub struct MediaTypeError;

impl MediaType {
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &'static str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const OCI_INDEX: &'static str = "application/vnd.oci.image.index.v1+json";
    /// A Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &'static str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &'static str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker schema 1, which is refused.
    pub const DOCKER_SCHEMA1: &'static str = "application/vnd.docker.distribution.manifest.v1+json";
    /// Docker schema 1 with a signature, which is refused.
    pub const DOCKER_SCHEMA1_SIGNED: &'static str =
        "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether content of this type may live outside the registry (foreign and non-distributable layers).
    pub fn is_foreign_layer(&self) -> bool {
        self.0.starts_with("application/vnd.oci.image.layer.nondistributable.v1.")
            || self.0.starts_with("application/vnd.docker.image.rootfs.foreign.")
    }
}

impl FromStr for MediaType {
    type Err = MediaTypeError;

    /// Parses a `Content-Type`; parameters are dropped.
    fn from_str(text: &str) -> Result<Self, MediaTypeError> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        let (kind, subtype) = essence.split_once('/').ok_or(MediaTypeError)?;
        let restricted = |part: &str| {
            (1..=127).contains(&part.len())
                && part.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric())
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&c))
        };
        if restricted(kind) && restricted(subtype) {
            Ok(Self(essence.to_ascii_lowercase().into()))
        } else {
            Err(MediaTypeError)
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_dropped_and_case_is_folded() {
        let parsed: MediaType = "Application/JSON; charset=utf-8".parse().unwrap();
        assert_eq!(parsed.as_str(), "application/json");
        for wrong in ["", "json", "a/", "/b", "a/b c", "a/b/c"] {
            assert!(wrong.parse::<MediaType>().is_err(), "{wrong}");
        }
    }
}
