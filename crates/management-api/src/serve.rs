//! The service that a listener serves: one request in, one response out, and the only place where a refusal becomes a
//! response.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{FromRequestParts, RawPathParams, Request, State},
};
use berth_audit::{Origin, Seen, result_of};
use berth_model::AuditKind;
use berth_oci::{ErrorCode, Problem};
use berth_service::Ids;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tower::Service;
use tracing::Instrument;

use crate::{
    answer::Body,
    call::{Call, Parts, changes},
    input::Sent,
    metrics::{Labels, Metrics},
    operation::{Operation, Run},
    problem::{self, Refusal, Result, invalid},
    unread::Shared,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The most that a body may have, in bytes, and how long it may take.
const BODY_BYTES: usize = 256 * 1024;
const BODY_TIME: Duration = Duration::from_secs(30);

/// The REST API as a [`tower::Service`]; one count to clone, since it stands beside the registry at every pull.
#[derive(Clone, Debug)]
pub struct ManagementApi(pub(crate) Arc<Shell>);

/// What answers calls.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) router: Router,
    pub(crate) ids: Ids,
    pub(crate) metrics: Metrics,
}

/// The id of a request, in its extensions.
#[derive(Clone, Debug)]
struct RequestId(String);

/// The operation that answered, in the extensions of the response.
#[derive(Clone, Copy, Debug)]
struct Answered(&'static str);

impl ManagementApi {
    /// Whether a path is one of this API.
    pub fn serves(path: &str) -> bool {
        path == "/api" || path.starts_with("/api/")
    }

    async fn answer(self, request: http::Request<Incoming>) -> Response<Body> {
        let started = Instant::now();
        let id = self.0.ids.ulid().to_string();
        let is_head = request.method() == http::Method::HEAD;
        let is_http1 = request.version() <= http::Version::HTTP_11;
        let (request, sent) = Shared::new(request);
        let mut request = request.map(|()| Body::new(sent.clone()));
        request.extensions_mut().insert(RequestId(id.clone()));
        let span = tracing::info_span!("request", id = id.as_str());
        let answered =
            AssertUnwindSafe(self.0.router.clone().call(request)).catch_unwind().instrument(span).await;
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_panic) => {
                tracing::error!(id, "a handler panicked");
                problem::respond(*internal(), &id)
            }
        };
        let operation = response.extensions().get::<Answered>().map_or("unknown", |answered| answered.0);
        self.0.metrics.answered(&Labels { operation, status: response.status().as_u16() }, started.elapsed());
        if is_head {
            *response.body_mut() = Body::empty();
        }
        let has_more = !sent.read_on().await;
        let headers = response.headers_mut();
        if has_more && is_http1 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, value);
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // An answer is data, whatever texts of people are in it; the page of the document sets its own.
        headers
            .entry(header::CONTENT_SECURITY_POLICY)
            .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
        response
    }
}

impl Service<http::Request<Incoming>> for ManagementApi {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move { Ok(api.answer(request).await) })
    }
}

fn internal() -> Box<Refusal> {
    Refusal::new(ErrorCode::Internal, "internal error; the server's log has it under the request id")
}

/// What is no operation.
pub(crate) async fn nowhere(request: Request) -> Response<Body> {
    let id = request_id(&request);
    let message = format!("there is no {}; /api/v1/docs lists what there is", request.uri().path());
    problem::respond(*Refusal::new(ErrorCode::NotFound, message), &id)
}

/// A method that a path does not have; the router says in Allow which it has.
pub(crate) async fn no_method(request: Request) -> Response<Body> {
    let id = request_id(&request);
    let message = format!("{} is none of this path's methods; Allow lists them", request.method());
    problem::respond(*Refusal::new(ErrorCode::Unsupported, message), &id)
}

fn request_id(request: &Request) -> String {
    request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default()
}

async fn body(body: Body) -> Result<Bytes> {
    match tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_BYTES).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let message = format!("a body has at most {BODY_BYTES} bytes");
            Err(Refusal::new(ErrorCode::TooLarge, message))
        }
        Ok(Err(_)) => Err(invalid("the body ended too early")),
        Err(_) => Err(invalid("the body came too slowly").with_status(StatusCode::REQUEST_TIMEOUT)),
    }
}

fn pairs(query: Option<&str>) -> Vec<(String, String)> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect()
}

/// Answers a call of an operation.
pub(crate) async fn call(
    State(parts): State<Arc<Parts>>,
    operation: Arc<Operation>,
    run: Run,
    request: Request,
) -> Response<Body> {
    let id = request_id(&request);
    let name = operation.id;
    let mut response = match answer(parts, operation, run, request, &id).await {
        Ok(response) => response,
        Err(refused) => {
            tracing::debug!(operation = name, code = ?refused.problem.code, message = refused.problem.message, "refused");
            problem::respond(*refused, &id)
        }
    };
    response.extensions_mut().insert(Answered(name));
    response
}

async fn answer(
    parts: Arc<Parts>,
    operation: Arc<Operation>,
    run: Run,
    request: Request,
    id: &str,
) -> Result<Response<Body>> {
    let (mut head, sent) = request.into_parts();
    let params = RawPathParams::from_request_parts(&mut head, &())
        .await
        .map_err(|_| invalid("the path is not UTF-8"))?;
    let params = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut call = match Call::begin(Arc::clone(&parts), operation, head, params, id.to_owned()).await {
        Ok(call) => call,
        Err((call, refused)) => {
            if let Some(call) = call {
                tell(&call, &refused.problem);
            }
            return Err(refused);
        }
    };
    let body = body(sent).await?;
    call.received(&body);
    let text = |name| call.head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let sent = Sent {
        path: call.head.uri.path().to_owned(),
        query: pairs(call.head.uri.query()),
        content_type: text(header::CONTENT_TYPE).map(str::to_owned),
        body,
    };
    let changes = changes(&call.head.method);
    let kept = call.kept_rule();
    let witness = call.witness();
    // What has begun to change something goes on when its caller goes away.
    let outcome = match changes {
        true => match parts.work.detach(run(call, sent)).await {
            Ok(outcome) => outcome,
            Err(_panicked) => Err(internal()),
        },
        false => run(call, sent).await,
    };
    match outcome {
        Ok(_) if !kept() => {
            tracing::error!(operation = witness.operation, "it answered without having asked whether it may");
            Err(internal())
        }
        Ok(response) => Ok(response),
        Err(refused) => {
            if refused.problem.code == ErrorCode::Denied {
                witness.tell(&parts, &refused.problem);
            }
            Err(refused)
        }
    }
}

fn tell(call: &Call, problem: &Problem) {
    let absent_elsewhere = problem.code == ErrorCode::NotFound;
    if problem.code == ErrorCode::Denied || absent_elsewhere {
        call.witness().tell(&call.parts, problem);
    }
}

/// What the audit needs of a call.
#[derive(Debug)]
struct Witness {
    operation: &'static str,
    /// The one that the call is about, or else the caller's.
    instance: String,
    principal: String,
    credential: String,
    origin: Origin,
}

impl Witness {
    /// Tells the audit that the call was refused.
    fn tell(&self, parts: &Parts, problem: &Problem) {
        let Ok(instance) = self.instance.parse() else { return };
        let seen = Seen {
            result: result_of(problem.code),
            subject: (self.operation, ""),
            ..Seen::new(instance, AuditKind::CallRefused, &self.principal, &self.credential)
        };
        parts.trail.saw(&seen, self.origin, parts.clock.now());
    }
}

impl Call {
    /// Tells the audit that content of the repository in the path goes out.
    pub(crate) fn pulled(&self, kind: AuditKind, digest: &str) {
        let (witness, Ok(repository)) = (self.witness(), self.repository()) else { return };
        let (Ok(instance), Ok(digest)) = (witness.instance.parse(), digest.parse()) else { return };
        let named = self.param("reference");
        let seen = Seen {
            repository: &repository.path,
            repository_id: repository.id.parse().ok(),
            digest: Some(digest),
            tag: if kind == AuditKind::BlobPulled || named.contains(':') { "" } else { named },
            ..Seen::new(instance, kind, &witness.principal, &witness.credential)
        };
        self.parts.trail.saw(&seen, witness.origin, self.parts.clock.now());
    }

    fn witness(&self) -> Witness {
        let caller = self.caller();
        let instance = match self.instance_id() {
            "" => &caller.instance_id,
            id => id,
        };
        Witness {
            operation: self.operation().id,
            instance: instance.to_owned(),
            principal: caller.principal.clone(),
            credential: caller.credential.clone(),
            origin: Origin {
                id: self.request_id.parse().unwrap_or_else(|_| self.parts.ids.ulid()),
                address: self.address.parse().ok(),
            },
        }
    }
}
