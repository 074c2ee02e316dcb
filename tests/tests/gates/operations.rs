//! The operations that are counted, one after the other from one client, everything warm.

use std::collections::VecDeque;

use anyhow::Context;
use base64::Engine as _;
use berth_testkit::{
    ADMIN, Blob, Client, Content, Deployment, Image, Manifest, PASSWORD, Repository, descriptor,
};
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use serde_json::json;

const MIB: usize = 1 << 20;
const TAGS: usize = 300;
/// Objects that are there before, so that most of their 1,024 folders are known.
const OBJECTS: usize = 1_000;

/// An operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    ManifestByTag,
    ManifestByDigest,
    BlobHead,
    BlobSmall,
    Tags,
    Token,
    Push,
    PushInChunks,
    PutManifest,
    Mount,
    DeleteManifest,
}

impl Operation {
    pub(crate) const ALL: [Self; 11] = [
        Self::ManifestByTag,
        Self::ManifestByDigest,
        Self::BlobHead,
        Self::BlobSmall,
        Self::Tags,
        Self::Token,
        Self::Push,
        Self::PushInChunks,
        Self::PutManifest,
        Self::Mount,
        Self::DeleteManifest,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ManifestByTag => "get-manifest-by-tag",
            Self::ManifestByDigest => "get-manifest-by-digest",
            Self::BlobHead => "head-blob",
            Self::BlobSmall => "get-blob-1-kib",
            Self::Tags => "list-100-of-300-tags",
            Self::Token => "issue-token",
            Self::Push => "push-1-mib",
            Self::PushInChunks => "push-1-mib-in-4-chunks",
            Self::PutManifest => "put-manifest",
            Self::Mount => "mount-blob",
            Self::DeleteManifest => "delete-manifest",
        }
    }

    /// Whether it is what a pull consists of.
    pub(crate) fn is_pull(self) -> bool {
        matches!(self, Self::ManifestByTag | Self::ManifestByDigest | Self::BlobHead | Self::BlobSmall)
    }

    /// How many are counted together: of what writes one, since a checkpoint of the database comes between many.
    pub(crate) fn batch(self) -> usize {
        match self {
            Self::ManifestByTag | Self::ManifestByDigest | Self::BlobHead | Self::BlobSmall => 40,
            Self::Tags | Self::Token => 20,
            Self::Push | Self::PushInChunks | Self::PutManifest | Self::Mount | Self::DeleteManifest => 1,
        }
    }
}

/// What is there before anything is counted.
pub(crate) struct Stand {
    client: Client,
    image: Image,
}

const APP: &str = "gates/app";
const OTHER: &str = "gates/other";

impl Stand {
    pub(crate) async fn new(deployment: &Deployment) -> anyhow::Result<Self> {
        let (client, image) = (deployment.client(), Content::named(APP).image(1, 1024));
        for name in [APP, OTHER] {
            client.repository(name).push_image("v1", &image).await?;
        }
        // With new tokens: the first ones were for repositories that were not there yet.
        let stand = Self { client: Client::new(deployment.url()).with_credentials(ADMIN, PASSWORD), image };
        let app = stand.client.repository(APP);
        for number in 0..TAGS {
            app.put_manifest(&format!("tag-{number}"), &stand.image.manifest).await?.expect(201)?;
        }
        let mut content = Content::named("folders");
        let blobs: Vec<Blob> = (0..OBJECTS).map(|_| content.layer(16)).collect();
        let pushes = futures::stream::iter(blobs).map(|blob| {
            let app = app.clone();
            async move { app.push_blob_at_once(&blob).await.map(drop) }
        });
        pushes.buffer_unordered(16).try_collect::<()>().await?;
        Ok(stand)
    }

    fn app(&self) -> Repository {
        self.client.repository(APP)
    }

    /// Makes ready what so many operations need.
    pub(crate) async fn prepare(&self, operation: Operation, count: usize) -> anyhow::Result<Prepared> {
        let mut content = Content::named(operation.name());
        let mut blobs = VecDeque::new();
        for _ in 0..count {
            let blob = match operation {
                Operation::Push | Operation::PushInChunks => content.layer(MIB),
                Operation::Mount => content.layer(1024),
                Operation::PutManifest | Operation::DeleteManifest => self.manifest(&mut content),
                _ => break,
            };
            match operation {
                Operation::Mount => drop(self.app().push_blob_at_once(&blob).await?),
                Operation::DeleteManifest => {
                    let tag = blob.digest.to_string().replace(':', "-");
                    self.app().put_manifest(&tag, &blob).await?.expect(201)?;
                }
                _ => {}
            }
            blobs.push_back(blob);
        }
        let (pull, push) = (format!("repository:{APP}:pull"), format!("repository:{OTHER}:pull,push"));
        let scopes = [pull.as_str(), push.as_str()];
        let scopes = if operation == Operation::Mount { &scopes[..] } else { &scopes[..1] };
        let bearer = self.client.fresh_token(scopes).await?;
        let image = &self.image;
        let (method, target) = match operation {
            Operation::ManifestByTag => (Method::GET, "/manifests/v1".to_owned()),
            Operation::ManifestByDigest => (Method::GET, format!("/manifests/{}", image.manifest.digest)),
            Operation::BlobHead => (Method::HEAD, format!("/blobs/{}", image.layers[0].digest)),
            Operation::BlobSmall => (Method::GET, format!("/blobs/{}", image.layers[0].digest)),
            _ => (Method::GET, "/tags/list?n=100".to_owned()),
        };
        let request = Request { method, target: format!("/v2/{APP}{target}"), bearer };
        Ok(Prepared { operation, request, blobs })
    }

    /// A manifest of the image's blobs, another each time.
    fn manifest(&self, content: &mut Content) -> Manifest {
        let mut document: serde_json::Value = serde_json::from_slice(&self.image.manifest.bytes).unwrap();
        document["annotations"] = json!({ "number": format!("{:020}", content.below(u64::MAX)) });
        document["layers"] = json!([descriptor(&self.image.layers[0])]);
        Manifest::json(&self.image.manifest.media_type, &document)
    }
}

/// A request with a token for it and no more.
struct Request {
    method: Method,
    target: String,
    bearer: String,
}

/// An operation with what it needs.
pub(crate) struct Prepared {
    operation: Operation,
    request: Request,
    blobs: VecDeque<Blob>,
}

impl Prepared {
    /// Does it once.
    pub(crate) async fn once(&mut self, stand: &Stand) -> anyhow::Result<()> {
        let (client, app) = (&stand.client, stand.app());
        let mut blob = || self.blobs.pop_front().context("so many are not prepared");
        match self.operation {
            Operation::Push => drop(app.push_blob(&blob()?).await?),
            Operation::PushInChunks => drop(app.push_blob_in_chunks(&blob()?, MIB / 4).await?),
            Operation::PutManifest => {
                let manifest = blob()?;
                let tag = manifest.digest.to_string().replace(':', "-");
                app.put_manifest(&tag, &manifest).await?.expect(201)?;
            }
            Operation::DeleteManifest => {
                app.delete(&format!("/manifests/{}", blob()?.digest)).await?.expect(202)?;
            }
            Operation::Mount => {
                let target = format!("/v2/{OTHER}/blobs/uploads/?mount={}&from={APP}", blob()?.digest);
                let call = client.call(Method::POST, target).bearer(&self.request.bearer);
                call.send().await?.expect(201)?;
            }
            Operation::Token => {
                let pair = base64::prelude::BASE64_STANDARD.encode(format!("{ADMIN}:{PASSWORD}"));
                let target = format!("/token?service=default&scope=repository:{APP}:pull,push");
                let call = client.call(Method::GET, target).header("authorization", format!("Basic {pair}"));
                call.send().await?.expect(200)?;
            }
            _ => {
                let Request { method, target, bearer } = &self.request;
                client.call(method.clone(), target.as_str()).bearer(bearer).send().await?.expect(200)?;
            }
        }
        Ok(())
    }
}
