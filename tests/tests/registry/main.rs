//! The OCI API, by the numbers of the fault list: what a client gets when it, another client or the process misbehaves.
//! Every case runs in four settings: {one process, roles apart} x {SQLite, PostgreSQL}.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what does not hold")]

mod content;
mod digests;
mod drain;
mod http;
mod lists;
mod names;
mod races;
mod referrers;
mod uploads;

use berth_testkit::{Content, Deployment, Repository};

/// A repository and a source of content that no other case uses.
fn own(deployment: &Deployment, case: &str) -> (Repository, Content) {
    let name = format!("{case}/app");
    (deployment.client().repository(name.clone()), Content::named(&name))
}
