//! podman: images in its own storage, and lists of images that it puts together.

use berth_oci::{Digest, MediaType};
use berth_testkit::PASSWORD;

use crate::{
    engine::Engine,
    inputs::{self, Input, input},
    sandbox::{Said, Sandbox},
};

pub(crate) struct Podman(Sandbox);

impl Engine for Podman {
    const NAME: &'static str = "podman";
    const REFUSES: &'static [(&'static str, &'static str)] = &[
        (inputs::NESTED, "Unexpectedly received a manifest list instead of a manifest for a single image"),
        (inputs::ARTIFACT, "unsupported image-specific operation on artifact"),
        (inputs::NOTHING, "unsupported image-specific operation on artifact"),
    ];

    async fn start(sandbox: Sandbox) -> Self {
        Self(sandbox)
    }

    fn sandbox(&self) -> &Sandbox {
        &self.0
    }

    async fn log_in(&self, user: &str, password: &str) -> Said {
        let registry = &self.0.registry;
        self.0.run(format!("podman login --tls-verify=false -u {user} -p {password} {registry}")).await
    }

    async fn log_out(&self) -> Said {
        self.0.run(format!("podman logout {}", self.0.registry)).await
    }

    async fn load(&self, input: &Input, reference: &str) {
        let id = self.0.ok(format!("podman pull -q oci:{}:{}", input.folder.display(), input.name)).await;
        self.0.ok(format!("podman tag {id} {reference}")).await;
    }

    async fn push(&self, reference: &str) -> Said {
        self.0.run(format!("podman push --tls-verify=false {reference}")).await
    }

    async fn pull(&self, reference: &str) -> Said {
        self.0.run(format!("podman pull --tls-verify=false {reference}")).await
    }

    async fn id(&self, reference: &str) -> Digest {
        let id = self.0.ok(format!("podman image inspect --format {{{{.Id}}}} {reference}")).await;
        format!("sha256:{id}").parse().unwrap()
    }

    async fn tag(&self, from: &str, to: &str) -> Said {
        self.0.run(format!("podman tag {from} {to}")).await
    }

    async fn tags(&self, repository: &str) -> Option<Vec<String>> {
        let search = "podman search --tls-verify=false --list-tags --limit 1000 --no-trunc";
        let said = self.0.ok(format!("{search} {repository}")).await;
        let rows = said.lines().filter(|row| row.starts_with(repository));
        Some(rows.map(|row| row.split_whitespace().last().unwrap().to_owned()).collect())
    }

    async fn forget(&self) {
        self.0.ok("podman rmi --all --force").await;
    }
}

engine!(Podman);

wherever_bytes_are! {
    async fn lists_of_images_and_other_forms(deployment: &'static Deployment) {
        let podman = Podman(Sandbox::new(deployment));
        podman.log_in("admin", PASSWORD).await.done();
        let own = deployment.client().repository("podman/forms");
        let repository = format!("{}/podman/forms", podman.0.registry);
        let manifest = async |tag: &str| own.manifest(tag).await.unwrap().expect(200).unwrap();

        // An index put together here of what is there, with all that is in it.
        let folder = input(inputs::MULTI_ARCH).folder.display();
        let create = "podman manifest create --all list";
        podman.0.ok(format!("{create} oci:{folder}:{}", inputs::MULTI_ARCH)).await;
        podman.0.ok(format!("podman manifest push --tls-verify=false --all list docker://{repository}:list")).await;
        let index = manifest("list").await;
        assert_eq!(index.header("content-type"), Some(MediaType::OCI_INDEX));
        let children = index.json()["manifests"].as_array().unwrap().clone();
        let platforms: Vec<_> = children.iter().map(|child| &child["platform"]["architecture"]).collect();
        assert_eq!(platforms, ["amd64", "arm64"]);
        for child in &children {
            manifest(child["digest"].as_str().unwrap()).await;
        }

        // Layers in zstd, Docker's own manifest, and the digest that podman says it pushed. Two images, since podman takes a
        // layer that the registry has in either form for the right one.
        let (reference, other) = (format!("{repository}:plain"), format!("{repository}:empty"));
        podman.load(input(inputs::PLAIN), &reference).await;
        podman.load(input(inputs::EMPTY), &other).await;
        let push = "podman push --tls-verify=false --digestfile digest";
        podman.0.ok(format!("{push} --compression-format zstd {reference} docker://{repository}:zstd")).await;
        let zstd = manifest("zstd").await;
        assert_eq!(zstd.json()["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
        podman.0.ok(format!("{push} --format v2s2 {other} docker://{repository}:docker")).await;
        let docker = manifest("docker").await;
        assert_eq!(docker.header("content-type"), Some(MediaType::DOCKER_MANIFEST));
        let said = std::fs::read_to_string(podman.0.path("digest")).unwrap();
        assert_eq!(docker.header("docker-content-digest"), Some(said.as_str()));
        podman.forget().await;
        podman.pull(&format!("{repository}:zstd")).await.done();
        assert_eq!(podman.id(&format!("{repository}:zstd")).await, input(inputs::PLAIN).image_id.unwrap());
        let found = podman.0.ok(format!("podman search --tls-verify=false {}/podman", podman.0.registry)).await;
        assert!(found.contains("podman/forms"), "{found}");
    }
}
