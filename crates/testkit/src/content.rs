//! Content from seeds: the same seed makes the same bytes, so a failing test can be run again.

use berth_oci::{Algorithm, Digest, MediaType};
use bytes::Bytes;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// Bytes with a digest and the media type that a descriptor gives them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blob {
    /// The bytes.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
    /// For descriptors.
    pub media_type: String,
}

/// A manifest or an index, as it is pushed.
pub type Manifest = Blob;

/// An image: blobs, and the manifest that names them.
#[derive(Clone, Debug)]
pub struct Image {
    /// The configuration.
    pub config: Blob,
    /// The layers.
    pub layers: Vec<Blob>,
    /// The manifest.
    pub manifest: Manifest,
}

impl Image {
    /// Configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

impl Blob {
    /// Bytes under their sha256 digest.
    pub fn new(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        Self { bytes, digest, media_type: media_type.to_owned() }
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// A JSON document as a manifest.
    pub fn json(media_type: &str, document: &Value) -> Self {
        Self::new(media_type, document.to_string())
    }
}

/// The descriptor of a blob.
pub fn descriptor(blob: &Blob) -> Value {
    json!({ "mediaType": blob.media_type, "digest": blob.digest, "size": blob.size() })
}

/// A source of content.
#[derive(Debug)]
pub struct Content(StdRng);

impl Content {
    /// Content of a seed.
    pub fn seeded(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Content of a seed taken from a text, such as a repository's name, so that tests don't share blobs by accident.
    pub fn named(text: &str) -> Self {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        Self(StdRng::from_seed(digest.hash().try_into().unwrap()))
    }

    /// Random bytes.
    pub fn bytes(&mut self, size: usize) -> Bytes {
        let mut bytes = vec![0; size];
        self.0.fill_bytes(&mut bytes);
        bytes.into()
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    /// A layer of random bytes.
    pub fn layer(&mut self, size: usize) -> Blob {
        Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", self.bytes(size))
    }

    /// An image with that many layers of that size.
    pub fn image(&mut self, layers: usize, size: usize) -> Image {
        let layers: Vec<_> = (0..layers).map(|_| self.layer(size)).collect();
        let history = self.0.next_u64().to_string();
        let config = json!({
            "architecture": "amd64", "os": "linux", "author": history,
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| layer.digest).collect::<Vec<_>>() },
        });
        let config = Blob::json("application/vnd.oci.image.config.v1+json", &config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": descriptor(&config),
            "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::json(MediaType::OCI_MANIFEST, &manifest);
        Image { config, layers, manifest }
    }

    /// An index of manifests.
    pub fn index(&mut self, children: &[&Manifest]) -> Manifest {
        let document = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_INDEX,
            "manifests": children.iter().map(|child| descriptor(child)).collect::<Vec<_>>(),
            "annotations": { "seed": self.0.next_u64().to_string() },
        });
        Blob::json(MediaType::OCI_INDEX, &document)
    }

    /// An artifact of a type without layers, about a subject if there is one. Its config is the empty JSON object.
    pub fn artifact(&mut self, artifact_type: &str, subject: Option<&Manifest>) -> Image {
        let config = Blob::new("application/vnd.oci.empty.v1+json", "{}");
        let mut document = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": descriptor(&config),
            "layers": [],
            "annotations": { "seed": self.0.next_u64().to_string() },
        });
        if let Some(subject) = subject {
            document["subject"] = descriptor(subject);
        }
        let manifest = Blob::json(MediaType::OCI_MANIFEST, &document);
        Image { config, layers: Vec::new(), manifest }
    }
}
