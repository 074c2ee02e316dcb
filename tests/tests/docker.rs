//! The real docker against the built binary: log in, push, pull back, be refused.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use berth_testkit::{Deployment, ObjectStorage, PASSWORD, Setting, eventually};

/// A docker engine of its own; ends with its value.
struct Docker {
    engine: Child,
    folder: PathBuf,
}

impl Docker {
    async fn start(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        let log = std::fs::File::create(folder.join("dockerd.log")).unwrap();
        let engine = Command::new("dockerd")
            .args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
            .args(["-H", &format!("unix://{}", path("docker.sock"))])
            .args(["--iptables=false", "--bridge=none", "--storage-driver=vfs"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd is installed by tests/run and needs root");
        let docker = Self { engine, folder: folder.to_owned() };
        let ready = || async { docker.run(&["version"]).status.success().then_some(()) };
        if let Err(error) = eventually("dockerd answers", ready).await {
            panic!("{error}: {}", std::fs::read_to_string(folder.join("dockerd.log")).unwrap_or_default());
        }
        docker
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new("docker")
            .env("DOCKER_CONFIG", self.folder.join("config"))
            .args(["-H", &format!("unix://{}", self.folder.join("docker.sock").display())])
            .args(arguments)
            .output()
            .unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "docker {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Imports an image with one file.
    fn import(&self, name: &str) {
        let tree = self.folder.join("tree");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("hello"), "hello from a layer\n".repeat(5000)).unwrap();
        let archive = self.folder.join("tree.tar");
        let packed =
            Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&tree).arg("hello").status().unwrap();
        assert!(packed.success());
        self.ok(&["import", archive.to_str().unwrap(), name]);
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // SIGTERM by its own id, so that the engine ends the containerd that it started.
        let _ended_already = Command::new("kill").arg(self.engine.id().to_string()).status();
        let _waited = self.engine.wait();
    }
}

async fn logs_in_pushes_and_pulls(setting: Setting) {
    let deployment = Deployment::builder(setting).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let docker = Docker::start(folder.path()).await;
    let registry = deployment.address().to_string();

    // Without logging in nothing goes.
    let (image, short) = (format!("{registry}/team/app:v1"), format!("{registry}/app:v1"));
    docker.import(&image);
    let refused = docker.run(&["push", &image]);
    assert!(!refused.status.success());
    let wrong = docker.run(&["login", "-u", "admin", "-p", "wrong password", &registry]);
    assert!(!wrong.status.success());

    docker.ok(&["login", "-u", "admin", "-p", PASSWORD, &registry]);
    docker.ok(&["push", &image]);
    docker.ok(&["tag", &image, &short]);
    docker.ok(&["push", &short]);
    let id = docker.ok(&["inspect", "--format", "{{.Id}}", &image]);
    let digest = docker.ok(&["inspect", "--format", "{{index .RepoDigests 0}}", &image]);
    for name in [image.as_str(), short.as_str(), digest.as_str()] {
        docker.ok(&["rmi", "-f", &id]);
        docker.ok(&["pull", name]);
        assert_eq!(docker.ok(&["inspect", "--format", "{{.Id}}", name]), id);
    }
    let tags = deployment.client().repository("library/app").tags().await.unwrap();
    assert_eq!(tags, ["v1"]);
    let absent = docker.run(&["pull", &format!("{registry}/team/app:absent")]);
    assert!(String::from_utf8_lossy(&absent.stderr).contains("is not in repository"), "{absent:?}");

    // Public is public, also for who is logged out.
    docker.ok(&["logout", &registry]);
    assert!(!docker.run(&["pull", &image]).status.success());
    deployment.admin(&["set-visibility", "team/app", "public"], "").await.unwrap();
    docker.ok(&["pull", &image]);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_logs_in_pushes_and_pulls() {
    logs_in_pushes_and_pulls(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pushes_to_and_pulls_from_a_bucket() {
    logs_in_pushes_and_pulls(Setting::EMBEDDED.on_bucket()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pushes_to_and_pulls_from_an_encrypted_folder() {
    logs_in_pushes_and_pulls(Setting::EMBEDDED.sealed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pushes_to_and_pulls_from_an_encrypted_bucket() {
    logs_in_pushes_and_pulls(Setting::EMBEDDED.on_bucket().sealed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pulls_from_the_object_storage_that_it_is_sent_to() {
    let storage = ObjectStorage::start();
    // Another name than the registry's: Go sends a token along to another port of the same host.
    let public = format!("http://localhost:{}", storage.address().port());
    let builder =
        Deployment::builder(Setting::EMBEDDED).with_env("BERTH__BLOB_STORE__S3__PUBLIC_ENDPOINT", public);
    let deployment = storage.holds_blobs_of(builder).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let docker = Docker::start(folder.path()).await;
    let registry = deployment.address().to_string();
    let image = format!("{registry}/away/app:v1");
    docker.import(&image);
    docker.ok(&["login", "-u", "admin", "-p", PASSWORD, &registry]);
    docker.ok(&["push", &image]);
    let id = docker.ok(&["inspect", "--format", "{{.Id}}", &image]);
    deployment.admin(&["set-blob-delivery", "default", "redirect"], "").await.unwrap();
    // In one process it is in force at once, or with the next poll.
    let redirected = || async {
        docker.ok(&["rmi", "-f", &id]);
        docker.ok(&["pull", &image]);
        assert_eq!(docker.ok(&["inspect", "--format", "{{.Id}}", &image]), id);
        storage.log().iter().any(|line| line.contains("X-Amz-Signature=")).then_some(())
    };
    eventually("docker gets a blob from the storage", redirected).await.unwrap();
}
