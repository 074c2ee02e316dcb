//! The pushes that are recorded, and what each leaves: asked for at one length of the log, answered at another.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Mutex,
};

use anyhow::{Context as _, ensure};
use berth_oci::MediaType;
use berth_testkit::{Blob, Client, Content, Manifest, Repository, descriptor};
use bytes::Bytes;
use reqwest::Method;
use serde_json::json;

/// More than the blob store writes at once.
const BIG: usize = 2_300_000;
/// What makes a manifest fill SQLite's log (1000 pages), so that it is folded into the database and begun anew.
const WIDE: usize = 3_900_000;

/// What a client asks for.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// A blob in one request.
    Blob(Blob),
    /// A blob in chunks of a size.
    Chunks(Blob, usize),
    /// A blob that another repository has.
    Mount(Blob, &'static str),
    /// A manifest under a tag.
    Manifest(Manifest, &'static str),
    /// What is deleted, and what goes with it.
    Delete(String, Vec<String>),
    /// Chunks of a session that nobody ends.
    Open(Blob, usize),
    /// An upload that is cancelled.
    Cancel(Blob),
}

/// A repository and a target in it, such as `/manifests/v1`.
pub(crate) type Place = (&'static str, String);

fn of_blob(blob: &Blob) -> String {
    format!("/blobs/{}", blob.digest)
}

fn of_manifest(reference: impl std::fmt::Display) -> String {
    format!("/manifests/{reference}")
}

impl Action {
    /// What is where, once it is done.
    fn outcome(&self) -> Vec<(String, Option<Bytes>)> {
        match self {
            Self::Blob(blob) | Self::Chunks(blob, _) | Self::Mount(blob, _) => {
                vec![(of_blob(blob), Some(blob.bytes.clone()))]
            }
            Self::Manifest(manifest, tag) => {
                let bytes = Some(manifest.bytes.clone());
                vec![(of_manifest(manifest.digest), bytes.clone()), (of_manifest(tag), bytes)]
            }
            Self::Delete(target, more) => {
                more.iter().chain([target]).map(|target| (target.clone(), None)).collect()
            }
            Self::Open(..) | Self::Cancel(_) => Vec::new(),
        }
    }

    /// Does it; again, after an answer that may have been lost, what is deleted may be gone already.
    async fn perform(&self, repository: &Repository, again: bool) -> anyhow::Result<()> {
        let reply = match self {
            Self::Blob(blob) => repository.push_blob_at_once(blob).await?,
            Self::Chunks(blob, size) => repository.push_blob_in_chunks(blob, *size).await?,
            Self::Mount(blob, from) => {
                let target = format!("/blobs/uploads/?mount={}&from={from}", blob.digest);
                repository.call(Method::POST, &target).await?.send().await?.expect(201)?
            }
            Self::Manifest(manifest, tag) => repository.put_manifest(tag, manifest).await?.expect(201)?,
            Self::Delete(target, _) => match repository.delete(target).await? {
                reply if again && reply.status == 404 => reply,
                reply => reply.expect(202)?,
            },
            Self::Cancel(blob) => {
                let upload = repository.start_upload().await?;
                let upload =
                    repository.patch(&upload, None, blob.bytes.clone()).await?.expect(202)?.location()?;
                repository.delete(&upload).await?.expect(204)?
            }
            Self::Open(..) => return Ok(()),
        };
        drop(reply);
        Ok(())
    }
}

/// An action that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    repository: &'static str,
    pub(crate) action: Action,
    /// Lengths of the log before the request and after the answer.
    asked: u64,
    pub(crate) answered: u64,
}

/// An open session: its place, its blob, and how long it was acknowledged to be at which lengths of the log.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) repository: &'static str,
    pub(crate) location: String,
    pub(crate) blob: Blob,
    acknowledged: Vec<(u64, u64)>,
}

/// Everything that was asked for during a recording.
#[derive(Debug)]
pub(crate) struct History {
    log: PathBuf,
    steps: Mutex<Vec<Step>>,
    sessions: Mutex<Vec<Session>>,
}

/// What has to be found at a place: one of these, where nothing is `None`.
pub(crate) type Expected = BTreeMap<Place, Vec<Option<Bytes>>>;

impl History {
    pub(crate) fn new(log: PathBuf) -> Self {
        Self { log, steps: Mutex::default(), sessions: Mutex::default() }
    }

    /// How much of the log is written: all that was done before.
    pub(crate) fn now(&self) -> u64 {
        std::fs::metadata(&self.log).unwrap().len()
    }

    async fn act(&self, client: &Client, repository: &'static str, action: Action) -> anyhow::Result<()> {
        let asked = self.now();
        match &action {
            Action::Open(blob, size) => self.open(client, repository, blob, *size).await?,
            action => action
                .perform(&client.repository(repository), false)
                .await
                .with_context(|| format!("{action:.60?}"))?,
        }
        let answered = self.now();
        self.steps.lock().unwrap().push(Step { repository, action, asked, answered });
        Ok(())
    }

    async fn open(
        &self,
        client: &Client,
        name: &'static str,
        blob: &Blob,
        size: usize,
    ) -> anyhow::Result<()> {
        let repository = client.repository(name);
        let mut location = repository.start_upload().await?;
        let mut session = Session {
            repository: name,
            location: location.clone(),
            blob: blob.clone(),
            acknowledged: vec![(self.now(), 0)],
        };
        // The last chunk is never sent.
        let mut first = 0;
        while first + size < blob.bytes.len() {
            let chunk = blob.bytes.slice(first..first + size);
            location =
                repository.patch(&location, Some(first as u64), chunk).await?.expect(202)?.location()?;
            first += size;
            session.acknowledged.push((self.now(), first as u64));
        }
        session.location = location;
        self.sessions.lock().unwrap().push(session);
        Ok(())
    }

    /// Every place that is ever asked for, and what may be there after a cut at `cut`.
    pub(crate) fn expected(&self, cut: u64) -> Expected {
        let mut expected = Expected::new();
        let mut steps = self.steps.lock().unwrap().clone();
        steps.sort_by_key(|step| step.asked);
        for step in &steps {
            for (target, after) in step.action.outcome() {
                // Before it is asked for, nothing is there.
                let allowed = expected.entry((step.repository, target)).or_insert_with(|| vec![None]);
                if step.answered <= cut {
                    *allowed = vec![after];
                } else if step.asked <= cut && !allowed.contains(&after) {
                    allowed.push(after);
                }
            }
        }
        expected
    }

    /// The steps without an answer at `cut`, and the last one with.
    pub(crate) fn around(&self, cut: u64) -> Vec<Step> {
        let steps = self.steps.lock().unwrap();
        let last = steps.iter().filter(|step| step.answered <= cut).max_by_key(|step| step.answered);
        let doubt = steps.iter().filter(|step| step.asked <= cut && cut < step.answered);
        last.into_iter().chain(doubt).cloned().collect()
    }

    /// The least that each session must have, of those that were acknowledged at `cut`, and the most that it may.
    pub(crate) fn sessions(&self, cut: u64) -> Vec<(Session, u64, u64)> {
        let sessions = self.sessions.lock().unwrap();
        let known = sessions.iter().filter_map(|session| {
            let reached = session.acknowledged.iter().rposition(|(length, _)| *length <= cut)?;
            let most = session.acknowledged.get(reached + 1).unwrap_or(&session.acknowledged[reached]).1;
            Some((session.clone(), session.acknowledged[reached].1, most))
        });
        known.collect()
    }

    /// How often each change of a manifest or tag is in the audit trail: `artifact.tagged power/app v1`, for certain
    /// and at most.
    pub(crate) fn events(&self, cut: u64) -> BTreeMap<String, (usize, usize)> {
        let mut events: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut pushed = BTreeSet::new();
        let mut steps = self.steps.lock().unwrap().clone();
        steps.sort_by_key(|step| step.asked);
        for step in steps.iter().filter(|step| step.asked <= cut) {
            let mut changes = Vec::new();
            match &step.action {
                Action::Manifest(manifest, tag) => {
                    changes.push(("artifact.tagged", (*tag).to_owned()));
                    if pushed.insert((step.repository, manifest.digest)) {
                        changes.push(("artifact.pushed", manifest.digest.to_string()));
                    }
                }
                Action::Delete(target, more) => {
                    let gone =
                        more.iter().chain([target]).filter_map(|target| target.strip_prefix("/manifests/"));
                    changes.extend(gone.map(|gone| ("artifact.deleted", gone.to_owned())));
                }
                _ => {}
            }
            for (kind, about) in changes {
                let times = events.entry(format!("{kind} {} {about}", step.repository)).or_default();
                times.0 += usize::from(step.answered <= cut);
                times.1 += 1;
            }
        }
        events
    }

    /// The lengths at which an answer had just come.
    pub(crate) fn answers(&self) -> BTreeSet<u64> {
        self.steps.lock().unwrap().iter().map(|step| step.answered).collect()
    }

    /// Every repository of the sample.
    pub(crate) fn repositories(&self) -> BTreeSet<&'static str> {
        self.steps.lock().unwrap().iter().map(|step| step.repository).collect()
    }
}

impl Step {
    /// Asks for the same again, and says what must be where after that.
    pub(crate) async fn again(&self, client: &Client) -> anyhow::Result<Vec<(Place, Option<Bytes>)>> {
        self.action.perform(&client.repository(self.repository), true).await?;
        Ok(self
            .action
            .outcome()
            .into_iter()
            .map(|(target, bytes)| ((self.repository, target), bytes))
            .collect())
    }
}

/// A manifest of two blobs, and an annotation of a length.
fn manifest(config: &Blob, layer: &Blob, note: usize) -> Manifest {
    let document = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": descriptor(config),
        "layers": [descriptor(layer)],
        "annotations": { "note": "x".repeat(note) },
    });
    Blob::json(MediaType::OCI_MANIFEST, &document)
}

const APP: &str = "power/app";
const OTHER: &str = "power/other";
const TWINS: [&str; 3] = ["power/one", "power/two", "power/three"];

impl History {
    /// The first part: one after the other. Then comes a clean stop and a new start.
    pub(crate) async fn first_part(&self, client: &Client, content: &mut Content) -> anyhow::Result<()> {
        let (config, small, layer) = (content.layer(700), content.layer(10_000), content.layer(BIG));
        let first = manifest(&config, &small, 10);
        self.act(client, APP, Action::Blob(config.clone())).await?;
        self.act(client, APP, Action::Blob(small.clone())).await?;
        self.act(client, APP, Action::Manifest(first.clone(), "v1")).await?;
        self.act(client, APP, Action::Chunks(layer.clone(), 1_000_000)).await?;
        let wide = manifest(&config, &layer, WIDE);
        self.act(client, APP, Action::Manifest(wide, "wide")).await?;
        // From here on SQLite's log has old frames behind its end.
        let second = manifest(&config, &layer, 20);
        self.act(client, APP, Action::Manifest(second, "v1")).await?;
        self.act(client, OTHER, Action::Mount(config.clone(), APP)).await?;
        self.act(client, OTHER, Action::Mount(small.clone(), APP)).await?;
        self.act(client, OTHER, Action::Manifest(first.clone(), "copied")).await?;
        self.act(client, APP, Action::Delete(of_manifest(first.digest), Vec::new())).await?;
        self.act(client, APP, Action::Delete(of_blob(&small), Vec::new())).await?;
        self.act(client, OTHER, Action::Open(content.layer(1_500_000), 600_000)).await
    }

    /// Leaves an object that nothing names, for the collector.
    pub(crate) async fn cancel(&self, client: &Client, content: &mut Content) -> anyhow::Result<()> {
        self.act(client, OTHER, Action::Cancel(content.layer(30_000))).await
    }

    /// The second part: three at a time, with a layer in common.
    pub(crate) async fn second_part(&self, client: &Client, content: &mut Content) -> anyhow::Result<()> {
        let shared = content.layer(40_000);
        let pushes = TWINS.map(|repository| {
            let (config, shared) = (content.layer(500), shared.clone());
            async move {
                let image = manifest(&config, &shared, 5);
                self.act(client, repository, Action::Blob(shared)).await?;
                self.act(client, repository, Action::Chunks(config, 200)).await?;
                self.act(client, repository, Action::Manifest(image.clone(), "latest")).await?;
                self.act(client, repository, Action::Manifest(image.clone(), "older")).await?;
                self.act(client, repository, Action::Delete(of_manifest("older"), Vec::new())).await?;
                let with_it = vec![of_manifest("latest")];
                if repository == TWINS[0] {
                    self.act(client, repository, Action::Delete(of_manifest(image.digest), with_it)).await?;
                }
                anyhow::Ok(())
            }
        });
        for outcome in futures::future::join_all(pushes).await {
            outcome?;
        }
        ensure!(self.sessions.lock().unwrap().len() == 1, "a session is left open");
        Ok(())
    }
}
