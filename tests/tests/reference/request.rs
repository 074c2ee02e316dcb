//! Requests of the distribution API, as the reference serves them and as they go over the wire.

use berth_oci::{Algorithm, Digest};
use bytes::Bytes;
use reqwest::Method;

/// What a manifest is asked for by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum By {
    Tag(String),
    Digest(Digest),
}

impl std::fmt::Display for By {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// One request. Every repository is named in full.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    Start {
        repository: String,
        algorithm: Option<Algorithm>,
    },
    /// POST with `digest`.
    Whole {
        repository: String,
        digest: Digest,
        bytes: Bytes,
    },
    Mount {
        repository: String,
        digest: Digest,
        from: Option<String>,
    },
    Ask {
        repository: String,
        session: String,
    },
    /// PATCH, with a `Content-Range` if `first` is given. `lie` is added to its last byte.
    Append {
        repository: String,
        session: String,
        first: Option<u64>,
        lie: u64,
        bytes: Bytes,
    },
    Finish {
        repository: String,
        session: String,
        first: Option<u64>,
        bytes: Bytes,
        digest: Digest,
    },
    Cancel {
        repository: String,
        session: String,
    },
    PutManifest {
        repository: String,
        by: By,
        tags: Vec<String>,
        media_type: String,
        bytes: Bytes,
    },
    Manifest {
        repository: String,
        by: By,
        head: bool,
    },
    DeleteManifest {
        repository: String,
        by: By,
    },
    Blob {
        repository: String,
        digest: Digest,
        head: bool,
        range: Option<(Option<u64>, Option<u64>)>,
    },
    DeleteBlob {
        repository: String,
        digest: Digest,
    },
    Tags {
        repository: String,
        n: Option<usize>,
        last: Option<String>,
    },
    Referrers {
        repository: String,
        subject: Digest,
        kind: Option<String>,
        n: Option<usize>,
    },
    Catalog {
        n: Option<usize>,
        last: String,
    },
}

fn parameters(pairs: &[(&str, Option<String>)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        if let Some(value) = value {
            text.push(if text.is_empty() { '?' } else { '&' });
            let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
            text.push_str(&format!("{key}={value}"));
        }
    }
    text
}

impl Request {
    /// The body, where there is one.
    pub(crate) fn body(&self) -> Option<&Bytes> {
        match self {
            Self::Whole { bytes, .. }
            | Self::Append { bytes, .. }
            | Self::Finish { bytes, .. }
            | Self::PutManifest { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// The repository that it is about.
    pub(crate) fn repository(&self) -> Option<&String> {
        match self {
            Self::Start { repository, .. }
            | Self::Whole { repository, .. }
            | Self::Mount { repository, .. }
            | Self::Ask { repository, .. }
            | Self::Append { repository, .. }
            | Self::Finish { repository, .. }
            | Self::Cancel { repository, .. }
            | Self::PutManifest { repository, .. }
            | Self::Manifest { repository, .. }
            | Self::DeleteManifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::DeleteBlob { repository, .. }
            | Self::Tags { repository, .. }
            | Self::Referrers { repository, .. } => Some(repository),
            Self::Catalog { .. } => None,
        }
    }

    /// Whether the answer has no body by the method.
    pub(crate) fn is_head(&self) -> bool {
        matches!(self, Self::Manifest { head: true, .. } | Self::Blob { head: true, .. })
    }

    pub(crate) fn method(&self) -> Method {
        match self {
            _ if self.is_head() => Method::HEAD,
            Self::Start { .. } | Self::Whole { .. } | Self::Mount { .. } => Method::POST,
            Self::Append { .. } => Method::PATCH,
            Self::Finish { .. } | Self::PutManifest { .. } => Method::PUT,
            Self::Cancel { .. } | Self::DeleteManifest { .. } | Self::DeleteBlob { .. } => Method::DELETE,
            _ => Method::GET,
        }
    }

    /// What it is, in a word.
    pub(crate) fn kind(&self) -> String {
        let debug = format!("{self:?}");
        debug.split(' ').next().unwrap_or_default().to_owned()
    }

    /// Path and query.
    pub(crate) fn target(&self) -> String {
        match self {
            Self::Start { repository, algorithm } => {
                let query = parameters(&[("digest-algorithm", algorithm.map(|known| known.to_string()))]);
                format!("/v2/{repository}/blobs/uploads/{query}")
            }
            Self::Whole { repository, digest, .. } => {
                format!(
                    "/v2/{repository}/blobs/uploads/{}",
                    parameters(&[("digest", Some(digest.to_string()))])
                )
            }
            Self::Mount { repository, digest, from } => {
                let query = parameters(&[("mount", Some(digest.to_string())), ("from", from.clone())]);
                format!("/v2/{repository}/blobs/uploads/{query}")
            }
            Self::Ask { repository, session }
            | Self::Append { repository, session, .. }
            | Self::Cancel { repository, session } => format!("/v2/{repository}/blobs/uploads/{session}"),
            Self::Finish { repository, session, digest, .. } => {
                let query = parameters(&[("digest", Some(digest.to_string()))]);
                format!("/v2/{repository}/blobs/uploads/{session}{query}")
            }
            Self::PutManifest { repository, by, tags, .. } => {
                let tags: Vec<_> = tags.iter().map(|tag| ("tag", Some(tag.clone()))).collect();
                format!("/v2/{repository}/manifests/{by}{}", parameters(&tags))
            }
            Self::Manifest { repository, by, .. } | Self::DeleteManifest { repository, by } => {
                format!("/v2/{repository}/manifests/{by}")
            }
            Self::Blob { repository, digest, .. } | Self::DeleteBlob { repository, digest } => {
                format!("/v2/{repository}/blobs/{digest}")
            }
            Self::Tags { repository, n, last } => {
                let query = parameters(&[("n", n.map(|n| n.to_string())), ("last", last.clone())]);
                format!("/v2/{repository}/tags/list{query}")
            }
            Self::Referrers { repository, subject, kind, n } => {
                let query = parameters(&[("artifactType", kind.clone()), ("n", n.map(|n| n.to_string()))]);
                format!("/v2/{repository}/referrers/{subject}{query}")
            }
            Self::Catalog { n, last } => {
                let query = parameters(&[("n", n.map(|n| n.to_string())), ("last", Some(last.clone()))]);
                format!("/v2/_catalog{query}")
            }
        }
    }

    /// The headers that matter.
    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Append { first: Some(first), lie, bytes, .. } => {
                let last = first + bytes.len() as u64 - 1 + lie;
                vec![("content-range", format!("{first}-{last}"))]
            }
            Self::Finish { first: Some(first), bytes, .. } if !bytes.is_empty() => {
                vec![("content-range", format!("{first}-{}", first + bytes.len() as u64 - 1))]
            }
            Self::PutManifest { media_type, .. } => vec![("content-type", media_type.clone())],
            Self::Blob { range: Some((first, last)), .. } => {
                let side = |number: &Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
                vec![("range", format!("bytes={}-{}", side(first), side(last)))]
            }
            _ => Vec::new(),
        }
    }
}
