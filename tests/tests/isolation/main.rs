//! What is not yours does not exist: mounts, foreign digests, and tokens (T34, T35 of the fault list).
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

mod mounts;
mod sessions;
mod tokens;
