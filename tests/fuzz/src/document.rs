//! Manifests and indexes: the view says what is in the document, by another reader's account.

use std::collections::{BTreeMap, BTreeSet};

use berth_oci::{Digest, ManifestError, ManifestView, MediaType};
use serde_json::Value;

/// What a refusal may say at most: it goes into an answer and into the log.
const LONGEST_REFUSAL: usize = 1000;

fn items<'a>(document: &'a Value, field: &str) -> Vec<&'a Value> {
    match &document[field] {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().collect(),
        other => panic!("{field} is {other}"),
    }
}

fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().expect("a digest").parse().expect("a valid digest")
}

fn agrees(content_type: &MediaType, data: &[u8], view: &ManifestView) {
    let document: Value = match serde_json::from_slice(data) {
        Ok(document) => document,
        Err(error) => {
            // Both are JSON by its grammar, and Berth passes over them where it has no use for the field.
            let text = error.to_string();
            assert!(text.contains("surrogate") || text.contains("number out of range"), "not JSON: {text}");
            return;
        }
    };
    assert_eq!(document["schemaVersion"], 2);
    assert_eq!(view.media_type, *content_type);
    if let Some(kind) = document["mediaType"].as_str() {
        assert!(kind.eq_ignore_ascii_case(content_type.as_str()));
    }
    let config: Vec<&Value> =
        Some(&document["config"]).filter(|config| !config.is_null()).into_iter().collect();
    let blobs: Vec<&Value> = config.iter().copied().chain(items(&document, "layers")).collect();
    let children = items(&document, "manifests");
    let named: BTreeSet<Digest> = blobs.iter().map(|blob| digest(blob)).collect();
    let held: BTreeSet<Digest> = view.blobs.union(&view.foreign_blobs).copied().collect();
    assert_eq!(held, named);
    assert!(view.blobs.is_disjoint(&view.foreign_blobs));
    assert_eq!(view.children, children.iter().map(|child| digest(child)).collect());
    assert!(view.children.is_empty() || held.is_empty(), "it is one or the other");
    assert_eq!(view.subject, Some(&document["subject"]).filter(|subject| !subject.is_null()).map(digest));
    let sizes = blobs.iter().chain(&children).map(|one| one["size"].as_u64().expect("a size"));
    assert_eq!(view.stated_size, sizes.fold(0, u64::saturating_add));
    let own = document["artifactType"].as_str().filter(|kind| !kind.is_empty());
    let kind = own.or_else(|| document["config"]["mediaType"].as_str());
    assert_eq!(view.artifact_type.as_deref(), kind);
    let annotations: BTreeMap<String, String> = match &document["annotations"] {
        Value::Null => BTreeMap::new(),
        annotations => serde_json::from_value(annotations.clone()).expect("texts"),
    };
    assert_eq!(view.annotations, annotations);
}

fn check(content_types: [&str; 2], data: &[u8]) {
    for content_type in content_types {
        let content_type: MediaType = content_type.parse().unwrap();
        match ManifestView::parse(&content_type, data) {
            Ok(view) => agrees(&content_type, data, &view),
            Err(error) => {
                let text = error.to_string();
                assert!(text.len() <= LONGEST_REFUSAL, "a refusal of {} bytes", text.len());
                assert!(error != ManifestError::TooLarge, "it is small");
            }
        }
    }
}

pub(crate) fn manifest(data: &[u8]) {
    check([MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST], data);
}

pub(crate) fn index(data: &[u8]) {
    check([MediaType::OCI_INDEX, MediaType::DOCKER_LIST], data);
}
