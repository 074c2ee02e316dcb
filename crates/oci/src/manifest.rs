//! What Berth needs to know of a manifest or an index, read from its bytes within limits.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Descriptor, Digest, MediaType};

/// The largest manifest that is accepted, in bytes (distribution-spec: at least 4 MiB).
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;
/// The deepest nesting of JSON values that is accepted.
pub const MAX_DEPTH: usize = 64;
/// The most descriptors that one manifest or index may hold.
pub const MAX_REFERENCES: usize = 10_000;
/// The most annotations that one manifest may hold.
const MAX_ANNOTATIONS: usize = 10_000;

/// The most characters of what a parser says.
const MAX_REASON: usize = 200;

/// Why bytes are not an acceptable manifest.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ManifestError {
    /// More than [`MAX_MANIFEST_BYTES`].
    #[error("a manifest has at most {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    /// More than [`MAX_DEPTH`] levels.
    #[error("a manifest nests at most {MAX_DEPTH} levels deep")]
    TooDeep,
    /// More than [`MAX_REFERENCES`] descriptors, or too many annotations.
    #[error("a manifest has at most {MAX_REFERENCES} descriptors and as many annotations")]
    TooMany,
    /// Not the JSON of a manifest.
    #[error("the manifest is not valid: {0}")]
    Json(String),
    /// `schemaVersion` is not 2.
    #[error("schemaVersion has to be 2; Docker schema 1 is not supported, push with a current client")]
    SchemaVersion,
    /// The `mediaType` field contradicts the `Content-Type`.
    #[error("mediaType in the manifest is {field}, but the Content-Type is {header}; send the same in both")]
    MediaTypeMismatch {
        /// The field's value.
        field: String,
        /// The header's value.
        header: String,
    },
    /// Fields of an image and of an index in one document (CVE-2021-41190).
    #[error("the document holds fields of an image manifest and of an index; it can be only one")]
    Ambiguous,
}

/// The parts of a manifest or index that decide what it holds. Its bytes are stored as pushed, never rebuilt from this.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestView {
    /// The media type, from the `Content-Type`.
    pub media_type: MediaType,
    /// What referrers lists show: `artifactType`, else the config's media type.
    pub artifact_type: Option<String>,
    /// The subject, for referrers.
    pub subject: Option<Digest>,
    /// Blobs that have to be linked in the repository: config and layers, each once.
    pub blobs: BTreeSet<Digest>,
    /// Blobs that are held if they are there: foreign layers, each once.
    pub foreign_blobs: BTreeSet<Digest>,
    /// Child manifests of an index, each once.
    pub children: BTreeSet<Digest>,
    /// Annotations of the manifest, for referrers lists.
    pub annotations: BTreeMap<String, String>,
    /// The sum of the sizes that the descriptors state, in bytes.
    pub stated_size: u64,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<i64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Rejects deep nesting before the parser recurses. Looks at brackets outside strings only.
fn check_depth(bytes: &[u8]) -> Result<(), ManifestError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(ManifestError::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

impl ManifestView {
    /// Reads `bytes`, pushed with the given `Content-Type`. Time and memory are linear in the bytes.
    ///
    /// Unknown media types are welcome: whatever has `config` or `layers` is read as an image manifest, whatever has
    /// `manifests` as an index.
    pub fn parse(content_type: &MediaType, bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        if [MediaType::DOCKER_SCHEMA1, MediaType::DOCKER_SCHEMA1_SIGNED].contains(&content_type.as_str()) {
            return Err(ManifestError::SchemaVersion);
        }
        check_depth(bytes)?;
        // Fields that are passed over are not looked at by the parser: all of it has to be text.
        let text = std::str::from_utf8(bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
        let document: Document = serde_json::from_str(text).map_err(|error| {
            // It may quote what it did not expect, however long.
            ManifestError::Json(error.to_string().chars().take(MAX_REASON).collect())
        })?;
        if document.schema_version != Some(2) {
            return Err(ManifestError::SchemaVersion);
        }
        if let Some(field) = &document.media_type
            && !field.eq_ignore_ascii_case(content_type.as_str())
        {
            return Err(ManifestError::MediaTypeMismatch {
                field: field.chars().take(120).collect(),
                header: content_type.to_string(),
            });
        }
        let has_image = document.config.is_some() || document.layers.is_some();
        let says_image =
            [MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST].contains(&content_type.as_str());
        let says_index = [MediaType::OCI_INDEX, MediaType::DOCKER_LIST].contains(&content_type.as_str());
        let has_index = document.manifests.is_some();
        if (has_index && (has_image || says_image)) || (says_index && has_image) {
            return Err(ManifestError::Ambiguous);
        }
        if says_image && document.config.is_none() {
            return Err(ManifestError::Json("an image manifest needs a config".to_owned()));
        }
        if says_index && !has_index {
            return Err(ManifestError::Json("an index needs manifests".to_owned()));
        }
        Self::collect(content_type, document)
    }

    fn collect(content_type: &MediaType, document: Document) -> Result<Self, ManifestError> {
        let layers = document.layers.unwrap_or_default();
        let manifests = document.manifests.unwrap_or_default();
        let annotations = document.annotations.unwrap_or_default();
        if layers.len() + manifests.len() > MAX_REFERENCES || annotations.len() > MAX_ANNOTATIONS {
            return Err(ManifestError::TooMany);
        }
        let artifact_type = document
            .artifact_type
            .filter(|kind| !kind.is_empty())
            .or_else(|| document.config.as_ref().map(|config| config.media_type.clone()));
        let mut view = Self {
            media_type: content_type.clone(),
            artifact_type,
            subject: document.subject.map(|subject| subject.digest),
            blobs: BTreeSet::new(),
            foreign_blobs: BTreeSet::new(),
            children: BTreeSet::new(),
            annotations,
            stated_size: 0,
        };
        for blob in document.config.iter().chain(&layers) {
            view.stated_size = view.stated_size.saturating_add(blob.size);
            let foreign = blob.media_type.parse::<MediaType>().is_ok_and(|kind| kind.is_foreign_layer());
            if foreign {
                view.foreign_blobs.insert(blob.digest);
            } else {
                view.blobs.insert(blob.digest);
            }
        }
        view.foreign_blobs = view.foreign_blobs.difference(&view.blobs).copied().collect();
        for child in manifests {
            view.stated_size = view.stated_size.saturating_add(child.size);
            view.children.insert(child.digest);
        }
        Ok(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(content_type: &str, json: &str) -> Result<ManifestView, ManifestError> {
        ManifestView::parse(&content_type.parse().unwrap(), json.as_bytes())
    }

    fn descriptor(size: &str) -> String {
        format!(r#"{{"mediaType":"application/x","digest":"{A}","size":{size}}}"#)
    }

    #[test]
    fn an_image_names_its_blobs_once() {
        let d = descriptor("3");
        let json = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d},{d}],"extra":{{"a":[1]}}}}"#);
        let view = parse(MediaType::OCI_MANIFEST, &json).unwrap();
        assert_eq!(view.blobs.len(), 1);
        assert_eq!(view.artifact_type.as_deref(), Some("application/x"));
    }

    #[test]
    fn t30_an_ambiguous_document_is_refused() {
        let d = descriptor("3");
        let both = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[],"manifests":[]}}"#);
        assert_eq!(parse(MediaType::OCI_MANIFEST, &both), Err(ManifestError::Ambiguous));
        assert_eq!(parse(MediaType::OCI_INDEX, &both), Err(ManifestError::Ambiguous));
        let other = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, MediaType::OCI_INDEX);
        assert!(matches!(
            parse(MediaType::DOCKER_LIST, &other),
            Err(ManifestError::MediaTypeMismatch { .. })
        ));
        assert!(parse("application/vnd.oci.image.index.v1+json; charset=utf-8", &other).is_ok());
    }

    #[test]
    fn t28_hostile_documents_are_refused() {
        let deep = format!(r#"{{"schemaVersion":2,"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse(MediaType::OCI_MANIFEST, &deep), Err(ManifestError::TooDeep));
        for size in ["-1", "9223372036854775808", "NaN", "1.5", "1e3", "\"1\""] {
            let json = format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, descriptor(size));
            assert!(matches!(parse(MediaType::OCI_MANIFEST, &json), Err(ManifestError::Json(_))), "{size}");
        }
        let twice = r#"{"schemaVersion":2,"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(parse(MediaType::OCI_INDEX, twice), Err(ManifestError::Json(_))));
        let bom = "\u{feff}{\"schemaVersion\":2,\"manifests\":[]}";
        assert!(matches!(parse(MediaType::OCI_INDEX, bom), Err(ManifestError::Json(_))));
        let mut foreign = br#"{"schemaVersion":2,"manifests":[],"x":"?"}"#.to_vec();
        let place = foreign.len() - 3;
        foreign[place] = 0xff;
        let index = MediaType::OCI_INDEX.parse().unwrap();
        assert!(matches!(ManifestView::parse(&index, &foreign), Err(ManifestError::Json(_))), "not UTF-8");
        let quoted = format!(r#"{{"schemaVersion":"{}","manifests":[]}}"#, "x".repeat(1_000_000));
        assert!(parse(MediaType::OCI_INDEX, &quoted).unwrap_err().to_string().len() < 300);
        let many = vec![descriptor("1"); MAX_REFERENCES + 1].join(",");
        let many = format!(r#"{{"schemaVersion":2,"manifests":[{many}]}}"#);
        assert_eq!(parse(MediaType::OCI_INDEX, &many), Err(ManifestError::TooMany));
        assert_eq!(
            parse(MediaType::OCI_INDEX, &" ".repeat(MAX_MANIFEST_BYTES + 1)),
            Err(ManifestError::TooLarge)
        );
    }
}
