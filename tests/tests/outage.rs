//! Roles apart: one of them dies, hangs or is stopped. The others say so, go on with what they can, and need no restart.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{sync::Arc, time::Duration};

use berth_testkit::{Client, Content, Deployment, Engine, Image, Layout, Reply, Setting, eventually};
use bytes::Bytes;
use futures::stream;
use reqwest::{Body, Method};
use tokio::{sync::Notify, time::timeout};

const SERVICES: [&str; 3] = ["metadata", "instance-manager", "blob-store"];

async fn roles_apart() -> Deployment {
    Deployment::builder(Setting::new(Layout::RolesApart, Engine::Sqlite)).start().await.unwrap()
}

async fn pushed(deployment: &Deployment, repository: &str) -> Image {
    let image = Content::named(repository).image(2, 100_000);
    deployment.client().repository(repository).push_image("v1", &image).await.unwrap().expect(201).unwrap();
    image
}

/// A client with one token for one scope, as long as that lasts.
struct Holder {
    client: Client,
    token: String,
}

impl Holder {
    async fn of(deployment: &Deployment, scope: &str) -> Self {
        let client = deployment.client();
        let token = client.fresh_token(&[scope]).await.unwrap();
        Self { client, token }
    }

    async fn ask(&self, method: Method, path: &str) -> Reply {
        self.client.call(method, path).bearer(&self.token).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask(Method::GET, path).await
    }
}

fn assert_unavailable(reply: &Reply) {
    assert_eq!(reply.status, 503, "{:?}", reply.body);
    if !reply.body.is_empty() {
        assert_eq!(reply.error_code().as_deref(), Some("UNAVAILABLE"));
    }
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_by_digest_goes_on_while_metadata_is_away() {
    let deployment = roles_apart().await;
    let image = pushed(&deployment, "outage/app").await;
    pushed(&deployment, "outage/other").await;
    let holder = Holder::of(&deployment, "repository:outage/app:pull").await;
    let stranger = Holder::of(&deployment, "repository:outage/other:pull").await;
    let manifest = format!("/v2/outage/app/manifests/{}", image.manifest.digest);
    let blob = |number: usize| format!("/v2/outage/app/blobs/{}", image.layers[number].digest);
    let before = holder.get(&manifest).await.expect(200).unwrap();
    holder.get(&blob(0)).await.expect(200).unwrap();

    deployment.process("metadata").kill();
    let after = holder.get(&manifest).await.expect(200).unwrap();
    assert_eq!(after.body, image.manifest.bytes);
    for name in ["content-type", "docker-content-digest", "etag", "content-length"] {
        assert_eq!(after.header(name), before.header(name));
    }
    assert_eq!(holder.ask(Method::HEAD, &manifest).await.status, 200);
    assert_eq!(holder.get(&blob(0)).await.expect(200).unwrap().body, image.layers[0].bytes);
    let part = holder.client.call(Method::GET, blob(0)).bearer(&holder.token).header("range", "bytes=10-19");
    assert_eq!(part.send().await.unwrap().expect(206).unwrap().body, image.layers[0].bytes.slice(10..20));
    // What was never asked, what is not content by digest, and every write.
    assert_unavailable(&holder.get(&blob(1)).await);
    assert_unavailable(&holder.get("/v2/outage/app/manifests/v1").await);
    assert_unavailable(&holder.get("/v2/outage/app/tags/list").await);
    // Another repository's token: neither by that path nor by its own.
    assert_eq!(stranger.get(&manifest).await.status, 401);
    assert_eq!(stranger.get(&blob(0)).await.status, 401);
    assert_unavailable(&stranger.get(&blob(0).replace("/app/", "/other/")).await);
    assert_unavailable(&stranger.get(&manifest.replace("/app/", "/other/")).await);
    assert_eq!(deployment.anonymous().call(Method::GET, &manifest).send().await.unwrap().status, 401);

    deployment.restart("metadata").await.unwrap();
    assert_eq!(holder.get("/v2/outage/app/manifests/v1").await.status, 200);
    assert_eq!(holder.get(&blob(1)).await.status, 200);
    assert_eq!(stranger.get(&blob(0).replace("/app/", "/other/")).await.status, 404);
    deployment.client().repository("outage/app").pull_image("v1", &image).await.unwrap();

    // What metadata has said no to, or what was deleted here, is not repeated.
    let owner = Holder::of(&deployment, "repository:outage/app:pull,push,delete").await;
    assert_eq!(owner.ask(Method::DELETE, &manifest).await.status, 202);
    assert_eq!(owner.ask(Method::DELETE, &blob(0)).await.status, 202);
    deployment.process("metadata").kill();
    assert_unavailable(&holder.get(&manifest).await);
    assert_unavailable(&holder.get(&blob(0)).await);
    assert_eq!(holder.get(&blob(1)).await.status, 200);
    assert_unavailable(&owner.ask(Method::HEAD, &blob(1)).await);
    assert_unavailable(&owner.ask(Method::POST, "/v2/outage/app/blobs/uploads/").await);
}

/// A call that was accepted and never answered: the connection breaks under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_when_a_service_died_is_unavailable_not_an_internal_error() {
    let deployment = roles_apart().await;
    let image = pushed(&deployment, "under-way/app").await;
    let holder = Holder::of(&deployment, "repository:under-way/app:pull,push").await;
    let blob = format!("/v2/under-way/app/blobs/{}", image.layers[0].digest);
    for (service, path) in [
        ("metadata", "/v2/under-way/app/manifests/v1"),
        ("blob-store", blob.as_str()),
        ("instance-manager", "/token?service=default&scope=repository:under-way/app:pull"),
    ] {
        let process = deployment.process(service);
        process.freeze();
        let die = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            process.kill();
        };
        let ask = async {
            let call = holder.client.call(Method::GET, path);
            // The token endpoint has no use for a token.
            let call = if path.starts_with("/v2/") { call.bearer(&holder.token) } else { call };
            call.send().await.unwrap()
        };
        let (reply, ()) = tokio::join!(ask, die);
        assert_unavailable(&reply);
        process.start().await.unwrap();
    }
    deployment.client().repository("under-way/app").pull_image("v1", &image).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_may_die_and_come_back_without_a_restart_of_the_others() {
    let deployment = roles_apart().await;
    let image = pushed(&deployment, "back/app").await;
    let mut content = Content::named("back");
    for service in SERVICES {
        let holder = Holder::of(&deployment, "repository:back/app:pull").await;
        deployment.process(service).kill();
        let broken = match service {
            "metadata" => holder.get("/v2/back/app/manifests/v1").await,
            "blob-store" => holder.get(&format!("/v2/back/app/blobs/{}", image.layers[1].digest)).await,
            _ => deployment.client().token_reply(&["repository:back/app:pull"]).await.unwrap(),
        };
        assert_unavailable(&broken);
        deployment.restart(service).await.unwrap();
        // At once: nobody waits for a back-off. New clients, new tokens, new content.
        let repository = deployment.client().repository("back/app");
        repository.pull_image("v1", &image).await.unwrap();
        let next = content.image(1, 1000);
        repository.push_image(service, &next).await.unwrap().expect(201).unwrap();
        deployment.client().repository("back/app").pull_image(service, &next).await.unwrap();
    }
    deployment.is_sound().await.unwrap();
}

/// A gateway keeps a stream of settings open for as long as it lives: that must not hold up the far side's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_with_open_streams_end_when_they_are_told() {
    let deployment = roles_apart().await;
    let image = pushed(&deployment, "streams/app").await;
    for service in SERVICES {
        let process = deployment.process(service);
        process.terminate();
        // Far less than the grace period.
        let status = process.wait_exit(Duration::from_secs(8)).await.unwrap();
        assert!(status.success(), "{service}: {status}");
        process.start().await.unwrap();
        deployment.client().repository("streams/app").pull_image("v1", &image).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_survives_the_death_of_blob_store_and_of_metadata() {
    let deployment = roles_apart().await;
    let repository = deployment.client().repository("survives/app");
    for service in ["blob-store", "metadata"] {
        let blob = Content::named(service).layer(3_000_000);
        let upload = repository.start_upload().await.unwrap();
        repository.patch(&upload, Some(0), blob.bytes.slice(..1_000_000)).await.unwrap().expect(202).unwrap();
        let (half_way, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let pieces = stream::unfold(0, {
            let (bytes, half_way, go_on) = (blob.bytes.clone(), Arc::clone(&half_way), Arc::clone(&go_on));
            move |piece| {
                let (bytes, half_way, go_on) = (bytes.clone(), Arc::clone(&half_way), Arc::clone(&go_on));
                async move {
                    if piece == 1 {
                        half_way.notify_one();
                        go_on.notified().await;
                    }
                    let start = 1_000_000 * (piece + 1);
                    (piece < 2)
                        .then(|| (Ok::<_, std::io::Error>(bytes.slice(start..start + 1_000_000)), piece + 1))
                }
            }
        });
        let call =
            repository.call(Method::PATCH, &upload).await.unwrap().body(Body::wrap_stream(Box::pin(pieces)));
        let die = async {
            half_way.notified().await;
            deployment.process(service).kill();
            if service == "metadata" {
                deployment.restart(service).await.unwrap();
            }
            go_on.notify_one();
        };
        let (reply, ()) = tokio::join!(call.send(), die);
        match reply.unwrap() {
            // Its lease died with the metadata that gave it.
            reply if service == "metadata" => assert!([409, 503].contains(&reply.status), "{}", reply.status),
            reply => assert_unavailable(&reply),
        }
        if service == "blob-store" {
            deployment.restart(service).await.unwrap();
        }
        let state = repository.get(&upload).await.unwrap().expect(204).unwrap();
        assert_eq!(state.session_bytes(), Some(1_000_000), "{service}");
        let rest = blob.bytes.slice(1_000_000..);
        repository.patch(&upload, Some(1_000_000), rest).await.unwrap().expect(202).unwrap();
        let digest = blob.digest.to_string();
        repository.finish(&upload, &digest, Bytes::new()).await.unwrap().expect(201).unwrap();
        repository.pull_blob(&blob).await.unwrap();
    }
    deployment.is_sound().await.unwrap();
}

/// A gateway that starts first is not ready, says 503, and needs no help when instance-manager comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_waits_for_its_settings() {
    let deployment = roles_apart().await;
    let image = pushed(&deployment, "waits/app").await;
    deployment.process("instance-manager").kill();
    let gateway = &deployment.processes()[0];
    gateway.kill();
    gateway.spawn().unwrap();
    let address = eventually("the gateway listens", || async { gateway.address("public") }).await.unwrap();
    let client = Client::new(format!("http://{address}"));
    assert_unavailable(&client.call(Method::GET, "/v2/").send().await.unwrap());
    deployment.process("instance-manager").start().await.unwrap();
    timeout(Duration::from_secs(10), gateway.wait_ready()).await.unwrap().unwrap();
    deployment.client().repository("waits/app").pull_image("v1", &image).await.unwrap();
}

/// On SQLite a lease ends with metadata. A client that pushes a blob in one request knows of no lease: it is told to come
/// again, not that somebody else has its upload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_in_one_request_amid_a_restart_of_metadata_is_asked_for_again() {
    let deployment = roles_apart().await;
    let repository = deployment.client().repository("restart/app");
    let blob = Content::named("restart/app").layer(100_000);
    let go_on = Arc::new(Notify::new());
    let waiting = Arc::clone(&go_on);
    let halves = stream::unfold((0, blob.bytes.clone()), move |(half, bytes)| {
        let waiting = Arc::clone(&waiting);
        async move {
            if half == 2 {
                return None;
            }
            if half == 1 {
                waiting.notified().await;
            }
            let part = bytes.slice(half * 50_000..(half + 1) * 50_000);
            Some((Ok::<_, std::io::Error>(part), (half + 1, bytes)))
        }
    });
    let target = format!("/blobs/uploads/?digest={}", blob.digest);
    let call = repository.call(Method::POST, &target).await.unwrap();
    let call = call.body(Body::wrap_stream(Box::pin(halves))).send();
    let restart = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        deployment.restart("metadata").await.unwrap();
        go_on.notify_one();
    };
    let (reply, ()) = tokio::join!(call, restart);
    assert_unavailable(&reply.unwrap());
    repository.push_blob_at_once(&blob).await.unwrap();
    repository.pull_blob(&blob).await.unwrap();
    deployment.is_sound().await.unwrap();
}
