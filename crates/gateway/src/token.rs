//! The token endpoint: Docker's GET flow and the OAuth2 POST form (distribution's token documentation).

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use berth_audit::{Seen, result_of};
use berth_model::{AuditKind, Scope};
use berth_oci::{ErrorCode, Problem};
use berth_proto::{
    LOGIN_CREDENTIAL, LOGIN_PRINCIPAL,
    instance_manager::{IssueTokenRequest, Password, issue_token_request::Credential},
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde_json::json;

use crate::{
    answer,
    body::Reader,
    failure::{Failure, Result},
    heard::is_heard_of,
    names::Name,
    query::Query,
    request::Request,
};

/// The largest form that is read.
const MAX_FORM_BYTES: usize = 64 * 1024;
/// The most scopes in one request.
const MAX_SCOPES: usize = 100;

/// `GET /token` and `POST /token`.
pub(crate) async fn issue(request: &Request, body: &mut Reader) -> Result<Response<Body>> {
    let form;
    let (query, post) = match request.head.method {
        Method::GET => (Query::parse(request.head.uri.query()), false),
        Method::POST => {
            form = body.take().collect(MAX_FORM_BYTES, "a token request").await?;
            let text = std::str::from_utf8(&form)
                .map_err(|_| Failure::new(ErrorCode::RequestInvalid, "the form is not valid UTF-8"))?;
            (Query::parse(Some(text)), true)
        }
        _ => return Err(crate::request::not_allowed("GET, POST")),
    };
    if let Some(service) = query.get("service")
        && !service.is_empty()
        && service != request.instance.name
    {
        let message = format!("this host issues tokens for service {:?} only", request.instance.name);
        return Err(Failure::new(ErrorCode::RequestInvalid, message));
    }
    let credential = credential(request, &query, post)?;
    let asked = scopes(request, &query)?;
    let scopes = asked.iter().map(|scope| scope.known.to_string()).collect();
    let offline = query.get("offline_token") == Some("true") || query.get("access_type") == Some("offline");
    let wanted = IssueTokenRequest {
        instance_id: request.instance.id.to_string(),
        credential: Some(credential),
        scopes,
        offline,
        client_address: request.origin.address_text(),
    };
    let issued = match request.parts.instance_manager.clone().issue_token(wanted).await {
        Ok(issued) => issued.into_inner(),
        Err(status) => return Err(refused(request, status)),
    };
    if issued.credential != "anonymous" {
        let (who, credential) = (issued.principal.as_str(), issued.credential.as_str());
        request.saw(&Seen::new(request.instance.id, AuditKind::LoginAccepted, who, credential));
    }
    let issued_at = std::time::UNIX_EPOCH
        + std::time::Duration::from_secs(u64::try_from(issued.issued_at).unwrap_or_default());
    let mut document = json!({
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.expires_in,
        "issued_at": humantime::format_rfc3339_seconds(issued_at).to_string(),
        "token_type": "Bearer",
        "scope": as_asked(&issued.scope, &asked),
    });
    if !issued.refresh_token.is_empty() {
        document["refresh_token"] = issued.refresh_token.into();
    }
    let mut response = answer::json(StatusCode::OK, &document);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Wrong credentials: 401 with a Basic challenge, as clients expect of a token endpoint.
fn refused(request: &Request, status: tonic::Status) -> Box<Failure> {
    let told = |name| status.metadata().get(name).and_then(|value| value.to_str().ok());
    let (who, credential) = (told(LOGIN_PRINCIPAL), told(LOGIN_CREDENTIAL));
    let (who, credential) = (who.unwrap_or_default().to_owned(), credential.unwrap_or_default().to_owned());
    let failure: Box<Failure> = status.into();
    let is_login = !matches!(credential.as_str(), "" | "anonymous");
    if is_login && is_heard_of(failure.problem.code, failure.status) {
        let refused = Seen::new(request.instance.id, AuditKind::LoginRefused, &who, &credential);
        request.saw(&Seen { result: result_of(failure.problem.code), ..refused });
    }
    if failure.problem.code == ErrorCode::Unauthorized {
        let challenge = format!("Basic realm=\"{}\"", request.instance.name);
        return Failure::challenge(failure.problem, &challenge);
    }
    failure
}

fn credential(request: &Request, query: &Query<'_>, post: bool) -> Result<Credential> {
    if let Some(password) = basic(&request.head.headers)? {
        return Ok(Credential::Password(password));
    }
    if !post {
        return Ok(Credential::Anonymous(true));
    }
    let field = |name: &str| {
        query.get(name).filter(|text| !text.is_empty()).map(str::to_owned).ok_or_else(|| {
            Failure::new(ErrorCode::RequestInvalid, format!("this grant type needs the form field {name}"))
        })
    };
    match query.get("grant_type") {
        Some("password") => {
            Ok(Credential::Password(Password { name: field("username")?, secret: field("password")? }))
        }
        Some("refresh_token") => Ok(Credential::RefreshToken(field("refresh_token")?)),
        Some(_) => Err(Failure::new(ErrorCode::RequestInvalid, "grant_type is password or refresh_token")),
        None => Ok(Credential::Anonymous(true)),
    }
}

fn basic(headers: &HeaderMap) -> Result<Option<Password>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let malformed = || {
        let message =
            "the Authorization header of the token endpoint has to be Basic with name:password in base64";
        Box::<Failure>::from(Problem::new(ErrorCode::RequestInvalid, message))
    };
    let (scheme, encoded) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let decoded = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.ok_or_else(malformed)?;
    let (name, secret) = decoded.split_once(':').ok_or_else(malformed)?;
    Ok(Some(Password { name: name.to_owned(), secret: secret.to_owned() }))
}

/// A scope as metadata knows it, and as the client wrote it.
struct AskedScope {
    known: Scope,
    asked: Scope,
}

/// The scopes of a request. What is no scope is dropped, as the intersection with what is allowed would drop it.
fn scopes(request: &Request, query: &Query<'_>) -> Result<Vec<AskedScope>> {
    let mut scopes = Vec::new();
    for text in query.all("scope").flat_map(str::split_ascii_whitespace) {
        let Ok(asked) = text.parse::<Scope>() else { continue };
        let known = match &asked {
            Scope::Catalog => Scope::Catalog,
            Scope::Repository { name, actions } => match Name::resolve(name, request.instance.default) {
                Ok(name) => Scope::Repository { name: name.path, actions: actions.clone() },
                Err(_) => continue,
            },
        };
        scopes.push(AskedScope { known, asked });
        if scopes.len() > MAX_SCOPES {
            return Err(Failure::new(
                ErrorCode::RequestInvalid,
                format!("at most {MAX_SCOPES} scopes at once"),
            ));
        }
    }
    Ok(scopes)
}

/// The granted scopes under the names that the client used.
fn as_asked(granted: &str, asked: &[AskedScope]) -> String {
    let rename = |text: &str| {
        let Ok(Scope::Repository { name, actions }) = text.parse::<Scope>() else { return text.to_owned() };
        let original = asked.iter().find_map(|scope| match (&scope.known, &scope.asked) {
            (Scope::Repository { name: known, .. }, Scope::Repository { name: asked, .. })
                if *known == name =>
            {
                Some(asked.clone())
            }
            _ => None,
        });
        Scope::Repository { name: original.unwrap_or(name), actions }.to_string()
    };
    granted.split_ascii_whitespace().map(rename).collect::<Vec<_>>().join(" ")
}
