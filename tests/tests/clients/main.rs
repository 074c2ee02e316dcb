//! The real clients against the built binary: each logs in, pushes, pulls back, lists and deletes, and what comes back is
//! compared. Everything on the embedded default; enough of it where bytes are in object storage or encrypted.
//! `docs/clients.md` says what is proven here.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

#[macro_use]
mod settings;
#[macro_use]
mod copier;
#[macro_use]
mod engine;
mod buildah;
mod containerd;
mod cosign;
mod crane;
mod docker;
mod documented;
mod helm;
mod helper;
mod inputs;
mod layers;
mod layout;
mod oras;
mod podman;
mod regctl;
mod sandbox;
mod skopeo;
