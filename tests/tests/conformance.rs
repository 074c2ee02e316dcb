//! The OCI conformance suite against the built binary, with its optional checks on: nothing fails, nothing is skipped
//! but sparse manifests.

use std::{path::Path, process::Command};

use berth_testkit::{Deployment, Layout, Store};

/// Runs the suite and returns (passed, failed, skipped) and the names of what did not pass.
fn run_suite(registry: &str, password: &str, results: &Path) -> String {
    let program = std::env::var("BERTH_CONFORMANCE").expect("BERTH_CONFORMANCE names the conformance program; use tests/run");
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
    let report = results.join("results.yaml");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Without its configuration the program exits with 0 and no result: that is no pass.
    std::fs::read_to_string(&report).unwrap_or_else(|error| panic!("no results ({error}): {said}"))
}

async fn conforms(layout: Layout, store: Store) {
    let deployment = Deployment::start(layout, store).await.unwrap();
    let results = tempfile::tempdir().unwrap();
    let (registry, password) = (deployment.registry(), deployment.password().to_owned());
    let folder = results.path().to_owned();
    let report = tokio::task::spawn_blocking(move || run_suite(&registry, &password, &folder)).await.unwrap();
    let number = |key: &str| {
        let line = report.lines().find(|line| line.trim_start().starts_with(&format!("{key}:")));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).unwrap_or(0)
    };
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("conformance-{layout:?}-{store:?}.yaml"));
    std::fs::write(&kept, &report).unwrap();
    let (passed, failed, errors) = (number("pass"), number("FAIL"), number("Error"));
    assert_eq!((failed, errors), (0, 0), "see {}", kept.display());
    assert!(passed > 900, "{passed} checks passed; see {}", kept.display());
    deployment.stop().await.unwrap();
}

macro_rules! settings {
    ($($name:ident: $layout:expr, $store:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            conforms($layout, $store).await;
        }
    )*};
}

settings! {
    one_process_on_sqlite: Layout::OneProcess, Store::Sqlite;
    one_process_on_postgres: Layout::OneProcess, Store::Postgres;
    roles_apart_on_sqlite: Layout::RolesApart, Store::Sqlite;
    roles_apart_on_postgres: Layout::RolesApart, Store::Postgres;
    two_gateways_on_postgres: Layout::TwoGateways, Store::Postgres;
}
