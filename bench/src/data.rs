//! What is pushed and read: content that does not compress, made from a seed, so that two runs with the same fingerprint
//! worked on the same bytes.

use rand::{RngCore, SeedableRng, rngs::StdRng};
use sha2::{Digest as _, Sha256};

/// The seed of all content.
const SEED: u64 = 0x0BE7_2026;
/// Bytes at the end of a payload that make each its own.
const TAIL: usize = 16;

/// Random bytes; `number` tells one piece from another.
pub(crate) fn content(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    StdRng::seed_from_u64(SEED ^ (number << 20) ^ size as u64).fill_bytes(&mut bytes);
    bytes
}

/// The digest as clients write it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// An image manifest with one layer.
pub(crate) fn manifest(config: &[u8], layer: &[u8], number: u64) -> Vec<u8> {
    image(config, &[layer], number)
}

/// An image manifest.
pub(crate) fn image(config: &[u8], layers: &[&[u8]], number: u64) -> Vec<u8> {
    let layers: Vec<_> = layers.iter().map(|layer| (digest(layer), layer.len())).collect();
    image_of(&(digest(config), config.len()), &layers, number)
}

/// An image manifest of blobs by their digests and sizes.
pub(crate) fn image_of(config: &(String, usize), layers: &[(String, usize)], number: u64) -> Vec<u8> {
    let descriptor = |media_type: &str, (digest, size): &(String, usize)| serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size });
    let layer = |layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        "annotations": { "number": number.to_string() },
    });
    manifest.to_string().into_bytes()
}

/// The media type of image manifests.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Payloads of one size, each with a digest of its own, which costs no pass over the whole.
#[derive(Clone)]
pub(crate) struct Payloads {
    body: Vec<u8>,
    prefix: Sha256,
}

impl Payloads {
    pub(crate) fn new(number: u64, size: usize) -> Self {
        let mut body = content(number, size);
        let head = size.saturating_sub(TAIL);
        let prefix = Sha256::new_with_prefix(&body[..head]);
        body.resize(head + TAIL, 0);
        Self { body, prefix }
    }

    /// The payload with this number, and its digest.
    pub(crate) fn numbered(&mut self, round: u64, number: u64) -> (&[u8], String) {
        let head = self.body.len() - TAIL;
        self.body[head..head + 8].copy_from_slice(&round.to_le_bytes());
        self.body[head + 8..].copy_from_slice(&number.to_le_bytes());
        let mut whole = self.prefix.clone();
        whole.update(&self.body[head..]);
        (&self.body, format!("sha256:{}", hex::encode(whole.finalize())))
    }
}

/// A word that tells one data set from another.
pub(crate) fn fingerprint() -> String {
    let mut all = Sha256::new();
    for size in [1 << 10, 1 << 20] {
        all.update(content(1, size));
    }
    all.update(manifest(b"{}", &content(1, 1 << 10), 0));
    hex::encode(&all.finalize()[..8])
}
