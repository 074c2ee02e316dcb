//! The operations of a load, and how each is done once.

use std::sync::Arc;

use anyhow::{Context, ensure};

use crate::{
    data::Payloads,
    http::{Connection, head},
    mix::Mix,
};

/// What each operation of a load is.
#[derive(Clone)]
pub(crate) enum Operation {
    /// One of these requests after the other, each with the status that it must have.
    Requests(Arc<Vec<(Vec<u8>, u16)>>),
    /// A new blob: POST, then PUT.
    Push(Push),
    /// A new artifact: config, layer of 1 KiB, and a manifest with a tag. `repositories` are taken in turn by connections.
    Artifact { authorisations: Arc<Vec<String>>, repositories: Arc<Vec<String>> },
    /// Pulls and pushes as they are in the wild.
    Mix(Arc<Mix>),
}

/// A push of blobs.
#[derive(Clone)]
pub(crate) struct Push {
    pub(crate) authorisation: String,
    pub(crate) repository: String,
    pub(crate) payloads: Payloads,
}

/// An operation that was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// Which of the load's kinds of operations it was.
    pub(crate) kind: usize,
    /// Bytes of bodies, either way.
    pub(crate) bytes: u64,
}

/// Which one of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) worker: usize,
    /// Tells one run from another, so that no payload is pushed twice.
    pub(crate) run: u64,
    pub(crate) number: u64,
}

impl Operation {
    /// The names of its kinds.
    pub(crate) fn kinds(&self) -> &'static [&'static str] {
        match self {
            Self::Mix(_) => Mix::KINDS,
            _ => &["all"],
        }
    }

    pub(crate) async fn once(&mut self, connection: &mut Connection, turn: Turn) -> anyhow::Result<Done> {
        let bytes = match self {
            Self::Requests(requests) => {
                let (request, status) = &requests[usize::try_from(turn.number)? % requests.len()];
                let answer = connection.exchange(request, &[]).await?;
                ensure!(
                    answer.status == *status,
                    "{} for {:?}",
                    answer.status,
                    String::from_utf8_lossy(request)
                );
                answer.length
            }
            Self::Push(push) => {
                let (body, digest) = push.payloads.numbered(turn.run, turn.number);
                push_blob(connection, &push.authorisation, &push.repository, body, &digest).await?;
                body.len() as u64
            }
            Self::Artifact { authorisations, repositories } => {
                let authorisation = &authorisations[turn.worker % authorisations.len()];
                let repository = &repositories[turn.worker % repositories.len()];
                let mut layer = crate::data::content(1, 1024);
                layer[..8].copy_from_slice(&turn.run.to_le_bytes());
                layer[8..16].copy_from_slice(&turn.number.to_le_bytes());
                push_blob(connection, authorisation, repository, &layer, &crate::data::digest(&layer))
                    .await?;
                let manifest = crate::data::manifest(b"{}", &layer, turn.number);
                let tag = format!("t{}-{}", turn.run, turn.number);
                put_manifest(connection, authorisation, repository, &tag, &manifest).await?;
                (layer.len() + manifest.len()) as u64
            }
            Self::Mix(mix) => return mix.once(connection, turn).await,
        };
        Ok(Done { kind: 0, bytes })
    }
}

/// Opens an upload; the target of the PUT that ends it.
pub(crate) async fn open_upload(
    connection: &mut Connection,
    authorisation: &str,
    repository: &str,
    digest: &str,
) -> anyhow::Result<String> {
    let headers = [("Authorization", authorisation)];
    let post = head("POST", &format!("/v2/{repository}/blobs/uploads/"), &headers, Some(0));
    let answer = connection.exchange(&post, &[]).await?;
    ensure!(answer.status == 202, "POST of an upload: {}", answer.status);
    let location = answer.location.context("no Location")?;
    let target = match location.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => &location,
    };
    let joint = if target.contains('?') { '&' } else { '?' };
    Ok(format!("{target}{joint}digest={}", digest.replace(':', "%3A")))
}

/// Pushes a blob by POST and PUT.
pub(crate) async fn push_blob(
    connection: &mut Connection,
    authorisation: &str,
    repository: &str,
    body: &[u8],
    digest: &str,
) -> anyhow::Result<()> {
    let target = open_upload(connection, authorisation, repository, digest).await?;
    let headers = [("Authorization", authorisation), ("Content-Type", "application/octet-stream")];
    let put = head("PUT", &target, &headers, Some(body.len()));
    let answer = connection.exchange(&put, body).await?;
    ensure!(answer.status == 201, "PUT of an upload: {}", answer.status);
    Ok(())
}

/// Pushes a manifest.
pub(crate) async fn put_manifest(
    connection: &mut Connection,
    authorisation: &str,
    repository: &str,
    reference: &str,
    manifest: &[u8],
) -> anyhow::Result<()> {
    let headers = [("Authorization", authorisation), ("Content-Type", crate::data::MANIFEST)];
    let put = head("PUT", &format!("/v2/{repository}/manifests/{reference}"), &headers, Some(manifest.len()));
    let answer = connection.exchange(&put, manifest).await?;
    ensure!(answer.status == 201, "PUT of a manifest: {}", answer.status);
    Ok(())
}
