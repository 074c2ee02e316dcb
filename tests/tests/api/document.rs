//! The OpenAPI document: as the repository has it, as the server gives it out, and what holds of all operations.

use std::{collections::BTreeSet, path::Path, process::Command};

use berth_model::Permission;
use berth_testkit::{Deployment, Setting};
use serde_json::Value;

/// The document as the binary prints it.
pub(crate) fn printed() -> Value {
    let binary = std::env::var("BERTH_BIN").unwrap();
    let output = Command::new(binary).arg("openapi").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The operations: method, path below `/api/v1`, and what is said of them.
pub(crate) fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let below = path.strip_prefix("/api/v1").unwrap();
            found.push((method.to_uppercase(), below.to_owned(), operation.clone()));
        }
    }
    found
}

#[test]
fn the_checked_in_document_is_fresh() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let kept: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(kept == printed(), "docs/openapi.json is old: run `berth openapi > docs/openapi.json`");
}

#[test]
fn every_operation_says_who_may_call_it_and_has_a_name_of_its_own() {
    let document = printed();
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name.to_owned()), "{name} twice");
        let permission = operation["x-berth-permission"].as_str().unwrap();
        if !permission.is_empty() {
            assert!(Permission::parse_set(permission).is_ok(), "{name}: {permission}");
        }
        let open = operation["security"].as_array().is_some_and(Vec::is_empty);
        let known = ["documentation", "sessions"].iter().any(|noun| name.starts_with(noun));
        assert!(!open || known, "{method} {path} is open to everybody");
        // What refers to a schema refers to one that is there.
        let text = operation.to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let schema = part.split('"').next().unwrap();
            assert!(document["components"]["schemas"][schema].is_object(), "{name}: {schema}");
        }
    }
    assert!(names.len() > 50, "{}", names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_served_and_can_be_browsed_with_nothing_from_elsewhere() {
    let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
    let client = deployment.anonymous();
    let get =
        async |path: &str| client.call(reqwest::Method::GET, path).send().await.unwrap().expect(200).unwrap();
    assert!(get("/api/v1/openapi.json").await.json() == printed());
    let page = get("/api/v1/docs").await;
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'self'"));
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(text.contains("<base href=\"/api/v1/docs/\">"), "{text}");
    assert!(!text.contains("https://") && !text.contains("<script>"), "{text}");
    for file in
        text.split('"').filter_map(|part| part.strip_prefix("./").or(part.ends_with(".css").then_some(part)))
    {
        get(&format!("/api/v1/docs/{file}")).await;
    }
}
