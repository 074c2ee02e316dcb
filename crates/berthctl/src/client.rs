//! Calls of the API: where to, as whom, once more where that is safe, and refusals in words.

use std::time::Duration;

use reqwest::{Certificate, Method, StatusCode, Url, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::{contexts::Target, failure::Failure};

/// How often a call that may be repeated is.
const TRIES: u32 = 4;
/// The longest that is waited between two tries.
const LONGEST: Duration = Duration::from_secs(5);

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Below `/api/v1`, with its query.
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// It has one effect, however often it comes.
    pub(crate) repeatable: bool,
}

impl Call {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, headers: Vec::new(), repeatable: true }
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
    /// Below `/api/v1`: where what was made or begun is.
    pub(crate) location: Option<String>,
}

impl Reply {
    /// The body as JSON; null when there is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A client of one registry.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
}

/// It is this machine.
fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost" || host.ends_with(".localhost") || host == "[::1]" || host.starts_with("127.")
}

/// What was behind an error, in the end.
fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

fn base(target: &Target) -> Result<Url, Failure> {
    let text = if target.server.contains("://") {
        target.server.clone()
    } else {
        format!("https://{}", target.server)
    };
    let url: Url =
        text.parse().map_err(|error| Failure::usage(format!("{text} is no URL of a registry: {error}")))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here(&url) || target.plain_http => Ok(url),
        "http" => Err(Failure::usage(format!(
            "{url} is without TLS, so whoever listens would read the token; use https, or say --plain-http"
        ))),
        other => Err(Failure::usage(format!("{other} is nothing that a registry speaks; use https"))),
    }
}

impl Client {
    pub(crate) fn new(target: &Target) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("berthctl/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60));
        if !target.ca.is_empty() {
            let unread = |error: &dyn std::fmt::Display| {
                Failure::usage(format!("can't use the authorities in {}: {error}", target.ca))
            };
            let pem = std::fs::read(&target.ca).map_err(|error| unread(&error))?;
            for certificate in Certificate::from_pem_bundle(&pem).map_err(|error| unread(&error))? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let base = base(target)?;
        if is_here(&base) {
            // No proxy leads to where one is.
            builder = builder.no_proxy();
        }
        let http =
            builder.build().map_err(|error| Failure::usage(format!("can't make a client: {error}")))?;
        Ok(Self { http, base, token: target.token.clone() })
    }

    /// Makes a call, and fails with what was refused.
    pub(crate) async fn call(&self, call: &Call) -> Result<Reply, Failure> {
        let mut pause = Duration::from_millis(250);
        for attempt in 1.. {
            let last = attempt == TRIES || !call.repeatable;
            match self.once(call).await {
                Ok(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE && !last => {}
                Ok(reply) if reply.status.is_success() => return Ok(reply),
                Ok(reply) => return Err(refused(&reply, self.token.is_some())),
                Err(error) if last => return Err(error),
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
        Err(Failure::Unreachable("nobody answered".to_owned()))
    }

    async fn once(&self, call: &Call) -> Result<Reply, Failure> {
        let text = format!("{}/api/v1{}", self.base.as_str().trim_end_matches('/'), call.path);
        let mut request = self.http.request(call.method.clone(), text);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let unreachable = |error: reqwest::Error| {
            Failure::Unreachable(format!("{} does not answer: {}", self.base, cause(&error)))
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.and_then(|path| path.strip_prefix("/api/v1/"));
        let location = location.map(|path| format!("/{path}"));
        let body = response.bytes().await.map_err(unreachable)?.to_vec();
        Ok(Reply { status, body, location })
    }
}

fn refused(reply: &Reply, has_token: bool) -> Failure {
    let problem = reply.json();
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let hint = match (reply.status.as_u16(), has_token) {
        (401, true) => "the session has ended: berthctl login",
        (401, false) => "berthctl login",
        (412, _) => "get it again, and say its version in --if-match",
        _ => "",
    };
    let detail = match text("detail") {
        detail if detail.is_empty() => format!("status {} from something that is no Berth", reply.status),
        // What REST would do with headers, the hint says in flags.
        detail if reply.status == StatusCode::PRECONDITION_FAILED => {
            detail.split(';').next().unwrap_or_default().to_owned()
        }
        detail => detail,
    };
    Failure::Refused { detail, code: text("code"), request: text("request_id"), hint: hint.to_owned() }
}
