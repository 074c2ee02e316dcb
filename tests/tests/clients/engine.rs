//! What every client that keeps images in its own way has to do: they unpack layers and pack them again, so what stays
//! the same is an image's id, the digest of its configuration, which names the digest of every layer's archive.

use berth_oci::{Algorithm, Digest, MediaType};
use berth_testkit::{Blob, Deployment, PASSWORD, Repository};
use serde_json::Value;

use crate::{
    inputs::{self, Input, input},
    sandbox::{Said, Sandbox},
};

/// A client in a sandbox. References are whole: `127.0.0.1:PORT/name:tag`.
pub(crate) trait Engine: Sized {
    /// Its name, and its namespace.
    const NAME: &'static str;
    /// What it can't pull, and what it says.
    const REFUSES: &'static [(&'static str, &'static str)];

    async fn start(sandbox: Sandbox) -> Self;
    fn sandbox(&self) -> &Sandbox;
    async fn log_in(&self, user: &str, password: &str) -> Said;
    async fn log_out(&self) -> Said;
    /// Takes an input in and names it.
    async fn load(&self, input: &Input, reference: &str);
    async fn push(&self, reference: &str) -> Said;
    async fn pull(&self, reference: &str) -> Said;
    /// The digest of the configuration of an image that it has.
    async fn id(&self, reference: &str) -> Digest;
    async fn tag(&self, from: &str, to: &str) -> Said;
    /// Gives an image that it has more tags and pushes them all.
    async fn push_tags(&self, from: &str, repository: &str, tags: &[String]) {
        for tag in tags {
            self.tag(from, &format!("{repository}:{tag}")).await.done();
            self.push(&format!("{repository}:{tag}")).await.done();
        }
    }
    /// Lists tags, where the client can.
    async fn tags(&self, _repository: &str) -> Option<Vec<String>> {
        None
    }
    /// Forgets every image.
    async fn forget(&self);
}

/// Another name of the repository, of five segments.
fn name<E: Engine>(case: &str) -> String {
    format!("{}/a/long/name/{case}", E::NAME)
}

/// The manifest in the registry.
async fn manifest(own: &Repository, tag: &str) -> (Value, String) {
    let reply = own.manifest(tag).await.unwrap().expect(200).unwrap();
    let digest = reply.header("docker-content-digest").unwrap().to_owned();
    assert_eq!(Digest::of(Algorithm::Sha256, &reply.body).to_string(), digest);
    (reply.json(), digest)
}

/// Loads an input, pushes it, forgets it, and pulls it, a small one by digest as well.
async fn carry<E: Engine>(engine: &E, own: &Repository, input: &Input) {
    let repository = format!("{}/{}", engine.sandbox().registry, own.name());
    let reference = format!("{repository}:{}", input.name);
    engine.load(input, &reference).await;
    let id = engine.id(&reference).await;
    engine.push(&reference).await.done();
    let (document, digest) = manifest(own, input.name).await;
    assert_eq!(document["config"]["digest"], id.to_string(), "{}", input.name);
    let ways = [reference, format!("{repository}@{digest}")];
    for reference in &ways[..1 + usize::from(input.name == inputs::PLAIN)] {
        engine.forget().await;
        engine.pull(reference).await.done();
        assert_eq!(engine.id(reference).await, id, "{reference}");
    }
    engine.forget().await;
}

/// Pulls what another client pushed, byte for byte as it was made.
async fn pulls<E: Engine>(engine: &E, deployment: &Deployment, names: &[&str]) {
    let own = deployment.client().repository(name::<E>("pulled"));
    for name in names {
        let input = input(name);
        push_as_made(&own, input).await;
        let reference = format!("{}/{}:{name}", engine.sandbox().registry, own.name());
        let said = engine.pull(&reference).await;
        match E::REFUSES.iter().find(|(refused, _)| refused == name) {
            // A newer one may have learned it.
            Some((_, reason)) if !said.succeeded() => {
                let said = said.refused();
                assert!(said.contains(reason), "{name}: {said}");
            }
            _ => {
                said.done();
                assert_eq!(input.image_id, Some(engine.id(&reference).await), "{name}");
            }
        }
        engine.forget().await;
    }
}

/// Pushes an input with the test kit's own client.
async fn push_as_made(own: &Repository, input: &Input) {
    let layout = input.layout();
    let mut manifests = Vec::new();
    for digest in input.content.keys() {
        let bytes = std::fs::read(layout.file(digest)).unwrap();
        let document = serde_json::from_slice::<Value>(&bytes).unwrap_or_default();
        match document["mediaType"].as_str() {
            Some(media_type) => manifests.push(Blob::new(media_type, bytes)),
            None => drop(own.push_blob_at_once(&Blob::new("", bytes)).await.unwrap()),
        }
    }
    // Images, indexes of images, the rest.
    let depth = |manifest: &Blob| {
        let index = [MediaType::OCI_INDEX, MediaType::DOCKER_LIST].contains(&manifest.media_type.as_str());
        u8::from(index) + u8::from(manifest.digest == input.root.digest)
    };
    manifests.sort_by_key(depth);
    for manifest in manifests {
        let tag = manifest.digest.to_string();
        own.put_manifest(&tag, &manifest).await.unwrap().expect(201).unwrap();
    }
    own.put_manifest(input.name, &input.root).await.unwrap().expect(201).unwrap();
}

/// Everything, on a deployment that other clients share.
pub(crate) async fn does_everything<E: Engine>(deployment: &Deployment) {
    let engine = E::start(Sandbox::new(deployment)).await;
    let own = deployment.client().repository(name::<E>("everything"));
    let repository = format!("{}/{}", engine.sandbox().registry, own.name());
    let reference = format!("{repository}:{}", inputs::PLAIN);

    // Nothing goes without a password, or with a wrong one.
    engine.load(input(inputs::PLAIN), &reference).await;
    engine.push(&reference).await.refused();
    engine.log_in("admin", "wrong").await.refused();
    engine.push(&reference).await.refused();
    engine.log_in("admin", PASSWORD).await.done();
    for name in [inputs::PLAIN, inputs::EMPTY, inputs::DEEP, inputs::LARGE] {
        carry(&engine, &own, input(name)).await;
    }
    let absent = engine.pull(&format!("{repository}:absent")).await.refused();
    assert!(absent.contains("manifest unknown") || absent.contains("is not in repository"), "{absent}");

    // A hundred tags of one image.
    engine.pull(&reference).await.done();
    let hundred: Vec<_> = (0..100).map(|number| format!("v0.{number}")).collect();
    engine.push_tags(&reference, &repository, &hundred).await;
    let mut pushed = own.tags().await.unwrap();
    assert_eq!(pushed.len(), 104);
    if let Some(mut tags) = engine.tags(&repository).await {
        tags.sort_unstable();
        pushed.sort_unstable();
        assert_eq!(tags, pushed);
    }

    // What others push, byte for byte as it was made.
    let seen = [inputs::PLAIN, inputs::DEEP, inputs::LARGE];
    let others: Vec<_> = inputs::ALL.iter().copied().filter(|name| !seen.contains(name)).collect();
    pulls(&engine, deployment, &others).await;

    // A reader reads and does not write; who logged out does neither, but where all may read.
    let reader = format!("reader-of-{}", E::NAME);
    deployment.admin(&["create-user", &reader], PASSWORD).await.unwrap();
    deployment.admin(&["grant", &reader, "reader", "--repository", own.name()], "").await.unwrap();
    engine.log_out().await.done();
    engine.forget().await;
    engine.pull(&reference).await.refused();
    engine.log_in(&reader, PASSWORD).await.done();
    engine.pull(&reference).await.done();
    let other = format!("{repository}:of-a-reader");
    engine.tag(&reference, &other).await.done();
    engine.push(&other).await.refused();
    engine.log_out().await.done();
    engine.forget().await;
    deployment.admin(&["set-visibility", own.name(), "public"], "").await.unwrap();
    engine.pull(&reference).await.done();
}

/// Enough to see that storage makes no difference.
pub(crate) async fn pushes_and_pulls<E: Engine>(deployment: &Deployment) {
    let engine = E::start(Sandbox::new(deployment)).await;
    engine.log_in("admin", PASSWORD).await.done();
    let own = deployment.client().repository(name::<E>("some"));
    carry(&engine, &own, input(inputs::PLAIN)).await;
    pulls(&engine, deployment, &[inputs::MULTI_ARCH, inputs::EMPTY]).await;
}

/// Two GiB in one layer.
pub(crate) async fn carries_two_gib<E: Engine>(deployment: &Deployment) {
    let (large, folder) = inputs::large(2 << 30);
    let engine = E::start(Sandbox::new(deployment)).await;
    engine.log_in("admin", PASSWORD).await.done();
    carry(&engine, &deployment.client().repository(name::<E>("large")), &large).await;
    std::fs::remove_dir_all(folder).unwrap();
}

/// The tests of a client.
macro_rules! engine {
    ($client:ty) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn does_everything() {
            let deployment = $crate::settings::shared($crate::settings::Place::Folder).await;
            $crate::engine::does_everything::<$client>(deployment).await;
        }

        wherever_bytes_are! {
            async fn pushes_and_pulls(deployment: &'static Deployment) {
                $crate::engine::pushes_and_pulls::<$client>(deployment).await;
            }
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "long"]
        async fn long_carries_two_gib() {
            let deployment = $crate::settings::shared($crate::settings::Place::Folder).await;
            $crate::engine::carries_two_gib::<$client>(deployment).await;
        }
    };
}
