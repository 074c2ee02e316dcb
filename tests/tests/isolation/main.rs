//! What is not yours does not exist: mounts, foreign digests, and tokens (T34, T35 of the fault list).

mod mounts;
mod tokens;
