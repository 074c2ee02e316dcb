//! The guide's examples, run as they are written.

use berth_testkit::{Deployment, Setting, run_documented};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guides_examples_run_as_they_are_written() {
    let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
    run_documented("api.md", "api ", |bash| {
        bash.env("BERTH", deployment.url()).env("PASSWORD", berth_testkit::PASSWORD);
    })
    .await;
}
