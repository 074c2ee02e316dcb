//! Error codes, and the one form in which an error travels between services and to a client.

use std::fmt;

/// What went wrong, for a program. Each variant has the wire code of the distribution specification (section
/// "Error Codes") and one HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorCode {
    /// No such blob in this repository.
    BlobUnknown,
    /// An upload request that can't be served as sent.
    BlobUploadInvalid,
    /// No such upload session in this repository.
    BlobUploadUnknown,
    /// A chunk that does not start where the upload stands.
    UploadOutOfOrder,
    /// Another request holds the upload.
    UploadBusy,
    /// A digest that is malformed, unsupported, or not that of the content.
    DigestInvalid,
    /// A manifest names content that the repository does not have.
    ManifestBlobUnknown,
    /// A manifest that can't be accepted.
    ManifestInvalid,
    /// No such manifest in this repository.
    ManifestUnknown,
    /// A repository name outside the grammar.
    NameInvalid,
    /// No such repository.
    NameUnknown,
    /// A size that does not match.
    SizeInvalid,
    /// A body above its limit.
    TooLarge,
    /// A tag outside the grammar.
    TagInvalid,
    /// A page size or position that can't be used.
    PaginationInvalid,
    /// A byte range outside the content.
    RangeUnsatisfiable,
    /// A request that can't be understood.
    RequestInvalid,
    /// No or no longer valid credentials.
    Unauthorized,
    /// Known, and not allowed.
    Denied,
    /// Deleting what something else holds.
    Held,
    /// The tag can't be moved.
    TagImmutable,
    /// A limit of the instance would be exceeded.
    QuotaExceeded,
    /// Not a route or not a method of this registry.
    Unsupported,
    /// No such resource of a management call.
    NotFound,
    /// The resource already exists.
    AlreadyExists,
    /// It is not as the caller thinks, or something else has to be done first.
    Conflict,
    /// The same idempotency key came with another request before.
    IdempotencyKeyReused,
    /// It was changed since the caller has seen it.
    PreconditionFailed,
    /// The instance's edition lacks it.
    EditionRequired,
    /// Too many requests.
    TooManyRequests,
    /// Asked on a host that this listener does not serve.
    Misdirected,
    /// Storage has no room.
    StorageFull,
    /// A service that is needed does not answer.
    Unavailable,
    /// A fault of the server.
    Internal,
}

impl ErrorCode {
    /// All codes, for tests and documentation.
    pub const ALL: [Self; 34] = [
        Self::BlobUnknown,
        Self::BlobUploadInvalid,
        Self::BlobUploadUnknown,
        Self::UploadOutOfOrder,
        Self::UploadBusy,
        Self::DigestInvalid,
        Self::ManifestBlobUnknown,
        Self::ManifestInvalid,
        Self::ManifestUnknown,
        Self::NameInvalid,
        Self::NameUnknown,
        Self::SizeInvalid,
        Self::TooLarge,
        Self::TagInvalid,
        Self::PaginationInvalid,
        Self::RangeUnsatisfiable,
        Self::RequestInvalid,
        Self::Unauthorized,
        Self::Denied,
        Self::Held,
        Self::TagImmutable,
        Self::QuotaExceeded,
        Self::Unsupported,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::IdempotencyKeyReused,
        Self::PreconditionFailed,
        Self::EditionRequired,
        Self::TooManyRequests,
        Self::Misdirected,
        Self::StorageFull,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The code in the JSON body of an error.
    pub const fn wire(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid | Self::UploadOutOfOrder | Self::UploadBusy => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid | Self::TooLarge => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::PaginationInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeUnsatisfiable => "RANGE_INVALID",
            Self::RequestInvalid => "REQUEST_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied | Self::Held | Self::TagImmutable => "DENIED",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::Unsupported => "UNSUPPORTED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::Conflict => "CONFLICT",
            Self::IdempotencyKeyReused => "IDEMPOTENCY_KEY_REUSED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::EditionRequired => "EDITION_REQUIRED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Misdirected => "MISDIRECTED",
            Self::StorageFull | Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "UNKNOWN",
        }
    }

    /// The name that travels between services; unlike [`Self::wire`] it is unique.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// Reads [`Self::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.name() == name)
    }

    /// The HTTP status.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::SizeInvalid
            | Self::TagInvalid
            | Self::PaginationInvalid
            | Self::RequestInvalid => 400,
            Self::Unauthorized => 401,
            Self::Denied | Self::QuotaExceeded | Self::EditionRequired => 403,
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestBlobUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown
            | Self::NotFound => 404,
            Self::Held | Self::Unsupported => 405,
            Self::UploadBusy | Self::TagImmutable | Self::AlreadyExists | Self::Conflict => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::UploadOutOfOrder | Self::RangeUnsatisfiable => 416,
            Self::Misdirected => 421,
            Self::IdempotencyKeyReused => 422,
            Self::TooManyRequests => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::StorageFull => 507,
        }
    }
}

/// An error for the outside: a code, a message that a person can act on, and optional detail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What went wrong, for a program.
    pub code: ErrorCode,
    /// What went wrong and what to do, for a person.
    pub message: String,
    /// More, for a program.
    pub detail: Option<serde_json::Value>,
}

impl Problem {
    /// A problem without detail.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None }
    }

    /// The same with detail.
    #[must_use]
    pub fn with_detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = Some(detail);
        self
    }

    /// The body of the specification: `{"errors":[{"code","message","detail"}]}`.
    pub fn body(&self) -> Vec<u8> {
        let mut error = serde_json::json!({ "code": self.code.wire(), "message": self.message });
        if let Some(detail) = &self.detail {
            error["detail"] = detail.clone();
        }
        serde_json::json!({ "errors": [error] }).to_string().into_bytes()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.wire(), self.message)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_unique_name_that_reads_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(&code.name()), Some(code));
            assert!((400..600).contains(&code.http_status()));
        }
    }
}
