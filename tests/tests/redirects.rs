//! Blobs that clients get from the object storage itself (T39): who is sent there, with what, for how long, and who is not.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use berth_service::Tasks;
use berth_testkit::{
    Blob, Client, Content, Deployment, Engine, Layout, ObjectStorage, Reply, Repository, Setting,
    object_storage::{BUCKET, SECRET_KEY},
};
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Where clients reach the storage: passes everything on, and keeps what it was sent.
struct Front {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    _tasks: Tasks,
}

async fn pass_on(mut client: TcpStream, storage: SocketAddr, heard: Arc<Mutex<Vec<u8>>>) {
    let Ok(mut server) = TcpStream::connect(storage).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let listen = async {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            heard.lock().unwrap().extend_from_slice(&buffer[..length]);
            if to_server.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = listen => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

impl Front {
    async fn start(storage: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let (tasks, kept) = (Tasks::new(), Arc::clone(&heard));
        let of_connections = tasks.clone();
        tasks.spawn("front", async move {
            while let Ok((client, _)) = listener.accept().await {
                of_connections.spawn("connection", pass_on(client, storage, Arc::clone(&kept)));
            }
        });
        Self { address, heard, _tasks: tasks }
    }

    /// What clients have sent since the last time, in lower case.
    fn heard(&self) -> String {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        String::from_utf8_lossy(&heard).to_lowercase()
    }
}

struct World {
    deployment: Deployment,
    front: Front,
    _storage: ObjectStorage,
}

async fn world(setting: Setting) -> World {
    let storage = ObjectStorage::start();
    let front = Front::start(storage.address()).await;
    let public = format!("http://localhost:{}", front.address.port());
    let filter = "debug,berth_gateway=trace,berth_blob_store=trace,hyper=trace";
    let builder = Deployment::builder(setting)
        .with_env("BERTH__LOG__FILTER", filter)
        .with_env("BERTH__BLOB_STORE__S3__PUBLIC_ENDPOINT", public);
    let deployment = storage.holds_blobs_of(builder).start().await.unwrap();
    World { deployment, front, _storage: storage }
}

impl World {
    fn repository(&self, name: &str) -> Repository {
        self.deployment.client().repository(name)
    }

    /// Sets the delivery and waits until the gateway has taken it over.
    async fn deliver(&self, delivery: &str, repository: &Repository, blob: &Blob) {
        self.deployment.admin(&["set-blob-delivery", "default", delivery], "").await.unwrap();
        let since = Instant::now();
        let wanted = if delivery == "redirect" { 307 } else { 200 };
        while get(repository, blob).await.status != wanted {
            assert!(since.elapsed() < Duration::from_secs(5), "{delivery} is not taken over");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn get(repository: &Repository, blob: &Blob) -> Reply {
    repository.get(&format!("/blobs/{}", blob.digest)).await.unwrap()
}

/// GET by somebody without any credentials.
async fn fetch(url: &str, range: Option<&str>) -> Reply {
    let (host, path) = url.split_at(url.match_indices('/').nth(2).unwrap().0);
    let call = Client::new(host).call(Method::GET, path);
    let call = if let Some(range) = range { call.header("range", range) } else { call };
    call.send().await.unwrap()
}

async fn blobs_come_from_the_storage(setting: Setting) {
    let world = world(setting).await;
    let repository = world.repository("away/app");
    let mut content = Content::seeded(11);
    let blobs = [content.layer(0), content.layer(1000), content.layer(12_000_000)];
    for blob in &blobs {
        repository.push_blob_at_once(blob).await.unwrap();
        repository.pull_blob(blob).await.unwrap();
    }
    assert!(world.front.heard().is_empty(), "the registry itself uses the other endpoint");
    world.deliver("redirect", &repository, &blobs[0]).await;
    for blob in &blobs {
        let reply = get(&repository, blob).await.expect(307).unwrap();
        assert!(reply.body.is_empty());
        assert_eq!(reply.header("docker-content-digest").unwrap(), blob.digest.to_string());
        assert_eq!(reply.header("cache-control"), Some("private, no-store"));
        let url = reply.header("location").unwrap().to_owned();
        let place = format!("http://localhost:{}/{BUCKET}/i/", world.front.address.port());
        assert!(url.starts_with(&place) && url.contains("X-Amz-Expires=300&"), "{url}");
        assert_eq!(fetch(&url, None).await.expect(200).unwrap().body, blob.bytes);
        let expires = url.replace("X-Amz-Expires=300", "X-Amz-Expires=301");
        assert_eq!(fetch(&expires, None).await.status, 403);
    }
    let blob = &blobs[2];
    let target = format!("/blobs/{}", blob.digest);
    let part = repository.call(Method::GET, &target).await.unwrap().header("range", "bytes=5000000-5999999");
    let url = part.send().await.unwrap().expect(307).unwrap().header("location").unwrap().to_owned();
    let part = fetch(&url, Some("bytes=5000000-5999999")).await.expect(206).unwrap();
    assert_eq!(part.body, blob.bytes.slice(5_000_000..6_000_000));
    // What needs no bytes is answered as ever.
    let head = repository.head(&target).await.unwrap().expect(200).unwrap();
    assert_eq!(head.header("content-length"), Some("12000000"));
    let beyond = repository.call(Method::GET, &target).await.unwrap().header("range", "bytes=12000000-");
    beyond.send().await.unwrap().expect(416).unwrap();
    let known = format!("\"{}\"", blob.digest);
    let known = repository.call(Method::GET, &target).await.unwrap().header("if-none-match", known);
    known.send().await.unwrap().expect(304).unwrap();

    // A client that follows takes the bytes and leaves its token.
    world.front.heard();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = client
        .get(format!("{}/v2/away/app{target}", world.deployment.url()))
        .bearer_auth(repository.token().await.unwrap());
    let reply = asked.send().await.unwrap();
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.bytes().await.unwrap(), blob.bytes);
    let heard = world.front.heard();
    assert!(heard.starts_with("get ") && !heard.contains("authorization"), "{heard}");

    world.deliver("stream", &repository, &blobs[0]).await;
    repository.pull_blob(blob).await.unwrap();
    for process in world.deployment.processes() {
        let log = process.log();
        let said = log.iter().find(|line| line.contains("X-Amz-Signature") || line.contains(SECRET_KEY));
        assert_eq!(said, None, "{} logs URLs", process.name());
    }
    let audit = world.deployment.audit().await.unwrap();
    let of_instance = audit.iter().filter_map(|entry| entry["type"].as_str());
    let of_instance: Vec<&str> = of_instance.filter(|kind| kind.starts_with("instance.")).collect();
    assert_eq!(of_instance, ["instance.blobs_redirected", "instance.blobs_streamed"]);
    let instances = world.deployment.admin(&["instances"], "").await.unwrap();
    let instance: serde_json::Value = serde_json::from_str(instances.trim()).unwrap();
    assert_eq!((&instance["name"], &instance["blob_delivery"]), (&"default".into(), &"stream".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn t39_blobs_come_from_the_storage() {
    blobs_come_from_the_storage(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t39_blobs_come_from_the_storage_with_roles_apart() {
    blobs_come_from_the_storage(Setting::new(Layout::RolesApart, Engine::Postgres)).await;
}

/// Nothing in the way of the 307 is left out: who may not read is not sent anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn t39_who_may_not_read_any_more_gets_no_url() {
    let world = world(Setting::EMBEDDED).await;
    let repository = world.repository("away/revoked");
    let image = Content::seeded(12).image(1, 1000);
    repository.push_image("v1", &image).await.unwrap();
    let blob = image.blobs().next().unwrap();
    let target = format!("/v2/away/revoked/blobs/{}", blob.digest);
    world.deliver("redirect", &repository, blob).await;
    let nobody = world.deployment.anonymous();
    let refused = async |status: u16, call: berth_testkit::Call| {
        let reply = call.send().await.unwrap().expect(status).unwrap();
        assert_eq!(reply.header("location"), None);
    };
    refused(401, nobody.call(Method::GET, &target)).await;
    // Public for a while: the token goes on, the right doesn't.
    world.deployment.admin(&["set-visibility", "away/revoked", "public"], "").await.unwrap();
    let token = nobody.fresh_token(&["repository:away/revoked:pull"]).await.unwrap();
    let open = nobody.call(Method::GET, &target).bearer(&token).send().await.unwrap().expect(307).unwrap();
    let old_url = open.header("location").unwrap().to_owned();
    world.deployment.admin(&["set-visibility", "away/revoked", "private"], "").await.unwrap();
    refused(401, nobody.call(Method::GET, &target).bearer(&token)).await;
    // Known and documented: what was given out opens its object until it ends.
    fetch(&old_url, None).await.expect(200).unwrap();
    // Deleted: neither the tag nor the blob leads anywhere.
    let manifest = format!("/manifests/{}", image.manifest.digest);
    repository.delete(&manifest).await.unwrap().expect(202).unwrap();
    repository.delete(&format!("/blobs/{}", blob.digest)).await.unwrap().expect(202).unwrap();
    refused(404, repository.call(Method::GET, &target).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_in_a_folder_are_streamed_whatever_is_wanted() {
    let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
    let repository = deployment.client().repository("here/app");
    let image = Content::seeded(13).image(2, 1000);
    repository.push_image("v1", &image).await.unwrap();
    deployment.admin(&["set-blob-delivery", "default", "redirect"], "").await.unwrap();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        repository.pull_image("v1", &image).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let absent = deployment.admin(&["set-blob-delivery", "nobody", "redirect"], "").await.unwrap_err();
    assert!(absent.to_string().contains("there is no instance nobody"), "{absent}");
    assert!(deployment.admin(&["set-blob-delivery", "default", "pigeon"], "").await.is_err());
}
