//! Who calls: what a request shows becomes a caller, asked of instance-manager each time, so that what was taken away is
//! gone at once. No cookies: a browser shows nothing by itself.

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use berth_audit::{Origin, Seen, result_of};
use berth_model::{AuditKind, own_part};
use berth_oci::{ErrorCode, Problem};
use berth_proto::instance_manager::{
    AuthenticateRequest, Caller, GetInstanceRequest, InstanceEntry, InstancePassword,
    authenticate_request::Credential,
};
use berth_service::Connection;
use http::{HeaderMap, HeaderValue, header, request::Parts as Head};

use crate::{
    call::Parts,
    problem::{Refusal, Result},
};

/// The instance that hosts without a name of an instance mean.
const DEFAULT: &str = "default";

/// The longest credential that is looked at, in bytes.
const MOST: usize = 16 * 1024;

/// What the Authorization header shows.
enum Shown {
    Password { name: String, secret: String },
    Token(String),
}

/// The peer's address, as the audit and the counting of guesses name it; empty: not known.
pub(crate) fn address(head: &Head) -> String {
    peer(head).map(|peer| peer.to_string()).unwrap_or_default()
}

fn peer(head: &Head) -> Option<IpAddr> {
    let peer = head.extensions.get::<Connection>().and_then(|connection| connection.peer);
    peer.map(|peer| peer.ip().to_canonical())
}

/// 401, with the ways to show who one is.
fn unauthorized(message: &str) -> Box<Refusal> {
    challenge(Problem::new(ErrorCode::Unauthorized, message))
}

fn challenge(problem: Problem) -> Box<Refusal> {
    let refusal: Box<Refusal> = problem.into();
    let ways = HeaderValue::from_static("Basic realm=\"berth\", Bearer realm=\"berth\"");
    refusal.with_header(header::WWW_AUTHENTICATE, ways)
}

fn shown(headers: &HeaderMap) -> Result<Shown> {
    let wrong = || unauthorized("the Authorization header is neither Basic nor Bearer; see docs/api.md");
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, another) = (values.next(), values.next());
    let value = value.ok_or_else(|| unauthorized("log in: with Basic, or with the token of a session"))?;
    if another.is_some() || value.len() > MOST {
        return Err(wrong());
    }
    let (scheme, rest) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
        return Ok(Shown::Token(rest.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(wrong());
    }
    let bytes = STANDARD.decode(rest).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (name, secret) = text.split_once(':').ok_or_else(wrong)?;
    Ok(Shown::Password { name: name.to_owned(), secret: secret.to_owned() })
}

/// The name of the instance that a host means: `<instance>-registry.<region>.<domain>`, or the default one. Without a
/// domain of the deployment every host means that.
pub(crate) fn instance_of_host(head: &Head, domain: &str) -> Result<(String, Option<String>)> {
    if head.headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(crate::problem::invalid("the request has more than one Host header"));
    }
    if domain.is_empty() {
        return Ok((DEFAULT.to_owned(), None));
    }
    let misdirected = || Refusal::new(ErrorCode::Misdirected, "this host serves no instance");
    let host = match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    };
    let own = own_part(host, domain).ok_or_else(misdirected)?;
    if own.is_empty() {
        return Ok((DEFAULT.to_owned(), None));
    }
    let (first, region) = own.split_once('.').ok_or_else(misdirected)?;
    let name = first.strip_suffix("-registry").ok_or_else(misdirected)?;
    Ok((name.to_owned(), Some(region.to_owned())))
}

/// The instance that the host of a call means.
pub(crate) async fn host_instance(parts: &Parts, head: &Head) -> Result<InstanceEntry> {
    let (name, region) = instance_of_host(head, &parts.base_domain)?;
    let request = GetInstanceRequest { name, ..GetInstanceRequest::default() };
    let misdirected = || Refusal::new(ErrorCode::Misdirected, "this host serves no instance");
    let found = match parts.instances.clone().get_instance(request).await {
        Ok(found) => found.into_inner(),
        Err(status) if berth_proto::from_status(&status).code == ErrorCode::NotFound => {
            return Err(misdirected());
        }
        Err(status) => return Err(status.into()),
    };
    match region {
        Some(region) if !region.eq_ignore_ascii_case(&found.region) => Err(misdirected()),
        _ => Ok(found),
    }
}

/// Who calls.
pub(crate) async fn caller(parts: &Parts, head: &Head) -> Result<Caller> {
    let credential = match shown(&head.headers)? {
        Shown::Token(token) => {
            instance_of_host(head, &parts.base_domain)?;
            Credential::Token(token)
        }
        Shown::Password { name, secret } => {
            let instance_id = host_instance(parts, head).await?.id;
            Credential::Password(InstancePassword { instance_id, name, secret })
        }
    };
    let request = AuthenticateRequest { credential: Some(credential), client_address: address(head) };
    match parts.sessions.clone().authenticate(request).await {
        Ok(caller) => Ok(caller.into_inner()),
        Err(status) => Err(refused(parts, head, &status).await),
    }
}

/// The refusal of a credential, which the audit hears of.
pub(crate) async fn refused(parts: &Parts, head: &Head, status: &tonic::Status) -> Box<Refusal> {
    let problem = berth_proto::from_status(status);
    if problem.code != ErrorCode::Unauthorized {
        return problem.into();
    }
    let told = |key| status.metadata().get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (principal, credential) = (told(berth_proto::LOGIN_PRINCIPAL), told(berth_proto::LOGIN_CREDENTIAL));
    if let Ok(instance) = host_instance(parts, head).await
        && let Ok(instance) = instance.id.parse()
    {
        let seen = Seen::new(instance, AuditKind::LoginRefused, principal, credential);
        let origin = Origin { id: parts.ids.ulid(), address: peer(head) };
        parts.trail.saw(&Seen { result: result_of(problem.code), ..seen }, origin, parts.clock.now());
    }
    challenge(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(host: &str) -> Head {
        http::Request::builder().uri("/api/v1").header("host", host).body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_host_means_its_instance_and_nothing_else() {
        let found = |host: &str| instance_of_host(&head(host), "berth.example").ok();
        let own = Some(("acme".to_owned(), Some("cn-hangzhou".to_owned())));
        assert_eq!(found("acme-registry.cn-hangzhou.berth.example:443"), own);
        assert_eq!(found("acme-registry.cn-hangzhou.berth.example."), own);
        assert_eq!(found("BERTH.example"), Some((DEFAULT.to_owned(), None)));
        for host in ["other.example", "xberth.example", "acme.berth.example", "", "éé.x", ".berth.example"]
        {
            assert_eq!(found(host), None, "{host}");
        }
        assert_eq!(instance_of_host(&head("x"), "").unwrap(), (DEFAULT.to_owned(), None));
    }
}
