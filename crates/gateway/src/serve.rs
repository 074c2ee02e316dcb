//! The service that a listener serves: one request in, one response out, and the only place where a failure becomes a
//! response.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::body::Body;
use berth_audit::{Origin, Seen, result_of};
use berth_model::{AuditKind, InstanceState};
use berth_oci::{ErrorCode, Method, Problem, Route, RouteError};
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Response, StatusCode, header, request::Parts as Head};
use hyper::body::Incoming;
use tracing::Instrument;

use crate::{
    ambiguous, answer, authorise,
    body::Reader,
    failure::{Failure, Result},
    heard::is_heard_of,
    metrics::{RequestLabels, Running},
    request::{Parts, Request, authority, not_allowed, peer},
    settings::{Instance, Snapshot},
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

    /// The answer at once where memory has it, and otherwise the way to it.
    fn begin(&self, request: http::Request<Incoming>) -> Answering {
        let (head, body) = request.into_parts();
        let route = Route::parse(head.uri.path());
        let mut begun = Begun::new(&self.0, &head, &route);
        let asked = self.ask(head, route, begun.origin);
        begun.instance = asked.as_ref().ok().map(|(request, _)| Arc::clone(&request.instance));
        let warm = match &asked {
            Ok((request, Ok(route))) if hyper::body::Body::is_end_stream(&body) => {
                // Like the long way, it must not take its connection along.
                let answered = AssertUnwindSafe(|| crate::warm::answer(request, route));
                std::panic::catch_unwind(answered).unwrap_or_else(|_panic| Some(Err(panicked())))
            }
            _ => None,
        };
        if let Some(outcome) = warm {
            return Answering::Now(Some(begun.finish(&self.0, outcome)));
        }
        let gateway = self.clone();
        Answering::Later(Box::pin(async move { gateway.answer(begun, asked, body).await }))
    }

    async fn answer(self, begun: Begun, asked: Asked, body: Incoming) -> Response<Body> {
        let span = tracing::info_span!("request", id = begun.id.as_str());
        let handled = AssertUnwindSafe(self.route(asked, body)).catch_unwind().instrument(span.clone()).await;
        let outcome = handled.unwrap_or_else(|_panic| Err(panicked()));
        let _entered = span.entered();
        begun.finish(&self.0, outcome)
    }

    /// What nobody has read of the body of a refused request is read here.
    async fn route(&self, asked: Asked, body: Incoming) -> Result<Response<Body>> {
        let (request, route) = match asked {
            Ok(asked) => asked,
            Err((headers, refused)) => {
                Reader::new(body, &headers, self.0.pace).linger().await;
                return Err(refused);
            }
        };
        let mut body = Reader::new(body, &request.head.headers, self.0.pace);
        let outcome = dispatch(&request, route, &mut body).await;
        if outcome.is_err() {
            body.linger().await;
        }
        outcome
    }

    /// Finds out what is asked, and who is: without a domain of the deployment, every host means the default instance.
    fn ask(&self, head: Head, route: Parsed, origin: Origin) -> Asked {
        match self.instance(&head) {
            Ok(instance) => Ok((Request { parts: Arc::clone(&self.0), head, instance, origin }, route)),
            Err(refused) => Err((head.headers, refused)),
        }
    }

    fn instance(&self, head: &Head) -> Result<Arc<Instance>> {
        ambiguous::check(head)?;
        let Some(settings) = self.0.settings.current() else {
            let message = "the registry is starting, or its instance-manager does not answer; try again";
            return Err(Failure::new(ErrorCode::Unavailable, message));
        };
        let snapshot = settings.as_ref().as_ref();
        let instance = if self.0.base_domain.is_empty() {
            if self.0.external_url.is_empty() {
                authority(head)?;
            }
            snapshot.and_then(|snapshot| snapshot.default_instance.clone())
        } else {
            let host = authority(head)?;
            snapshot.and_then(|snapshot| snapshot.at(host, &self.0.base_domain))
        };
        let Some(instance) = instance else {
            return Err(Failure::new(ErrorCode::Misdirected, "this host serves no instance"));
        };
        if instance.state != InstanceState::Running {
            let message = format!(
                "the instance {} is {}; whoever runs the deployment can start it",
                instance.name, instance.state
            );
            return Err(Failure::new(ErrorCode::Denied, message).within(instance.id));
        }
        Ok(instance)
    }
}

/// What a path means.
type Parsed = std::result::Result<Route, RouteError>;

/// The request and what its path means; or why it is not listened to, with the headers that say how its body comes.
type Asked = std::result::Result<(Request, Parsed), (http::HeaderMap, Box<Failure>)>;

/// A request that is being answered.
struct Begun {
    started: Instant,
    id: String,
    origin: Origin,
    /// It came with something that says who asks.
    has_credentials: bool,
    /// Whose it is, once that is known.
    instance: Option<Arc<Instance>>,
    method: &'static str,
    is_head: bool,
    route: &'static str,
    /// For the log, when it is read at that level.
    uri: http::Uri,
    _running: Running,
}

impl Begun {
    fn new(parts: &Parts, head: &Head, route: &Parsed) -> Self {
        let origin = Origin { id: parts.ids.ulid(), address: peer(head) };
        Self {
            started: Instant::now(),
            id: origin.id.to_string(),
            origin,
            has_credentials: head.headers.contains_key(header::AUTHORIZATION),
            instance: None,
            method: method_name(&head.method),
            is_head: head.method == http::Method::HEAD,
            route: route_name(route, head.uri.path()),
            uri: head.uri.clone(),
            _running: parts.metrics.began(),
        }
    }

    fn finish(self, parts: &Parts, outcome: Result<Response<Body>>) -> Response<Body> {
        let (method, path) = (self.method, self.uri.path());
        let mut response = match outcome {
            Ok(response) => {
                let status = response.status().as_u16();
                tracing::debug!(id = self.id, method, path, status, "answered");
                response
            }
            Err(failure) => {
                log_refusal(&self.id, method, path, &failure);
                self.tell_audit(parts, &failure);
                refusal(*failure)
            }
        };
        if self.is_head {
            // The length stays: a HEAD says what its GET would. HTTP/2 would send the body.
            *response.body_mut() = Body::empty();
        }
        let headers = response.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert(REQUEST_ID, answer::value(&self.id));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let labels = RequestLabels { route: self.route, method, status: response.status().as_u16() };
        parts.metrics.answered(&labels, self.started.elapsed());
        response
    }
}

impl Begun {
    /// Tells the audit of a refused call. Who asks without credentials is only told where to get some, and what the token
    /// endpoint refuses is a login.
    fn tell_audit(&self, parts: &Parts, failure: &Failure) {
        let (code, instance) = (failure.problem.code, self.instance.as_ref());
        let Some(id) = failure.instance.or(instance.map(|instance| instance.id)) else { return };
        let is_challenge = code == ErrorCode::Unauthorized && !self.has_credentials;
        if self.route == "token" || is_challenge || !is_heard_of(code, failure.status) {
            return;
        }
        let (principal, credential) = match (&failure.token, self.has_credentials) {
            (Some(token), _) => (token.principal.as_str(), token.credential.as_str()),
            (None, true) => ("", "bearer"),
            (None, false) => ("anonymous", "anonymous"),
        };
        // What those who have shown no right write into their paths is not worth keeping.
        let route = failure.token.as_ref().and_then(|_| Route::parse(self.uri.path()).ok());
        let is_default = instance.is_some_and(|instance| instance.default);
        let name = route.as_ref().and_then(Route::repository);
        let name = name.and_then(|name| crate::names::Name::resolve(name, is_default).ok());
        let seen = Seen {
            result: result_of(code),
            subject: (self.method, self.route),
            repository: name.as_ref().map(|name| name.path.as_str()).unwrap_or_default(),
            ..Seen::new(id, AuditKind::CallRefused, principal, credential)
        };
        parts.audit.saw(&seen, self.origin, parts.settings.now());
    }
}

fn panicked() -> Box<Failure> {
    tracing::error!("a handler panicked");
    Failure::new(ErrorCode::Internal, "internal error; the server's log has it under the request id")
}

async fn dispatch(request: &Request, route: Parsed, body: &mut Reader) -> Result<Response<Body>> {
    if !matches!(request.head.method, http::Method::POST | http::Method::PUT | http::Method::PATCH) {
        body.discard().await?;
    }
    match request.head.uri.path() {
        "/.well-known/jwks.json" => match request.head.method {
            http::Method::GET | http::Method::HEAD => {
                let settings = request.parts.settings.current();
                Ok(jwks(settings.as_ref().and_then(|settings| settings.as_ref().as_ref())))
            }
            _ => Err(not_allowed("GET, HEAD")),
        },
        "/token" => crate::token::issue(request, body).await,
        path if path.starts_with(crate::login::PREFIX) => crate::login::handle(request).await,
        _ => handle(request, route.map_err(Problem::from)?, body).await,
    }
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
    let default = request.instance.default;
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

fn log_refusal(id: &str, method: &str, path: &str, failure: &Failure) {
    let (status, cause) = (failure.status.as_u16(), failure.problem.to_string());
    if status >= 500 {
        tracing::error!(id, method, path, status, cause, "refused");
    } else {
        tracing::debug!(id, method, path, status, cause, "refused");
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

fn route_name(route: &Parsed, path: &str) -> &'static str {
    match route {
        Ok(Route::Base) => "base",
        Ok(Route::Catalog) => "catalog",
        Ok(Route::Tags(_)) => "tags",
        Ok(Route::Manifest(..)) => "manifest",
        Ok(Route::Blob(..)) => "blob",
        Ok(Route::Uploads(_) | Route::Upload(..)) => "upload",
        Ok(Route::Referrers(..)) => "referrers",
        Err(_) if path == "/token" => "token",
        Err(_) if path.starts_with(crate::login::PREFIX) => "login",
        Err(_) => "other",
    }
}

/// The way to an answer.
pub enum Answering {
    /// It is here.
    Now(Option<Response<Body>>),
    /// It takes a while.
    Later(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
}

impl std::fmt::Debug for Answering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Now(_) => "Now",
            Self::Later(_) => "Later",
        })
    }
}

impl Future for Answering {
    type Output = std::result::Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            // Polled once only, as futures are.
            Self::Now(response) => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
            }
            Self::Later(answering) => answering.as_mut().poll(context).map(Ok),
        }
    }
}

impl tower::Service<http::Request<Incoming>> for Gateway {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Answering {
        self.begin(request)
    }
}
