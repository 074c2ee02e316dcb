//! The names by which instances are reached.

use std::borrow::Cow;

/// What stands before the deployment's domain in the value of a `Host` header, in lower case: empty for the domain itself, nothing
/// for a host outside of it. A port and the dot that ends a full name say nothing.
#[must_use]
pub fn own_part<'a>(host: &'a str, domain: &str) -> Option<Cow<'a, str>> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let (own, rest) = name.split_at_checked(name.len().checked_sub(domain.len())?)?;
    if !rest.eq_ignore_ascii_case(domain) {
        return None;
    }
    let own = match own {
        "" => own,
        own => own.strip_suffix('.').filter(|own| !own.is_empty())?,
    };
    let is_lower = !own.bytes().any(|c| c.is_ascii_uppercase());
    Some(if is_lower { Cow::Borrowed(own) } else { Cow::Owned(own.to_ascii_lowercase()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_within_the_domain_or_not() {
        let own = |host| own_part(host, "berth.test");
        for host in ["berth.test", "BERTH.test:443", "berth.test.", "berth.test.:5000"] {
            assert_eq!(own(host).as_deref(), Some(""), "{host}");
        }
        assert_eq!(
            own("acme-registry.eu-central-1.berth.test:80").as_deref(),
            Some("acme-registry.eu-central-1")
        );
        assert_eq!(own("ACME-registry.X.berth.TEST").as_deref(), Some("acme-registry.x"));
        for host in [
            "",
            "test",
            ".berth.test",
            "xberth.test",
            "berth.test.example",
            "berth.test:x",
            "é.test",
            "berth.test..",
        ] {
            assert_eq!(own(host), None, "{host}");
        }
    }
}
