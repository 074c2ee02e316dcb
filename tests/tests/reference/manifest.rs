//! Manifests of the reference: what they hold, and what holds them.

use std::collections::BTreeSet;

use berth_oci::{Algorithm, Digest};
use bytes::Bytes;
use serde_json::Value;

use crate::{
    answer::{Answer, Body},
    registry::{Moment, Registry, Repository, name_unknown},
    request::By,
};

/// A manifest or an index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Manifest {
    bytes: Bytes,
    pub(crate) media_type: String,
    pub(crate) artifact_type: Option<String>,
    pub(crate) subject: Option<Digest>,
    pub(crate) blobs: BTreeSet<Digest>,
    pub(crate) children: BTreeSet<Digest>,
    annotations: Option<Value>,
    /// When its holder, an index or a subject, went.
    pub(crate) released: Option<u64>,
    /// It may be gone, whatever keeps it now: it could be collected before that came.
    pub(crate) is_doubtful: bool,
}

fn digest(descriptor: &Value) -> Option<Digest> {
    descriptor.get("digest")?.as_str()?.parse().ok()
}

fn list(document: &Value, key: &str) -> Option<BTreeSet<Digest>> {
    document.get(key).and_then(Value::as_array).into_iter().flatten().map(digest).collect()
}

impl Manifest {
    /// None: not acceptable.
    pub(crate) fn read(bytes: &Bytes, media_type: &str) -> Option<Self> {
        let document: Value = serde_json::from_slice(bytes).ok()?;
        let text = |value: Option<&Value>| Some(value?.as_str()?.to_owned());
        if document.get("schemaVersion")? != 2 {
            return None;
        }
        if text(document.get("mediaType")).is_some_and(|said| said != media_type) {
            return None;
        }
        let config = document.get("config");
        let mut blobs = list(&document, "layers")?;
        if let Some(config) = config {
            blobs.insert(digest(config)?);
        }
        let artifact_type = text(document.get("artifactType"));
        Some(Self {
            bytes: bytes.clone(),
            media_type: media_type.to_owned(),
            artifact_type: artifact_type.or_else(|| text(config.and_then(|config| config.get("mediaType")))),
            subject: document.get("subject").and_then(digest),
            blobs,
            children: list(&document, "manifests")?,
            annotations: document.get("annotations").cloned(),
            released: None,
            is_doubtful: false,
        })
    }

    /// How a referrers list shows it.
    pub(crate) fn descriptor(&self, digest: &Digest) -> Value {
        let mut descriptor =
            serde_json::json!({ "mediaType": self.media_type, "digest": digest, "size": self.bytes.len() });
        if let Some(artifact_type) = &self.artifact_type {
            descriptor["artifactType"] = artifact_type.clone().into();
        }
        if let Some(annotations) = &self.annotations {
            descriptor["annotations"] = annotations.clone();
        }
        descriptor
    }
}

impl Repository {
    pub(crate) fn find(&self, by: &By) -> Option<Digest> {
        match by {
            By::Tag(tag) => self.tags.get(tag).copied(),
            By::Digest(digest) => self.manifests.contains_key(digest).then_some(*digest),
        }
    }

    pub(crate) fn is_in_index(&self, digest: &Digest) -> bool {
        self.manifests.values().any(|manifest| manifest.children.contains(digest))
    }

    /// Takes a manifest away, with its tags. Nothing holds any more what it held, from `since` on.
    pub(crate) fn remove(&mut self, digest: &Digest, since: u64) {
        let Some(gone) = self.manifests.remove(digest) else { return };
        self.tags.retain(|_, target| target != digest);
        for (other, manifest) in &mut self.manifests {
            if gone.children.contains(other) || manifest.subject.as_ref() == Some(digest) {
                manifest.released = Some(manifest.released.map_or(since, |before| before.max(since)));
            }
        }
        for blob in &gone.blobs {
            if let Some(link) = self.links.get_mut(blob) {
                link.touched = link.touched.max(since);
            }
        }
    }
}

impl Registry {
    pub(crate) fn put_manifest(
        &mut self,
        name: &str,
        by: &By,
        tags: &[String],
        media_type: &str,
        bytes: &Bytes,
        at: Moment,
    ) -> Answer {
        let mut targets: BTreeSet<String> = tags.iter().cloned().collect();
        let digest = match by {
            By::Digest(digest) => *digest,
            By::Tag(tag) => {
                targets.insert(tag.clone());
                Digest::of(Algorithm::Sha256, bytes)
            }
        };
        if Digest::of(digest.algorithm(), bytes) != digest {
            return Answer::error(400, "DIGEST_INVALID");
        }
        let Some(manifest) = Manifest::read(bytes, media_type) else {
            return Answer::error(400, "MANIFEST_INVALID");
        };
        let nothing = Repository::default();
        let there = self.repositories.get(name).unwrap_or(&nothing);
        let missing: BTreeSet<String> =
            (manifest.blobs.iter().filter(|blob| !there.links.contains_key(blob)))
                .chain(manifest.children.iter().filter(|child| !there.manifests.contains_key(child)))
                .map(Digest::to_string)
                .collect();
        if !missing.is_empty() {
            return Answer::error(404, "MANIFEST_BLOB_UNKNOWN").body(Body::Missing(missing));
        }
        let mut answer = Answer::new(201)
            .with("location", format!("/v2/{name}/manifests/{digest}"))
            .with("docker-content-digest", digest);
        answer = match &manifest.subject {
            Some(subject) => answer.with("oci-subject", subject),
            None => answer.without("oci-subject"),
        };
        // Several tags have several headers, of which the first one is compared.
        answer = match tags.iter().min() {
            Some(first) => answer.with("oci-tag", first),
            None => answer.without("oci-tag"),
        };
        let floor = self.floor;
        let repository = self.make(name, at);
        repository.listed = true;
        if let Some(floor) = floor {
            repository.doubt(floor, at);
        }
        for child in &manifest.children {
            repository.manifests.entry(*child).and_modify(|child| child.is_doubtful = false);
        }
        repository.manifests.insert(digest, manifest);
        repository.tags.extend(targets.into_iter().map(|tag| (tag, digest)));
        answer
    }

    pub(crate) fn manifest(&mut self, name: &str, by: &By, head: bool, at: Moment) -> Answer {
        let Some(repository) = self.repositories.get_mut(name) else { return name_unknown() };
        let Some(digest) = repository.find(by) else { return Answer::error(404, "MANIFEST_UNKNOWN") };
        let Some(manifest) = repository.manifests.get_mut(&digest) else {
            panic!("the reference has a tag without a manifest");
        };
        manifest.is_doubtful = false;
        if head && let Some(released) = &mut manifest.released {
            *released = (*released).max(at.sent);
        }
        Answer::new(200)
            .with("content-type", &manifest.media_type)
            .with("content-length", manifest.bytes.len())
            .with("docker-content-digest", digest)
            .body(Body::Bytes(manifest.bytes.clone()))
    }

    pub(crate) fn delete_manifest(&mut self, name: &str, by: &By, at: Moment) -> Answer {
        let Some(repository) = self.repositories.get_mut(name) else { return name_unknown() };
        let Some(digest) = repository.find(by) else { return Answer::error(404, "MANIFEST_UNKNOWN") };
        if let By::Tag(tag) = by {
            repository.tags.remove(tag);
            return Answer::new(202);
        }
        if repository.is_in_index(&digest) {
            return Answer::error(405, "DENIED");
        }
        repository.remove(&digest, at.sent);
        Answer::new(202)
    }
}
