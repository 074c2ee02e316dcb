//! What must hold of the workspace itself: arrows point down, and the README keeps its promise of two commands.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{collections::BTreeMap, path::Path, process::Command};

/// The layers, lowest first. A crate may depend on crates of lower layers, and within `ground` on those listed before.
const ORDER: &[(&str, u8)] = &[
    ("berth-oci", 0),
    ("berth-model", 1),
    ("berth-proto", 2),
    ("berth-service", 3),
    ("berth-database", 4),
    ("berth-audit", 4),
    ("berth-events", 5),
    ("berth-access", 5),
    ("berth-blobs", 5),
    ("berth-gateway", 6),
    ("berth-management-api", 6),
    ("berth-instance-manager", 6),
    ("berth-metadata", 6),
    ("berth-blob-store", 6),
    ("berth", 7),
    ("berthctl", 7),
    ("berth-recorder", 8),
    ("berth-testkit", 8),
    ("berth-tests", 9),
    ("berth-fuzz", 9),
    ("berth-bench", 9),
];

/// Heavy dependencies, each named by the crates that are made for it.
const OWNERS: &[(&str, &[&str])] = &[
    ("casbin", &["berth-access"]),
    ("jsonwebtoken", &["berth-access", "berth-bench"]),
    ("argon2", &["berth-access"]),
    ("rcgen", &["berth-testkit", "berth-tests", "berth-bench"]),
    ("reqwest", &["berth-service", "berth-testkit", "berth-tests", "berthctl"]),
    ("aws-sdk-s3", &["berth-blob-store"]),
    ("s3s", &["berth-testkit"]),
    ("redis", &["berth-gateway"]),
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn packages() -> BTreeMap<String, Vec<(String, bool)>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            let dependencies = dependencies
                .iter()
                .map(|one| (one["name"].as_str().unwrap().to_owned(), one["kind"].as_str() == Some("dev")))
                .collect();
            (package["name"].as_str().unwrap().to_owned(), dependencies)
        })
        .collect()
}

#[test]
fn arrows_point_down() {
    let order: BTreeMap<_, _> = ORDER.iter().copied().collect();
    let mut wrong = Vec::new();
    for (package, dependencies) in packages() {
        let Some(layer) = order.get(package.as_str()) else {
            wrong.push(format!("{package} has no layer; add it to ORDER"));
            continue;
        };
        for (dependency, dev) in dependencies {
            let Some(below) = order.get(dependency.as_str()) else { continue };
            let test_help = dev && dependency == "berth-testkit";
            if below >= layer && !test_help && dependency != package {
                wrong.push(format!("{package} -> {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that do not point down:\n{}", wrong.join("\n"));
}

#[test]
fn a_heavy_dependency_is_named_by_its_owners_only() {
    let mut wrong = Vec::new();
    for (package, dependencies) in packages() {
        for (dependency, dev) in dependencies {
            let owners = OWNERS.iter().find(|(name, _)| *name == dependency).map(|(_, owners)| owners);
            if owners.is_some_and(|owners| !dev && !owners.contains(&package.as_str())) {
                wrong.push(format!("{package} -> {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_readme_has_exactly_two_set_up_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section =
        readme.split("\n## ").find(|section| section.starts_with("Set up")).expect("a section 'Set up'");
    let commands: Vec<_> = section
        .split("```sh\n")
        .skip(1)
        .flat_map(|block| block.split("```").next().unwrap().lines())
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .collect();
    assert_eq!(commands, ["cargo run --release -- serve", "tests/run"]);
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.contains("/../tests/run"), ".ci/run calls the second command");
}
