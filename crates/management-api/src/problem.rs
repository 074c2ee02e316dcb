//! Why a call is refused, as `application/problem+json` (RFC 9457).

use berth_oci::{ErrorCode, Problem};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::answer::Body;

/// A refusal: the problem, and what stands in the head beside it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) problem: Problem,
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

pub(crate) type Result<T> = std::result::Result<T, Box<Refusal>>;

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Box<Self> {
        Problem::new(code, message).into()
    }

    pub(crate) fn with_status(mut self: Box<Self>, status: StatusCode) -> Box<Self> {
        self.status = status;
        self
    }

    pub(crate) fn with_header(mut self: Box<Self>, name: HeaderName, value: HeaderValue) -> Box<Self> {
        self.headers.push((name, value));
        self
    }
}

/// 400: the call can't be understood.
pub(crate) fn invalid(message: impl Into<String>) -> Box<Refusal> {
    Refusal::new(ErrorCode::RequestInvalid, message)
}

/// 404, with the same words whether it does not exist or is not the caller's business.
pub(crate) fn absent(what: &str, name: &str) -> Box<Refusal> {
    Refusal::new(ErrorCode::NotFound, format!("there is no {what} {name}"))
}

impl From<Problem> for Box<Refusal> {
    fn from(mut problem: Problem) -> Self {
        // What the registry says in its own words has one word here.
        problem.code = match problem.code {
            ErrorCode::NameUnknown
            | ErrorCode::ManifestUnknown
            | ErrorCode::BlobUnknown
            | ErrorCode::ManifestBlobUnknown => ErrorCode::NotFound,
            code => code,
        };
        let status = match problem.code {
            // 405 would be about the method.
            ErrorCode::Held => StatusCode::CONFLICT,
            code => StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let mut headers = Vec::new();
        if matches!(problem.code, ErrorCode::Unavailable | ErrorCode::TooManyRequests) {
            let seconds = problem.detail.as_ref().and_then(|detail| detail["retry_after"].as_u64());
            headers.push((header::RETRY_AFTER, HeaderValue::from(seconds.unwrap_or(1))));
        }
        Self::new(Refusal { problem, status, headers })
    }
}

impl From<tonic::Status> for Box<Refusal> {
    fn from(status: tonic::Status) -> Self {
        let problem = berth_proto::from_status(&status);
        if problem.code == ErrorCode::Internal {
            tracing::error!(code = ?status.code(), cause = status.message(), "a service failed");
        }
        problem.into()
    }
}

/// The code of a problem: the error's name in capitals, such as `QUOTA_EXCEEDED`. It stays.
pub(crate) fn code(code: ErrorCode) -> String {
    let mut text = String::new();
    for c in code.name().chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
    }
    text
}

/// What a problem looks like.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// Names the kind of problem: `urn:berth:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What went wrong and what to do.
    detail: String,
    /// The kind for programs; stays.
    code: String,
    /// What the server's log and the audit name the call by.
    request_id: String,
    /// More for programs, by code: `used`, `limit` and `unit` of QUOTA_EXCEEDED, for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, serde_json::Value>>)]
    details: Option<serde_json::Value>,
}

/// The response of a refusal.
pub(crate) fn respond(refusal: Refusal, request_id: &str) -> Response<Body> {
    let Refusal { problem, status, headers } = refusal;
    let code = code(problem.code);
    let body = ProblemBody {
        kind: format!("urn:berth:problem:{code}"),
        title: status.canonical_reason().unwrap_or("Problem").to_owned(),
        status: status.as_u16(),
        detail: problem.message,
        code,
        request_id: request_id.to_owned(),
        details: problem.detail.filter(serde_json::Value::is_object),
    };
    // Texts and numbers: nothing that JSON has no words for.
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let own = response.headers_mut();
    own.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    own.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    own.extend(headers);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = ErrorCode::ALL.into_iter().map(code).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        assert!(words.contains("QUOTA_EXCEEDED") && words.contains("TAG_IMMUTABLE"), "{words:?}");
    }
}
