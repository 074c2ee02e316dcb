//! What a generator of calls makes of the document: no fault of the server, no answer that the document does not have.

use std::{path::PathBuf, process::Stdio};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use berth_testkit::{ADMIN, Content, Deployment, PASSWORD, Setting};
use serde_json::json;

use crate::Api;

/// The generator: schemathesis.
fn generator() -> PathBuf {
    std::env::var_os("BERTH_SCHEMATHESIS")
        .expect("BERTH_SCHEMATHESIS names the program; see docs/testing.md")
        .into()
}

/// A deployment with something of everything, so that calls find what they are about.
async fn furnished() -> Deployment {
    let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
    let admin = Api::basic(deployment.anonymous(), ADMIN, PASSWORD);
    let here = |rest: &str| format!("/instances/default{rest}");
    admin.post(&here("/namespaces"), json!({ "name": "team" })).await;
    let image = Content::named("schema").image(2, 100);
    deployment.client().repository("team/app").push_image("v1", &image).await.unwrap();
    for (path, body) in [
        ("/users", json!({ "name": "plain", "password": PASSWORD })),
        ("/groups", json!({ "name": "crew" })),
        ("/robots", json!({ "name": "ci", "grants": [{ "role": "developer", "namespace": "team" }] })),
        ("/roles", json!({ "name": "puller", "scopes": ["instance"], "permissions": ["artifact:pull"] })),
    ] {
        admin.post(&here(path), body).await;
    }
    deployment
}

/// The calls of somebody: an Authorization header, or none.
async fn generate(deployment: &Deployment, authorization: Option<String>) {
    let folder = deployment.folder();
    let config = folder.join("schemathesis.toml");
    let names = [
        ("instance", "default"),
        ("namespace", "team"),
        ("repository", "team%2Fapp"),
        ("reference", "v1"),
        ("tag", "v1"),
        ("user", "plain"),
        ("group", "crew"),
        ("robot", "ci"),
        ("role", "puller"),
    ];
    let lines = names.map(|(name, value)| format!("\"path.{name}\" = {value:?}\n"));
    std::fs::write(&config, format!("[parameters]\n{}", lines.concat())).unwrap();
    let mut command = tokio::process::Command::new(generator());
    command.arg("--config-file").arg(&config).arg("run");
    command.arg(format!("{}/api/v1/openapi.json", deployment.url()));
    if let Some(authorization) = authorization {
        command.arg("-H").arg(format!("Authorization: {authorization}"));
    }
    // What takes the caller's own rights away is called elsewhere.
    for operation in ["instances.stop", "users.set_password", "sessions.delete"] {
        command.args(["--exclude-operation-id", operation]);
    }
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
        response_headers_conformance,unsupported_method";
    command.args(["--checks", checks, "--phases", "coverage,fuzzing", "--max-examples", "2", "--seed", "1"]);
    command.args(["--continue-on-failure", "--generation-database", "none", "--no-color"]);
    let output = command.current_dir(folder).stdin(Stdio::null()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("generated"), "{said}");
}

fn basic(name: &str) -> Option<String> {
    Some(format!("Basic {}", STANDARD.encode(format!("{name}:{PASSWORD}"))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_calls_of_an_administrator_are_answered_as_documented() {
    generate(&furnished().await, basic(ADMIN)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_calls_of_somebody_without_a_grant_and_of_nobody_are_answered_as_documented() {
    let deployment = furnished().await;
    generate(&deployment, basic("plain")).await;
    generate(&deployment, None).await;
}
