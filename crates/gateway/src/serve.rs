//! The service that a listener serves: one request in, one response out, and the only place where a failure becomes a
//! response.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::body::Body;
use berth_oci::{ErrorCode, Method, Problem, Route};
use berth_service::Connection;
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Response, StatusCode, header, request::Parts as Head};
use hyper::body::Incoming;
use tracing::Instrument;

use crate::{
    answer, authorise,
    body::Reader,
    failure::{Failure, Result},
    metrics::RequestLabels,
    request::{Parts, Request, not_allowed},
    settings::Snapshot,
};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The OCI API as a [`tower::Service`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway(Arc<Parts>);

impl Gateway {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Whether instance-manager was heard within the last minute; without it the gateway refuses.
    pub fn ready(&self) -> bool {
        self.0.settings.current().is_some()
    }

    async fn answer(self, request: http::Request<Incoming>) -> Response<Body> {
        let started = Instant::now();
        let _running = self.0.metrics.began();
        let id = self.0.ids.ulid().to_string();
        let span = tracing::info_span!("request", id);
        let method = method_name(request.method());
        let (head, body) = request.into_parts();
        let is_head = head.method == http::Method::HEAD;
        let path = head.uri.path().to_owned();
        let (route, outcome) = async {
            let route = route_name(&path);
            let handled = std::panic::AssertUnwindSafe(self.route(head, body)).catch_unwind().await;
            let outcome = handled.unwrap_or_else(|_panic| {
                tracing::error!("a handler panicked");
                Err(Failure::new(
                    ErrorCode::Internal,
                    "internal error; the server's log has it under the request id",
                ))
            });
            (route, outcome)
        }
        .instrument(span.clone())
        .await;
        let _entered = span.entered();
        let mut response = match outcome {
            Ok(response) => {
                let status = response.status().as_u16();
                tracing::debug!(method, path, status, "answered");
                response
            }
            Err(failure) => {
                log_refusal(method, &path, &failure);
                refusal(*failure)
            }
        };
        if is_head {
            // The length stays: a HEAD says what its GET would. HTTP/2 would send the body.
            *response.body_mut() = Body::empty();
        }
        let headers = response.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert(REQUEST_ID, answer::value(&id));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let labels = RequestLabels { route, method, status: response.status().as_u16() };
        self.0.metrics.answered(&labels, started.elapsed());
        response
    }

    /// What nobody has read of the body of a refused request is read here.
    async fn route(&self, head: Head, body: Incoming) -> Result<Response<Body>> {
        let mut body = Reader::new(body, &head.headers, self.0.upload_idle);
        let outcome = self.dispatch(head, &mut body).await;
        if outcome.is_err() {
            body.linger().await;
        }
        outcome
    }

    async fn dispatch(&self, head: Head, body: &mut Reader) -> Result<Response<Body>> {
        let Some(settings) = self.0.settings.current() else {
            let message = "the registry is starting, or its instance-manager does not answer; try again";
            return Err(Failure::new(ErrorCode::Unavailable, message));
        };
        let path = head.uri.path().to_owned();
        if path == "/.well-known/jwks.json" {
            return match head.method {
                http::Method::GET | http::Method::HEAD => Ok(jwks(settings.as_ref().as_ref())),
                _ => Err(not_allowed("GET, HEAD")),
            };
        }
        let request = self.identify(head, settings.as_ref().as_ref())?;
        if path == "/token" {
            return crate::token::issue(&request, body).await;
        }
        let route = Route::parse(&path).map_err(Problem::from)?;
        handle(&request, route, body).await
    }

    /// Finds out who is asked. Embedded, every host means the default instance.
    fn identify(&self, head: Head, settings: Option<&Snapshot>) -> Result<Request> {
        let instance = settings.and_then(|snapshot| snapshot.default_instance.clone());
        let Some(instance) = instance else {
            return Err(Failure::new(ErrorCode::Misdirected, "this host serves no instance"));
        };
        let base_url = if self.0.external_url.is_empty() {
            let tls = head.extensions.get::<Connection>().is_some_and(|connection| connection.tls);
            format!("{}://{}", if tls { "https" } else { "http" }, authority(&head)?)
        } else {
            self.0.external_url.clone()
        };
        Ok(Request { parts: Arc::clone(&self.0), head, instance, base_url })
    }
}

/// The host that the client asked, as it may stand in a challenge.
fn authority(head: &Head) -> Result<String> {
    let host = match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || b".-_:[]".contains(&c);
    if host.is_empty() || host.len() > 300 || !host.bytes().all(plain) {
        return Err(Failure::new(ErrorCode::RequestInvalid, "the request needs a valid Host header"));
    }
    Ok(host.to_owned())
}

/// The methods of a resource. What has GET has HEAD.
fn methods(route: &Route) -> &'static str {
    match route {
        Route::Base | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET, HEAD",
        Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
        Route::Blob(..) => "GET, HEAD, DELETE",
        Route::Uploads(_) => "POST",
        Route::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
    }
}

async fn handle(request: &Request, route: Route, body: &mut Reader) -> Result<Response<Body>> {
    use Method::{Delete, Get, Head, Patch, Post, Put};
    let methods = methods(&route);
    let method: Method = request.head.method.as_str().parse().map_err(|_| not_allowed(methods))?;
    let default = request.instance.name == "default";
    let name = match route.repository() {
        Some(name) => Some(crate::names::Name::resolve(name, default)?),
        None => None,
    };
    match (route, name, method) {
        (Route::Base, _, Get | Head) => {
            authorise::authenticated(request)?;
            Ok(answer::json(StatusCode::OK, &serde_json::json!({})))
        }
        (Route::Catalog, _, Get | Head) => crate::list::catalog(request).await,
        (Route::Tags(_), Some(name), Get | Head) => crate::list::tags(request, &name).await,
        (Route::Referrers(_, subject), Some(name), Get | Head) => {
            crate::list::referrers(request, &name, subject).await
        }
        (Route::Manifest(_, reference), Some(name), Get | Head) => {
            crate::manifest::get(request, &name, &reference, method == Head).await
        }
        (Route::Manifest(_, reference), Some(name), Put) => {
            crate::manifest::put(request, &name, reference, body).await
        }
        (Route::Manifest(_, reference), Some(name), Delete) => {
            crate::manifest::delete(request, &name, &reference).await
        }
        (Route::Blob(_, digest), Some(name), Get | Head) => {
            crate::blob::get(request, &name, digest, method == Head).await
        }
        (Route::Blob(_, digest), Some(name), Delete) => crate::blob::delete(request, &name, digest).await,
        (Route::Uploads(_), Some(name), Post) => crate::upload::start(request, &name, body).await,
        (Route::Upload(_, id), Some(name), Patch) => crate::upload::patch(request, &name, &id, body).await,
        (Route::Upload(_, id), Some(name), Put) => crate::upload::put(request, &name, &id, body).await,
        (Route::Upload(_, id), Some(name), Get | Head) => crate::upload::state(request, &name, &id).await,
        (Route::Upload(_, id), Some(name), Delete) => crate::upload::cancel(request, &name, &id).await,
        _ => Err(not_allowed(methods)),
    }
}

fn jwks(snapshot: Option<&Snapshot>) -> Response<Body> {
    let keys = snapshot.map_or_else(|| r#"{"keys":[]}"#.to_owned(), |snapshot| snapshot.jwks.clone());
    let mut response =
        answer::with_body(StatusCode::OK, HeaderValue::from_static("application/jwk-set+json"), keys);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    response
}

fn refusal(failure: Failure) -> Response<Body> {
    let body = failure.problem.body();
    let mut response = answer::with_body(failure.status, HeaderValue::from_static("application/json"), body);
    let headers = response.headers_mut();
    for (name, value) in failure.headers {
        headers.append(name, value);
    }
    if failure.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn log_refusal(method: &str, path: &str, failure: &Failure) {
    let (status, cause) = (failure.status.as_u16(), failure.problem.to_string());
    if status >= 500 {
        tracing::error!(method, path, status, cause, "refused");
    } else {
        tracing::debug!(method, path, status, cause, "refused");
    }
}

fn method_name(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

fn route_name(path: &str) -> &'static str {
    match Route::parse(path) {
        Ok(Route::Base) => "base",
        Ok(Route::Catalog) => "catalog",
        Ok(Route::Tags(_)) => "tags",
        Ok(Route::Manifest(..)) => "manifest",
        Ok(Route::Blob(..)) => "blob",
        Ok(Route::Uploads(_) | Route::Upload(..)) => "upload",
        Ok(Route::Referrers(..)) => "referrers",
        Err(_) if path == "/token" => "token",
        Err(_) => "other",
    }
}

impl tower::Service<http::Request<Incoming>> for Gateway {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let gateway = self.clone();
        Box::pin(async move { Ok(gateway.answer(request).await) })
    }
}
