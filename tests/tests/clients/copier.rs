//! What every client that carries content byte for byte has to do: be refused, log in, push each input, find it listed,
//! pull it back whole, tag a hundred times, delete.

use std::path::Path;

use berth_testkit::{Deployment, PASSWORD, Repository};

use crate::{
    inputs::{self, Input, input},
    layout::ImageLayout,
    sandbox::{Said, Sandbox},
};

/// A client in a sandbox. References are whole: `127.0.0.1:PORT/name:tag`.
pub(crate) trait Copier: Sized {
    /// Its name, and its namespace.
    const NAME: &'static str;
    /// What it refuses by itself, and why.
    const REFUSES: &'static [(&'static str, &'static str)] = &[];

    async fn start(sandbox: Sandbox) -> Self;
    fn sandbox(&self) -> &Sandbox;
    /// Some only write down what they are told.
    async fn log_in(&mut self, user: &str, password: &str) -> Said;
    async fn push(&self, input: &Input, to: &str) -> Said;
    /// Into an image layout, from nothing that the client knows already.
    async fn pull(&self, from: &str, folder: &Path) -> Said;
    /// Gives content of the registry more tags, where the client can do that without the content.
    async fn tag(&self, _from: &str, _repository: &str, _tags: &[String]) -> Option<()> {
        None
    }
    /// Lists tags, where the client can.
    async fn tags(&self, _repository: &str) -> Option<Vec<String>> {
        None
    }
    /// Lists the registry's repositories, where the client can.
    async fn repositories(&self) -> Option<String> {
        None
    }
    /// Deletes the manifest of a tag, where the client can.
    async fn delete(&self, _repository: &str, _tag: &str, _digest: &str) -> Option<Said> {
        None
    }
}

/// A client's repository: five segments.
fn name<C: Copier>(case: &str) -> String {
    format!("{}/a/long/name/{case}", C::NAME)
}

/// Pushes an input and pulls it back: the registry has its very bytes, and so has the client.
async fn carry<C: Copier>(client: &C, own: &Repository, input: &Input) {
    let reference = format!("{}/{}:{}", client.sandbox().registry, own.name(), input.name);
    client.push(input, &reference).await.done();
    let manifest = own.manifest(input.name).await.unwrap().expect(200).unwrap();
    assert_eq!(manifest.body, input.root.bytes, "{}", input.name);
    assert_eq!(manifest.header("content-type"), Some(input.root.media_type.as_str()));
    let folder = client.sandbox().path(&format!("pulled-{}", input.name));
    client.pull(&reference, &folder).await.done();
    let content = ImageLayout::at(folder.clone()).content(&input.root.digest);
    assert_eq!(content.as_ref(), Ok(&input.content), "{}", input.name);
    std::fs::remove_dir_all(folder).unwrap();
}

/// Everything, on a deployment that other clients share.
pub(crate) async fn does_everything<C: Copier>(deployment: &Deployment) {
    let mut client = C::start(Sandbox::new(deployment)).await;
    let own = deployment.client().repository(name::<C>("everything"));
    let repository = format!("{}/{}", client.sandbox().registry, own.name());
    let reference = format!("{repository}:{}", inputs::PLAIN);
    let folder = client.sandbox().path("refused");

    // Nothing goes for nobody, for a wrong password, and for who may only read.
    client.push(input(inputs::PLAIN), &reference).await.refused();
    client.log_in("admin", "wrong").await;
    client.push(input(inputs::PLAIN), &reference).await.refused();
    client.log_in("admin", PASSWORD).await.done();
    carry(&client, &own, input(inputs::PLAIN)).await;
    let reader = format!("reader-of-{}", C::NAME);
    deployment.admin(&["create-user", &reader], PASSWORD).await.unwrap();
    let mut other = C::start(Sandbox::new(deployment)).await;
    other.pull(&reference, &folder).await.refused();
    other.log_in(&reader, PASSWORD).await.done();
    other.pull(&reference, &folder).await.refused();
    deployment.admin(&["grant", &reader, "reader", "--repository", own.name()], "").await.unwrap();
    let folder = other.sandbox().path("granted");
    other.pull(&reference, &folder).await.done();
    other.push(input(inputs::EMPTY), &format!("{repository}:{}", inputs::EMPTY)).await.refused();

    let mut pushed = vec![inputs::PLAIN.to_owned()];
    for name in &inputs::ALL[1..] {
        if let Some((_, reason)) = C::REFUSES.iter().find(|(refused, _)| refused == name) {
            let said = client.push(input(name), &format!("{repository}:{name}")).await;
            // A newer one may have learned it.
            if !said.succeeded() {
                let said = said.refused();
                assert!(said.contains(reason), "{name}: {said}");
                continue;
            }
        }
        carry(&client, &own, input(name)).await;
        pushed.push((*name).to_owned());
    }
    let hundred: Vec<_> = (0..100).map(|number| format!("v0.{number}")).collect();
    if client.tag(&reference, &repository, &hundred).await.is_some() {
        pushed.extend(hundred);
    }
    pushed.sort_unstable();
    assert_eq!(own.tags().await.unwrap(), pushed);
    if let Some(mut tags) = client.tags(&repository).await {
        tags.sort_unstable();
        assert_eq!(tags, pushed);
    }
    if let Some(repositories) = client.repositories().await {
        assert!(repositories.lines().any(|line| line == own.name()), "{repositories}");
    }
    // The index goes, by its digest too; the rest stays, and it can be pushed again.
    let index = input(inputs::MULTI_ARCH);
    let digest = index.root.digest.to_string();
    if let Some(said) = client.delete(&repository, index.name, &digest).await {
        said.done();
        let folder = client.sandbox().path("deleted");
        client.pull(&format!("{repository}:{}", index.name), &folder).await.refused();
        own.manifest(&digest).await.unwrap().expect(404).unwrap();
        carry(&client, &own, input(inputs::PLAIN)).await;
        carry(&client, &own, index).await;
    }
}

/// Enough to see that storage makes no difference.
pub(crate) async fn pushes_and_pulls<C: Copier>(deployment: &Deployment) {
    let mut client = C::start(Sandbox::new(deployment)).await;
    client.log_in("admin", PASSWORD).await.done();
    let own = deployment.client().repository(name::<C>("some"));
    for name in [inputs::PLAIN, inputs::MULTI_ARCH, inputs::EMPTY] {
        carry(&client, &own, input(name)).await;
    }
}

/// Two GiB in one layer.
pub(crate) async fn carries_two_gib<C: Copier>(deployment: &Deployment) {
    let (large, folder) = inputs::large(2 << 30);
    let mut client = C::start(Sandbox::new(deployment)).await;
    client.log_in("admin", PASSWORD).await.done();
    let own = deployment.client().repository(name::<C>("large"));
    carry(&client, &own, &large).await;
    std::fs::remove_dir_all(folder).unwrap();
}

/// The tests of a client.
macro_rules! copier {
    ($client:ty) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn does_everything() {
            let deployment = $crate::settings::shared($crate::settings::Place::Folder).await;
            $crate::copier::does_everything::<$client>(deployment).await;
        }

        wherever_bytes_are! {
            async fn pushes_and_pulls(deployment: &'static Deployment) {
                $crate::copier::pushes_and_pulls::<$client>(deployment).await;
            }
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "long"]
        async fn long_carries_two_gib() {
            let deployment = $crate::settings::shared($crate::settings::Place::Folder).await;
            $crate::copier::carries_two_gib::<$client>(deployment).await;
        }
    };
}
