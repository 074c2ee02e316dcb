//! Every statement fits both schemas, and the hot reads use indexes only.

use berth_database::{Database, Engine, Statement, args};

use super::{World, on_both_engines};
use crate::{MIGRATIONS, store::statements as sql};

on_both_engines!(every_statement_is_prepared);

async fn every_statement_is_prepared(world: World) {
    assert!(sql::ALL.len() > 80);
    world.database.prepare_all(sql::ALL).await.unwrap();
    world.database.prepare_all(crate::store::collect_statements::ALL).await.unwrap();
    world.database.prepare_all(crate::store::scrub_statements::ALL).await.unwrap();
    world.database.prepare_all(crate::store::content_statements::ALL).await.unwrap();
    world.database.prepare_all(crate::store::task_statements::ALL).await.unwrap();
    world.database.prepare_all(crate::store::list_statements::ALL).await.unwrap();
    world.database.prepare_all(crate::store::sealing_statements::ALL).await.unwrap();
    world.database.prepare_all(berth_database::idempotency::STATEMENTS).await.unwrap();
    world.database.prepare_all(berth_database::tasks::STATEMENTS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_have_the_same_tables() {
    Database::compare_schemas(MIGRATIONS).await.unwrap();
}

macro_rules! explained {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), sql::$name)),*]
    };
}

/// The plans of everything that a request runs against tables that grow.
#[tokio::test(flavor = "multi_thread")]
async fn reads_use_indexes_only() {
    let world = World::open(Engine::Sqlite).await.unwrap();
    let statements = explained!(
        RESOLVE_REPOSITORY,
        RESOLVE_TAG,
        RESOLVE_MANIFEST,
        RESOLVE_BLOB,
        READ_MANIFEST,
        READ_SESSION,
        REPOSITORY_AT,
        LIST_TAGS,
        LINK,
        MEASURE_REFERRERS,
        MEASURE_REFERRERS_OF_TYPE,
        READ_REFERRERS,
        LIST_REPOSITORIES,
        FIND_READABLE_LINK,
        BLOB_HOLDER,
        MANIFEST_PARENT,
        MANIFEST_DEPENDANTS,
        MANIFEST_BLOBS,
        LOCK_TAGS_OF,
        LINK_REVIEW_SOONER,
        BLOB_REVIEW_SOONER,
        MANIFEST_REVIEW_SOONER,
        DUE_EVENTS,
        DEAD_LETTERS,
    );
    for (name, statement) in statements {
        let text: &'static str =
            Box::leak(format!("EXPLAIN QUERY PLAN {}", statement.sqlite).into_boxed_str());
        let explain = Statement { sqlite: text, postgres: "" };
        let rows = world.database.read_all(&explain, args![]).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(3).unwrap()).collect();
        assert!(!plan.is_empty(), "{name}");
        if name == "MEASURE_REFERRERS_OF_TYPE" {
            assert!(plan[0].contains("manifests_by_subject_and_type"), "{name}: {plan:#?}");
        }
        if name == "FIND_READABLE_LINK" {
            // Only somebody who may read everything is answered from the blob's links.
            let by_blob = plan.iter().filter(|step| step.contains("links_by_blob")).count();
            assert_eq!(by_blob, 1, "{plan:#?}");
        }
        for step in &plan {
            // A list parameter and a constant row are scanned; tables are not, and nothing is sorted.
            let scans_table =
                step.starts_with("SCAN") && !step.contains("VIRTUAL TABLE") && !step.contains("CONSTANT");
            assert!(!scans_table && !step.contains("TEMP B-TREE FOR ORDER BY"), "{name}: {plan:#?}");
        }
    }
}

/// Lists for people gather a page from each place, and look each row of those up.
#[tokio::test(flavor = "multi_thread")]
async fn lists_read_pages_from_indexes() {
    let world = World::open(Engine::Sqlite).await.unwrap();
    let (lists, contents) = (crate::store::list_statements::ALL, crate::store::content_statements::ALL);
    let tasks = crate::store::task_statements::ALL.iter().chain(berth_database::tasks::STATEMENTS);
    for (name, statement) in lists.iter().chain(contents).chain(tasks) {
        let text: &'static str =
            Box::leak(format!("EXPLAIN QUERY PLAN {}", statement.sqlite).into_boxed_str());
        let explain = Statement { sqlite: text, postgres: "" };
        let rows = world.database.read_all(&explain, args![]).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(3).unwrap()).collect();
        for step in &plan {
            let gathered = [
                "SCAN found",
                "SCAN f",
                "SCAN mine",
                "SCAN g",
                "SCAN t",
                "SCAN p",
                "SCAN q USING INDEX manifests_without_size",
            ]
            .contains(&step.as_str());
            let lists = step.contains("VIRTUAL TABLE") || step.starts_with("SCAN (subquery");
            assert!(!step.starts_with("SCAN") || gathered || lists, "{name}: {step}: {plan:#?}");
        }
        let index = match *name {
            "REPOSITORIES_BY_PATH" => "by_path",
            "NEWEST_REPOSITORIES" => "by_id",
            "FOUND_REPOSITORIES" => "repository_terms_by",
            "NEWEST_TAGS" | "NEWEST_TAGS_END" => "tags_by_update",
            "NEWEST_ARTIFACTS" | "NEWEST_ARTIFACTS_END" => "manifests_by_push",
            "FILL_SIZES" => "manifests_without_size",
            _ => continue,
        };
        // Two of the instance, two of namespaces.
        let places = if index.starts_with("by_") || index.ends_with("_by") { 4 } else { 1 };
        let used = plan.iter().filter(|step| step.contains(index)).count();
        assert!(used >= places, "{name}: {plan:#?}");
    }
}
