//! Building responses.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// A JSON response.
pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    // Texts, numbers and lists of them: nothing that JSON has no words for.
    let body = serde_json::to_vec(value).unwrap_or_default();
    with_body(status, HeaderValue::from_static("application/json"), body)
}

/// A response with a whole body.
pub(crate) fn with_body(
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<bytes::Bytes>,
) -> Response<Body> {
    let body = body.into();
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    response
}

/// A response with room for the headers of a read, which would grow it three times.
pub(crate) fn with_room(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.headers_mut() = http::HeaderMap::with_capacity(16);
    response
}

/// A header value from text that Berth made; control characters can't be in it.
pub(crate) fn value(text: impl AsRef<str>) -> HeaderValue {
    HeaderValue::from_str(text.as_ref()).unwrap_or_else(|_| HeaderValue::from_static(""))
}
