//! What the reference says a request is answered with, and how an answer over the wire is compared with it.

use std::collections::{BTreeMap, BTreeSet};

use berth_testkit::Reply;
use bytes::Bytes;
use serde_json::Value;

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The code of the error in the body.
    pub(crate) code: Option<&'static str>,
    /// Headers and their values; none where a header may not be there.
    pub(crate) headers: Vec<(&'static str, Option<String>)>,
    pub(crate) body: Body,
}

/// Its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Body {
    /// For people.
    Unchecked,
    Bytes(Bytes),
    Json(Value),
    /// An error that names the digests of what is missing.
    Missing(BTreeSet<String>),
    /// An index with that many of these descriptors, by digest.
    Some {
        count: usize,
        of: BTreeMap<String, Value>,
    },
}

/// What only the service can choose, as its answer shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) session: Option<String>,
    /// Bytes that a session has.
    pub(crate) offset: Option<u64>,
}

impl Seen {
    pub(crate) fn of(reply: &Reply) -> Self {
        let session = reply.header("location").and_then(|location| location.rsplit('/').next());
        Self { status: reply.status, session: session.map(str::to_owned), offset: reply.session_bytes() }
    }
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, code: None, headers: Vec::new(), body: Body::Unchecked }
    }

    pub(crate) fn error(status: u16, code: &'static str) -> Self {
        Self { code: Some(code), ..Self::new(status) }
    }

    pub(crate) fn with(mut self, header: &'static str, value: impl std::fmt::Display) -> Self {
        self.headers.push((header, Some(value.to_string())));
        self
    }

    pub(crate) fn without(mut self, header: &'static str) -> Self {
        self.headers.push((header, None));
        self
    }

    pub(crate) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// The first difference between this and what came.
    pub(crate) fn difference(&self, reply: &Reply, head: bool) -> Option<String> {
        if self.status != reply.status {
            let said = String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]).into_owned();
            return Some(format!(
                "status {}, expected {} {:?}: {said}",
                reply.status, self.status, self.code
            ));
        }
        for (name, expected) in &self.headers {
            if reply.header(name) != expected.as_deref() {
                return Some(format!("{name}: {:?}, expected {expected:?}", reply.header(name)));
            }
        }
        if head {
            return (!reply.body.is_empty()).then(|| "a body after HEAD".to_owned());
        }
        if let Some(code) = self.code
            && reply.error_code().as_deref() != Some(code)
        {
            return Some(format!("{}: error {:?}, expected {code}", reply.status, reply.error_code()));
        }
        self.body.difference(reply)
    }
}

impl Body {
    fn difference(&self, reply: &Reply) -> Option<String> {
        match self {
            Self::Unchecked => None,
            Self::Bytes(bytes) if *bytes == reply.body => None,
            Self::Bytes(bytes) => {
                Some(format!("a body of {} bytes, expected {} others", reply.body.len(), bytes.len()))
            }
            Self::Json(expected) if *expected == reply.json() => None,
            Self::Json(expected) => Some(format!("{}, expected {expected}", reply.json())),
            Self::Missing(expected) => {
                let document = reply.json();
                let digests = document.pointer("/errors/0/detail/digests").and_then(Value::as_array);
                let found: BTreeSet<String> = digests
                    .into_iter()
                    .flatten()
                    .filter_map(|digest| Some(digest.as_str()?.to_owned()))
                    .collect();
                (found != *expected).then(|| format!("missing {found:?}, expected {expected:?}"))
            }
            Self::Some { count, of } => {
                let document = reply.json();
                let found = document["manifests"].as_array().cloned().unwrap_or_default();
                let digests: BTreeSet<_> = found
                    .iter()
                    .map(|entry| entry["digest"].as_str().unwrap_or_default().to_owned())
                    .collect();
                let wrong = found
                    .iter()
                    .find(|entry| of.get(entry["digest"].as_str().unwrap_or_default()) != Some(*entry));
                if let Some(wrong) = wrong {
                    return Some(format!("{wrong} is none of {of:?}"));
                }
                let whole =
                    document["schemaVersion"] == 2 && digests.len() == found.len() && found.len() == *count;
                (!whole).then(|| format!("{document}, expected {count} of {of:?}"))
            }
        }
    }
}
