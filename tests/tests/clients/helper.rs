//! `docker-credential-berth`: clients that are logged in because berthctl is, and logins of docker that berthctl keeps.

use berth_testkit::{Deployment, PASSWORD};

use crate::{
    docker::Docker,
    engine::Engine,
    inputs::{self, input},
    sandbox::Sandbox,
    settings::{Place, shared},
};

/// A sandbox with the programs of berthctl, in which an administrator has logged in.
async fn sandbox(deployment: &Deployment) -> Sandbox {
    let sandbox = Sandbox::new(deployment);
    let built = std::env::var_os("BERTH_BIN").expect("BERTH_BIN names the program; use tests/run");
    for program in ["berthctl", "docker-credential-berth"] {
        let built = std::path::Path::new(&built).with_file_name(program);
        std::os::unix::fs::symlink(built, sandbox.path(&format!("bin/{program}"))).unwrap();
    }
    sandbox.write("password", PASSWORD);
    let registry = &sandbox.registry;
    sandbox.ok(format!("berthctl login http://{registry} --user admin --password-file password")).await;
    sandbox
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_logged_in_as_berthctl_is() {
    let sandbox = sandbox(shared(Place::Folder).await).await;
    let repository = format!("{}/helper/clients", sandbox.registry);
    let folder = input(inputs::PLAIN).folder.display();
    let push = format!("crane push --insecure {folder} {repository}:crane");
    sandbox.run(&push).await.refused();
    sandbox.ok("berthctl configure-docker").await;
    let image = sandbox.ok(&push).await;

    let name = inputs::PLAIN;
    sandbox.ok(format!("oras cp --from-oci-layout {folder}:{name} --to-plain-http {repository}:oras")).await;
    sandbox.ok(format!("regctl registry set --tls disabled {}", sandbox.registry)).await;
    sandbox.ok(format!("regctl image copy {repository}:oras {repository}:regctl")).await;
    // Of these the one reads docker's settings by itself; the others are told to.
    let copy = "skopeo copy --authfile docker/config.json --dest-tls-verify=false";
    sandbox.ok(format!("{copy} oci:{folder}:{name} docker://{repository}:skopeo")).await;
    let pull = "podman pull --authfile docker/config.json --tls-verify=false";
    sandbox.ok(format!("{pull} {repository}:skopeo")).await;
    let pull = "buildah pull --authfile docker/config.json --tls-verify=false";
    sandbox.ok(format!("{pull} {repository}:skopeo")).await;
    sandbox.ok("cosign generate-key-pair --output-key-prefix key").await;
    let sign = "cosign sign --allow-http-registry --use-signing-config=false --tlog-upload=false --yes";
    sandbox.ok(format!("{sign} --key key.key {image}")).await;
    for helm in ["helm3", "helm4"] {
        sandbox.ok(format!("{helm} create {helm}")).await;
        sandbox.ok(format!("{helm} package {helm}")).await;
        let charts = format!("oci://{}/helper", sandbox.registry);
        sandbox.ok(format!("{helm} push --plain-http {helm}-0.1.0.tgz {charts}")).await;
        sandbox.ok(format!("{helm} show chart --plain-http {charts}/{helm}")).await;
    }
    let docker = Docker::start(sandbox).await;
    docker.pull(&format!("{repository}:crane")).await.done();
    docker.tag(&format!("{repository}:crane"), &format!("{repository}:docker")).await.done();
    docker.push(&format!("{repository}:docker")).await.done();

    // What docker logs out of is still berthctl's; with its session all of it ends.
    docker.log_out().await.done();
    docker.push(&format!("{repository}:docker")).await.refused();
    let sandbox = docker.sandbox();
    assert!(sandbox.ok("berthctl whoami").await.contains("admin"));
    sandbox.ok("berthctl configure-docker").await;
    docker.push(&format!("{repository}:docker")).await.done();
    sandbox.ok("berthctl logout").await;
    docker.push(&format!("{repository}:docker")).await.refused();
    sandbox.run(&push).await.refused();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_of_docker_is_kept_without_its_password() {
    let deployment = shared(Place::Folder).await;
    deployment.admin(&["create-user", "of-docker"], PASSWORD).await.unwrap();
    let sandbox = sandbox(deployment).await;
    sandbox.ok("berthctl namespace create --name helper-docker").await;
    sandbox
        .ok("berthctl grant create --principal user:of-docker --role developer --namespace helper-docker")
        .await;
    sandbox.ok("berthctl configure-docker").await;
    let docker = Docker::start(sandbox).await;
    let sandbox = docker.sandbox();
    let reference = format!("{}/helper-docker/app:v1", sandbox.registry);
    docker.load(input(inputs::PLAIN), &reference).await;
    docker.log_in("of-docker", "wrong").await.refused();
    docker.log_in("of-docker", PASSWORD).await.done();
    docker.push(&reference).await.done();
    // It is docker's alone: berthctl is who it was.
    let audit = sandbox.ok("berthctl audit list --repository helper-docker/app -o json").await;
    let user = sandbox.ok("berthctl user get of-docker -o json").await;
    let user: serde_json::Value = serde_json::from_str(&user).unwrap();
    assert!(audit.contains(&format!("user:{}", user["id"].as_str().unwrap())), "{audit}");
    assert!(sandbox.ok("berthctl whoami").await.contains("admin"));
    for file in ["docker/config.json", "home/.config/berth/config.toml", "home/.config/berth/tokens.json"] {
        let text = std::fs::read_to_string(sandbox.path(file)).unwrap();
        assert!(!text.contains(PASSWORD) && !text.contains("\"auth\""), "{file}: {text}");
    }
    // What docker logged in, docker logs out.
    docker.log_out().await.done();
    let contexts = sandbox.ok("berthctl context list -o json").await;
    assert!(!contexts.contains("docker:"), "{contexts}");
    docker.push(&reference).await.refused();
}
