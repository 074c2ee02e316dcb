//! A small pool of content, so that requests of a random sequence are often about the same things.

use std::collections::BTreeMap;

use berth_oci::{Digest, MediaType};
use berth_testkit::{Blob, Content, descriptor};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::registry::digests;

pub(crate) const BLOBS: usize = 6;
pub(crate) const MANIFESTS: usize = 12;
pub(crate) const REPOSITORIES: usize = 3;
pub(crate) const TAGS: [&str; 4] = ["a", "b", "v1.0", "Z_z"];

/// Content and names of one trial.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    /// Whether others have the same content.
    pub(crate) is_shared: bool,
    pub(crate) repositories: Vec<String>,
    pub(crate) blobs: Vec<Blob>,
    pub(crate) manifests: Vec<Blob>,
}

/// A manifest's parts in the pool.
#[derive(Clone, Copy, Debug)]
struct Parts {
    config: Option<usize>,
    layers: &'static [usize],
    children: &'static [usize],
    subject: Option<usize>,
    artifact_type: Option<&'static str>,
}

const NONE: Parts = Parts { config: None, layers: &[], children: &[], subject: None, artifact_type: None };
const IMAGE: Parts = Parts { config: Some(0), ..NONE };

const PARTS: [Parts; MANIFESTS] = [
    Parts { layers: &[1], ..IMAGE },
    Parts { layers: &[1, 2], ..IMAGE },
    IMAGE,
    Parts { layers: &[3, 3, 5], ..IMAGE },
    Parts { children: &[0, 2], ..NONE },
    Parts { children: &[4, 1], ..NONE },
    Parts { subject: Some(0), artifact_type: Some("application/vnd.example.signature"), ..IMAGE },
    Parts { subject: Some(4), artifact_type: Some("application/vnd.example.note"), ..IMAGE },
    Parts { subject: Some(6), artifact_type: Some("application/vnd.example.signature"), ..IMAGE },
    Parts { children: &[2], subject: Some(1), artifact_type: Some("application/vnd.example.note"), ..NONE },
    Parts { subject: Some(0), layers: &[4], ..IMAGE },
    // No manifest at all.
    NONE,
];

/// The manifest that says no media type, so that it may be pushed as one or the other.
pub(crate) const UNTYPED: usize = 3;
/// What is no manifest.
pub(crate) const BROKEN: usize = 11;

impl Pool {
    /// Repositories in a namespace that nobody else uses, and the content of a salt. Pools of the same salt share it; of
    /// different ones only what is empty.
    pub(crate) fn new(namespace: &str, salt: &str) -> Self {
        let mut content = Content::named(salt);
        let sizes = [600, 1_000, 5_000, 70_000, 0, 300_000];
        let blobs: Vec<_> = sizes.iter().map(|size| content.layer(*size)).collect();
        let mut manifests: Vec<Blob> = Vec::new();
        for (number, parts) in PARTS.iter().enumerate() {
            manifests.push(manifest(salt, number, *parts, &blobs, &manifests));
        }
        let names = ["app", "base", "deep/er"];
        let repositories = names.iter().map(|name| format!("{namespace}/{name}")).collect();
        Self { is_shared: namespace != salt, repositories, blobs, manifests }
    }

    /// Every blob by both digests.
    pub(crate) fn by_digest(&self) -> BTreeMap<Digest, Bytes> {
        let blobs = self.blobs.iter();
        blobs.flat_map(|blob| digests(&blob.bytes).map(|digest| (digest, blob.bytes.clone()))).collect()
    }

    /// A blob's digest, by one of two algorithms.
    pub(crate) fn blob_digest(&self, number: usize, sha512: bool) -> Digest {
        digests(&self.blobs[number].bytes)[usize::from(sha512)]
    }

    /// A manifest's digest, by one of two algorithms.
    pub(crate) fn manifest_digest(&self, number: usize, sha512: bool) -> Digest {
        digests(&self.manifests[number].bytes)[usize::from(sha512)]
    }

    /// Blobs that a manifest needs.
    pub(crate) fn blobs_of(&self, number: usize) -> Vec<usize> {
        let mut needed: Vec<_> = PARTS[number].config.iter().chain(PARTS[number].layers).copied().collect();
        needed.dedup();
        needed
    }

    /// Manifests that a manifest needs.
    pub(crate) fn children_of(&self, number: usize) -> &'static [usize] {
        PARTS[number].children
    }
}

fn manifest(salt: &str, number: usize, parts: Parts, blobs: &[Blob], before: &[Blob]) -> Blob {
    if number == BROKEN {
        return Blob::new(MediaType::OCI_MANIFEST, Bytes::from(format!("{{\"schemaVersion\":2,{salt}")));
    }
    let is_index = parts.config.is_none();
    let media_type = if is_index { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST };
    let mut document =
        json!({ "schemaVersion": 2, "annotations": { "trial": salt, "number": number.to_string() } });
    if number != UNTYPED {
        document["mediaType"] = media_type.into();
    }
    let descriptors = |of: &[Blob], which: &[usize]| -> Value {
        which.iter().map(|which| descriptor(&of[*which])).collect()
    };
    if let Some(config) = parts.config {
        document["config"] = descriptor(&blobs[config]);
        document["layers"] = descriptors(blobs, parts.layers);
    } else {
        document["manifests"] = descriptors(before, parts.children);
    }
    if let Some(subject) = parts.subject {
        document["subject"] = descriptor(&before[subject]);
    }
    if let Some(artifact_type) = parts.artifact_type {
        document["artifactType"] = artifact_type.into();
    }
    Blob::json(media_type, &document)
}
