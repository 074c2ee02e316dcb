//! T22: SIGTERM in the middle of work. Each case has a deployment of its own.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use berth_testkit::{Client, Content, Deployment, Engine, Image, Layout, Repository, Setting, eventually};
use bytes::Bytes;
use futures::{StreamExt, future::join_all, stream};
use reqwest::{Body, Method};
use tokio::{net::TcpStream, sync::watch, task::JoinSet};

const TRANSFERS: usize = 25;
const SIZE: usize = 4_000_000;

/// Transfers that are half way.
type HalfWay = Arc<AtomicUsize>;

/// A body whose second half waits for the word.
fn held(bytes: Bytes, half_way: HalfWay, go_on: watch::Receiver<bool>) -> Body {
    let halves = stream::unfold((0, bytes, go_on), move |(half, bytes, mut go_on)| {
        let half_way = Arc::clone(&half_way);
        async move {
            let middle = bytes.len() / 2;
            match half {
                0 => Some((Ok::<_, std::io::Error>(bytes.slice(..middle)), (1, bytes, go_on))),
                1 => {
                    half_way.fetch_add(1, Ordering::SeqCst);
                    // A sender that is gone is the word as well.
                    let _gone = go_on.wait_for(|word| *word).await.is_err();
                    Some((Ok(bytes.slice(middle..)), (2, bytes, go_on)))
                }
                _ => None,
            }
        }
    });
    Body::wrap_stream(Box::pin(halves))
}

async fn is_refused(address: SocketAddr) -> Option<()> {
    TcpStream::connect(address).await.is_err().then_some(())
}

async fn seeded(repository: &Repository) -> Image {
    let image = Content::named("t22").image(1, SIZE);
    repository.push_image("v1", &image).await.unwrap();
    image
}

/// A download whose second half waits for the word.
async fn slow_download(
    client: Client,
    token: String,
    image: &Image,
    half_way: HalfWay,
    mut go_on: watch::Receiver<bool>,
) -> Bytes {
    let target = format!("/v2/t22/app/blobs/{}", image.layers[0].digest);
    let response = client.call(Method::GET, target).bearer(token).open().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let mut received = Vec::new();
    let mut steps = response.bytes_stream();
    let mut waited = false;
    while let Some(step) = steps.next().await {
        received.extend_from_slice(&step.unwrap());
        if !waited && received.len() >= SIZE / 2 {
            waited = true;
            half_way.fetch_add(1, Ordering::SeqCst);
            let _gone = go_on.wait_for(|word| *word).await.is_err();
        }
    }
    received.into()
}

async fn work_in_progress_ends_well(setting: Setting) {
    let deployment = Deployment::builder(setting).start().await.unwrap();
    end_in_the_middle(&deployment).await;
}

/// The same while collection deletes what was let go right before: it stops and goes on like everything else.
async fn work_in_progress_ends_well_beside_collection(setting: Setting) {
    let deployment = Deployment::builder(setting).collecting_at_once().start().await.unwrap();
    let baseline = deployment.baseline();
    let garbage = deployment.client().repository("t22/garbage");
    let mut content = Content::named("t22-garbage");
    for number in 0..40 {
        let image = content.image(2, 5_000);
        garbage.push_image(&format!("v{number}"), &image).await.unwrap();
        garbage.delete(&format!("manifests/{}", image.manifest.digest)).await.unwrap().expect(202).unwrap();
    }
    end_in_the_middle(&deployment).await;
    deployment.comes_to_rest(&baseline).await.unwrap();
}

async fn end_in_the_middle(deployment: &Deployment) {
    let repository = deployment.client().repository("t22/app");
    let image = seeded(&repository).await;
    let token = repository.token().await.unwrap();
    let (word, go_on) = watch::channel(false);
    let mut content = Content::named("t22-uploads");
    let mut uploads = Vec::new();
    for _ in 0..TRANSFERS {
        let blob = content.layer(SIZE);
        let upload = repository.start_upload().await.unwrap();
        uploads.push((upload, blob));
    }
    let half_way = HalfWay::default();
    let gateway = &deployment.processes()[0];
    let before = gateway.descriptors().unwrap();
    let patches = uploads.iter().map(|(upload, blob)| {
        let call = repository.call(Method::PATCH, upload);
        let body = held(blob.bytes.clone(), Arc::clone(&half_way), go_on.clone());
        async move { call.await.unwrap().body(body).send().await }
    });
    // Clients of their own, so that each has a connection of its own that is open by then.
    let downloads = (0..TRANSFERS).map(|_| {
        let client = Client::new(deployment.url());
        slow_download(client, token.clone(), &image, Arc::clone(&half_way), go_on.clone())
    });
    let address = deployment.address();
    let terminate = async {
        eventually("all transfers are half way", || async {
            // Every connection was accepted (some were open before), and every transfer has begun.
            let connections = gateway.descriptors()?.saturating_sub(before);
            let begun = half_way.load(Ordering::SeqCst) == 2 * TRANSFERS;
            (begun && connections + 5 >= 2 * TRANSFERS).then_some(())
        })
        .await
        .unwrap();
        gateway.terminate();
        eventually("new connections are refused", || is_refused(address)).await.unwrap();
        word.send(true).unwrap();
    };
    let (patched, downloaded, ()) = tokio::join!(join_all(patches), join_all(downloads), terminate);
    for reply in patched {
        assert_eq!(reply.unwrap().expect(202).unwrap().session_bytes(), Some(SIZE as u64));
    }
    for bytes in downloaded {
        assert_eq!(bytes, image.layers[0].bytes);
    }
    let status = gateway.wait_exit(Duration::from_secs(40)).await.unwrap();
    assert!(status.success(), "{status}");

    // The sessions go on with the next process.
    gateway.start().await.unwrap();
    let repository = deployment.client().repository("t22/app");
    for (upload, blob) in &uploads {
        let state = repository.get(upload).await.unwrap().expect(204).unwrap();
        assert_eq!(state.session_bytes(), Some(SIZE as u64));
        repository.finish(upload, &blob.digest.to_string(), Bytes::new()).await.unwrap().expect(201).unwrap();
        repository.pull_blob(blob).await.unwrap();
    }
    repository.pull_image("v1", &image).await.unwrap();
    deployment.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t22_work_in_progress_ends_well_in_one_process_on_sqlite() {
    work_in_progress_ends_well(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t22_work_in_progress_ends_well_in_one_process_on_postgres() {
    work_in_progress_ends_well(Setting::new(Layout::OneProcess, Engine::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t22_work_in_progress_ends_well_at_a_gateway_apart() {
    work_in_progress_ends_well(Setting::new(Layout::RolesApart, Engine::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t22_work_in_progress_ends_well_beside_collection_in_one_process() {
    work_in_progress_ends_well_beside_collection(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t22_work_in_progress_ends_well_beside_collection_with_roles_apart() {
    work_in_progress_ends_well_beside_collection(Setting::new(Layout::RolesApart, Engine::Postgres)).await;
}

/// A client that never ends its upload does not hold up the end, and finds its session afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t22_the_grace_period_has_an_end_and_sessions_are_resumable_after_it() {
    let builder = Deployment::builder(Setting::EMBEDDED).with_env("BERTH__DRAIN_SECONDS", "1");
    let deployment = builder.start().await.unwrap();
    let repository = deployment.client().repository("t22/app");
    let blob = Content::named("t22-stuck").layer(SIZE);
    let upload = repository.start_upload().await.unwrap();
    repository.patch(&upload, Some(0), blob.bytes.slice(..SIZE / 4)).await.unwrap().expect(202).unwrap();
    let (word, go_on) = watch::channel(false);
    let stuck = repository.call(Method::PATCH, &upload).await.unwrap();
    let stuck = stuck.body(held(blob.bytes.slice(SIZE / 4..), HalfWay::default(), go_on));
    let mut client = JoinSet::new();
    client.spawn(stuck.send());
    let process = &deployment.processes()[0];
    process.terminate();
    let status = process.wait_exit(Duration::from_secs(25)).await.unwrap();
    assert!(status.success(), "{status}");
    drop(word);
    assert!(client.join_next().await.unwrap().unwrap().is_err(), "its connection ended with the process");

    process.start().await.unwrap();
    let repository = deployment.client().repository("t22/app");
    let state = repository.get(&upload).await.unwrap().expect(204).unwrap();
    let recorded = state.session_bytes().unwrap();
    assert!((SIZE as u64 / 4..=SIZE as u64).contains(&recorded), "{recorded}");
    let rest = blob.bytes.slice(usize::try_from(recorded).unwrap()..);
    repository.patch(&upload, Some(recorded), rest).await.unwrap().expect(202).unwrap();
    repository.finish(&upload, &blob.digest.to_string(), Bytes::new()).await.unwrap().expect(201).unwrap();
    repository.pull_blob(&blob).await.unwrap();
}

/// With two gateways behind a round robin the other one takes over at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t22_another_gateway_goes_on_with_a_session() {
    let setting = Setting::new(Layout::RolesApart, Engine::Postgres).with_gateways(2);
    let deployment = Deployment::builder(setting).start().await.unwrap();
    let blob = Content::named("t22-other").layer(SIZE);
    let (first, second) = (deployment.client_of_gateway(0), deployment.client_of_gateway(1));
    let (first, second) = (first.repository("t22/app"), second.repository("t22/app"));
    let upload = first.start_upload().await.unwrap();
    first.patch(&upload, Some(0), blob.bytes.slice(..1_000_000)).await.unwrap().expect(202).unwrap();
    second
        .patch(&upload, Some(1_000_000), blob.bytes.slice(1_000_000..2_000_000))
        .await
        .unwrap()
        .expect(202)
        .unwrap();
    let gateway = &deployment.processes()[0];
    gateway.terminate();
    gateway.wait_exit(Duration::from_secs(40)).await.unwrap();
    second.patch(&upload, Some(2_000_000), blob.bytes.slice(2_000_000..)).await.unwrap().expect(202).unwrap();
    second.finish(&upload, &blob.digest.to_string(), Bytes::new()).await.unwrap().expect(201).unwrap();
    second.pull_blob(&blob).await.unwrap();
}
