//! One sequence of steps on the service and on the reference beside it. Where an answer was lost the reference holds every
//! registry that may have come of it, and each answer after that leaves those that it fits; none left is a failure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use berth_testkit::{Deployment, Reply};
use tokio::sync::oneshot;

use crate::{
    answer::Seen,
    pool::{BLOBS, BROKEN, MANIFESTS, Pool, REPOSITORIES, TAGS, UNTYPED},
    registry::{Moment, Registry},
    request::{By, Request},
    step::{Action, Fault, Reference, SLOTS, Step},
    wire::Wire,
};

/// More possibilities than this are a fault of the trial.
const MOST_WORLDS: usize = 300;
/// A session that nobody started.
const NO_SESSION: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// An upload that the client remembers.
#[derive(Clone, Debug)]
struct Slot {
    repository: usize,
    session: String,
    blob: usize,
    /// Bytes that it has, as the client was last told.
    offset: usize,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: usize,
    pub(crate) kills: usize,
    pub(crate) lost: usize,
    /// Lost requests that were found to have been carried out, or not.
    pub(crate) forked: usize,
    /// 503 after a restart.
    pub(crate) unavailable: usize,
    pub(crate) collected: usize,
}

pub(crate) struct Trial<'a> {
    deployment: &'a Deployment,
    wire: Wire,
    pool: Pool,
    worlds: Vec<Registry>,
    slots: [Option<Slot>; SLOTS],
    is_counting: bool,
    clock: Instant,
    restarted: Instant,
    pub(crate) counts: Counts,
    pub(crate) history: Vec<String>,
    /// How often which request had which status, without the last look.
    pub(crate) statuses: BTreeMap<String, usize>,
}

impl<'a> Trial<'a> {
    pub(crate) async fn new(
        deployment: &'a Deployment,
        namespace: &str,
        floor: Option<u64>,
    ) -> anyhow::Result<Self> {
        let pool = Pool::new(namespace);
        let wire = Wire::new(deployment, &pool.repositories).await?;
        Ok(Self {
            deployment,
            wire,
            pool,
            worlds: vec![Registry { floor, ..Registry::default() }],
            slots: Default::default(),
            is_counting: true,
            clock: Instant::now(),
            restarted: Instant::now(),
            counts: Counts::default(),
            history: Vec::new(),
            statuses: BTreeMap::new(),
        })
    }

    /// All steps, then everything that can be seen.
    pub(crate) async fn run(&mut self, steps: &[Step]) -> anyhow::Result<()> {
        for (number, step) in steps.iter().enumerate() {
            self.history.push(format!("{number}: {step:?}"));
            self.step(step).await.with_context(|| format!("step {number}, {step:?}"))?;
        }
        self.history.push("everything that can be seen".to_owned());
        self.is_counting = false;
        self.look_at_everything().await.context("after the last step")
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        if let Action::Wait(milliseconds) = step.action {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        if let Some(Fault::Before { victim }) = step.fault {
            self.kill(victim);
            self.start_again(victim).await?;
        }
        if let Action::Append { slot, .. } | Action::Finish { slot, .. } = step.action
            && let Some(known) = self.slots[slot].clone()
            && !self.is_settled(&known.session)
        {
            // A client that doesn't know where its upload stands asks.
            let ask = self.ask(&known);
            self.plain(&ask).await?;
        }
        let requests = self.requests(&step.action);
        let disturbed = match &step.fault {
            None | Some(Fault::Before { .. }) => None,
            Some(Fault::During { victim, .. } | Fault::Amid { victim, .. }) => {
                Some(victim % requests.len().max(1))
            }
            Some(Fault::Cut { percent, .. }) => Some(percent % requests.len().max(1)),
        };
        for (number, request) in requests.iter().enumerate() {
            match &step.fault {
                Some(fault) if disturbed == Some(number) => {
                    self.disturbed(request, fault, &step.action).await?
                }
                _ => {
                    let reply = self.plain(request).await?;
                    self.remember(&step.action, request, reply.as_ref());
                }
            }
        }
        Ok(())
    }

    // --- from steps to requests --------------------------------------------------------------------------------------

    fn ask(&self, slot: &Slot) -> Request {
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

    fn requests(&self, action: &Action) -> Vec<Request> {
        let name = |repository: usize| self.pool.repositories[repository].clone();
        let one = match action.clone() {
            Action::Wait(_) => return Vec::new(),
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
    fn remember(&mut self, action: &Action, request: &Request, reply: Option<&Reply>) {
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

    // --- requests ----------------------------------------------------------------------------------------------------

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap()
    }

    fn is_settled(&self, session: &str) -> bool {
        let sessions = self.worlds.iter().filter_map(|world| world.sessions.get(session));
        sessions.into_iter().all(crate::upload::Session::is_settled)
    }

    /// Sends a request and compares the answer. None: there was no answer but that it can't be served now.
    async fn plain(&mut self, request: &Request) -> anyhow::Result<Option<Reply>> {
        let mut renewed = false;
        loop {
            let sent = self.now();
            self.counts.requests += 1;
            let reply = self.wire.send(request).await.with_context(|| format!("no answer to {request:?}"))?;
            if reply.status == 401 && !renewed {
                // The path leads to another repository by now, or the token is too old: nothing was done.
                renewed = true;
                self.wire = Wire::new(self.deployment, &self.pool.repositories).await?;
                continue;
            }
            let at = Moment { sent, received: self.now() };
            if reply.status == 503 && self.restarted.elapsed() < Duration::from_secs(10) {
                self.counts.unavailable += 1;
                self.fork(request, request.body().map_or(0, bytes::Bytes::len), true, at)?;
                self.note(request, "503");
                tokio::time::sleep(Duration::from_millis(100)).await;
                return Ok(None);
            }
            self.compare(request, &reply, at)?;
            if let Request::Ask { .. } = request {
                self.remember(&Action::Wait(0), request, Some(&reply));
            }
            return Ok(Some(reply));
        }
    }

    fn note(&mut self, request: &Request, outcome: &str) {
        let session = match request {
            Request::Append { first, bytes, .. } | Request::Finish { first, bytes, .. } => {
                format!(" {} bytes from {first:?}", bytes.len())
            }
            _ => String::new(),
        };
        let line = format!("    {} {}{session}: {outcome}", request.method(), request.target());
        self.history.push(format!("{line} ({} possible)", self.worlds.len()));
    }

    /// Leaves the worlds that an answer fits.
    fn compare(&mut self, request: &Request, reply: &Reply, at: Moment) -> anyhow::Result<()> {
        if self.is_counting {
            *self.statuses.entry(format!("{} {}", request.kind(), reply.status)).or_default() += 1;
        }
        let seen = Seen::of(reply);
        let mut fitting: Vec<Registry> = Vec::new();
        let mut differences = Vec::new();
        for world in &self.worlds {
            let serve = |world: &Registry| {
                let mut after = world.clone();
                let answer = after.serve(request, &seen, at);
                match answer.difference(reply, request.is_head()) {
                    None => Ok(after),
                    Some(difference) => Err(difference),
                }
            };
            let mut found = match serve(world) {
                Ok(after) => vec![after],
                Err(difference) => {
                    differences.push(difference);
                    let found = world.after_collection(at, &|world| serve(world).ok());
                    self.counts.collected += usize::from(!found.is_empty());
                    found
                }
            };
            found.retain(|world| !fitting.contains(world));
            fitting.append(&mut found);
        }
        self.note(request, &format!("{} {:?}", reply.status, reply.error_code().unwrap_or_default()));
        if fitting.is_empty() {
            differences.dedup();
            bail!("{} {}: {}", request.method(), request.target(), differences.join("\n  or "));
        }
        self.worlds = fitting;
        Ok(())
    }

    /// Holds whatever may have come of a request whose answer was lost.
    fn fork(&mut self, request: &Request, sent: usize, whole: bool, at: Moment) -> anyhow::Result<()> {
        self.counts.lost += 1;
        let before = self.worlds.len();
        let mut possible: Vec<Registry> = Vec::new();
        for world in self.worlds.iter().flat_map(|world| world.possible(request, sent, whole, at)) {
            if !possible.contains(&world) {
                possible.push(world);
            }
        }
        self.worlds = possible;
        self.counts.forked += usize::from(self.worlds.len() > before);
        if self.worlds.len() > MOST_WORLDS {
            bail!("{} possible registries", self.worlds.len());
        }
        Ok(())
    }

    // --- faults ------------------------------------------------------------------------------------------------------

    fn kill(&mut self, victim: usize) {
        let processes = self.deployment.processes();
        processes[victim % processes.len()].kill();
        self.counts.kills += 1;
        self.restarted = Instant::now();
    }

    async fn start_again(&mut self, victim: usize) -> anyhow::Result<()> {
        let processes = self.deployment.processes();
        let process = &processes[victim % processes.len()];
        process.start().await?;
        self.restarted = Instant::now();
        if process.address("public").is_some() {
            self.wire = self.wire.reconnected(self.deployment);
        }
        Ok(())
    }

    /// Sends a request with a fault meanwhile.
    async fn disturbed(&mut self, request: &Request, fault: &Fault, action: &Action) -> anyhow::Result<()> {
        let length = request.body().map_or(0, bytes::Bytes::len);
        let (victim, pause, percent, repeat) = match *fault {
            Fault::Before { .. } => return Ok(()),
            Fault::During { victim, micros, repeat } => {
                (Some(victim), Duration::from_micros(micros), None, repeat)
            }
            Fault::Amid { victim, percent, repeat } if length == 0 => {
                (Some(victim), Duration::from_micros(percent as u64 * 50), None, repeat)
            }
            Fault::Amid { victim, percent, repeat } => {
                (Some(victim), Duration::from_millis(15), Some(percent), repeat)
            }
            Fault::Cut { percent, repeat } if length > 0 => (None, Duration::ZERO, Some(percent), repeat),
            Fault::Cut { .. } => {
                let reply = self.plain(request).await?;
                self.remember(action, request, reply.as_ref());
                return Ok(());
            }
        };
        let sent = self.now();
        self.counts.requests += 1;
        let (go_on, waiting) = oneshot::channel::<()>();
        let part = percent.map(|percent| length * percent / 100);
        let (wire, asked) = (self.wire.clone(), request.clone());
        let call = tokio::spawn(async move {
            match part {
                None => wire.send(&asked).await,
                Some(part) => {
                    let then = async {
                        let _sent_or_dropped = waiting.await;
                    };
                    wire.send_part(&asked, part, then).await
                }
            }
        });
        tokio::time::sleep(pause).await;
        let outcome = match victim {
            Some(victim) => {
                self.kill(victim);
                drop(go_on);
                self.start_again(victim).await?;
                call.await?
            }
            None => {
                drop(go_on);
                call.await?
            }
        };
        // Whoever was about to write down what came of it has done so.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let at = Moment { sent, received: self.now() };
        match outcome {
            Ok(reply) if part.is_none() && ![401, 500, 503].contains(&reply.status) => {
                self.compare(request, &reply, at)?;
                self.remember(action, request, Some(&reply));
                return Ok(());
            }
            Ok(reply) if reply.status == 500 => {
                bail!("{}: 500 {}", request.target(), String::from_utf8_lossy(&reply.body));
            }
            Ok(reply) => {
                self.fork(request, part.unwrap_or(length), part.is_none(), at)?;
                self.note(request, &format!("lost with {}", reply.status));
            }
            Err(error) => {
                self.fork(request, part.unwrap_or(length), part.is_none(), at)?;
                self.note(request, &format!("lost: {error}"));
            }
        }
        let about_session = match request {
            Request::Append { session, first, .. } | Request::Finish { session, first, .. } => {
                first.is_some() || self.is_settled(session)
            }
            _ => true,
        };
        if repeat && about_session {
            let reply = self.plain(request).await?;
            self.remember(action, request, reply.as_ref());
        }
        Ok(())
    }

    // --- the end -----------------------------------------------------------------------------------------------------

    /// Compares everything that a client can see.
    async fn look_at_everything(&mut self) -> anyhow::Result<()> {
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
                requests.push(by(By::Digest(subject), true));
                requests.push(by(By::Digest(subject), false));
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
                for head in [false, true] {
                    requests.push(Request::Blob {
                        repository: repository.clone(),
                        digest,
                        head,
                        range: None,
                    });
                }
            }
        }
        requests.extend(self.requests(&Action::Catalog { n: None, last: None }));
        for request in requests {
            self.plain(&request).await?;
        }
        Ok(())
    }
}
