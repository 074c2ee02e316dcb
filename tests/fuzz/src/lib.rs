//! What has to hold of everything that is parsed from a client, whatever its bytes are. A target panics when it does not.
//! `tests/fuzz/run` looks for such bytes, guided by coverage; `tests/corpus.rs` goes through those that are kept.
#![allow(clippy::unwrap_used, reason = "a target says by a panic what does not hold")]

// Of the gateway, and of the listener: nobody's business outside of them.
#[path = "../../../crates/gateway/src/challenge.rs"]
mod challenge;
mod document;
mod headers;
#[path = "../../../crates/service/src/heads.rs"]
mod heads;
mod text;

/// What is done with bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("names", text::name),
    ("references", text::reference),
    ("digests", text::digest),
    ("routes", text::route),
    ("scopes", text::scope),
    ("ranges", headers::range),
    ("content_ranges", headers::content_range),
    ("challenges", headers::challenge),
    ("heads", headers::heads),
    ("manifests", document::manifest),
    ("indexes", document::index),
];

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
