//! Requests that two readers could understand differently are refused: whose host is not one (RFC 9112 section 3.2).
//! How a body is framed is looked at before the library sees it, by the listener.

use berth_oci::ErrorCode;
use http::{Version, header, request::Parts as Head};

use crate::failure::{Failure, Result};

/// 400 and the end of the connection, unless the request names one host, or none where none is needed.
pub(crate) fn check(head: &Head) -> Result<()> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    let named = head.uri.authority().map(http::uri::Authority::as_str);
    let same = |host: &http::HeaderValue| {
        named.is_none_or(|named| {
            // Credentials in front of a host are nobody's business here.
            let named = named.rsplit_once('@').map_or(named, |(_, host)| host);
            host.as_bytes().eq_ignore_ascii_case(named.as_bytes())
        })
    };
    let problem = match host {
        _ if another.is_some() => "the request has more than one Host header",
        Some(host) if !same(host) => "the request names two hosts",
        None if head.version == Version::HTTP_11 => "the request needs a Host header",
        _ => return Ok(()),
    };
    Err(Failure::new(ErrorCode::RequestInvalid, problem).closing())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(version: Version, uri: &str, hosts: &[&str]) -> bool {
        let mut request = http::Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        check(&request.body(()).unwrap().into_parts().0).is_ok()
    }

    #[test]
    fn a_request_names_one_host() {
        for (version, uri, hosts, good) in [
            (Version::HTTP_11, "/v2/", &["a:5000"][..], true),
            (Version::HTTP_11, "/v2/", &[], false),
            (Version::HTTP_11, "/v2/", &["a", "a"], false),
            (Version::HTTP_11, "http://a:5000/v2/", &["A:5000"], true),
            (Version::HTTP_11, "http://me@a:5000/v2/", &["a:5000"], true),
            (Version::HTTP_11, "http://a:5000/v2/", &["a:5001"], false),
            (Version::HTTP_11, "http://a/v2/", &["b"], false),
            (Version::HTTP_10, "/v2/", &[], true),
            (Version::HTTP_2, "https://a/v2/", &[], true),
            (Version::HTTP_2, "https://a/v2/", &["a"], true),
            (Version::HTTP_2, "https://a/v2/", &["b"], false),
        ] {
            assert_eq!(outcome(version, uri, hosts), good, "{version:?} {uri} {hosts:?}");
        }
    }
}
