//! docker: an engine of its own, images in its storage, what people see when they are refused, and redirects.

use std::process::{Child, Command, Stdio};

use berth_oci::Digest;
use berth_testkit::{PASSWORD, eventually};

use crate::{
    engine::Engine,
    inputs::{self, Input, input},
    sandbox::{Said, Sandbox},
};

/// An engine of its own; ends with its value.
pub(crate) struct Docker {
    daemon: Child,
    sandbox: Sandbox,
}

impl Drop for Docker {
    fn drop(&mut self) {
        // SIGTERM by its own id, so that the engine ends the containerd that it started.
        let _ended_already = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _waited = self.daemon.wait();
    }
}

impl Engine for Docker {
    const NAME: &'static str = "docker";
    const REFUSES: &'static [(&'static str, &'static str)] = &[
        (inputs::NESTED, "no matching manifest for linux/amd64"),
        (inputs::ARTIFACT, "unsupported media type"),
        (inputs::NOTHING, "unsupported media type"),
        (inputs::ZSTD, "invalid tar header"),
    ];

    async fn start(sandbox: Sandbox) -> Self {
        std::fs::create_dir(sandbox.path("dockerd")).unwrap();
        let path = |name: &str| sandbox.path(&format!("dockerd/{name}")).display().to_string();
        let log = std::fs::File::create(path("log")).unwrap();
        let daemon = Command::new("dockerd")
            .args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
            .args(["-H", &format!("unix://{}", path("docker.sock"))])
            .args(["--iptables=false", "--bridge=none", "--storage-driver=vfs"])
            .env_clear()
            .envs(sandbox.environment())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd is installed by tests/run and needs root");
        let docker = Self { daemon, sandbox };
        let ready = || async { docker.sandbox.run("docker version").await.succeeded().then_some(()) };
        if let Err(error) = eventually("dockerd answers", ready).await {
            let log = std::fs::read_to_string(docker.sandbox.path("dockerd/log")).unwrap_or_default();
            panic!("{error}: {log}");
        }
        docker
    }

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    async fn log_in(&self, user: &str, password: &str) -> Said {
        self.sandbox.run(format!("docker login -u {user} -p {password} {}", self.sandbox.registry)).await
    }

    async fn log_out(&self) -> Said {
        self.sandbox.run(format!("docker logout {}", self.sandbox.registry)).await
    }

    async fn load(&self, input: &Input, reference: &str) {
        let archive = self.sandbox.path("tmp/load.tar");
        let (from, to) = (input.folder.display(), archive.display());
        self.sandbox
            .ok(format!("skopeo copy oci:{from}:{} docker-archive:{to}:{reference}", input.name))
            .await;
        self.sandbox.ok(format!("docker load -i {to}")).await;
        std::fs::remove_file(archive).unwrap();
    }

    async fn push(&self, reference: &str) -> Said {
        self.sandbox.run(format!("docker push {reference}")).await
    }

    async fn pull(&self, reference: &str) -> Said {
        self.sandbox.run(format!("docker pull {reference}")).await
    }

    async fn id(&self, reference: &str) -> Digest {
        self.sandbox.ok(format!("docker inspect --format {{{{.Id}}}} {reference}")).await.parse().unwrap()
    }

    async fn tag(&self, from: &str, to: &str) -> Said {
        self.sandbox.run(format!("docker tag {from} {to}")).await
    }

    async fn push_tags(&self, from: &str, repository: &str, tags: &[String]) {
        for tag in tags {
            self.tag(from, &format!("{repository}:{tag}")).await.done();
        }
        self.sandbox.ok(format!("docker push --all-tags {repository}")).await;
    }

    async fn forget(&self) {
        self.sandbox.ok("docker image prune --all --force").await;
    }
}

engine!(Docker);

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_one_segment_is_one_of_the_library() {
    let deployment = crate::settings::shared(crate::settings::Place::Folder).await;
    let docker = Docker::start(Sandbox::new(deployment)).await;
    docker.log_in("admin", PASSWORD).await.done();
    let reference = format!("{}/of-one-segment:v1", docker.sandbox.registry);
    docker.load(input(inputs::PLAIN), &reference).await;
    docker.push(&reference).await.done();
    let tags = deployment.client().repository("library/of-one-segment").tags().await.unwrap();
    assert_eq!(tags, ["v1"]);
    docker.forget().await;
    docker.pull(&reference).await.done();
}
