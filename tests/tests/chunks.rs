//! Many small chunks cost linear bytes and syncs, counted by the store, not by the clock.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use berth_testkit::{Content, Deployment, Setting};

/// A counter of the process.
async fn counter(deployment: &Deployment, name: &str) -> u64 {
    deployment.processes()[0].metric(name).await.unwrap() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_chunks_of_a_kibibyte_cost_linear_bytes_and_syncs() {
    const CHUNK: usize = 1024;
    const CHUNKS: usize = 2000;
    let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
    let layer = Content::seeded(2000).layer(CHUNK * CHUNKS);
    let repository = deployment.client().repository("chunks/many");
    let upload = repository.start_upload().await.unwrap();
    let mut costs = Vec::new();
    for half in 0..2 {
        let before = (
            counter(&deployment, "berth_blob_store_written_bytes_total").await,
            counter(&deployment, "berth_blob_store_syncs_total").await,
        );
        for number in half * CHUNKS / 2..(half + 1) * CHUNKS / 2 {
            let start = number * CHUNK;
            let chunk = layer.bytes.slice(start..start + CHUNK);
            repository.patch(&upload, Some(start as u64), chunk).await.unwrap().expect(202).unwrap();
        }
        let after = (
            counter(&deployment, "berth_blob_store_written_bytes_total").await,
            counter(&deployment, "berth_blob_store_syncs_total").await,
        );
        costs.push((after.0 - before.0, after.1 - before.1));
    }
    assert_eq!(costs[0].0, (CHUNK * CHUNKS / 2) as u64, "every byte is written once");
    assert_eq!(costs[0], costs[1], "the second thousand costs what the first did");
    repository
        .finish(&upload, &layer.digest.to_string(), layer.bytes.slice(..0))
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    repository.pull_blob(&layer).await.unwrap();
    deployment.is_sound().await.unwrap();
}
