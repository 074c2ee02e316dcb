//! The guide's examples, run as they are written.

use std::process::Stdio;

use berth_testkit::{Deployment, Setting, documented_commands};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_examples_run_as_they_are_written() {
    let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
    let script = documented_commands("api.md");
    assert!(script.matches("api ").count() > 10, "{script}");
    let output = tokio::process::Command::new("bash")
        .args(["-c", &script])
        .env("BERTH", deployment.url())
        .env("PASSWORD", berth_testkit::PASSWORD)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
}
