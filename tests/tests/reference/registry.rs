//! The reference: a registry in memory, from the distribution specification and the protocols' rules about links, holders
//! and sessions. It shares no code with the service but the vocabulary.

use std::collections::{BTreeMap, BTreeSet};

use berth_oci::{Algorithm, Digest};
use bytes::Bytes;

use crate::{
    answer::{Answer, Body, Seen},
    manifest::Manifest,
    request::Request,
    upload::Session,
};

/// Milliseconds of a trial's clock at which a request was sent and its answer came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// A registry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Registry {
    pub(crate) repositories: BTreeMap<String, Repository>,
    pub(crate) sessions: BTreeMap<String, Session>,
    /// Milliseconds that what nobody needs is safe for; none when nothing is collected.
    pub(crate) floor: Option<u64>,
    /// Blobs that somebody else may have in a repository of theirs.
    pub(crate) others: BTreeMap<Digest, Bytes>,
}

/// A repository.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Repository {
    /// False before the first manifest.
    pub(crate) listed: bool,
    pub(crate) links: BTreeMap<Digest, Link>,
    pub(crate) manifests: BTreeMap<Digest, Manifest>,
    pub(crate) tags: BTreeMap<String, Digest>,
    /// When it was made.
    pub(crate) made: u64,
}

/// A blob that a repository has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    pub(crate) bytes: Bytes,
    /// When somebody last took care of it.
    pub(crate) touched: u64,
}

pub(crate) fn name_unknown() -> Answer {
    Answer::error(404, "NAME_UNKNOWN")
}

impl Repository {
    /// Links a blob.
    pub(crate) fn link(&mut self, digest: Digest, bytes: Bytes, at: Moment) {
        let link = self.links.entry(digest).or_insert(Link { bytes, touched: at.sent });
        link.touched = link.touched.max(at.sent);
    }

    pub(crate) fn holds_blob(&self, digest: &Digest) -> bool {
        self.manifests.values().any(|manifest| manifest.blobs.contains(digest))
    }
}

impl Registry {
    /// The repository, made by a push if it is absent.
    pub(crate) fn make(&mut self, name: &str, at: Moment) -> &mut Repository {
        let new = || Repository { made: at.sent, ..Repository::default() };
        self.repositories.entry(name.to_owned()).or_insert_with(new)
    }

    /// Does what is asked and says what it is answered with. `seen` is what only the service could choose.
    pub(crate) fn serve(&mut self, request: &Request, seen: &Seen, at: Moment) -> Answer {
        match request {
            Request::Start { repository, algorithm } => self.start(repository, *algorithm, seen, at),
            Request::Whole { repository, digest, bytes } => self.whole(repository, *digest, bytes, at),
            Request::Mount { repository, digest, .. } => self.mount(repository, *digest, seen, at),
            Request::Ask { repository, session } => self.ask(repository, session, seen),
            Request::Append { repository, session, first, lie, bytes } => {
                if first.is_some() && *lie > 0 {
                    return Answer::error(400, "SIZE_INVALID");
                }
                self.append(repository, session, *first, bytes, seen)
            }
            Request::Finish { repository, session, first, bytes, digest } => self.finish(
                repository,
                session,
                first.filter(|_| !bytes.is_empty()),
                bytes,
                *digest,
                seen,
                at,
            ),
            Request::Cancel { repository, session } => self.cancel(repository, session),
            Request::PutManifest { repository, by, tags, media_type, bytes } => {
                self.put_manifest(repository, by, tags, media_type, bytes, at)
            }
            Request::Manifest { repository, by, head } => self.manifest(repository, by, *head, at),
            Request::DeleteManifest { repository, by } => self.delete_manifest(repository, by, at),
            Request::Blob { repository, digest, head, range } => {
                self.blob(repository, digest, *head, range.filter(|_| !head), at)
            }
            Request::DeleteBlob { repository, digest } => self.delete_blob(repository, digest),
            Request::Tags { repository, n, last } => self.tags(repository, *n, last.as_deref()),
            Request::Referrers { repository, subject, kind, n } => {
                self.referrers(repository, subject, kind.as_deref(), *n)
            }
            Request::Catalog { n, last } => self.catalog(*n, last),
        }
    }

    /// What the registry may be after a request whose answer was lost. `whole`: the service may have had all of it;
    /// otherwise `sent` bytes of its body at most.
    pub(crate) fn possible(&self, request: &Request, sent: usize, whole: bool, at: Moment) -> Vec<Self> {
        let mut after = self.clone();
        let with_repository = |name: &str| {
            let mut made = self.clone();
            made.make(name, at);
            made
        };
        let mut worlds = vec![self.clone()];
        match request {
            Request::Start { repository, .. } => worlds.push(with_repository(repository)),
            Request::Whole { repository, digest, bytes } => {
                worlds.push(with_repository(repository));
                if whole {
                    after.whole(repository, *digest, bytes, at);
                    worlds.push(after);
                }
            }
            Request::Mount { repository, digest, .. } => {
                let is_ours = self.find_link(digest).is_some();
                if is_ours || self.others.contains_key(digest) {
                    after.mount(repository, *digest, &Seen { status: 201, ..Seen::default() }, at);
                    worlds.push(after);
                }
                if !is_ours {
                    worlds.push(with_repository(repository));
                }
            }
            // A body that was cut had no length that could contradict its range.
            Request::Append { repository, session, first, lie, bytes }
                if first.is_none() || *lie == 0 || !whole =>
            {
                worlds = self.perhaps_appended(repository, session, *first, &bytes[..sent]);
            }
            Request::Finish { repository, session, first, bytes, digest } => {
                let first = first.filter(|_| !bytes.is_empty());
                worlds = self.perhaps_appended(repository, session, first, &bytes[..sent]);
                if whole {
                    let seen = Seen { status: 201, ..Seen::default() };
                    if after.finish(repository, session, first, bytes, *digest, &seen, at).status == 201 {
                        worlds.push(after);
                    }
                }
            }
            _ if whole => {
                after.serve(request, &Seen::default(), at);
                worlds.push(after);
            }
            _ => {}
        }
        let mut different = Vec::new();
        for world in worlds {
            if !different.contains(&world) {
                different.push(world);
            }
        }
        different
    }

    // --- blobs -------------------------------------------------------------------------------------------------------

    /// A blob that any repository has: its user may read all of them.
    pub(crate) fn find_link(&self, digest: &Digest) -> Option<&Link> {
        self.repositories.values().find_map(|repository| repository.links.get(digest))
    }

    fn whole(&mut self, name: &str, digest: Digest, bytes: &Bytes, at: Moment) -> Answer {
        let repository = self.make(name, at);
        if Digest::of(digest.algorithm(), bytes) != digest {
            return Answer::error(400, "DIGEST_INVALID").without("location");
        }
        repository.link(digest, bytes.clone(), at);
        created(name, digest)
    }

    fn mount(&mut self, name: &str, digest: Digest, seen: &Seen, at: Moment) -> Answer {
        let theirs = self.others.get(&digest).filter(|_| seen.status == 201);
        let Some(bytes) = self.find_link(&digest).map(|link| &link.bytes).or(theirs).cloned() else {
            return self.start(name, None, seen, at);
        };
        self.make(name, at).link(digest, bytes, at);
        created(name, digest)
    }

    fn blob(
        &mut self,
        name: &str,
        digest: &Digest,
        head: bool,
        range: Option<(Option<u64>, Option<u64>)>,
        at: Moment,
    ) -> Answer {
        let Some(repository) = self.repositories.get_mut(name) else { return name_unknown() };
        let Some(link) = repository.links.get_mut(digest) else { return Answer::error(404, "BLOB_UNKNOWN") };
        if head {
            // By somebody who may push: part of a push.
            link.touched = link.touched.max(at.sent);
        }
        let size = link.bytes.len() as u64;
        // RFC 9110: first to last, both inclusive; without a first, the last so many bytes.
        let part = match range {
            None | Some((None, None)) => None,
            Some((Some(first), last)) => Some((first, last.unwrap_or(u64::MAX).min(size.saturating_sub(1)))),
            Some((None, Some(length))) => Some((size - length.min(size), size.saturating_sub(1))),
        };
        let Some((first, last)) = part else {
            return Answer::new(200)
                .with("content-length", size)
                .with("docker-content-digest", digest)
                .with("accept-ranges", "bytes")
                .without("content-range")
                .body(Body::Bytes(link.bytes.clone()));
        };
        if first >= size || first > last {
            return Answer::error(416, "RANGE_INVALID").with("content-range", format!("bytes */{size}"));
        }
        let bytes = link.bytes.slice(usize::try_from(first).unwrap()..=usize::try_from(last).unwrap());
        Answer::new(206)
            .with("content-length", last - first + 1)
            .with("content-range", format!("bytes {first}-{last}/{size}"))
            .with("docker-content-digest", digest)
            .body(Body::Bytes(bytes))
    }

    fn delete_blob(&mut self, name: &str, digest: &Digest) -> Answer {
        let Some(repository) = self.repositories.get_mut(name) else { return name_unknown() };
        if !repository.links.contains_key(digest) {
            return Answer::error(404, "BLOB_UNKNOWN");
        }
        if repository.holds_blob(digest) {
            return Answer::error(405, "DENIED");
        }
        repository.links.remove(digest);
        Answer::new(202)
    }

    // --- lists -------------------------------------------------------------------------------------------------------

    fn tags(&self, name: &str, n: Option<usize>, last: Option<&str>) -> Answer {
        let Some(repository) = self.repositories.get(name) else { return name_unknown() };
        let page = Page::of(repository.tags.keys(), n, last);
        let answer = match page.next {
            Some((n, last)) => Answer::new(200)
                .with("link", format!("</v2/{name}/tags/list?n={n}&last={last}>; rel=\"next\"")),
            None => Answer::new(200).without("link"),
        };
        answer.body(Body::Json(serde_json::json!({ "name": name, "tags": page.names })))
    }

    fn catalog(&self, n: Option<usize>, last: &str) -> Answer {
        let listed =
            self.repositories.iter().filter(|(_, repository)| repository.listed).map(|(name, _)| name);
        let page = Page::of(listed, n, Some(last));
        let answer = match page.next {
            Some((n, last)) => {
                let last = last.replace('/', "%2F");
                Answer::new(200).with("link", format!("</v2/_catalog?n={n}&last={last}>; rel=\"next\""))
            }
            None => Answer::new(200).without("link"),
        };
        answer.body(Body::Json(serde_json::json!({ "repositories": page.names })))
    }

    fn referrers(&self, name: &str, subject: &Digest, kind: Option<&str>, n: Option<usize>) -> Answer {
        let manifests = self.repositories.get(name).into_iter().flat_map(|repository| &repository.manifests);
        let of: BTreeMap<_, _> = manifests
            .filter(|(_, manifest)| manifest.subject.as_ref() == Some(subject))
            .filter(|(_, manifest)| kind.is_none() || kind == manifest.artifact_type.as_deref())
            .map(|(digest, manifest)| (digest.to_string(), manifest.descriptor(digest)))
            .collect();
        let count = of.len().min(n.unwrap_or(usize::MAX));
        let mut answer = Answer::new(200).with("content-type", berth_oci::MediaType::OCI_INDEX);
        if kind.is_some() {
            answer = answer.with("oci-filters-applied", "artifactType");
        }
        if count == of.len() || count == 0 {
            answer = answer.without("link");
        }
        answer.body(Body::Some { count, of })
    }
}

/// A page of sorted names.
struct Page {
    names: Vec<String>,
    next: Option<(usize, String)>,
}

impl Page {
    fn of<'a>(names: impl Iterator<Item = &'a String>, n: Option<usize>, last: Option<&str>) -> Self {
        let after: BTreeSet<&String> =
            names.filter(|name| last.is_none_or(|last| name.as_str() > last)).collect();
        let limit = n.unwrap_or(1000);
        let names: Vec<String> = after.iter().take(limit).map(|name| (*name).clone()).collect();
        let next = names.last().filter(|_| after.len() > limit).map(|last| (limit, last.clone()));
        Self { names, next }
    }
}

pub(crate) fn created(name: &str, digest: Digest) -> Answer {
    Answer::new(201)
        .with("location", format!("/v2/{name}/blobs/{digest}"))
        .with("docker-content-digest", digest)
}

/// Both algorithms' digests of bytes.
pub(crate) fn digests(bytes: &[u8]) -> [Digest; 2] {
    [Digest::of(Algorithm::Sha256, bytes), Digest::of(Algorithm::Sha512, bytes)]
}
