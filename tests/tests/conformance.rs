//! The OCI conformance suite against the built binary, with its optional checks on: nothing fails, nothing is skipped
//! but sparse manifests.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{path::Path, process::Command};

use berth_testkit::{Deployment, Engine, Layout, PASSWORD, Setting};

/// Runs the suite and returns its report.
fn run_suite(registry: &str, password: &str, results: &Path) -> String {
    let program = std::env::var("BERTH_CONFORMANCE")
        .expect("BERTH_CONFORMANCE names the conformance program; use tests/run");
    let configuration = results.join("configuration.yaml");
    std::fs::write(&configuration, "{}\n").unwrap();
    let output = Command::new(program)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .env("OCI_CONFIGURATION", &configuration)
        .env("OCI_REGISTRY", registry)
        .env("OCI_TLS", "disabled")
        .env("OCI_VERSION", "1.1")
        .env("OCI_REPO1", "conformance/one")
        .env("OCI_REPO2", "conformance/two")
        .env("OCI_USERNAME", "admin")
        .env("OCI_PASSWORD", password)
        .env("OCI_RESULTS_DIR", results)
        .env("OCI_API_BLOBS_DIGEST_HEADER", "true")
        .env("OCI_API_BLOBS_UPLOAD_CANCEL", "true")
        .env("OCI_API_MANIFESTS_DIGEST_HEADER", "true")
        .env("OCI_API_MANIFESTS_TAG_PARAM", "true")
        .current_dir(results)
        .output()
        .unwrap();
    // Without its configuration the program exits with 0 and tests nothing: no results are no pass.
    assert!(results.join("results.yaml").exists(), "no results: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The number that the summary gives for a status.
fn count(report: &str, status: &str) -> u32 {
    let line = report.lines().find(|line| line.trim_start().starts_with(&format!("{status}...")));
    let number = line.and_then(|line| line.rsplit(' ').next()).and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("no line {status} in the summary:\n{report}"))
}

async fn conforms(setting: Setting) {
    let deployment = Deployment::builder(setting).start().await.unwrap();
    let results = tempfile::tempdir().unwrap();
    let (registry, folder) = (deployment.address().to_string(), results.path().to_owned());
    let report = tokio::task::spawn_blocking(move || run_suite(&registry, PASSWORD, &folder)).await.unwrap();
    let wrong: Vec<_> = report
        .lines()
        .filter(|line| [": FAIL", ": Error", ": Skip", "  - "].iter().any(|mark| line.contains(mark)))
        .take(40)
        .collect();
    let counts = ["FAIL", "Error", "Skip"].map(|status| count(&report, status));
    assert_eq!(counts, [0, 0, 0], "failed, errors, skipped:\n{}", wrong.join("\n"));
    assert!(count(&report, "Pass") > 900, "only {} checks passed", count(&report, "Pass"));
    let disabled: Vec<_> = report.lines().filter(|line| line.ends_with(" Disabled")).collect();
    assert!(disabled.iter().all(|line| line.contains("Sparse Manifests")), "switched off: {disabled:?}");
}

macro_rules! settings {
    ($($name:ident: $setting:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            conforms($setting).await;
        }
    )*};
}

settings! {
    one_process_on_sqlite: Setting::EMBEDDED;
    one_process_on_postgres: Setting::new(Layout::OneProcess, Engine::Postgres);
    roles_apart_on_sqlite: Setting::new(Layout::RolesApart, Engine::Sqlite);
    roles_apart_on_postgres: Setting::new(Layout::RolesApart, Engine::Postgres);
    two_gateways_on_postgres: Setting::new(Layout::RolesApart, Engine::Postgres).with_gateways(2);
    one_process_on_a_bucket: Setting::EMBEDDED.on_bucket();
    roles_apart_on_a_bucket: Setting::new(Layout::RolesApart, Engine::Postgres).on_bucket();
    one_process_on_an_encrypted_folder: Setting::EMBEDDED.sealed();
    roles_apart_on_an_encrypted_folder: Setting::new(Layout::RolesApart, Engine::Postgres).sealed();
    one_process_on_an_encrypted_bucket: Setting::EMBEDDED.on_bucket().sealed();
    roles_apart_on_an_encrypted_bucket: Setting::new(Layout::RolesApart, Engine::Postgres).on_bucket().sealed();
}
