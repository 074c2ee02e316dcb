//! People who log in by an identity provider, with a browser: `/auth/oidc/<provider>` sends them there, and
//! `/auth/oidc/<provider>/callback` is where they come back and get a temporary token.
//!
//! These routes need no token, since they are where one is got; who it is, is found out by instance-manager. What ties the
//! way back to the way there is a cookie that only this host and this browser have.

use axum::body::Body;
use berth_oci::ErrorCode;
use berth_proto::instance_manager::{BeginLoginRequest, FinishLoginRequest};
use berth_service::Connection;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::{
    answer,
    failure::{Failure, Result},
    query::Query,
    request::{Request, not_allowed},
};

/// What is under this is about logins.
pub(crate) const PREFIX: &str = "/auth/oidc/";

/// The largest state or code that is looked at, in bytes.
const MAX_PARAMETER: usize = 4096;

/// Nothing of such a page comes from elsewhere, and it is in nobody's frame.
const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /auth/oidc/<provider>` and its callback.
pub(crate) async fn handle(request: &Request) -> Result<Response<Body>> {
    if request.head.method != Method::GET {
        return Err(not_allowed("GET"));
    }
    let rest = request.head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let (provider, back) = match rest.strip_suffix("/callback") {
        Some(provider) => (provider, true),
        None => (rest, false),
    };
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if !(1..=64).contains(&provider.len()) || !provider.bytes().all(plain) {
        let message = "there is no such identity provider to log in with";
        return Err(Failure::new(ErrorCode::NotFound, message));
    }
    let redirect_uri = format!("{}{PREFIX}{provider}/callback", request.base_url());
    let mut response = match back {
        false => begin(request, provider, redirect_uri).await?,
        true => finish(request, provider, redirect_uri).await?,
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    Ok(response)
}

/// A browser sends a `__Host-` cookie to no other host and takes it from no other, but only with TLS.
fn cookie_name(request: &Request) -> &'static str {
    if request.base_url().starts_with("https://") { "__Host-berth-login" } else { "berth-login" }
}

fn cookie(request: &Request, value: &str, seconds: u32) -> HeaderValue {
    let name = cookie_name(request);
    let secure = if name.starts_with("__Host-") { "; Secure" } else { "" };
    answer::value(format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"))
}

/// The value of this host's cookie; empty: there is none, or more than one.
fn brought(headers: &HeaderMap, name: &str) -> String {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = pairs.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut found = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value);
    match (found.next(), found.next()) {
        (Some(value), None) if value.len() <= 200 => value.to_owned(),
        _ => String::new(),
    }
}

async fn begin(request: &Request, provider: &str, redirect_uri: String) -> Result<Response<Body>> {
    let wanted = BeginLoginRequest {
        instance_id: request.instance.id.to_string(),
        provider: provider.to_owned(),
        redirect_uri,
    };
    let sent = request.parts.logins.clone().begin_login(wanted).await?.into_inner();
    let mut response = answer::empty(StatusCode::FOUND);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, answer::value(&sent.location));
    headers.insert(header::SET_COOKIE, cookie(request, &sent.browser, sent.valid_for));
    Ok(response)
}

async fn finish(request: &Request, provider: &str, redirect_uri: String) -> Result<Response<Body>> {
    let query = Query::parse(request.head.uri.query());
    let field = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let (state, code, error) = (field("state"), field("code"), field("error"));
    if !error.is_empty() {
        let said: String =
            error.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(60).collect();
        let message = format!("the identity provider {provider} let nobody in: {said}");
        return Err(Failure::new(ErrorCode::Denied, message));
    }
    if state.is_empty() || code.is_empty() || state.len() > MAX_PARAMETER || code.len() > MAX_PARAMETER {
        let message = format!("an identity provider sends people here; begin at {PREFIX}{provider}");
        return Err(Failure::new(ErrorCode::RequestInvalid, message));
    }
    let peer = request.head.extensions.get::<Connection>().and_then(|connection| connection.peer);
    let returned = FinishLoginRequest {
        instance_id: request.instance.id.to_string(),
        provider: provider.to_owned(),
        redirect_uri,
        browser: brought(&request.head.headers, cookie_name(request)),
        state,
        code,
        issuer: field("iss"),
        client_address: peer.map(|peer| peer.ip().to_string()).unwrap_or_default(),
    };
    let entered = request.parts.logins.clone().finish_login(returned).await?.into_inner();
    let base_url = request.base_url();
    let host = base_url.split_once("://").map_or(base_url.as_str(), |(_, host)| host);
    let page = page(host, &entered.login, &entered.token);
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let mut response = answer::with_body(StatusCode::OK, html, page);
    response.headers_mut().insert(header::SET_COOKIE, cookie(request, "", 0));
    Ok(response)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(host: &str, login: &str, token: &str) -> String {
    let (host, login, token) = (escaped(host), escaped(login), escaped(token));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Logged in</title></head>\n<body>\n\
         <h1>You are {login}</h1>\n\
         <p>For an hour this logs you in, and nobody is shown it again:</p>\n\
         <pre>docker login -u {login} --password-stdin {host}</pre>\n\
         <p>with the password</p>\n\
         <pre id=\"token\">{token}</pre>\n\
         </body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_taken_when_there_is_one_of_its_name() {
        let brings = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, line.parse().unwrap());
            }
            brought(&headers, "berth-login")
        };
        assert_eq!(brings(&["a=b; berth-login=x"]), "x");
        assert_eq!(brings(&["a=b", "berth-login=x"]), "x");
        assert_eq!(brings(&["berth-login=x; berth-login=y"]), "");
        assert_eq!(brings(&["xberth-login=x", "__Host-berth-login=y"]), "");
        assert_eq!(brings(&[]), "");
    }

    #[test]
    fn a_page_shows_text_as_text() {
        let page = page("h", "<script>\"&", "t");
        assert!(page.contains("&lt;script&gt;&quot;&amp;") && !page.contains("<script>"));
    }
}
