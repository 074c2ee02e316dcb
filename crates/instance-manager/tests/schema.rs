//! The migrations of both engines say the same.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what does not hold")]

use berth_database::Database;
use berth_instance_manager::MIGRATIONS;

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_have_the_same_tables() {
    Database::compare_schemas(MIGRATIONS).await.unwrap();
}
