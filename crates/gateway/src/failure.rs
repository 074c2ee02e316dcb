//! Why a request is refused. Becomes a response in one place only: `serve.rs`.

use std::sync::Arc;

use berth_access::AccessToken;
use berth_model::InstanceId;
use berth_oci::{ErrorCode, Problem};
use http::{HeaderName, HeaderValue, StatusCode, header::WWW_AUTHENTICATE};
use tonic::Status;

/// A refusal: a problem, and what has to stand in the response's head beside it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) problem: Problem,
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The rest of the request's body is of no use: close the connection instead of reading it.
    pub(crate) close: bool,
    /// Whose token it was that did not do, and in which instance, for the audit.
    pub(crate) token: Option<Arc<AccessToken>>,
    pub(crate) instance: Option<InstanceId>,
}

pub(crate) type Result<T> = std::result::Result<T, Box<Failure>>;

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Box<Self> {
        Problem::new(code, message).into()
    }

    /// 401 that tells a client where to get which token.
    pub(crate) fn challenge(problem: Problem, challenge: &str) -> Box<Self> {
        let mut failure: Box<Self> = problem.into();
        failure.status = StatusCode::UNAUTHORIZED;
        if let Ok(value) = HeaderValue::from_str(challenge) {
            failure.headers.push((WWW_AUTHENTICATE, value));
        }
        failure
    }

    pub(crate) fn with_header(mut self: Box<Self>, name: HeaderName, value: HeaderValue) -> Box<Self> {
        self.headers.push((name, value));
        self
    }

    /// The same with another status than its code's.
    pub(crate) fn with_status(mut self: Box<Self>, status: StatusCode) -> Box<Self> {
        self.status = status;
        self
    }

    pub(crate) fn of(mut self: Box<Self>, token: &Arc<AccessToken>) -> Box<Self> {
        self.token = Some(Arc::clone(token));
        self
    }

    pub(crate) fn within(mut self: Box<Self>, instance: InstanceId) -> Box<Self> {
        self.instance = Some(instance);
        self
    }

    pub(crate) fn closing(mut self: Box<Self>) -> Box<Self> {
        self.close = true;
        self
    }
}

impl From<Problem> for Box<Failure> {
    fn from(problem: Problem) -> Self {
        let status =
            StatusCode::from_u16(problem.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut headers = Vec::new();
        if matches!(problem.code, ErrorCode::Unavailable | ErrorCode::TooManyRequests) {
            let seconds = problem.detail.as_ref().and_then(|detail| detail["retry_after"].as_u64());
            headers.push((http::header::RETRY_AFTER, HeaderValue::from(seconds.unwrap_or(1))));
        }
        if problem.code == ErrorCode::Held {
            headers.push((http::header::ALLOW, HeaderValue::from_static("GET, HEAD")));
        }
        Self::new(Failure { problem, status, headers, close: false, token: None, instance: None })
    }
}

impl From<Status> for Box<Failure> {
    fn from(status: Status) -> Self {
        let problem = berth_proto::from_status(&status);
        if matches!(problem.code, ErrorCode::Internal | ErrorCode::Unavailable) {
            tracing::warn!(code = ?status.code(), cause = status.message(), "a service failed");
        }
        problem.into()
    }
}

impl From<berth_blobs::BlobsError> for Box<Failure> {
    fn from(error: berth_blobs::BlobsError) -> Self {
        Problem::from(error).into()
    }
}
