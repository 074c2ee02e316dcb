//! Storage of instances: bytes land where the operator wants them, old ones stay reachable, credentials change under way,
//! and nobody learns a secret.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use berth_testkit::{
    Blob, Client, Content, Deployment, Engine, Layout, ObjectStorage, Repository, Setting, eventually,
};
use bytes::Bytes;
use reqwest::{Body, Method};
use tokio::sync::mpsc;

const APART: Setting = Setting::new(Layout::RolesApart, Engine::Postgres);
/// The secrets of the buckets, which nothing but the storage may know in plain text.
const SECRETS: [&str; 4] =
    ["s3cret-of-the-first", "s3cret-of-the-second", "s3cret-once-rotated", "s3cret-of-nobody"];

/// The storage of two tenants, folders for tenants, and a deployment with a blob folder.
struct World {
    storage: ObjectStorage,
    deployment: Deployment,
    folder: tempfile::TempDir,
}

impl World {
    async fn start(setting: Setting, refresh: u32) -> Self {
        let storage = ObjectStorage::start();
        storage.add_bucket("first", "key-first", SECRETS[0]);
        storage.add_bucket("second", "key-second", SECRETS[1]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tenants")).unwrap();
        let directories = format!("[{:?}]", folder.path().join("tenants"));
        let deployment = Deployment::builder(setting)
            .with_env("BERTH__METADATA__REVIEW_FLOOR_SECONDS", "2")
            .with_env("BERTH__METADATA__OBJECT_GRACE_SECONDS", "1")
            .with_env("BERTH__METADATA__LONGEST_OPERATION_SECONDS", "1")
            .with_env("BERTH__METADATA__COLLECTION_POLL_SECONDS", "1")
            .with_env("BERTH__LOG__FILTER", "debug,hyper=info,h2=info")
            .with_env("BERTH__BLOB_STORE__DIRECTORIES", directories)
            .with_env("BERTH__BLOB_STORE__STORES_REFRESH_SECONDS", refresh.to_string())
            .start()
            .await
            .unwrap();
        Self { storage, deployment, folder }
    }

    fn tenants(&self) -> PathBuf {
        self.folder.path().join("tenants")
    }

    fn repository(&self, name: &str) -> Repository {
        self.deployment.client().repository(name)
    }

    /// Words that name a bucket of the storage.
    fn bucket<'a>(&'a self, url: &'a str, bucket: &'a str, key: &'a str) -> Vec<&'a str> {
        let place = ["--bucket", bucket, "--endpoint", url, "--path-style"];
        [&place[..], &["--access-key", key, "--secret-key-file", "-"]].concat()
    }

    async fn set(&self, instance: &str, place: &[&str], secret: &str) -> anyhow::Result<String> {
        let words = [&["set-storage", "--instance", instance], place].concat();
        self.deployment.admin(&words, secret).await
    }

    /// The same, and waits until the gateway has taken it over: blobs land where `landed` looks.
    async fn turn_to(&self, place: &[&str], secret: &str, landed: impl Fn() -> usize) {
        self.set("default", place, secret).await.unwrap();
        let before = landed();
        let mut content = Content::named(&place.join(" "));
        let repository = self.repository("turning/app");
        for _ in 0..100 {
            repository.push_blob_at_once(&content.layer(100)).await.unwrap().expect(201).unwrap();
            if landed() > before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{place:?} is not taken over");
    }

    async fn shown(&self, instance: &str) -> Vec<serde_json::Value> {
        let text = self.deployment.admin(&["show-storage", "--instance", instance], "").await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn audited(&self) -> Vec<String> {
        let audit = self.deployment.audit().await.unwrap();
        let kinds = audit.iter().filter_map(|entry| entry["type"].as_str());
        kinds.filter(|kind| kind.starts_with("instance.")).map(str::to_owned).collect()
    }

    /// Every file, row, log line and answer that could hold a secret.
    async fn tells_no_secret(&self) {
        let mut texts: Vec<(String, Vec<u8>)> = Vec::new();
        files_below(self.deployment.folder(), &mut |path| {
            texts.push((path.display().to_string(), std::fs::read(path).unwrap_or_default()));
        });
        assert!(texts.len() > 1);
        for process in self.deployment.processes() {
            texts.push((format!("the log of {}", process.name()), process.log().join("\n").into()));
            let metrics = process.metrics().await.unwrap();
            texts.push((format!("the metrics of {}", process.name()), metrics.into()));
        }
        texts.push(("show-storage".to_owned(), format!("{:?}", self.shown("default").await).into()));
        texts.push(("the audit".to_owned(), format!("{:?}", self.deployment.audit().await.unwrap()).into()));
        if self.deployment.setting().engine == Engine::Postgres {
            let mut sql = self.deployment.sql().await.unwrap();
            let query = "SELECT stores::text || ' ' || coalesce(encode(secret, 'escape'), '') \
                         FROM instance_manager.stores";
            let rows = sql.texts(query).await.unwrap();
            assert!(!rows.is_empty());
            texts.push(("the rows of stores".to_owned(), rows.join("\n").into()));
        }
        for (place, text) in texts {
            for secret in SECRETS {
                let found = text.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{secret} is in {place}");
            }
        }
    }
}

fn files_below(folder: &Path, see: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, see);
        } else if path.is_file() {
            see(&path);
        }
    }
}

fn count_below(folder: &Path) -> usize {
    let mut count = 0;
    files_below(folder, &mut |path| count += usize::from(path.file_name().unwrap() != "blob-store.lock"));
    count
}

/// Without what uploads have put aside and not let go yet.
fn whole(keys: Vec<String>) -> Vec<String> {
    keys.into_iter().filter(|key| !key.contains(".t")).collect()
}

/// Pushes one in each way.
async fn push(repository: &Repository, content: &mut Content) -> Vec<Blob> {
    let (small, large, chunked) = (content.layer(1000), content.layer(11_000_000), content.layer(9_000_000));
    repository.push_blob_at_once(&small).await.unwrap().expect(201).unwrap();
    repository.push_blob(&large).await.unwrap().expect(201).unwrap();
    repository.push_blob_in_chunks(&chunked, 2_999_999).await.unwrap().expect(201).unwrap();
    vec![small, large, chunked]
}

async fn blobs_go_where_the_instance_wants_them(setting: Setting) {
    let world = World::start(setting, 1).await;
    let World { storage, deployment, .. } = &world;
    let url = storage.url();
    let repository = world.repository("moving/app");
    let mut content = Content::seeded(21);
    let mut blobs = push(&repository, &mut content).await;
    let in_folder = deployment.objects().len();
    assert_eq!(in_folder, 3);

    let first = [world.bucket(&url, "first", "key-first"), vec!["--prefix", "tenant/"]].concat();
    world.turn_to(&first, SECRETS[0], || storage.keys_in("first").len()).await;
    let in_folder = deployment.objects().len();
    blobs.extend(push(&repository, &mut content).await);
    assert!(storage.keys_in("first").iter().all(|key| key.starts_with("tenant/i/")));
    assert!(storage.keys_in("first").len() >= 4);
    assert_eq!(deployment.objects().len(), in_folder, "nothing goes to the blob folder any more");

    let second = world.bucket(&url, "second", "key-second");
    world.turn_to(&second, SECRETS[1], || storage.keys_in("second").len()).await;
    let in_first = whole(storage.keys_in("first"));
    blobs.extend(push(&repository, &mut content).await);
    assert_eq!(whole(storage.keys_in("first")), in_first);

    let own = world.tenants().join("default/blobs");
    let own_name = own.to_str().unwrap().to_owned();
    world.turn_to(&["--directory", &own_name], "", || count_below(&own)).await;
    blobs.extend(push(&repository, &mut content).await);

    // What does not work is said, and changes nothing.
    let before = world.shown("default").await;
    let nothing = "http://127.0.0.1:9";
    let elsewhere = world.folder.path().join("elsewhere");
    let climbing = world.tenants().join("../elsewhere");
    let link = world.tenants().join("link");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    let linked = link.join("x");
    for (place, secret, reason) in [
        (world.bucket(&url, "first", "key-first"), SECRETS[3], "the secret is not the one of the access key"),
        (world.bucket(&url, "first", "key-nobody"), SECRETS[3], "the access key is not known there"),
        (world.bucket(&url, "first", "key-second"), SECRETS[1], "access is denied"),
        (world.bucket(nothing, "first", "key-first"), SECRETS[0], "can't be reached"),
        (vec!["--directory", elsewhere.to_str().unwrap()], "", "is not below a folder"),
        (vec!["--directory", climbing.to_str().unwrap()], "", "without .."),
        (vec!["--directory", linked.to_str().unwrap()], "", "is not below a folder"),
        (vec!["--directory", "/"], "", "is not below a folder"),
    ] {
        let said = world.set("default", &place, secret).await.unwrap_err().to_string();
        assert!(said.contains(reason), "{place:?}: {said}");
    }
    storage.set_key("key-absent", SECRETS[3], "absent");
    let absent = world.bucket(&url, "absent", "key-absent");
    let said = world.set("default", &absent, SECRETS[3]).await.unwrap_err().to_string();
    assert!(said.contains("there is no bucket absent"), "{said}");
    assert_eq!(world.shown("default").await, before);
    assert_eq!(count_below(&elsewhere), 0);
    assert_eq!(before.iter().filter(|store| store["current"] == true).count(), 1);
    assert_eq!(before.len(), 3);

    // Everything is served from where it is, and looked through there.
    for blob in &blobs {
        repository.pull_blob(blob).await.unwrap();
    }
    let verified = deployment.is_sound().await.unwrap();
    assert!(verified.objects >= verified.blobs && verified.blobs >= 12, "{verified:?}");
    world.tells_no_secret().await;
    let audited = world.audited().await;
    assert_eq!(audited, ["instance.storage_changed"; 3]);

    // Back to the deployment's; and what nobody needs goes from wherever it is.
    world.turn_to(&["--shared"], "", || deployment.objects().len()).await;
    for blob in &blobs {
        repository.delete(&format!("/blobs/{}", blob.digest)).await.unwrap().expect(202).unwrap();
    }
    eventually("the bytes of deleted blobs go", || async {
        deployment.admin(&["collection", "now"], "").await.ok()?;
        let left = storage.keys_in("first").len() + storage.keys_in("second").len() + count_below(&own);
        (left == 0 && storage.parts_left() == 0).then_some(())
    })
    .await
    .unwrap();
    // A place that was used before is the same store again.
    world.turn_to(&first, SECRETS[0], || storage.keys_in("first").len()).await;
    assert_eq!(world.shown("default").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_go_where_their_instance_wants_them() {
    blobs_go_where_the_instance_wants_them(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_go_where_their_instance_wants_them_with_roles_apart() {
    blobs_go_where_the_instance_wants_them(APART).await;
}

/// A body that comes when it is told to.
fn body_in_steps() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let steps = futures::stream::unfold(receiver, |mut receiver| async move {
        let step = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(step), receiver))
    });
    (sender, Body::wrap_stream(steps))
}

async fn credentials_change_under_way(setting: Setting) {
    // So long that only a refusal has them looked up again.
    let world = World::start(setting, 3600).await;
    let World { storage, deployment, .. } = &world;
    let url = storage.url();
    let place = world.bucket(&url, "first", "key-first");
    world.turn_to(&place, SECRETS[0], || storage.keys_in("first").len()).await;
    let repository = world.repository("rotating/app");
    let mut content = Content::seeded(22);
    let old = content.layer(2000);
    repository.push_blob_at_once(&old).await.unwrap().expect(201).unwrap();

    let blob = content.layer(40_000_000);
    let upload = repository.start_upload().await.unwrap();
    let (sender, body) = body_in_steps();
    let call = repository.call(Method::PATCH, &upload).await.unwrap().body(body);
    let rotate = async {
        let mut steps = blob.bytes.chunks(1_000_000).map(Bytes::copy_from_slice);
        for step in steps.by_ref().take(20) {
            sender.send(step).await.unwrap();
        }
        eventually("parts are written", || async { (storage.parts_left() > 0).then_some(()) }).await.unwrap();
        // Wrong ones change nothing.
        let words =
            ["rotate-storage-credentials", "--instance", "default", "--secret-key-file", "-", "--access-key"];
        let shown = world.shown("default").await;
        let wrong = deployment.admin(&[&words[..], &["key-nobody"]].concat(), SECRETS[3]).await;
        let wrong = wrong.unwrap_err().to_string();
        assert!(wrong.contains("the access key is not known there"), "{wrong}");
        assert_eq!(world.shown("default").await, shown);
        storage.set_key("key-third", SECRETS[2], "first");
        deployment.admin(&[&words[..], &["key-third"]].concat(), SECRETS[2]).await.unwrap();
        storage.revoke_key("key-first");
        for step in steps {
            sender.send(step).await.unwrap();
        }
        drop(sender);
    };
    let (reply, ()) = tokio::join!(call.send(), rotate);
    let upload = reply.unwrap().expect(202).unwrap().location().unwrap();
    let digest = blob.digest.to_string();
    repository.finish(&upload, &digest, Bytes::new()).await.unwrap().expect(201).unwrap();
    repository.pull_blob(&blob).await.unwrap();
    repository.pull_blob(&old).await.unwrap();
    // The same key with another secret.
    storage.set_key("key-third", SECRETS[0], "first");
    let words = ["rotate-storage-credentials", "--instance", "default", "--access-key", "key-third"];
    let rotated = [&words[..], &["--secret-key-file", "-"]].concat();
    deployment.admin(&rotated, SECRETS[0]).await.unwrap();
    repository.pull_blob(&blob).await.unwrap();
    let next = content.layer(3000);
    repository.push_blob(&next).await.unwrap().expect(201).unwrap();
    let shown = world.shown("default").await;
    assert_eq!((shown.len(), &shown[0]["settings"]["access_key"]), (1, &"key-third".into()));
    world.tells_no_secret().await;
    let audited = world.audited().await;
    assert_eq!(audited[0], "instance.storage_changed");
    assert_eq!(audited[1..], ["instance.storage_credentials_rotated"; 2]);
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_change_while_a_blob_is_pushed() {
    credentials_change_under_way(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_change_while_a_blob_is_pushed_with_roles_apart() {
    credentials_change_under_way(APART).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_credentials_are_taken_up_by_themselves() {
    let world = World::start(Setting::EMBEDDED, 1).await;
    let url = world.storage.url();
    let place = world.bucket(&url, "first", "key-first");
    world.turn_to(&place, SECRETS[0], || world.storage.keys_in("first").len()).await;
    world.storage.set_key("key-third", SECRETS[2], "first");
    let words = ["rotate-storage-credentials", "--instance", "default", "--access-key", "key-third"];
    let rotated = [&words[..], &["--secret-key-file", "-"]].concat();
    world.deployment.admin(&rotated, SECRETS[2]).await.unwrap();
    // Nothing was refused, and yet the new ones are in use before the old are revoked.
    let berth = &world.deployment.processes()[0];
    eventually("the new ones are in use", || async {
        berth.log().iter().any(|line| line.contains("new credentials of a store are in use")).then_some(())
    })
    .await
    .unwrap();
    world.storage.revoke_key("key-first");
    let blob = Content::seeded(23).layer(1000);
    world.repository("rotating/app").push_blob(&blob).await.unwrap().expect(201).unwrap();
}

/// Makes a second instance by its rows, since there is no other way yet.
async fn second_instance(world: &World) -> String {
    let id = "01K0000000000000000000TWO2".replace('O', "0");
    let mut sql = world.deployment.sql().await.unwrap();
    sql.run(&format!(
        "INSERT INTO instance_manager.instances (id, name, is_default, created_at) \
         VALUES ('{id}', 'second', FALSE, 0); \
         UPDATE instance_manager.settings SET revision = revision + 1"
    ))
    .await
    .unwrap();
    eventually("the instance is known", || async {
        let known = world.deployment.admin(&["instances"], "").await.ok()?;
        known.contains(&id).then_some(())
    })
    .await
    .unwrap();
    id
}

/// Has every host mean this instance, with an administrator of its own.
async fn serve_instance(world: &World, name: &str) -> Client {
    let mut sql = world.deployment.sql().await.unwrap();
    sql.run(&format!(
        "UPDATE instance_manager.instances SET is_default = FALSE; \
         UPDATE instance_manager.instances SET is_default = TRUE WHERE name = '{name}'; \
         UPDATE instance_manager.settings SET revision = revision + 1"
    ))
    .await
    .unwrap();
    world.deployment.restart("instance-manager").await.unwrap();
    let client = world.deployment.client();
    eventually("the gateway serves the instance", || async {
        let reply = Client::new(world.deployment.url()).call(Method::GET, "/v2/").send().await.ok()?;
        let challenge = reply.header("www-authenticate")?.to_owned();
        challenge.contains(&format!("service=\"{name}\"")).then_some(())
    })
    .await
    .unwrap();
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_have_storage_of_their_own() {
    let world = World::start(APART, 1).await;
    let World { storage, deployment, .. } = &world;
    let url = storage.url();
    let id = second_instance(&world).await;
    let place = world.bucket(&url, "first", "key-first");
    world.turn_to(&place, SECRETS[0], || storage.keys_in("first").len()).await;
    world.set("second", &world.bucket(&url, "second", "key-second"), SECRETS[1]).await.unwrap();
    assert!(storage.keys_in("second").is_empty(), "the trial leaves nothing");
    // The other's key does not open it.
    let said = world.set("second", &world.bucket(&url, "first", "key-second"), SECRETS[1]).await.unwrap_err();
    assert!(said.to_string().contains("access is denied"), "{said}");
    let mut content = Content::seeded(24);
    let of_first = push(&world.repository("tenant/app"), &mut content).await;
    let in_first = whole(storage.keys_in("first"));
    assert!(in_first.iter().all(|key| !key.contains(&id)));

    let second = serve_instance(&world, "second").await.repository("tenant/app");
    assert!(!second.has_blob(&of_first[0].digest).await.unwrap(), "it is another tenant's");
    let of_second = push(&second, &mut content).await;
    // The same bytes are there twice, once for each.
    second.push_blob(&of_first[1]).await.unwrap().expect(201).unwrap();
    assert_eq!(whole(storage.keys_in("first")), in_first);
    let in_second = whole(storage.keys_in("second"));
    assert_eq!(in_second.len(), 4, "{in_second:?}");
    assert!(in_second.iter().all(|key| key.starts_with(&format!("i/{id}/"))));
    for blob in &of_second {
        second.pull_blob(blob).await.unwrap();
    }
    deployment.is_sound().await.unwrap();

    let first = serve_instance(&world, "default").await.repository("tenant/app");
    for blob in &of_first {
        first.pull_blob(blob).await.unwrap();
    }
    assert!(!first.has_blob(&of_second[0].digest).await.unwrap());
    assert_eq!(world.shown("default").await[0]["settings"]["bucket"], "first");
    assert_eq!(world.shown("second").await[0]["settings"]["bucket"], "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_and_pushes_go_on_while_instance_manager_is_away() {
    let world = World::start(APART, 1).await;
    let url = world.storage.url();
    let place = world.bucket(&url, "first", "key-first");
    world.turn_to(&place, SECRETS[0], || world.storage.keys_in("first").len()).await;
    let repository = world.repository("alone/app");
    let mut content = Content::seeded(25);
    let before = content.layer(6_000_000);
    repository.push_blob(&before).await.unwrap().expect(201).unwrap();
    world.deployment.process("instance-manager").kill();
    let since = std::time::Instant::now();
    // Longer than settings are looked up again.
    while since.elapsed() < Duration::from_secs(5) {
        repository.pull_blob(&before).await.unwrap();
        let blob = content.layer(6_000_000);
        repository.push_blob(&blob).await.unwrap().expect(201).unwrap();
        repository.pull_blob(&blob).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(world.set("default", &["--shared"], "").await.is_err());
    world.deployment.restart("instance-manager").await.unwrap();
    world.deployment.is_sound().await.unwrap();
}

/// One tenant's bucket is gone: that is said, and everybody else's blobs are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_goes_on_past_a_store_that_is_away() {
    let world = World::start(Setting::EMBEDDED, 1).await;
    let url = world.storage.url();
    let kept = Content::named("kept").layer(10_000);
    world.repository("scrub/kept").push_blob(&kept).await.unwrap().expect(201).unwrap();
    let place = world.bucket(&url, "first", "key-first");
    world.turn_to(&place, SECRETS[0], || world.storage.keys_in("first").len()).await;
    let sound = world.deployment.is_sound().await.unwrap();
    world.storage.set_away(true);
    let verified = world.deployment.verify().await.unwrap();
    assert_eq!(verified.exit_code, Some(3), "{verified:#?}");
    assert!(verified.findings.iter().all(|finding| finding.contains("unreachable")), "{verified:#?}");
    assert_eq!(verified.blobs, sound.blobs);
    world.repository("scrub/kept").pull_blob(&kept).await.unwrap();
}

/// What goes to a bucket of one's own may be encrypted before it goes.
#[tokio::test(flavor = "multi_thread")]
async fn an_instances_own_bucket_gets_nothing_in_plain() {
    let world = World::start(Setting::EMBEDDED, 1).await;
    let url = world.storage.url();
    let place = [world.bucket(&url, "first", "key-first"), vec!["--encrypted"]].concat();
    world.turn_to(&place, SECRETS[0], || world.storage.keys_in("first").len()).await;
    let text = Bytes::from("a secret of the tenant, over and over; ".repeat(20_000));
    let blob = Blob::new("application/octet-stream", text);
    let repository = world.repository("sealed/app");
    repository.push_blob(&blob).await.unwrap().expect(201).unwrap();
    repository.pull_blob(&blob).await.unwrap();
    for key in world.storage.keys_in("first") {
        let stored = std::fs::read(world.storage.file_in("first", &key)).unwrap();
        let plain = stored.windows(24).any(|window| window == b"a secret of the tenant, ");
        assert!(!plain, "{key} has plain text");
    }
    world.deployment.is_sound().await.unwrap();
}
