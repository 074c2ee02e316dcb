//! Request paths of the distribution API, parsed before anything else looks at them.

use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::{Digest, DigestError, ErrorCode, NameError, Problem, Reference, ReferenceError, RepositoryName};

/// The methods that the distribution API uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names of the HTTP methods")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl FromStr for Method {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        Ok(match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            _ => return Err(RouteError::Method),
        })
    }
}

/// A resource of the distribution API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(RepositoryName),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(RepositoryName, Reference),
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepositoryName, Digest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(RepositoryName),
    /// `/v2/<name>/blobs/uploads/<session>`
    Upload(RepositoryName, String),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepositoryName, Digest),
}

/// Why a path is no route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    /// Not a resource of this API.
    #[error("no such resource; the API begins at /v2/")]
    Unknown,
    /// A method that no resource has.
    #[error("method not supported")]
    Method,
    /// A repository name outside the grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A digest that is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A reference that is neither tag nor digest.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// An upload session that can't exist.
    #[error("no such upload")]
    Upload,
    /// Percent-encoding that is not UTF-8.
    #[error("the path is not valid UTF-8")]
    Encoding,
}

impl From<RouteError> for Problem {
    fn from(error: RouteError) -> Self {
        let code = match error {
            RouteError::Unknown => ErrorCode::NotFound,
            RouteError::Method => ErrorCode::Unsupported,
            RouteError::Name(_) | RouteError::Encoding => ErrorCode::NameInvalid,
            RouteError::Digest(_) | RouteError::Reference(ReferenceError::Digest(_)) => {
                ErrorCode::DigestInvalid
            }
            RouteError::Reference(ReferenceError::Tag(_)) => ErrorCode::TagInvalid,
            RouteError::Upload => ErrorCode::BlobUploadUnknown,
        };
        Self::new(code, error.to_string())
    }
}

impl Route {
    /// Parses the path of a request (no query). Percent-encoding is decoded once, and reserved words are looked for
    /// from the right, since `team/blobs` is a legal name.
    pub fn parse(path: &str) -> Result<Self, RouteError> {
        let path = percent_decode_str(path).decode_utf8().map_err(|_| RouteError::Encoding)?;
        let rest = path.strip_prefix("/v2").ok_or(RouteError::Unknown)?;
        let rest = match rest {
            "" | "/" => return Ok(Self::Base),
            "/_catalog" => return Ok(Self::Catalog),
            rest => rest.strip_prefix('/').ok_or(RouteError::Unknown)?,
        };
        if let Some(name) =
            rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads"))
        {
            return Ok(Self::Uploads(name.parse()?));
        }
        let (front, last) = rest.rsplit_once('/').ok_or(RouteError::Unknown)?;
        let (name, word) = front.rsplit_once('/').ok_or(RouteError::Unknown)?;
        match word {
            "tags" if last == "list" => Ok(Self::Tags(name.parse()?)),
            "manifests" => Ok(Self::Manifest(name.parse()?, last.parse()?)),
            "referrers" => Ok(Self::Referrers(name.parse()?, last.parse()?)),
            "blobs" => Ok(Self::Blob(name.parse()?, last.parse()?)),
            "uploads" => {
                let name = name.strip_suffix("/blobs").ok_or(RouteError::Unknown)?;
                let name = name.parse()?;
                let canonical = last.len() == 26 && last.bytes().all(|c| c.is_ascii_alphanumeric());
                if canonical { Ok(Self::Upload(name, last.to_owned())) } else { Err(RouteError::Upload) }
            }
            _ => Err(RouteError::Unknown),
        }
    }

    /// The repository that the route is about.
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Referrers(name, _) => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn reserved_words_are_looked_for_from_the_right() {
        let digest: Digest = D.parse().unwrap();
        assert_eq!(Route::parse("/v2/"), Ok(Route::Base));
        assert_eq!(Route::parse("/v2"), Ok(Route::Base));
        assert_eq!(Route::parse("/v2/team/blobs/tags/list"), Ok(Route::Tags(name("team/blobs"))));
        assert_eq!(
            Route::parse(&format!("/v2/a/manifests/b/manifests/{D}")),
            Ok(Route::Manifest(name("a/manifests/b"), Reference::Digest(digest)))
        );
        assert_eq!(Route::parse(&format!("/v2/a/blobs/{D}")), Ok(Route::Blob(name("a"), digest)));
        assert_eq!(Route::parse("/v2/a/b/blobs/uploads/"), Ok(Route::Uploads(name("a/b"))));
        let session = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        assert_eq!(
            Route::parse(&format!("/v2/a/blobs/uploads/{session}")),
            Ok(Route::Upload(name("a"), session.to_owned()))
        );
        assert_eq!(Route::parse(&format!("/v2/a/referrers/{D}")), Ok(Route::Referrers(name("a"), digest)));
    }

    #[test]
    fn t33_names_are_judged_after_one_decoding() {
        for path in [
            "/v2/../manifests/x",
            "/v2/a/%2e%2e/manifests/x",
            "/v2/a/%2e%2e%2fb/manifests/x",
            "/v2/a//b/manifests/x",
            "/v2/a%00b/manifests/x",
            "/v2/a/blobs/uploads/b/manifests/x",
            "/v2/t%D0%B5am/manifests/x",
            "/v2/a/%252e%252e/manifests/x",
        ] {
            assert!(
                matches!(Route::parse(path), Err(RouteError::Name(_))),
                "{path} {:?}",
                Route::parse(path)
            );
        }
    }
}
