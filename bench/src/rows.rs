//! The rows of the table: what is asked of each server.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::ensure;
use tokio::task::JoinSet;

use crate::{
    data::{self, Payloads},
    http::{Connection, head},
    load,
    operation::{Operation, Push, push_blob, put_manifest},
    server::{Kind, Scope, Server, berth_token_request},
};

const REPOSITORY: &str = "bench/app";
const TAGGED: &str = "bench/tags";
const TAGS: usize = 300;
/// A repository with many tags, and how many connections push them.
const FULL: &str = "bench/full";
const MANY_TAGS: usize = 100_000;
const TAGGERS: usize = 64;
/// Blobs that are mounted in a turn.
const MOUNTS: usize = 300;
const MIB: usize = 1 << 20;
/// Repositories in namespaces of their own, each with a manifest.
const NAMESPACES: usize = 500;
/// Who writes at the same time.
const WRITERS: usize = 200;

/// What every server has before anything is measured.
pub(crate) struct Content {
    config: Vec<u8>,
    small: Vec<u8>,
    large: Vec<u8>,
    manifest: Vec<u8>,
}

impl Content {
    pub(crate) fn new() -> Self {
        let (config, small) = (b"{}".to_vec(), data::content(1, 1024));
        let manifest = data::manifest(&config, &small, 0);
        Self { config, small, large: data::content(2, 100 * MIB), manifest }
    }

    /// The same as files, at the paths of a registry.
    pub(crate) fn write_files(&self, folder: &Path) -> anyhow::Result<()> {
        let (blobs, manifests) = (
            folder.join(format!("v2/{REPOSITORY}/blobs")),
            folder.join(format!("v2/{REPOSITORY}/manifests")),
        );
        std::fs::create_dir_all(&blobs)?;
        std::fs::create_dir_all(&manifests)?;
        for blob in [&self.small, &self.large] {
            std::fs::write(blobs.join(data::digest(blob)), blob)?;
        }
        std::fs::write(manifests.join("v1"), &self.manifest)?;
        std::fs::write(manifests.join(data::digest(&self.manifest)), &self.manifest)?;
        Ok(())
    }

    /// Pushes it to a registry.
    pub(crate) async fn push(&self, server: &Server) -> anyhow::Result<()> {
        let mut connection = Connection::open(server.address).await?;
        for repository in [REPOSITORY, TAGGED] {
            let authorisation = server.pusher(repository).await?;
            for blob in [&self.config, &self.small] {
                push_blob(&mut connection, &authorisation, repository, blob, &data::digest(blob)).await?;
            }
            let tags = if repository == TAGGED { TAGS } else { 1 };
            for tag in 1..=tags {
                let tag = format!("v{tag}");
                put_manifest(&mut connection, &authorisation, repository, &tag, &self.manifest).await?;
            }
        }
        if server.kind == Kind::Redirecting {
            // Nobody reads the large one there.
            return Ok(());
        }
        let authorisation = server.pusher(REPOSITORY).await?;
        push_blob(&mut connection, &authorisation, REPOSITORY, &self.large, &data::digest(&self.large)).await
    }

    /// Very many tags in one repository, unless they are there.
    async fn push_many_tags(&self, server: &Server) -> anyhow::Result<()> {
        let authorisation = server.pusher(FULL).await?;
        let mut connection = Connection::open(server.address).await?;
        let last = format!("/v2/{FULL}/manifests/{}", many_tag(MANY_TAGS - 1));
        let question = head("HEAD", &last, &[("Authorization", &authorisation)], None);
        if connection.exchange(&question, &[]).await?.status == 200 {
            return Ok(());
        }
        for blob in [&self.config, &self.small] {
            push_blob(&mut connection, &authorisation, FULL, blob, &data::digest(blob)).await?;
        }
        // The token before was for a repository that was not there yet.
        let authorisation: Arc<str> = server.pusher(FULL).await?.into();
        let mut taggers = JoinSet::new();
        for tagger in 0..TAGGERS {
            let (address, authorisation) = (server.address, Arc::clone(&authorisation));
            let manifest = self.manifest.clone();
            taggers.spawn(async move {
                let mut connection = Connection::open(address).await?;
                // The last tag is the last of one of them, and all are waited for.
                for number in (tagger..MANY_TAGS).step_by(TAGGERS) {
                    put_manifest(&mut connection, &authorisation, FULL, &many_tag(number), &manifest).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(tagger) = taggers.join_next().await {
            tagger??;
        }
        Ok(())
    }

    /// Blobs of a repository, and requests that mount them into another.
    async fn mounts(&self, server: &Server) -> anyhow::Result<Operation> {
        let target = format!("bench/mounted{}", load::next_run());
        let mut connection = Connection::open(server.address).await?;
        let authorisation = server.pusher(REPOSITORY).await?;
        let mut digests = Vec::with_capacity(MOUNTS);
        for number in 0..MOUNTS {
            let blob = data::content(100 + number as u64, 1024);
            let digest = data::digest(&blob);
            push_blob(&mut connection, &authorisation, REPOSITORY, &blob, &digest).await?;
            digests.push(digest);
        }
        let both = [target.as_str(), REPOSITORY];
        push_blob(&mut connection, &server.pusher_of(&both).await?, &target, b"{}", &data::digest(b"{}"))
            .await?;
        let authorisation = server.pusher_of(&both).await?;
        let mount = |digest: &String| {
            let path = format!("/v2/{target}/blobs/uploads/?mount={digest}&from={REPOSITORY}");
            (head("POST", &path, &[("Authorization", &authorisation)], Some(0)), 201)
        };
        Ok(Operation::Requests(Arc::new(digests.iter().map(mount).collect())))
    }

    /// A repository in each of many namespaces.
    async fn push_namespaces(&self, server: &Server) -> anyhow::Result<Vec<String>> {
        let mut connection = Connection::open(server.address).await?;
        let mut names = Vec::with_capacity(NAMESPACES);
        for number in 0..NAMESPACES {
            let name = format!("team{number}/app");
            let authorisation = server.pusher(&name).await?;
            for blob in [&self.config, &self.small] {
                push_blob(&mut connection, &authorisation, &name, blob, &data::digest(blob)).await?;
            }
            put_manifest(&mut connection, &authorisation, &name, "v1", &self.manifest).await?;
            names.push(name);
        }
        Ok(names)
    }
}

/// A row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Row {
    /// GET of a manifest by its tag.
    ManifestTag,
    /// GET of a manifest by its digest.
    ManifestDigest,
    /// HEAD of a manifest by its tag.
    ManifestHead,
    /// HEAD of a blob.
    BlobHead,
    /// GET of a blob of 1 KiB.
    BlobSmall,
    /// GET of a blob of 100 MiB.
    BlobLarge,
    /// GET of a blob of 1 KiB that is answered with a URL of the object storage.
    BlobRedirect,
    /// A page of 100 tags of 300.
    Tags,
    /// The first 1,000 of 100,000 tags.
    TagsFirst,
    /// The last 1,000 of them.
    TagsLast,
    /// A token for user and password.
    Token,
    /// Push of a blob of 1 MiB.
    PushSmall,
    /// Push of a blob of 100 MiB.
    PushLarge,
    /// A blob of another repository.
    Mount,
    /// Push of artifacts of 1 KiB by 200 writers into one repository.
    ArtifactsOne,
    /// The same into 200 repositories.
    ArtifactsMany,
    /// Pulls by 500 clients of 500 namespaces.
    PullsMany,
    /// Pulls by 500 clients of one namespace.
    PullsOne,
}

/// How a row is run.
pub(crate) struct Plan {
    pub(crate) operation: Operation,
    pub(crate) connections: usize,
    pub(crate) time: Duration,
    pub(crate) most: u64,
}

impl Row {
    pub(crate) const ALL: [Self; 18] = [
        Self::ManifestTag,
        Self::ManifestDigest,
        Self::ManifestHead,
        Self::BlobHead,
        Self::BlobSmall,
        Self::BlobLarge,
        Self::BlobRedirect,
        Self::Tags,
        Self::TagsFirst,
        Self::TagsLast,
        Self::Token,
        Self::PushSmall,
        Self::PushLarge,
        Self::Mount,
        Self::ArtifactsOne,
        Self::ArtifactsMany,
        Self::PullsOne,
        Self::PullsMany,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ManifestTag => "GET manifest by tag",
            Self::ManifestDigest => "GET manifest by digest",
            Self::ManifestHead => "HEAD manifest by tag",
            Self::BlobHead => "HEAD blob",
            Self::BlobSmall => "GET blob, 1 KiB",
            Self::BlobLarge => "GET blob, 100 MiB",
            Self::BlobRedirect => "GET blob, a redirect",
            Self::Tags => "tags list, 100 of 300",
            Self::TagsFirst => "tags list, first 1,000 of 100,000",
            Self::TagsLast => "tags list, last 1,000 of 100,000",
            Self::Token => "token, password known",
            Self::PushSmall => "push blob, 1 MiB",
            Self::PushLarge => "push blob, 100 MiB",
            Self::Mount => "mount blob",
            Self::ArtifactsOne => "push artifacts of 1 KiB, 200 writers, one repository",
            Self::ArtifactsMany => "push artifacts of 1 KiB, 200 writers, 200 repositories",
            Self::PullsOne => "pull, 500 clients, one namespace",
            Self::PullsMany => "pull, 500 clients, 500 namespaces",
        }
    }

    /// Whether this server can be asked for it.
    fn fits(self, kind: Kind) -> bool {
        if kind == Kind::Redirecting {
            return self == Self::BlobRedirect;
        }
        match self {
            Self::BlobRedirect => false,
            Self::ManifestTag | Self::ManifestDigest | Self::BlobSmall | Self::BlobLarge => true,
            Self::ManifestHead | Self::BlobHead => kind != Kind::Bare,
            // Filling another with a hundred thousand tags takes too long for a row.
            Self::TagsFirst | Self::TagsLast => kind == Kind::Berth,
            Self::Token | Self::PullsMany | Self::PullsOne => kind == Kind::Berth,
            Self::Tags
            | Self::PushSmall
            | Self::PushLarge
            | Self::Mount
            | Self::ArtifactsOne
            | Self::ArtifactsMany => kind.is_registry(),
        }
    }

    /// What to run against a server; nothing when it has no such operation.
    pub(crate) async fn plan(
        self,
        server: &Server,
        content: &Content,
        time: Duration,
    ) -> anyhow::Result<Option<Plan>> {
        if !self.fits(server.kind) {
            return Ok(None);
        }
        let status = if self == Self::BlobRedirect { 307 } else { 200 };
        let read = |method, path: String, authorisation: &str| {
            let accept = ("Accept", "application/vnd.oci.image.manifest.v1+json");
            let request = head(method, &path, &[("Authorization", authorisation), accept], None);
            Operation::Requests(Arc::new(vec![(request, status)]))
        };
        let blob = |bytes: &[u8]| format!("/v2/{REPOSITORY}/blobs/{}", data::digest(bytes));
        let manifest = |reference: &str| format!("/v2/{REPOSITORY}/manifests/{reference}");
        let pushes = matches!(self, Self::PushSmall | Self::PushLarge);
        let authorisation =
            if pushes { server.pusher(REPOSITORY).await? } else { server.puller(REPOSITORY).await? };
        let many = |count: usize| -> Vec<String> { (0..count).map(|n| format!("writers/app{n}")).collect() };
        let (connections, most) = match self {
            Self::BlobLarge => (4, u64::MAX),
            Self::PushSmall => (8, 300),
            Self::PushLarge => (2, 8),
            // Each mounts something that is not there.
            Self::Mount => (8, MOUNTS as u64),
            Self::ArtifactsOne | Self::ArtifactsMany => (WRITERS, u64::MAX),
            Self::PullsMany | Self::PullsOne => (NAMESPACES, u64::MAX),
            _ => (32, u64::MAX),
        };
        let operation = match self {
            Self::ManifestTag => read("GET", manifest("v1"), &authorisation),
            Self::ManifestDigest => read("GET", manifest(&data::digest(&content.manifest)), &authorisation),
            Self::ManifestHead => read("HEAD", manifest("v1"), &authorisation),
            Self::BlobHead => read("HEAD", blob(&content.small), &authorisation),
            Self::BlobSmall | Self::BlobRedirect => read("GET", blob(&content.small), &authorisation),
            Self::BlobLarge => read("GET", blob(&content.large), &authorisation),
            Self::Tags => read("GET", format!("/v2/{TAGGED}/tags/list?n=100"), &server.puller(TAGGED).await?),
            Self::TagsFirst | Self::TagsLast => {
                content.push_many_tags(server).await?;
                let after = match self {
                    Self::TagsLast => format!("&last={}", many_tag(MANY_TAGS - 1001)),
                    _ => String::new(),
                };
                read("GET", format!("/v2/{FULL}/tags/list?n=1000{after}"), &server.puller(FULL).await?)
            }
            Self::Mount => content.mounts(server).await?,
            Self::Token => Operation::Requests(Arc::new(vec![(
                berth_token_request(Scope { repositories: &[REPOSITORY], push: true }),
                200,
            )])),
            Self::PushSmall | Self::PushLarge => {
                let size = if self == Self::PushSmall { MIB } else { 100 * MIB };
                let (repository, payloads) = (REPOSITORY.to_owned(), Payloads::new(3, size));
                Operation::Push(Push { authorisation, repository, payloads })
            }
            Self::ArtifactsOne | Self::ArtifactsMany => {
                let names = many(if self == Self::ArtifactsOne { 1 } else { WRITERS });
                let mut authorisations = Vec::with_capacity(names.len());
                for name in &names {
                    let authorisation = server.pusher(name).await?;
                    let mut connection = Connection::open(server.address).await?;
                    let digest = data::digest(&content.config);
                    push_blob(&mut connection, &authorisation, name, &content.config, &digest).await?;
                    // The token of an absent repository is bound to its namespace; this one to the repository.
                    authorisations.push(server.pusher(name).await?);
                }
                Operation::Artifact {
                    authorisations: Arc::new(authorisations),
                    repositories: Arc::new(names),
                }
            }
            Self::PullsMany | Self::PullsOne => {
                let mut names = content.push_namespaces(server).await?;
                if self == Self::PullsOne {
                    names.truncate(1);
                }
                let mut requests = Vec::new();
                for name in &names {
                    let authorisation = server.puller(name).await?;
                    let headers = [("Authorization", authorisation.as_str())];
                    let small = data::digest(&content.small);
                    for path in [format!("manifests/{TAG}"), format!("blobs/{small}")] {
                        requests.push((head("GET", &format!("/v2/{name}/{path}"), &headers, None), 200));
                    }
                }
                Operation::Requests(Arc::new(requests))
            }
        };
        // What a server keeps in memory is there before it is measured, and every answer was looked at once.
        if let Operation::Requests(requests) = &operation
            && self != Self::Mount
        {
            let mut connection = Connection::open(server.address).await?;
            for (request, status) in requests.iter() {
                let answer = connection.exchange(request, &[]).await?;
                ensure!(
                    answer.status == *status,
                    "{}: {} says {}",
                    self.name(),
                    server.kind.name(),
                    answer.status
                );
            }
        }
        Ok(Some(Plan { operation, connections, time, most }))
    }
}

const TAG: &str = "v1";

/// A name in the order of numbers.
fn many_tag(number: usize) -> String {
    format!("t{number:06}")
}
