//! What a client does and remembers: from the steps of a sequence to requests.

use berth_testkit::Reply;

use crate::{
    answer::Seen,
    pool::{BLOBS, BROKEN, MANIFESTS, Pool, REPOSITORIES, TAGS, UNTYPED},
    request::{By, Request},
    step::{Action, Reference, SLOTS},
};

/// A session that nobody started.
const NO_SESSION: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// An upload that the client remembers.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    repository: usize,
    pub(crate) session: String,
    blob: usize,
    /// Bytes that it has, as the client was last told.
    offset: usize,
}

/// A client's memory.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) pool: Pool,
    pub(crate) slots: [Option<Slot>; SLOTS],
}

impl Memory {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, slots: Default::default() }
    }

    /// The upload that an action goes on with.
    pub(crate) fn continued(&self, action: &Action) -> Option<Slot> {
        match action {
            Action::Append { slot, .. } | Action::Finish { slot, .. } => self.slots[*slot].clone(),
            _ => None,
        }
    }

    pub(crate) fn ask(&self, slot: &Slot) -> Request {
        Request::Ask {
            repository: self.pool.repositories[slot.repository].clone(),
            session: slot.session.clone(),
        }
    }

    fn slot(&self, number: usize) -> Slot {
        let nobody =
            Slot { repository: number % REPOSITORIES, session: NO_SESSION.to_owned(), blob: 0, offset: 0 };
        self.slots[number].clone().unwrap_or(nobody)
    }

    fn put(&self, repository: usize, manifest: usize, by: By) -> Request {
        let pushed = &self.pool.manifests[manifest];
        Request::PutManifest {
            repository: self.pool.repositories[repository].clone(),
            by,
            tags: Vec::new(),
            media_type: pushed.media_type.clone(),
            bytes: pushed.bytes.clone(),
        }
    }

    fn by(&self, manifest: usize, reference: Reference) -> By {
        match reference {
            Reference::Tag(tag) => By::Tag(TAGS[tag].to_owned()),
            Reference::Sha256 => By::Digest(self.pool.manifest_digest(manifest, false)),
            Reference::Sha512 => By::Digest(self.pool.manifest_digest(manifest, true)),
            Reference::Wrong => By::Digest(self.pool.manifest_digest((manifest + 1) % MANIFESTS, false)),
        }
    }

    /// What a client that pushes a manifest sends, children first.
    fn push(&self, repository: usize, manifest: usize, by: By) -> Vec<Request> {
        let mut requests = Vec::new();
        for child in self.pool.children_of(manifest) {
            requests.extend(self.push(repository, *child, self.by(*child, Reference::Sha256)));
        }
        for blob in self.pool.blobs_of(manifest) {
            requests.push(Request::Whole {
                repository: self.pool.repositories[repository].clone(),
                digest: self.pool.blob_digest(blob, false),
                bytes: self.pool.blobs[blob].bytes.clone(),
            });
        }
        requests.push(self.put(repository, manifest, by));
        requests
    }

    pub(crate) fn requests(&self, action: &Action) -> Vec<Request> {
        let name = |repository: usize| self.pool.repositories[repository].clone();
        let one = match action.clone() {
            Action::Wait(_) => return Vec::new(),
            // The list would show what others have.
            Action::Catalog { .. } if self.pool.is_shared => return Vec::new(),
            Action::Push { repository, manifest, tag } => {
                let reference = tag.map_or(Reference::Sha256, Reference::Tag);
                return self.push(repository, manifest, self.by(manifest, reference));
            }
            Action::Start { repository, algorithm, .. } => {
                let algorithm = algorithm.map(|sha512| self.pool.blob_digest(0, sha512).algorithm());
                Request::Start { repository: name(repository), algorithm }
            }
            Action::Whole { repository, blob, sha512, wrong } => Request::Whole {
                repository: name(repository),
                digest: self.pool.blob_digest(if wrong { (blob + 1) % BLOBS } else { blob }, sha512),
                bytes: self.pool.blobs[blob].bytes.clone(),
            },
            Action::Mount { repository, blob, from, .. } => {
                // Whether anybody has the empty blob is not for one trial to say.
                let blob = if self.pool.blobs[blob].bytes.is_empty() { 0 } else { blob };
                let digest = self.pool.blob_digest(blob, false);
                Request::Mount { repository: name(repository), digest, from: from.map(name) }
            }
            Action::Ask { slot, elsewhere } => {
                let mut slot = self.slot(slot);
                slot.repository = (slot.repository + usize::from(elsewhere)) % REPOSITORIES;
                self.ask(&slot)
            }
            Action::Append { slot, percent, ranged, shift, lie } => {
                let slot = self.slot(slot);
                let blob = &self.pool.blobs[slot.blob].bytes;
                let start = slot.offset.min(blob.len());
                let bytes = blob.slice(start..blob.len().min(start + blob.len() * percent / 100));
                let first = (slot.offset as u64).saturating_add_signed(shift);
                let first = (ranged && !bytes.is_empty()).then_some(first);
                let lie = u64::from(lie);
                Request::Append {
                    repository: name(slot.repository),
                    session: slot.session,
                    first,
                    lie,
                    bytes,
                }
            }
            Action::Finish { slot, rest, ranged, sha512, wrong } => {
                let slot = self.slot(slot);
                let blob = &self.pool.blobs[slot.blob].bytes;
                let bytes =
                    if rest { blob.slice(slot.offset.min(blob.len())..) } else { bytes::Bytes::new() };
                let digest =
                    self.pool.blob_digest(if wrong { (slot.blob + 1) % BLOBS } else { slot.blob }, sha512);
                let first = ranged.then_some(slot.offset as u64);
                Request::Finish {
                    repository: name(slot.repository),
                    session: slot.session,
                    first,
                    bytes,
                    digest,
                }
            }
            Action::Cancel { slot } => {
                let slot = self.slot(slot);
                Request::Cancel { repository: name(slot.repository), session: slot.session }
            }
            Action::Put { repository, manifest, by, tags, wrong_type } => {
                let mut request = self.put(repository, manifest, self.by(manifest, by));
                if let Request::PutManifest { tags: with, media_type, by, .. } = &mut request {
                    if matches!(by, By::Digest(_)) {
                        *with = tags.into_iter().map(|tag| TAGS[tag].to_owned()).collect();
                        with.sort();
                        with.dedup();
                    }
                    if wrong_type && manifest == UNTYPED {
                        *media_type = berth_oci::MediaType::DOCKER_MANIFEST.to_owned();
                    } else if wrong_type {
                        *media_type = "application/vnd.example+json".to_owned();
                    }
                }
                request
            }
            Action::Manifest { repository, manifest, by, head } => {
                Request::Manifest { repository: name(repository), by: self.by(manifest, by), head }
            }
            Action::DeleteManifest { repository, manifest, by } => {
                Request::DeleteManifest { repository: name(repository), by: self.by(manifest, by) }
            }
            Action::Blob { repository, blob, sha512, head, range } => {
                let digest = self.pool.blob_digest(blob, sha512);
                Request::Blob { repository: name(repository), digest, head, range }
            }
            Action::DeleteBlob { repository, blob, sha512 } => Request::DeleteBlob {
                repository: name(repository),
                digest: self.pool.blob_digest(blob, sha512),
            },
            Action::Tags { repository, n, last } => {
                Request::Tags { repository: name(repository), n, last: last.map(|tag| TAGS[tag].to_owned()) }
            }
            Action::Referrers { repository, manifest, kind, n } => {
                let config = self.pool.blobs[0].media_type.as_str();
                let kinds = ["application/vnd.example.signature", "application/vnd.example.note", config];
                let kind = kind.map(|kind| kinds[kind].to_owned());
                let subject = self.pool.manifest_digest(manifest, false);
                Request::Referrers { repository: name(repository), subject, kind, n }
            }
            Action::Catalog { n, last } => {
                let namespace = name(0).split('/').next().unwrap_or_default().to_owned();
                Request::Catalog { n, last: last.map_or(namespace, name) }
            }
        };
        vec![one]
    }

    /// What the client knows after an answer.
    pub(crate) fn remember(&mut self, action: &Action, request: &Request, reply: Option<&Reply>) {
        let (session, bytes) = match reply {
            Some(reply) => (Seen::of(reply).session, reply.session_bytes()),
            None => return,
        };
        let status = reply.map_or(0, |reply| reply.status);
        if let (
            Action::Start { slot, repository, blob, .. } | Action::Mount { slot, repository, blob, .. },
            202,
            Some(session),
        ) = (action, status, session)
        {
            self.slots[*slot] = Some(Slot { repository: *repository, session, blob: *blob, offset: 0 });
            return;
        }
        let (Request::Append { session, .. }
        | Request::Ask { session, .. }
        | Request::Finish { session, .. }) = request
        else {
            return;
        };
        let known = self.slots.iter_mut().flatten().filter(|known| known.session == *session);
        if let (202 | 204 | 416, Some(bytes)) = (status, bytes) {
            let offset = usize::try_from(bytes).unwrap();
            known.for_each(|known| known.offset = offset);
        }
    }

    /// Everything that a client can see.
    pub(crate) fn everything(&self) -> Vec<Request> {
        let mut requests = Vec::new();
        for slot in self.slots.iter().flatten() {
            requests.push(self.ask(slot));
        }
        for repository in self.pool.repositories.clone() {
            let by = |by: By, head: bool| Request::Manifest { repository: repository.clone(), by, head };
            requests.push(Request::Tags { repository: repository.clone(), n: None, last: None });
            requests.extend(TAGS.iter().map(|tag| by(By::Tag((*tag).to_owned()), false)));
            for manifest in 0..BROKEN {
                let subject = self.pool.manifest_digest(manifest, false);
                requests.push(by(By::Digest(subject), manifest % 2 == 0));
                requests.push(by(By::Digest(self.pool.manifest_digest(manifest, true)), false));
                requests.push(Request::Referrers {
                    repository: repository.clone(),
                    subject,
                    kind: None,
                    n: None,
                });
            }
            for (blob, sha512) in (0..BLOBS).flat_map(|blob| [(blob, false), (blob, true)]) {
                let digest = self.pool.blob_digest(blob, sha512);
                let blob =
                    |head: bool| Request::Blob { repository: repository.clone(), digest, head, range: None };
                requests.extend([false, true].into_iter().filter(|head| !head || !sha512).map(blob));
            }
        }
        requests.extend(self.requests(&Action::Catalog { n: None, last: None }));
        requests
    }
}
