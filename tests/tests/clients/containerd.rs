//! containerd, by `ctr`: into its store, from there to the registry, and back into an emptied store.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use berth_testkit::{PASSWORD, eventually};

use crate::{
    copier::Copier,
    inputs::{self, Input, input},
    layout::{ImageLayout, pack},
    sandbox::{Said, Sandbox},
};

/// A containerd of its own; ends with its value.
pub(crate) struct Containerd {
    daemon: Child,
    sandbox: Sandbox,
    /// `ctr` keeps no credentials: each command is told.
    user: String,
}

impl Containerd {
    /// Where it keeps content, in the form of a layout.
    fn store(&self) -> PathBuf {
        self.sandbox.path("containerd/root/io.containerd.content.v1.content")
    }

    /// Forgets everything, and waits until the bytes are gone too.
    async fn empty(&self) {
        let images = self.sandbox.ok("ctr images ls -q").await;
        if !images.is_empty() {
            self.sandbox.ok(format!("ctr images rm --sync {}", images.replace('\n', " "))).await;
        }
        assert_eq!(self.sandbox.ok("ctr content ls -q").await, "");
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ended_already = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _waited = self.daemon.wait();
    }
}

impl Copier for Containerd {
    const NAME: &'static str = "containerd";
    // `ctr` closes a pipe that it makes with the first byte, which never comes.
    const REFUSES: &'static [(&'static str, &'static str)] = &[(inputs::NOTHING, "nil pointer dereference")];

    async fn start(sandbox: Sandbox) -> Self {
        let path = |name: &str| sandbox.path(&format!("containerd/{name}")).display().to_string();
        let without = ["grpc.v1.cri", "internal.v1.opt", "snapshotter.v1.devmapper", "snapshotter.v1.zfs"];
        let without = without.map(|plugin| format!("io.containerd.{plugin}"));
        let configuration = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {without:?}\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("containerd.sock"),
            path("ttrpc.sock"),
        );
        let file = sandbox.write("containerd/config.toml", configuration);
        let log = std::fs::File::create(path("log")).unwrap();
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(file)
            .env_clear()
            .envs(sandbox.environment())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed by tests/run and needs root");
        let containerd = Self { daemon, sandbox, user: "nobody:nothing".to_owned() };
        let sandbox = &containerd.sandbox;
        let ready = || async { sandbox.run("ctr version").await.succeeded().then_some(()) };
        if let Err(error) = eventually("containerd answers", ready).await {
            let log = std::fs::read_to_string(sandbox.path("containerd/log")).unwrap_or_default();
            panic!("{error}: {log}");
        }
        containerd
    }

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    async fn log_in(&mut self, user: &str, password: &str) -> Said {
        self.user = format!("{user}:{password}");
        self.sandbox.run("ctr version").await
    }

    async fn push(&self, input: &Input, to: &str) -> Said {
        let archive = self.sandbox.path("tmp/pushed.tar");
        pack(&input.folder, &archive);
        let import = "ctr images import --all-platforms --no-unpack --digests --base-name imported";
        self.sandbox.ok(format!("{import} {}", archive.display())).await;
        std::fs::remove_file(archive).unwrap();
        self.sandbox.ok(format!("ctr images tag --force imported@{} {to}", input.root.digest)).await;
        self.sandbox.run(format!("ctr images push --plain-http --user {} {to}", self.user)).await
    }

    async fn pull(&self, from: &str, folder: &Path) -> Said {
        self.empty().await;
        let fetch = "ctr content fetch --plain-http --all-platforms";
        let said = self.sandbox.run(format!("{fetch} --user {} {from}", self.user)).await;
        // `ctr images export` can't write an index within an index; what is in the store says as much.
        let layout = ImageLayout::new(folder.to_owned());
        for digest in self.sandbox.ok("ctr content ls -q").await.lines() {
            let digest = digest.parse().unwrap();
            std::fs::copy(ImageLayout::at(self.store()).file(&digest), layout.file(&digest)).unwrap();
        }
        said
    }
}

copier!(Containerd);

wherever_bytes_are! {
    async fn images_are_unpacked(deployment: &'static Deployment) {
        let mut containerd = Containerd::start(Sandbox::new(deployment)).await;
        containerd.log_in("admin", PASSWORD).await.done();
        for name in [inputs::PLAIN, inputs::DEEP, inputs::EMPTY, inputs::ZSTD, inputs::SCHEMA2, inputs::NESTED] {
            let reference = format!("{}/containerd/unpacked:{name}", containerd.sandbox.registry);
            containerd.push(input(name), &reference).await.done();
            containerd.empty().await;
            let pull = "ctr images pull --plain-http --platform linux/amd64 --snapshotter native";
            containerd.sandbox.ok(format!("{pull} --user {} {reference}", containerd.user)).await;
            let snapshots = containerd.sandbox.ok("ctr snapshots --snapshotter native ls").await;
            assert!(snapshots.contains("Committed"), "{name}: {snapshots}");
        }
    }
}
