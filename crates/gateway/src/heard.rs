//! What of the gateway's work the audit hears of.

use berth_access::AccessToken;
use berth_audit::Seen;
use berth_model::AuditKind;
use berth_oci::ErrorCode;
use http::StatusCode;

/// Something that a token's principal did.
pub(crate) fn seen_by(token: &AccessToken, kind: AuditKind) -> Seen<'_> {
    Seen::new(token.instance, kind, &token.principal, &token.credential)
}

/// Whether the audit hears of a refusal with credentials: what somebody was not allowed, not what can't be.
pub(crate) fn is_heard_of(code: ErrorCode, status: StatusCode) -> bool {
    let by_status =
        matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS);
    by_status || matches!(code, ErrorCode::Denied | ErrorCode::TagImmutable)
}
