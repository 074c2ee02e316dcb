//! A place of its own for a client: home, credentials, caches, storage, and no way out. What it is told to do is written
//! as one types it, since nothing in it needs quotes.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, process::Stdio, time::Duration};

use berth_testkit::{Deployment, PASSWORD};
use tempfile::TempDir;

/// How long a command may take, the push of two GiB included.
const PATIENCE: Duration = Duration::from_secs(600);

/// The folder where clients live that are no packages of the system; `tests/run` fills it.
pub(crate) fn clients_folder() -> PathBuf {
    let folder = std::env::var_os("BERTH_CLIENTS");
    folder.expect("BERTH_CLIENTS names the folder with crane, oras and the others; use tests/run").into()
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Said {
    command: String,
    status: Option<i32>,
    /// On its standard output.
    pub(crate) out: String,
    /// On its standard error.
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn succeeded(&self) -> bool {
        self.status == Some(0)
    }

    /// Its output; a failure ends the test.
    pub(crate) fn done(self) -> String {
        assert_eq!(self.status, Some(0), "{self}");
        self.out.trim().to_owned()
    }

    /// What it said while it failed; success ends the test.
    pub(crate) fn refused(self) -> String {
        assert!(self.status.is_some_and(|status| status != 0), "not refused: {self}");
        format!("{}{}", self.out, self.err)
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} -> {:?}\n{}{}", self.command, self.status, self.out, self.err)
    }
}

/// Where a client runs.
#[derive(Debug)]
pub(crate) struct Sandbox {
    folder: TempDir,
    /// `127.0.0.1:PORT`.
    pub(crate) registry: String,
    /// Certificates in place of the system's.
    trusted: Option<PathBuf>,
}

impl Sandbox {
    pub(crate) fn new(deployment: &Deployment) -> Self {
        let registry = deployment.address().to_string();
        let sandbox = Self { folder: tempfile::tempdir().unwrap(), registry, trusted: None };
        for folder in ["home", "run", "tmp", "docker", "bin", "containers"] {
            std::fs::create_dir(sandbox.path(folder)).unwrap();
        }
        std::fs::write(sandbox.path("auth.json"), "{}").unwrap();
        // What podman and buildah would keep in the system's folders.
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            sandbox.path("storage"),
            sandbox.path("run/storage")
        );
        std::fs::write(sandbox.path("storage.conf"), storage).unwrap();
        let engine = format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\ntmp_dir = {:?}\n",
            sandbox.path("run/libpod")
        );
        std::fs::write(sandbox.path("containers.conf"), engine).unwrap();
        for program in ["podman", "buildah", "skopeo"] {
            sandbox.shut_in(program);
        }
        sandbox
    }

    /// Run by root, these remember which blobs they saw where in a file of the system's, and no setting moves it: with
    /// what others remember, a push is another one. So they see a folder of the sandbox in its place.
    fn shut_in(&self, program: &str) {
        let script = format!(
            "#!/bin/sh\nmkdir -p /var/lib/containers\n\
             exec unshare --mount sh -c 'mount --bind {} /var/lib/containers && exec \"$0\" \"$@\"' \\\n    \
             \"$(PATH=\"${{PATH#*:}}\" command -v {program})\" \"$@\"\n",
            self.path("containers").display()
        );
        let path = self.write(&format!("bin/{program}"), script);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The same with a certificate that clients in it trust.
    pub(crate) fn trusting(mut self, certificate: &str) -> Self {
        self.trusted = Some(self.write("trusted.pem", certificate));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file in it, with parents.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let of = |name: &str| self.path(name).display().to_string();
        let path = std::env::var("PATH").unwrap();
        let trusted = self.trusted.iter().map(|file| ("SSL_CERT_FILE", file.display().to_string()));
        let environment = [
            ("PATH", format!("{}:{}:{path}", of("bin"), clients_folder().display())),
            ("HOME", of("home")),
            ("TMPDIR", of("tmp")),
            ("XDG_RUNTIME_DIR", of("run")),
            ("XDG_CONFIG_HOME", of("home/.config")),
            ("XDG_CACHE_HOME", of("home/.cache")),
            ("XDG_DATA_HOME", of("home/.local/share")),
            ("DOCKER_CONFIG", of("docker")),
            ("DOCKER_HOST", format!("unix://{}", of("dockerd/docker.sock"))),
            ("CONTAINERD_ADDRESS", of("containerd/containerd.sock")),
            ("REGISTRY_AUTH_FILE", of("auth.json")),
            ("CONTAINERS_STORAGE_CONF", of("storage.conf")),
            ("CONTAINERS_CONF", of("containers.conf")),
            ("COSIGN_PASSWORD", "of the key".to_owned()),
            ("PASSWORD", PASSWORD.to_owned()),
            ("REGISTRY", self.registry.clone()),
            // Whatever would leave this machine fails at once. Loopback addresses go past a proxy.
            ("HTTP_PROXY", "http://127.0.0.1:1".to_owned()),
            ("HTTPS_PROXY", "http://127.0.0.1:1".to_owned()),
        ];
        environment.into_iter().chain(trusted).collect()
    }

    /// Runs a command, its words set apart by spaces.
    pub(crate) async fn run(&self, command: impl AsRef<str>) -> Said {
        let words: Vec<_> = command.as_ref().split_whitespace().collect();
        self.run_words(&words).await
    }

    /// Runs a command of which a word may have spaces.
    pub(crate) async fn run_words(&self, words: &[&str]) -> Said {
        let command = words.join(" ");
        let mut child = tokio::process::Command::new(words[0]);
        child.args(&words[1..]).env_clear().envs(self.environment()).current_dir(self.folder.path());
        let output = child.stdin(Stdio::null()).kill_on_drop(true).output();
        let output =
            tokio::time::timeout(PATIENCE, output).await.unwrap_or_else(|_| panic!("{command}: no end"));
        let output = output.unwrap_or_else(|error| panic!("{command}: {error}; tests/run installs clients"));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { command, status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs a command that has to succeed, and gives what it printed.
    pub(crate) async fn ok(&self, command: impl AsRef<str>) -> String {
        self.run(command).await.done()
    }
}
