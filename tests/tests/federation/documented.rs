//! `docs/ci.md`: its commands run as they are written, with a token of a real issuer in the place of a CI's.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use berth_testkit::{
    ADMIN, Client, Deployment, OidcIssuer, PASSWORD, Setting, documented_blocks, run_documented,
};
use reqwest::Method;

use crate::{id_token, shows};

/// Where the issuer sends browsers back to; nobody has to listen there.
const BACK: &str = "http://localhost/back";

/// The built berthctl: beside the registry's program, unless the environment says otherwise.
fn berthctl() -> PathBuf {
    let beside = || Path::new(&std::env::var_os("BERTH_BIN").unwrap()).with_file_name("berthctl");
    std::env::var_os("BERTHCTL_BIN").map_or_else(beside, PathBuf::from)
}

#[test]
fn the_files_of_pipelines_are_yaml() {
    let files = documented_blocks("ci.md", "yaml");
    assert_eq!(files.len(), 4);
    for document in files.iter().flat_map(|file| file.split("\n---\n")) {
        let read: serde_json::Map<String, serde_json::Value> = yaml_serde::from_str(document).unwrap();
        assert!(read.len() > 1, "{document}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ci_is_set_up_by_its_page_alone() {
    let deployment = Deployment::builder(Setting::EMBEDDED)
        .with_env("BERTH__OUTBOUND__ALLOW", r#"["127.0.0.1", "::1"]"#)
        .start()
        .await
        .unwrap();
    let issuer = OidcIssuer::start(&[BACK.to_owned()]).await.unwrap();
    let token = id_token(&issuer, BACK, "test-user2").await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("layer.tar"), [0; 1024]).unwrap();
    std::fs::write(folder.join("source.tar.gz"), "source").unwrap();
    let mut path =
        vec![berthctl().parent().unwrap().to_owned(), std::env::var_os("BERTH_CLIENTS").unwrap().into()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    // Plain HTTP is for names of this machine, with these clients.
    let host = format!("localhost:{}", deployment.address().port());
    let out = run_documented("ci.md", "berthctl ", |bash| {
        bash.current_dir(folder)
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("HOME", folder)
            .env("DOCKER_CONFIG", folder.join("docker"))
            .env("BERTH_CONFIG", folder.join("config"))
            .env("BERTH", format!("http://{host}"))
            .env("HOST", &host)
            .env("PASSWORD", PASSWORD)
            .env("TOKEN", &token);
    })
    .await;
    // The workload pushed, and the robot with a secret went on.
    assert!(out.contains("artifact.pushed"), "{out}");
    let admin = STANDARD.encode(format!("{ADMIN}:{PASSWORD}"));
    let trail = deployment
        .anonymous()
        .call(Method::GET, "/api/v1/instances/default/audit?repository=team/app&page_size=100");
    let trail =
        trail.header("authorization", format!("Basic {admin}")).send().await.unwrap().expect(200).unwrap();
    let trail = String::from_utf8(trail.body.to_vec()).unwrap();
    assert!(trail.contains("\"identity_token\"") && trail.contains("\"robot_secret\""), "{trail}");
    assert_eq!(deployment.client().repository("team/app").tags().await.unwrap(), ["v1", "v2"]);
    // Without its trust neither the token nor the session is anybody.
    assert_eq!(shows(&deployment.anonymous(), "robot+ci", &token).await.status, 401);
    let session = std::fs::read_to_string(folder.join("job/tokens.json")).unwrap();
    let session = session.split('"').find(|part| part.starts_with("berth_")).unwrap();
    let call = Client::new(deployment.url()).call(Method::GET, "/api/v1/identity").bearer(session);
    assert_eq!(call.send().await.unwrap().status, 401);
}
