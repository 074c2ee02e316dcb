//! Collection beside clients: what is let go goes, with its bytes, and nothing else does.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]
#![allow(clippy::print_stdout, reason = "how much was deleted belongs in the log")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use berth_testkit::{
    Blob, Content, Deployment, Engine, Image, Layout, Manifest, Reply, Repository, Setting, eventually,
};
use futures::future::join_all;
use reqwest::Method;

/// What was touched is safe for so long.
const FLOOR: Duration = Duration::from_secs(2);
const WORKERS: usize = 8;

const APART: Setting = Setting::new(Layout::RolesApart, Engine::Postgres);

/// A deployment that waits for nothing but the floor.
async fn hasty(setting: Setting) -> Deployment {
    let builder = Deployment::builder(setting).collecting_at_once();
    // What an upload put aside goes no sooner than a call of its own may still come.
    builder.with_env("BERTH__METADATA__LONGEST_OPERATION_SECONDS", "5").start().await.unwrap()
}

/// Waits until the blob folder holds exactly so many objects, for as long as their number changes: after a long run, there
/// is a backlog.
async fn settles_at(deployment: &Deployment, expected: usize) {
    loop {
        let before = deployment.objects().len();
        let told = eventually("the number of objects changes", || async {
            let now = deployment.objects().len();
            (now == expected || now != before).then_some(now)
        });
        match told.await {
            Ok(now) if now == expected => return,
            Ok(_) => tokio::time::sleep(FLOOR).await,
            Err(error) => {
                let status = deployment.admin(&["collection", "status"], "").await.unwrap();
                panic!("{error}: {before} objects, not {expected}\n{status}");
            }
        }
    }
}

async fn objects_deleted(deployment: &Deployment) -> usize {
    let series = "berth_collection_reviews_total{queue=\"object\",verdict=\"deleted\"}";
    deployment.process("metadata").metric(series).await.unwrap_or_default() as usize
}

// --- what goes and what stays ----------------------------------------------------------------------------------------

async fn bytes_go_when_the_last_link_goes(deployment: &Deployment) {
    let before = deployment.objects().len();
    let image = Content::named("collection-links").image(3, 5000);
    let (first, second) =
        (deployment.client().repository("links/first"), deployment.client().repository("links/second"));
    for repository in [&first, &second] {
        repository.push_image("v1", &image).await.unwrap().expect(201).unwrap();
    }
    first.delete(&format!("manifests/{}", image.manifest.digest)).await.unwrap().expect(202).unwrap();
    first.manifest("v1").await.unwrap().expect(404).unwrap();
    first.manifest(&image.manifest.digest.to_string()).await.unwrap().expect(404).unwrap();
    for blob in image.blobs() {
        let target = format!("blobs/{}", blob.digest);
        // A GET, since a HEAD by somebody who may push holds what it finds.
        eventually("the link goes", || async {
            (first.get(&target).await.ok()?.status == 404).then_some(())
        })
        .await
        .unwrap();
    }
    second.pull_image("v1", &image).await.unwrap();
    settles_at(deployment, before + 4).await;
    second.pull_image("v1", &image).await.unwrap();
    second.delete(&format!("manifests/{}", image.manifest.digest)).await.unwrap().expect(202).unwrap();
    settles_at(deployment, before).await;
    for blob in image.blobs() {
        second.get(&format!("blobs/{}", blob.digest)).await.unwrap().expect(404).unwrap();
    }
    // The same bytes come back under a new name.
    second.push_image("v1", &image).await.unwrap().expect(201).unwrap();
    second.pull_image("v1", &image).await.unwrap();
    second.delete(&format!("manifests/{}", image.manifest.digest)).await.unwrap().expect(202).unwrap();
    settles_at(deployment, before).await;
}

async fn t19_one_layer_from_many_leaves_one_object(deployment: &Deployment) {
    let before = deployment.objects().len();
    let mut content = Content::named("collection-t19");
    let mut image = content.image(1, 100_000);
    let layer = image.layers.remove(0);
    let repository = deployment.client().repository("same/layer");
    let pushes = (0..64).map(|number| {
        let (repository, layer) = (&repository, &layer);
        async move {
            match number % 2 {
                0 => repository.push_blob(layer).await,
                _ => repository.push_blob_at_once(layer).await,
            }
        }
    });
    for pushed in join_all(pushes).await {
        pushed.unwrap().expect(201).unwrap();
    }
    image.layers.push(layer);
    repository.push_image("v1", &image).await.unwrap().expect(201).unwrap();
    settles_at(deployment, before + 2).await;
    repository.pull_image("v1", &image).await.unwrap();
}

async fn t21_a_referrer_goes_after_its_subject(deployment: &Deployment) {
    let before = deployment.objects().len();
    let mut content = Content::named("collection-t21");
    let subject = content.image(1, 3000);
    let signature = content.artifact("application/signature", Some(&subject.manifest));
    let note = content.artifact("application/note", Some(&signature.manifest));
    let repository = deployment.client().repository("t21/app");
    // Before its subject, and without any tag.
    for artifact in [&signature, &note] {
        let pushed = repository.push_image(&artifact.manifest.digest.to_string(), artifact).await.unwrap();
        assert!(pushed.header("oci-subject").is_some());
    }
    repository.push_image("v1", &subject).await.unwrap().expect(201).unwrap();
    tokio::time::sleep(FLOOR * 2).await;
    let listed = repository.referrers(&subject.manifest.digest, "").await.unwrap();
    assert_eq!(listed, [signature.manifest.digest.to_string()], "it lives with its subject");
    repository.pull_image(&note.manifest.digest.to_string(), &note).await.unwrap();
    repository.delete(&format!("manifests/{}", subject.manifest.digest)).await.unwrap().expect(202).unwrap();
    for gone in [&signature, &note] {
        let reference = gone.manifest.digest.to_string();
        eventually("a referrer goes after its subject", || async {
            (repository.manifest(&reference).await.ok()?.status == 404).then_some(())
        })
        .await
        .unwrap();
    }
    assert!(repository.referrers(&subject.manifest.digest, "").await.unwrap().is_empty());
    settles_at(deployment, before).await;
    // Somebody else than a client deleted them, and the audit trail says so.
    eventually("the audit trail has the deletion", || async {
        let audit = deployment.audit().await.ok()?;
        let told = |image: &Image| {
            audit.iter().any(|entry| {
                entry["digest"] == image.manifest.digest.to_string()
                    && entry["type"] == "artifact.deleted"
                    && entry["principal"] == "system:collection"
            })
        };
        (told(&signature) && told(&note)).then_some(())
    })
    .await
    .unwrap();
}

async fn what_goes_and_what_stays(setting: Setting) {
    let deployment = hasty(setting).await;
    let before = deployment.baseline();
    bytes_go_when_the_last_link_goes(&deployment).await;
    t19_one_layer_from_many_leaves_one_object(&deployment).await;
    t21_a_referrer_goes_after_its_subject(&deployment).await;
    // An upload that came to nothing leaves no repository.
    let abandoned = deployment.client().repository("abandoned/app");
    let upload = abandoned.start_upload().await.unwrap();
    abandoned.delete(&upload).await.unwrap().expect(204).unwrap();
    let status = deployment.admin(&["collection", "status"], "").await.unwrap();
    assert!(status.contains("\"queue\":\"object\"") && status.contains("reclaimable_bytes"), "{status}");
    assert!(deployment.admin(&["collection", "now"], "").await.unwrap().contains(" runs"));
    deployment.comes_to_rest(&before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_and_what_stays_in_one_process() {
    what_goes_and_what_stays(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_and_what_stays_with_roles_apart() {
    what_goes_and_what_stays(APART).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_and_what_stays_on_a_bucket() {
    what_goes_and_what_stays(Setting::EMBEDDED.on_bucket()).await;
}

// --- T20 -------------------------------------------------------------------------------------------------------------

/// What all workers share.
struct Crowd {
    shared: Vec<Blob>,
    until: Instant,
    /// Touched for the first time so long ago that the floor was over; nothing is promised then.
    late: AtomicUsize,
    pushed: AtomicUsize,
    mounted: AtomicUsize,
}

struct Worker {
    crowd: Arc<Crowd>,
    number: usize,
    repository: Repository,
    content: Content,
    live: BTreeMap<String, Image>,
    indexes: BTreeMap<String, (Manifest, Vec<Image>)>,
}

fn fine(reply: Reply, what: &str) -> Reply {
    assert!(reply.status < 500, "{what}: {} {}", reply.status, String::from_utf8_lossy(&reply.body));
    reply
}

impl Worker {
    fn image(&mut self) -> Image {
        let mut image = self.content.image(1, 2000);
        let shared = &self.crowd.shared;
        for _ in 0..2 {
            let index = usize::try_from(self.content.below(shared.len() as u64)).unwrap();
            if !image.layers.contains(&shared[index]) {
                image.layers.push(shared[index].clone());
            }
        }
        let document = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": berth_oci::MediaType::OCI_MANIFEST,
            "config": berth_testkit::descriptor(&image.config),
            "layers": image.layers.iter().map(berth_testkit::descriptor).collect::<Vec<_>>(),
        });
        image.manifest = Blob::json(berth_oci::MediaType::OCI_MANIFEST, &document);
        image
    }

    /// Sees to it that the repository has a blob: found by HEAD, mounted, or uploaded.
    async fn provide(&mut self, blob: &Blob) {
        let way = self.content.below(3);
        if way == 0 {
            let head = self.repository.head(&format!("blobs/{}", blob.digest)).await.unwrap();
            if fine(head, "HEAD").status == 200 {
                return;
            }
        } else if way == 1 {
            let from = usize::try_from(self.content.below(WORKERS as u64)).unwrap();
            let target = format!("/blobs/uploads/?mount={}&from=t20/w{from}", blob.digest);
            let mount = self.repository.call(Method::POST, &target).await.unwrap().send().await.unwrap();
            let mount = fine(mount, "mount");
            if mount.status == 201 {
                self.crowd.mounted.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let upload = mount.expect(202).unwrap().location().unwrap();
            let digest = blob.digest.to_string();
            self.repository.finish(&upload, &digest, blob.bytes.clone()).await.unwrap().expect(201).unwrap();
            return;
        }
        self.repository.push_blob_at_once(blob).await.unwrap();
    }

    /// Pushes an image. Whatever it touched within the floor is there when the manifest comes.
    async fn push(&mut self, reference: &str, image: &Image) -> Instant {
        loop {
            let touched = Instant::now();
            for blob in image.blobs() {
                self.provide(blob).await;
            }
            let put = self.repository.put_manifest(reference, &image.manifest).await.unwrap();
            let put = fine(put, "PUT of a manifest");
            if put.status == 201 {
                self.crowd.pushed.fetch_add(1, Ordering::Relaxed);
                return touched;
            }
            let took = touched.elapsed();
            let body = String::from_utf8_lossy(&put.body).into_owned();
            assert!(took > FLOOR, "{} {took:?} after the first touch: {body}", put.status);
            self.crowd.late.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn push_index(&mut self, tag: String) {
        let children: Vec<_> = (0..2).map(|_| self.image()).collect();
        let index = self.content.index(&children.iter().map(|child| &child.manifest).collect::<Vec<_>>());
        loop {
            let touched = Instant::now();
            for child in &children {
                self.push(&child.manifest.digest.to_string(), child).await;
            }
            let put = fine(self.repository.put_manifest(&tag, &index).await.unwrap(), "PUT of an index");
            if put.status == 201 {
                break;
            }
            let body = String::from_utf8_lossy(&put.body).into_owned();
            assert!(touched.elapsed() > FLOOR, "{}: {body}", put.status);
            self.crowd.late.fetch_add(1, Ordering::Relaxed);
        }
        if let Some((before, _)) = self.indexes.insert(tag, (index, children)) {
            self.delete(format!("manifests/{}", before.digest)).await;
        }
    }

    /// The tag has a new image; the old one would be kept untagged.
    async fn replace(&mut self, tag: String, image: Image) {
        if let Some(before) = self.live.insert(tag, image) {
            self.delete(format!("manifests/{}", before.manifest.digest)).await;
        }
    }

    async fn delete(&self, target: String) {
        fine(self.repository.delete(&target).await.unwrap(), "DELETE").expect(202).unwrap();
    }

    async fn run(mut self) -> Self {
        let mut round = 0;
        while Instant::now() < self.crowd.until {
            round += 1;
            let tag = format!("t{}", round % 5);
            match self.content.below(8) {
                0 => self.push_index(format!("multi{}", round % 2)).await,
                1 => {
                    // An artifact that goes with its subject.
                    let image = self.image();
                    self.push(&tag, &image).await;
                    let note = self.content.artifact("application/note", Some(&image.manifest));
                    self.push(&note.manifest.digest.to_string(), &note).await;
                    self.replace(tag, image).await;
                }
                2 => {
                    if let Some((_, image)) = self.live.pop_first() {
                        self.delete(format!("manifests/{}", image.manifest.digest)).await;
                    }
                }
                3 => {
                    if let Some((_, (index, _))) = self.indexes.pop_first() {
                        self.delete(format!("manifests/{}", index.digest)).await;
                    }
                }
                4 => {
                    // Retagged and untagged; then deleted, or it would be kept.
                    let image = self.image();
                    self.push("moving", &image).await;
                    self.push("moved", &image).await;
                    self.delete("manifests/moving".to_owned()).await;
                    self.delete(format!("manifests/{}", image.manifest.digest)).await;
                }
                5 => {
                    // Bytes that no manifest ever names.
                    let layer = self.content.layer(1000);
                    self.provide(&layer).await;
                }
                _ => {
                    let image = self.image();
                    self.push(&tag, &image).await;
                    self.replace(tag, image).await;
                }
            }
        }
        self
    }

    async fn check(&self) {
        for (tag, image) in &self.live {
            let pulled = self.repository.pull_image(tag, image).await;
            assert!(pulled.is_ok(), "worker {} {tag}: {pulled:?}", self.number);
        }
        for (tag, (index, children)) in &self.indexes {
            let found = self.repository.manifest(tag).await.unwrap().expect(200).unwrap();
            assert_eq!(found.body, index.bytes, "worker {} {tag}", self.number);
            for child in children {
                self.repository.pull_image(&child.manifest.digest.to_string(), child).await.unwrap();
            }
        }
    }

    fn live_blobs(&self) -> impl Iterator<Item = String> {
        let images = self.live.values().chain(self.indexes.values().flat_map(|(_, children)| children));
        images.flat_map(|image| image.blobs().map(|blob| blob.digest.to_string()))
    }
}

async fn t20(setting: Setting, duration: Duration, at_least: usize) {
    let deployment = hasty(setting).await;
    let before = deployment.baseline();
    let mut content = Content::named("t20");
    let crowd = Arc::new(Crowd {
        shared: (0..10).map(|_| content.layer(4000)).collect(),
        until: Instant::now() + duration,
        late: AtomicUsize::new(0),
        pushed: AtomicUsize::new(0),
        mounted: AtomicUsize::new(0),
    });
    let workers = (0..WORKERS).map(|number| {
        let worker = Worker {
            crowd: Arc::clone(&crowd),
            number,
            // Of their own, so that no token is shared.
            repository: deployment.client().repository(format!("t20/w{number}")),
            content: Content::seeded(2000 + number as u64),
            live: BTreeMap::new(),
            indexes: BTreeMap::new(),
        };
        worker.run()
    });
    let done = join_all(workers).await;
    let deleted = objects_deleted(&deployment).await;
    let count = |number: &AtomicUsize| number.load(Ordering::Relaxed);
    println!(
        "{} manifests pushed, {} blobs mounted, {} pushes outlived the floor; {deleted} objects deleted meanwhile",
        count(&crowd.pushed),
        count(&crowd.mounted),
        count(&crowd.late),
    );
    for worker in &done {
        worker.check().await;
    }
    assert!(deleted >= at_least, "only {deleted} objects were deleted while clients worked");
    // At rest nothing is left that no live tag reaches, and everything that one does.
    let live: BTreeSet<_> = done.iter().flat_map(Worker::live_blobs).collect();
    let notes = Blob::new("", "{}");
    let held_by_notes = usize::from(eventually_has_notes(&done, &notes).await);
    settles_at(&deployment, live.len() + held_by_notes).await;
    deployment.comes_to_rest(&before).await.unwrap();
    for worker in &done {
        worker.check().await;
    }
    for process in deployment.processes() {
        let failed = process.log().into_iter().find(|line| line.contains("\"level\":\"ERROR\""));
        assert!(failed.is_none(), "{}: {failed:?}", process.name());
    }
}

/// Whether a referrer of something live holds the empty config.
async fn eventually_has_notes(workers: &[Worker], config: &Blob) -> bool {
    tokio::time::sleep(FLOOR * 3).await;
    for worker in workers {
        // A GET, which holds nothing.
        if worker.repository.get(&format!("blobs/{}", config.digest)).await.unwrap().status == 200 {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_collection_beside_clients_in_one_process() {
    t20(Setting::EMBEDDED, Duration::from_secs(120), 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_collection_beside_clients_with_roles_apart() {
    t20(APART, Duration::from_secs(120), 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half an hour; the long tier"]
async fn long_t20_collection_beside_clients_in_one_process() {
    t20(Setting::EMBEDDED, Duration::from_secs(1800), 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_collection_beside_clients_on_a_bucket() {
    t20(APART.on_bucket(), Duration::from_secs(120), 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half an hour; the long tier"]
async fn long_t20_collection_beside_clients_on_a_bucket() {
    t20(APART.on_bucket(), Duration::from_secs(1800), 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half an hour; the long tier"]
async fn long_t20_collection_beside_clients_with_roles_apart() {
    t20(APART, Duration::from_secs(1800), 10_000).await;
}
