//! The OCI conformance suite against the built binary, with its optional checks on: nothing fails, nothing is skipped
//! but sparse manifests.

use std::{path::Path, process::Command};

use berth_testkit::{Deployment, Engine, Layout, PASSWORD, Setting};

/// Runs the suite and returns its report.
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

async fn conforms(setting: Setting) {
    let deployment = Deployment::builder(setting).start().await.unwrap();
    let results = tempfile::tempdir().unwrap();
    let (registry, folder) = (deployment.address().to_string(), results.path().to_owned());
    let report = tokio::task::spawn_blocking(move || run_suite(&registry, PASSWORD, &folder)).await.unwrap();
    let count = |status: &str| report.lines().filter(|line| line.trim() == format!("status: {status}")).count();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("conformance-{setting:?}.yaml"));
    std::fs::write(&kept, &report).unwrap();
    panic!("{:?} see {}", count("PASS"), kept.display());
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
}
