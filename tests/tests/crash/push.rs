//! One push with everything that a client may do on the way, and what is known about each piece: whether it must be
//! there, must not, or was in doubt when the answer failed to come.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail, ensure};
use berth_oci::Digest;
use berth_testkit::{Blob, Client, Content, Image, Repository, eventually};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use reqwest::{Body, Method};

const LAYERS: usize = 20;
const LAYER_BYTES: usize = 3_000;
/// More than the gateway takes in between two checkpoints.
const BIG_BYTES: usize = 65 << 20;
/// Announced of a body that turns out longer, which comes after more than a batch was written.
const ANNOUNCED: usize = 1_300_000;
const LONGER: usize = 1_400_000;

/// The longest that a lease of a dead process may last, and some seconds.
const LEASE: Duration = Duration::from_secs(75);

/// Where content lies that is mounted; it is never the repository that is pushed to.
const SOURCE: &str = "crash/source";

/// A blob or manifest by its digest, or a tag.
#[derive(Clone, Debug)]
struct Piece {
    target: String,
    bytes: Bytes,
    /// Whether it was there when that was last known.
    there: bool,
    /// Whether a change of that was asked for and not answered.
    doubt: bool,
    /// How often it came and went, by the events' types; blobs have none.
    events: Option<(&'static str, usize, usize)>,
}

impl Piece {
    fn settle(&mut self, there: bool) {
        if let Some((_, came, went)) = self.events.as_mut().filter(|_| self.there != there) {
            *(if there { came } else { went }) += 1;
        }
        self.there = there;
        self.doubt = false;
    }

    /// Compares with the registry. Partial content is never right.
    async fn check(&mut self, repository: &Repository) -> anyhow::Result<()> {
        let reply = repository.get(&self.target).await?;
        let found = match reply.status {
            200 => {
                ensure!(reply.body == self.bytes, "{} has other bytes than were pushed", self.target);
                true
            }
            404 => false,
            status => bail!("GET of {} answered {status}", self.target),
        };
        ensure!(
            found == self.there || self.doubt,
            "{} was {}, and now it is not",
            self.target,
            if self.there { "acknowledged" } else { "deleted, or never asked for" }
        );
        self.settle(found);
        Ok(())
    }
}

/// An upload that a client knows of.
#[derive(Debug)]
struct Session {
    location: String,
    blob: Blob,
    /// Bytes that were acknowledged, and those that were sent.
    acknowledged: u64,
    sent: u64,
    /// A request that ends it was sent.
    closing: bool,
}

/// A push and what is known of it.
#[derive(Debug)]
pub(crate) struct Push {
    name: String,
    image: Image,
    other: Image,
    longer: Blob,
    cut: Blob,
    cancelled: Blob,
    mounted: Blob,
    dropped: Blob,
    big: Option<Blob>,
    pieces: BTreeMap<String, Piece>,
    session: Option<Session>,
}

fn blob_target(blob: &Blob) -> String {
    format!("/blobs/{}", blob.digest)
}

fn manifest_target(reference: impl std::fmt::Display) -> String {
    format!("/manifests/{reference}")
}

impl Push {
    pub(crate) fn new(name: String, content: &mut Content, big: bool) -> Self {
        let mut push = Self {
            name,
            image: content.image(LAYERS, LAYER_BYTES),
            other: content.image(2, LAYER_BYTES),
            longer: content.layer(LONGER),
            cut: content.layer(LAYER_BYTES),
            cancelled: content.layer(LAYER_BYTES),
            mounted: content.layer(LAYER_BYTES),
            dropped: content.layer(LAYER_BYTES),
            big: big.then(|| content.layer(BIG_BYTES)),
            pieces: BTreeMap::new(),
            session: None,
        };
        let alone = [&push.longer, &push.cut, &push.cancelled, &push.mounted, &push.dropped];
        let blobs = push.image.blobs().chain(push.other.blobs()).chain(alone).chain(&push.big);
        let mut pieces: Vec<_> = blobs.map(|blob| (blob_target(blob), blob.bytes.clone(), None)).collect();
        for (image, tags) in [(&push.image, &["v1"][..]), (&push.other, &["old", "older"])] {
            let bytes = &image.manifest.bytes;
            let pushed = Some(("artifact.pushed", 0, 0));
            pieces.push((manifest_target(image.manifest.digest), bytes.clone(), pushed));
            let tagged = Some(("artifact.tagged", 0, 0));
            pieces.extend(tags.iter().map(|tag| (manifest_target(tag), bytes.clone(), tagged)));
        }
        for (target, bytes, events) in pieces {
            let piece = Piece { target: target.clone(), bytes, there: false, doubt: false, events };
            push.pieces.insert(target, piece);
        }
        push
    }

    /// What has to be there before the push begins.
    pub(crate) async fn prepare(&self, client: &Client) -> anyhow::Result<()> {
        client.repository(SOURCE).push_blob_at_once(&self.mounted).await?;
        Ok(())
    }

    fn piece(&mut self, target: &str) -> &mut Piece {
        self.pieces.get_mut(target).unwrap()
    }

    /// A request is about to change these pieces.
    fn ask(&mut self, targets: &[String], there: bool) {
        for target in targets {
            let piece = self.piece(target);
            piece.doubt |= piece.there != there;
        }
    }

    /// The request was answered.
    fn answered(&mut self, targets: &[String], there: bool) {
        for target in targets {
            self.piece(target).settle(there);
        }
    }

    /// Everything, once. The first failure ends it.
    pub(crate) async fn run(&mut self, client: &Client) -> anyhow::Result<()> {
        let repository = client.repository(&self.name);
        let image = self.image.clone();
        for (number, blob) in image.blobs().enumerate() {
            match number % 3 {
                0 => self.at_once(&repository, blob).await?,
                1 => self.in_chunks(&repository, blob, 1).await?,
                _ => self.in_chunks(&repository, blob, 3).await?,
            }
        }
        self.longer_than_announced(&repository).await.context("a body longer than announced")?;
        self.cut(&repository).await.context("a body that is cut")?;
        self.cancel(&repository).await.context("a cancelled upload")?;
        self.mount(&repository).await.context("a mount")?;
        let dropped = self.dropped.clone();
        self.at_once(&repository, &dropped).await?;
        self.delete(&repository, &[blob_target(&dropped)]).await?;
        if let Some(big) = self.big.clone() {
            self.in_chunks(&repository, &big, 1).await.context("a big layer")?;
        }
        self.manifest(&repository, &image, "v1", &["v1"]).await?;
        let other = self.other.clone();
        for blob in other.blobs() {
            self.at_once(&repository, blob).await?;
        }
        let reference = format!("{}?tag=old&tag=older", other.manifest.digest);
        self.manifest(&repository, &other, &reference, &["old", "older"]).await?;
        self.delete(&repository, &[manifest_target("older")]).await?;
        // The manifest takes its last tag with it.
        self.delete(&repository, &[manifest_target(other.manifest.digest), manifest_target("old")]).await
    }

    async fn at_once(&mut self, repository: &Repository, blob: &Blob) -> anyhow::Result<()> {
        let target = [blob_target(blob)];
        self.ask(&target, true);
        repository.push_blob_at_once(blob).await?;
        self.answered(&target, true);
        Ok(())
    }

    async fn open(&mut self, repository: &Repository, blob: &Blob) -> anyhow::Result<String> {
        let location = repository.start_upload().await?;
        let blob = blob.clone();
        self.session =
            Some(Session { location: location.clone(), blob, acknowledged: 0, sent: 0, closing: false });
        Ok(location)
    }

    /// PATCHes up to the byte `end`, from where the session is acknowledged to be.
    async fn patch(&mut self, repository: &Repository, end: u64) -> anyhow::Result<()> {
        let session = self.session.as_mut().unwrap();
        let first = session.acknowledged;
        session.sent = end;
        let chunk = session.blob.bytes.slice(usize::try_from(first)?..usize::try_from(end)?);
        let reply = repository.patch(&session.location, Some(first), chunk).await?.expect(202)?;
        ensure!(
            reply.session_bytes() == Some(end),
            "a session of {end} bytes says {:?}",
            reply.session_bytes()
        );
        session.acknowledged = end;
        Ok(())
    }

    /// The closing PUT with what is left.
    async fn finish(&mut self, repository: &Repository) -> anyhow::Result<()> {
        let session = self.session.as_mut().unwrap();
        session.sent = session.blob.size();
        session.closing = true;
        let last = session.blob.bytes.slice(usize::try_from(session.acknowledged)?..);
        let (location, digest) = (session.location.clone(), session.blob.digest.to_string());
        let target = [blob_target(&session.blob)];
        self.ask(&target, true);
        repository.finish(&location, &digest, last).await?.expect(201)?;
        self.answered(&target, true);
        self.session = None;
        Ok(())
    }

    async fn in_chunks(&mut self, repository: &Repository, blob: &Blob, chunks: u64) -> anyhow::Result<()> {
        self.open(repository, blob).await?;
        for chunk in 1..=chunks {
            // The last bytes of some come with the closing PUT.
            let end = if chunk == 3 { blob.size() - 1 } else { blob.size() * chunk / chunks };
            self.patch(repository, end).await?;
        }
        self.finish(repository).await
    }

    /// Leaves bytes in the file that are not recorded, for the next writer to cut.
    async fn longer_than_announced(&mut self, repository: &Repository) -> anyhow::Result<()> {
        let blob = self.longer.clone();
        let location = self.open(repository, &blob).await?;
        let (first, rest) = (blob.bytes.slice(..ANNOUNCED - 1), blob.bytes.slice(ANNOUNCED - 1..));
        let body = stream::iter([Ok::<_, std::io::Error>(first)]).chain(stream::once(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(rest)
        }));
        let call = repository.call(Method::PATCH, &location).await?;
        let call = call.header("content-range", format!("0-{}", ANNOUNCED - 1));
        call.body(Body::wrap_stream(Box::pin(body))).send().await?.expect(400)?;
        self.patch(repository, blob.size()).await?;
        self.finish(repository).await
    }

    /// The client goes away within a body, and comes back.
    async fn cut(&mut self, repository: &Repository) -> anyhow::Result<()> {
        let blob = self.cut.clone();
        let location = self.open(repository, &blob).await?;
        let half = blob.bytes.slice(..LAYER_BYTES / 2);
        let sent = half.len() as u64;
        self.session.as_mut().unwrap().sent = sent;
        let body = stream::iter([Ok(half)]).chain(stream::once(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(std::io::Error::other("gone"))
        }));
        let call = repository.call(Method::PATCH, &location).await?;
        ensure!(
            call.body(Body::wrap_stream(Box::pin(body))).send().await.is_err(),
            "a cut body was answered"
        );
        let recorded = eventually("what came of a cut body is recorded", || async {
            match repository.get(&location).await {
                Ok(reply) if reply.status == 204 => {
                    reply.session_bytes().filter(|bytes| *bytes == sent).map(Ok)
                }
                Ok(reply) => Some(reply.expect(204).map(|_| 0)),
                Err(error) => Some(Err(error)),
            }
        });
        let recorded = tokio::time::timeout(Duration::from_secs(3), recorded).await??;
        self.session.as_mut().unwrap().acknowledged = recorded?;
        self.patch(repository, blob.size()).await?;
        self.finish(repository).await
    }

    async fn cancel(&mut self, repository: &Repository) -> anyhow::Result<()> {
        let blob = self.cancelled.clone();
        let location = self.open(repository, &blob).await?;
        self.patch(repository, blob.size()).await?;
        self.session.as_mut().unwrap().closing = true;
        repository.delete(&location).await?.expect(204)?;
        self.session = None;
        Ok(())
    }

    async fn mount(&mut self, repository: &Repository) -> anyhow::Result<()> {
        let target = [blob_target(&self.mounted)];
        self.ask(&target, true);
        let mount = format!("/blobs/uploads/?mount={}&from={SOURCE}", self.mounted.digest);
        repository.call(Method::POST, &mount).await?.send().await?.expect(201)?;
        self.answered(&target, true);
        Ok(())
    }

    async fn manifest(
        &mut self,
        repository: &Repository,
        image: &Image,
        reference: &str,
        tags: &[&str],
    ) -> anyhow::Result<()> {
        let mut targets = vec![manifest_target(image.manifest.digest)];
        targets.extend(tags.iter().map(manifest_target));
        self.ask(&targets, true);
        repository.put_manifest(reference, &image.manifest).await?.expect(201)?;
        self.answered(&targets, true);
        Ok(())
    }

    /// Deletes the first target, with which the others go.
    async fn delete(&mut self, repository: &Repository, targets: &[String]) -> anyhow::Result<()> {
        self.ask(targets, false);
        repository.delete(&targets[0]).await?.expect(202)?;
        self.answered(targets, false);
        Ok(())
    }

    /// After a restart: what was acknowledged is there, what was in doubt is there or not, and an open upload goes on.
    pub(crate) async fn check(&mut self, client: &Client) -> anyhow::Result<()> {
        let repository = client.repository(&self.name);
        for piece in self.pieces.values_mut() {
            piece.check(&repository).await?;
        }
        if self.session.is_some() {
            self.resume(&repository).await.context("going on with an upload")?;
        }
        Ok(())
    }

    async fn resume(&mut self, repository: &Repository) -> anyhow::Result<()> {
        let session = self.session.as_mut().unwrap();
        let state = repository.get(&session.location).await?;
        if state.status == 404 && session.closing {
            self.session = None;
            return Ok(());
        }
        let bytes = state.expect(204)?.session_bytes().context("a state without Range")?;
        ensure!(
            (session.acknowledged..=session.sent).contains(&bytes),
            "{bytes} bytes of an upload, of which {} were acknowledged and {} sent",
            session.acknowledged,
            session.sent
        );
        session.acknowledged = bytes;
        let (size, blob) = (session.blob.size(), session.blob.clone());
        if bytes < size {
            self.patch(repository, size).await?;
        }
        // What somebody was finishing may be taken over when the lease has ended, a minute after the death.
        let began = std::time::Instant::now();
        while let Err(error) = self.finish(repository).await {
            ensure!(error.to_string().contains("status 409") && began.elapsed() < LEASE, error);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        repository.pull_blob(&blob).await
    }

    /// What has to stay from here on.
    pub(crate) fn survived(self) -> Survived {
        Survived {
            name: self.name,
            pieces: self.pieces.into_values().collect(),
            mounted: self.mounted.digest,
        }
    }
}

/// What a push that has come to its end left.
#[derive(Debug)]
pub(crate) struct Survived {
    name: String,
    pieces: Vec<Piece>,
    mounted: Digest,
}

impl Survived {
    pub(crate) fn repository(&self) -> &str {
        &self.name
    }

    /// All of it again, and what was mounted at its source.
    pub(crate) async fn pull(&self, client: &Client) -> anyhow::Result<()> {
        let repository = client.repository(&self.name);
        for piece in &self.pieces {
            piece.clone().check(&repository).await?;
        }
        ensure!(client.repository(SOURCE).has_blob(&self.mounted).await?, "the source of a mount is gone");
        Ok(())
    }

    /// How often each change has to be in the audit trail: `artifact.tagged crash/run-1 v1`.
    pub(crate) fn events(&self) -> impl Iterator<Item = (String, usize)> + '_ {
        self.pieces.iter().flat_map(move |piece| {
            let about = piece.target.trim_start_matches("/manifests/");
            let changes = piece.events.map(|(kind, came, went)| [(kind, came), ("artifact.deleted", went)]);
            let changes = changes.into_iter().flatten().filter(|(_, times)| *times > 0);
            changes.map(move |(kind, times)| (format!("{kind} {} {about}", self.name), times))
        })
    }
}
