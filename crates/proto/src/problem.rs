//! The one mapping between [`Problem`] and gRPC. The code's name and the detail travel in metadata, so that the far
//! side gets back exactly what was said.

use std::error::Error;

use berth_oci::{ErrorCode, Problem};
use tonic::{Code, Status, metadata::MetadataValue};

const CODE_KEY: &str = "berth-error-code";
const DETAIL_KEY: &str = "berth-error-detail-bin";

fn grpc_code(code: ErrorCode) -> Code {
    match code.http_status() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        413 | 429 | 507 => Code::ResourceExhausted,
        416 => Code::OutOfRange,
        405 | 412 => Code::FailedPrecondition,
        500 => Code::Internal,
        503 => Code::Unavailable,
        _ => Code::InvalidArgument,
    }
}

/// A problem as a gRPC status.
pub fn to_status(problem: Problem) -> Status {
    let mut status = Status::new(grpc_code(problem.code), problem.message);
    if let Ok(name) = problem.code.name().parse() {
        status.metadata_mut().insert(CODE_KEY, name);
    }
    if let Some(detail) = problem.detail {
        let value = MetadataValue::from_bytes(detail.to_string().as_bytes());
        status.metadata_mut().insert_bin(DETAIL_KEY, value);
    }
    status
}

/// A gRPC status as a problem. A status that no Berth service made (no connection, one that broke, a deadline) is
/// [`ErrorCode::Unavailable`] where a retry may help, else [`ErrorCode::Internal`].
pub fn from_status(status: &Status) -> Problem {
    let named = status.metadata().get(CODE_KEY).and_then(|name| name.to_str().ok());
    if let Some(code) = named.and_then(ErrorCode::from_name) {
        let detail = status
            .metadata()
            .get_bin(DETAIL_KEY)
            .and_then(|value| value.to_bytes().ok())
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        return Problem { code, message: status.message().to_owned(), detail };
    }
    // A source is the transport's error: it doesn't travel, so the connection broke under the call. Its code says only
    // how, such as UNKNOWN for a reset.
    let transport_failed = status.source().is_some();
    match status.code() {
        _ if transport_failed => unavailable(),
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::ResourceExhausted => unavailable(),
        _ => Problem::new(
            ErrorCode::Internal,
            "internal error; the server's log has the cause under the request id",
        ),
    }
}

fn unavailable() -> Problem {
    Problem::new(ErrorCode::Unavailable, "a service that this request needs does not answer; try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_broke_is_unavailable_whatever_its_code() {
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let status = Status::from_error(Box::new(broken));
        assert_eq!(status.code(), Code::Unknown);
        assert_eq!(from_status(&status).code, ErrorCode::Unavailable);
        assert_eq!(from_status(&Status::unknown("said by the far side")).code, ErrorCode::Internal);
    }

    #[test]
    fn a_problem_comes_back_as_it_was_said() {
        for code in ErrorCode::ALL {
            let problem = Problem::new(code, "what to do").with_detail(serde_json::json!({"offset": 5}));
            assert_eq!(from_status(&to_status(problem.clone())), problem);
        }
        assert_eq!(from_status(&Status::unavailable("x")).code, ErrorCode::Unavailable);
        assert_eq!(from_status(&Status::internal("x")).code, ErrorCode::Internal);
    }
}
