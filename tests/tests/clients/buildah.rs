//! buildah: images that it builds on top of what the registry has.

use berth_oci::Digest;
use berth_testkit::{Blob, PASSWORD};

use crate::{
    engine::Engine,
    inputs::{self, Input, input},
    sandbox::{Said, Sandbox},
};

pub(crate) struct Buildah(Sandbox);

impl Engine for Buildah {
    const NAME: &'static str = "buildah";
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
        self.0.run(format!("buildah login --tls-verify=false -u {user} -p {password} {registry}")).await
    }

    async fn log_out(&self) -> Said {
        self.0.run(format!("buildah logout {}", self.0.registry)).await
    }

    async fn load(&self, input: &Input, reference: &str) {
        let id = self.0.ok(format!("buildah pull -q oci:{}:{}", input.folder.display(), input.name)).await;
        self.0.ok(format!("buildah tag {id} {reference}")).await;
    }

    async fn push(&self, reference: &str) -> Said {
        self.0.run(format!("buildah push --tls-verify=false {reference}")).await
    }

    async fn pull(&self, reference: &str) -> Said {
        self.0.run(format!("buildah pull --tls-verify=false {reference}")).await
    }

    async fn id(&self, reference: &str) -> Digest {
        let inspect = "buildah inspect --type image --format {{.FromImageID}}";
        let id = self.0.ok(format!("{inspect} {reference}")).await;
        format!("sha256:{id}").parse().unwrap()
    }

    async fn tag(&self, from: &str, to: &str) -> Said {
        self.0.run(format!("buildah tag {from} {to}")).await
    }

    async fn forget(&self) {
        self.0.ok("buildah rmi --all --force").await;
    }
}

engine!(Buildah);

wherever_bytes_are! {
    async fn builds_on_what_the_registry_has(deployment: &'static Deployment) {
        let buildah = Buildah(Sandbox::new(deployment));
        buildah.log_in("admin", PASSWORD).await.done();
        let repository = format!("{}/buildah/built", buildah.0.registry);
        let base = format!("{repository}:base");
        buildah.load(input(inputs::PLAIN), &base).await;
        buildah.push(&base).await.done();
        buildah.forget().await;

        buildah.0.write("in/Containerfile", format!("FROM {base}\nCOPY added /added\nENV BUILT=here\n"));
        buildah.0.write("in/added", "a file on top");
        let built = format!("{repository}:built");
        buildah.0.ok(format!("buildah build --tls-verify=false -t {built} in")).await;
        buildah.push(&built).await.done();
        let own = deployment.client().repository("buildah/built");
        let layers = async |tag: &str| {
            let manifest = own.manifest(tag).await.unwrap().expect(200).unwrap().json();
            manifest["layers"].as_array().unwrap().clone()
        };
        let (below, all) = (layers("base").await, layers("built").await);
        assert_eq!((all.len(), &all[..2]), (3, &below[..]), "the layers of the base are those that are there");

        // Elsewhere the file is in the image.
        let other = Buildah(Sandbox::new(deployment));
        other.log_in("admin", PASSWORD).await.done();
        let container = other.0.ok(format!("buildah from --tls-verify=false {built}")).await;
        let tree = other.0.ok(format!("buildah mount {container}")).await;
        assert_eq!(std::fs::read(format!("{tree}/added")).unwrap(), b"a file on top");
        other.0.ok(format!("buildah umount {container}")).await;

        // An index of two builds.
        buildah.0.ok("buildah manifest create both").await;
        for reference in [&base, &built] {
            buildah.0.ok(format!("buildah manifest add --tls-verify=false both docker://{reference}")).await;
        }
        let push = "buildah manifest push --tls-verify=false --all --digestfile digest";
        buildah.0.ok(format!("{push} both docker://{repository}:both")).await;
        let index = own.manifest("both").await.unwrap().expect(200).unwrap();
        assert_eq!(index.json()["manifests"].as_array().unwrap().len(), 2);
        let digest = std::fs::read_to_string(buildah.0.path("digest")).unwrap();
        assert_eq!(Blob::new("", index.body).digest.to_string(), digest);
    }
}
