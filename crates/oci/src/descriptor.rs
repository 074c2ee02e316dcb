//! Content descriptors (image-spec, "OCI Content Descriptors").

use std::collections::BTreeMap;

use crate::Digest;

/// A reference to content, as it stands in manifests, indexes and referrers lists.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the content.
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes, 0 to 2^63-1.
    #[serde(deserialize_with = "size")]
    pub size: u64,
    /// The artifact type, when the content is an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = <i64 as serde::Deserialize>::deserialize(deserializer)?;
    u64::try_from(size).map_err(|_| serde::de::Error::custom("a size can't be negative"))
}
