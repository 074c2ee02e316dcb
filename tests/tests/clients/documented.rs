//! `docs/clients.md`: its commands work as they stand there, and its table says what ran.

use std::collections::BTreeMap;

use berth_testkit::{Deployment, PASSWORD, Setting};

use crate::{
    buildah::Buildah,
    containerd::Containerd,
    copier::Copier,
    docker::Docker,
    engine::Engine,
    inputs::{self, input},
    layout::pack,
    podman::Podman,
    sandbox::Sandbox,
};

const PAGE: &str = include_str!("../../../docs/clients.md");
const RUN: &str = include_str!("../../run");

/// The commands of a client's section.
fn commands(client: &str) -> String {
    let (_, section) = PAGE.split_once(&format!("### {client}\n")).expect("a section of the client");
    let section = section.split("\n#").next().unwrap();
    let commands: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(commands.len() > 2, "{client}: {commands:?}");
    commands.join("\n")
}

/// The same for a registry with TLS: the page says which flags to leave out.
fn without_plain_flags(commands: &str) -> String {
    const FLAGS: &[&str] = &[
        "--plain-http",
        "--from-plain-http",
        "--to-plain-http",
        "--tls-verify=false",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--insecure",
        "--allow-http-registry",
    ];
    let left =
        |line: &str| line.split(' ').filter(|word| !FLAGS.contains(word)).collect::<Vec<_>>().join(" ");
    commands.lines().filter(|line| !line.contains("--tls disabled")).map(left).collect::<Vec<_>>().join("\n")
}

/// A deployment of its own, with TLS or without.
struct Registry {
    deployment: Deployment,
    /// A certificate that clients trust.
    certificate: Option<String>,
}

impl Registry {
    async fn plain() -> Self {
        let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
        Self { deployment, certificate: None }
    }

    async fn with_tls() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let builder = Deployment::builder(Setting::EMBEDDED)
            .with_env("BERTH__LISTEN__TLS_CERTIFICATE", certificate.to_str().unwrap())
            .with_env("BERTH__LISTEN__TLS_KEY", key.to_str().unwrap());
        Self { deployment: builder.start().await.unwrap(), certificate: Some(made.cert.pem()) }
    }

    async fn both() -> [Self; 2] {
        [Self::plain().await, Self::with_tls().await]
    }

    fn sandbox(&self) -> Sandbox {
        let sandbox = Sandbox::new(&self.deployment);
        match &self.certificate {
            Some(certificate) => sandbox.trusting(certificate),
            None => sandbox,
        }
    }

    /// Runs a client's commands, with what the page says is there.
    async fn run(&self, client: &str, sandbox: &Sandbox, before: &str) {
        if client != "helm" {
            let layout = format!("oci:{}:{}", input(inputs::PLAIN).folder.display(), inputs::PLAIN);
            sandbox.ok(format!("skopeo copy {layout} oci:image:app")).await;
        }
        if client == "containerd" {
            pack(&sandbox.path("image"), &sandbox.path("image.tar"));
        }
        let commands = format!("{before}\n{}", commands(client).replace("localhost:5000", &sandbox.registry));
        let commands = if self.certificate.is_some() { without_plain_flags(&commands) } else { commands };
        sandbox.write("commands", format!("set -euxo pipefail\n{commands}\n"));
        sandbox.ok("bash commands").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_engines_work() {
    for registry in Registry::both().await {
        let docker = Docker::start(registry.sandbox()).await;
        docker.load(input(inputs::PLAIN), "app:latest").await;
        registry.run("docker", docker.sandbox(), "").await;
        let podman = Podman::start(registry.sandbox()).await;
        podman.load(input(inputs::PLAIN), "localhost/app:latest").await;
        registry.run("podman", podman.sandbox(), "").await;
        let buildah = Buildah::start(registry.sandbox()).await;
        buildah.load(input(inputs::PLAIN), "localhost/app:latest").await;
        registry.run("buildah", buildah.sandbox(), "").await;
        // With a loopback address `ctr` speaks plain HTTP, whatever it is told.
        if registry.certificate.is_none() {
            let containerd = Containerd::start(registry.sandbox()).await;
            registry.run("containerd", containerd.sandbox(), "").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_programs_work() {
    for registry in Registry::both().await {
        for client in ["skopeo", "crane", "regctl"] {
            registry.run(client, &registry.sandbox(), "").await;
            // Each deletes at the end what it pushed.
            let own = registry.deployment.client();
            if registry.certificate.is_none() {
                assert_eq!(own.repository("team/app").manifest("v1").await.unwrap().status, 404);
            }
        }
        registry.run("oras", &registry.sandbox(), "echo text >notes.txt; echo fine >review.txt").await;
        for helm in ["helm3", "helm4"] {
            let sandbox = registry.sandbox();
            registry.run("helm", &sandbox, &format!("ln -s \"$(command -v {helm})\" bin/helm")).await;
        }
        let login = format!("crane auth login --insecure -u admin -p {PASSWORD} \"$REGISTRY\"");
        let push = "DIGEST=$(crane push --insecure image \"$REGISTRY/team/app:v1\" | cut -d@ -f2)";
        registry.run("cosign", &registry.sandbox(), &format!("{login}\n{push}")).await;
    }
}

/// Name and version in each row of the table.
fn table() -> BTreeMap<&'static str, &'static str> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells.filter(|cells| cells[0] != "client").map(|cells| (cells[0], cells[1])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_versions_of_the_table_are_those_that_ran() {
    let table = table();
    // Pinned: the table has what `tests/run` installs, and that is what is there.
    let pinned = RUN.lines().filter_map(|line| line.trim().strip_prefix("need_client "));
    let pinned: Vec<Vec<_>> = pinned.map(|line| line.split(' ').collect()).collect();
    assert_eq!(pinned.len(), 6);
    let deployment = crate::settings::shared(crate::settings::Place::Folder).await;
    let sandbox = Sandbox::new(deployment);
    for words in pinned {
        let [name, _, _, version] = words.as_slice() else { panic!("{words:?}") };
        let row = name.replace("helm", "helm ");
        assert_eq!(table.get(row.as_str()), Some(&version.trim_start_matches('v')), "{name}");
        let path = crate::sandbox::clients_folder().join(name);
        let built = sandbox.ok(format!("go version -m {}", path.display())).await;
        let module = built.lines().find(|line| line.trim().starts_with("mod\t")).unwrap();
        assert!(module.contains(&format!("\t{version}")), "{name}: {module}");
        println!("{name} {version}");
    }
    // Of the system: whatever it has; the table has Debian 12's.
    for (name, command) in [
        ("docker", "dockerd --version"),
        ("containerd", "containerd --version"),
        ("podman", "podman --version"),
        ("buildah", "buildah --version"),
        ("skopeo", "skopeo --version"),
    ] {
        println!("{} (the table: {})", sandbox.ok(command).await, table[name]);
    }
    assert_eq!(table.len(), 11);
}
