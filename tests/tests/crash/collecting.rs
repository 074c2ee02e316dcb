//! Deaths of the collector: whatever it was about to let go, what is live stays whole, and in the end nothing else is left.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use berth_testkit::{
    ADMIN, Blob, Client, Content, Deployment, Image, Manifest, PASSWORD, Setting, eventually,
};

/// Something to collect of every kind, beside something that lives.
struct Garbage {
    /// Tagged, with a referrer.
    live: Image,
    referrer: Image,
    /// Of an index that goes.
    children: [Image; 2],
    index: Manifest,
    /// A layer of the live image that a repository beside it links as well, and lets go.
    shared: Blob,
    /// In a repository that is removed.
    removed: Image,
    number: usize,
}

impl Garbage {
    fn new(content: &mut Content, number: usize) -> Self {
        let live = content.image(3, 4_000);
        let referrer = content.artifact("application/vnd.example.note", Some(&live.manifest));
        let children = [content.image(2, 4_000), content.image(2, 4_000)];
        let index = content.index(&[&children[0].manifest, &children[1].manifest]);
        let shared = live.layers[0].clone();
        let removed = content.artifact("application/vnd.example.note", Some(&index));
        Self { live, referrer, children, index, shared, removed, number }
    }

    fn path(&self, of: &str) -> String {
        format!("collecting{}/{of}", self.number)
    }

    /// Pushes everything, then lets go of what is not to live: manifests with their links, blobs and objects, an upload
    /// that nobody goes on with, a repository that was made for nothing, and one that is removed.
    async fn leave(&self, deployment: &Deployment) -> anyhow::Result<()> {
        let client = &deployment.client();
        let live = client.repository(self.path("live"));
        live.push_image("v1", &self.live).await?;
        live.push_image(&self.referrer.manifest.digest.to_string(), &self.referrer).await?;
        let gone = client.repository(self.path("gone"));
        gone.push_blob_at_once(&self.shared).await?;
        for child in &self.children {
            gone.push_image(&child.manifest.digest.to_string(), child).await?;
        }
        gone.put_manifest("latest", &self.index).await?.expect(201)?;
        gone.delete(&format!("manifests/{}", self.index.digest)).await?.expect(202)?;
        let nothing = client.repository(self.path("nothing"));
        let upload = nothing.start_upload().await?;
        nothing.patch(&upload, Some(0), self.children[0].layers[0].bytes.clone()).await?.expect(202)?;
        let removed = client.repository(self.path("removed"));
        removed.push_image("v1", &self.removed).await?;
        removed.push_blob_at_once(&self.shared).await?;
        removed.start_upload().await?;
        deployment.admin(&["delete-repository", removed.name()], "").await?;
        // Runs wait for a collector that lives long enough; ten at most.
        let asked = eventually("collection is asked for", || async {
            match deployment.admin(&["collection", "now"], "").await {
                Err(error) if error.to_string().contains("runs go on already") => None,
                asked => Some(asked),
            }
        });
        asked.await??;
        Ok(())
    }

    /// What lives, byte for byte; what was let go may be there still, and then whole.
    async fn check(&self, client: &Client, at_rest: bool) -> anyhow::Result<()> {
        let live = client.repository(self.path("live"));
        live.pull_image("v1", &self.live).await?;
        live.pull_image(&self.referrer.manifest.digest.to_string(), &self.referrer).await?;
        let removed = client.repository(self.path("removed")).manifest("v1").await?;
        anyhow::ensure!(removed.status == 404, "a removed repository answers {}", removed.status);
        let gone = client.repository(self.path("gone"));
        for child in &self.children {
            let reply = gone.manifest(&child.manifest.digest.to_string()).await?;
            match reply.status {
                200 if !at_rest => gone.pull_image(&child.manifest.digest.to_string(), child).await?,
                404 => {}
                status => anyhow::bail!("a child that was let go answers {status}"),
            }
        }
        Ok(())
    }
}

/// The points of the collector's units.
pub(crate) fn is_of_collection(point: &str) -> bool {
    (point.starts_with("collect_") && !point.starts_with("collect_object."))
        || point.starts_with("forget_")
        || point.starts_with("removal.")
}

/// One death at each of `points`, in one deployment.
pub(crate) async fn trial(setting: Setting, points: &[&'static str], seed: u64, log: &std::path::Path) {
    let deployment = Deployment::builder(setting)
        .collecting_at_once()
        .with_env("BERTH__METADATA__UPLOAD_LIFE_SECONDS", "2")
        .with_env("BERTH__METADATA__CLOSED_UPLOAD_SECONDS", "2")
        .with_env("BERTH__METADATA__LONGEST_OPERATION_SECONDS", "1")
        .with_env("BERTH_CRASH_LOG", log.display().to_string())
        .start()
        .await
        .unwrap();
    let baseline = deployment.baseline();
    let victim = deployment.process("metadata");
    let mut content = Content::seeded(seed);
    let mut all = Vec::new();
    for (number, point) in points.iter().enumerate() {
        let what = format!("{point}, deployment of {setting:?}");
        victim.terminate();
        victim.wait_exit(Duration::from_secs(30)).await.unwrap();
        // The later ones come only where a unit runs more than once.
        let once = ["collect_repository", "collect_session", "forget_sessions", "removal", "collect_run"];
        let once = once.iter().any(|unit| point.starts_with(unit));
        let nth = if once { 1 } else { 1 + content.below(2) };
        victim.set_env("BERTH_CRASH_POINTS", Some(format!("{point}:{nth}")));
        // What was left before may bring it there before it is ready, or while more is left.
        let started = deployment.restart("metadata").await;
        victim.set_env("BERTH_CRASH_POINTS", None);
        if let Err(error) = &started {
            assert!(victim.pid().is_none(), "{what}: neither ready nor dead: {error:#}");
        }
        let garbage = Garbage::new(&mut content, number);
        let left = match started {
            Ok(()) => {
                let left = garbage.leave(&deployment).await;
                let status = victim.wait_exit(Duration::from_secs(60)).await;
                let status = status.unwrap_or_else(|error| panic!("{what}: no death: {error:#}; {left:?}"));
                assert!(!status.success(), "{what}: it ended with {status}");
                left
            }
            Err(error) => Err(error),
        };
        deployment.restart("metadata").await.unwrap();
        if left.is_err() {
            garbage.leave(&deployment).await.unwrap_or_else(|error| panic!("{what}, again: {error:#}"));
        }
        all.push(garbage);
        for garbage in &all {
            garbage
                .check(&deployment.client(), false)
                .await
                .unwrap_or_else(|error| panic!("{what}: {error:#}"));
        }
        eprintln!("{what}, time {nth}: whole");
    }
    let verified = deployment.comes_to_rest(&baseline).await.unwrap_or_else(|error| panic!("{error:#}"));
    for garbage in &all {
        garbage.check(&deployment.client(), true).await.unwrap();
    }
    let ended = eventually("all that was asked for is done", || async {
        let call = deployment.anonymous().call(reqwest::Method::GET, "/api/v1/tasks?state=running");
        let secret = STANDARD.encode(format!("{ADMIN}:{PASSWORD}"));
        let reply = call.header("authorization", format!("Basic {secret}")).send().await.ok()?;
        (reply.status == 200 && reply.json()["items"].as_array()?.is_empty()).then_some(())
    });
    ended.await.unwrap_or_else(|error| panic!("{error:#}"));
    // Three layers and a configuration for each, and what the referrers hold.
    let own: std::collections::BTreeSet<_> = all
        .iter()
        .flat_map(|garbage| garbage.live.blobs().chain(garbage.referrer.blobs()))
        .map(|blob| blob.digest)
        .collect();
    let wanted = (own.len() as u64, 2 * all.len() as u64);
    assert_eq!((verified.blobs, verified.manifests), wanted, "of {} rounds", all.len());
}
