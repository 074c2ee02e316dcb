//! Which workloads are trusted to be a robot: all conditions of a trust have to fit, and one of them has to say who is meant.

use berth_access::ForeignClaims;
use berth_oci::Problem;

use crate::{error::invalid, store::Conditions};

/// The most conditions of a trust.
const MAX_CONDITIONS: usize = 20;

/// Claims that say who or what asks, at the issuers that are met most. What only says when, why or for whom does not keep others
/// of the same issuer out.
const TELLING: &[&str] = &[
    "sub",
    // GitHub.
    "repository",
    "repository_id",
    "repository_owner",
    "repository_owner_id",
    "job_workflow_ref",
    // GitLab.
    "project_path",
    "project_id",
    "namespace_path",
    "namespace_id",
    "ci_config_ref_uri",
    "user_login",
    "user_id",
    // Kubernetes.
    "/kubernetes.io/namespace",
    "/kubernetes.io/serviceaccount/name",
    "/kubernetes.io/serviceaccount/uid",
    // Others.
    "client_id",
    "email",
    "oid",
];

/// What subjects of everybody begin with.
const OF_EVERYBODY: &[&str] = &["", "repo", "project_path", "system", "organization", "group"];

/// Whether a pattern keeps strangers out: what comes before its first star has to name something.
fn tells(pattern: &str) -> bool {
    let front = pattern.split('*').next().unwrap_or_default();
    front.len() == pattern.len() || !OF_EVERYBODY.contains(&front.trim_end_matches([':', '/', '-', '_', '.']))
}

/// Refuses conditions that can't be read, or that let in whoever the issuer knows.
pub(crate) fn check(conditions: &Conditions) -> Result<(), Problem> {
    if conditions.len() > MAX_CONDITIONS {
        return Err(invalid(format!("a trust has at most {MAX_CONDITIONS} conditions")));
    }
    for (claim, pattern) in conditions {
        let text = |text: &str| !text.is_empty() && text.len() <= 500 && !text.chars().any(char::is_control);
        if !text(claim) || !text(pattern) {
            return Err(invalid("a condition is a claim and its value, of 1 to 500 bytes each"));
        }
        if ["iss", "aud", "exp", "nbf", "iat"].contains(&claim.as_str()) {
            return Err(invalid(format!("the claim {claim} is judged anyway; leave it out")));
        }
    }
    let telling = conditions.iter().find(|(claim, _)| TELLING.contains(&claim.as_str()));
    if telling.is_none() {
        return Err(invalid(
            "these conditions would let in whoever has a token of this issuer: add one that says who is meant, on sub, or \
             on a claim such as repository, project_path or /kubernetes.io/namespace",
        ));
    }
    if !conditions.iter().any(|(claim, pattern)| TELLING.contains(&claim.as_str()) && tells(pattern)) {
        return Err(invalid(
            "these conditions would let in strangers: what comes before the first * has to name whom you mean, such as \
             repo:acme/*",
        ));
    }
    Ok(())
}

/// Whether a text is what a pattern says, in which `*` stands for any text. Takes time in proportion to the product of their
/// lengths at most.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what came after the last star was wrong.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after, at)) => {
                    retry = Some((after, at + 1));
                    p = after;
                    t = at + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Whether a token fits every condition.
pub(crate) fn met(conditions: &Conditions, claims: &ForeignClaims) -> bool {
    conditions.iter().all(|(claim, pattern)| claims.at(claim).is_some_and(|text| fits(pattern, &text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(pairs: &[(&str, &str)]) -> Conditions {
        pairs.iter().map(|(claim, pattern)| ((*claim).to_owned(), (*pattern).to_owned())).collect()
    }

    #[test]
    fn a_star_stands_for_any_text_and_nothing_else_is_special() {
        for (pattern, text, fit) in [
            ("repo:acme/app:ref:refs/heads/main", "repo:acme/app:ref:refs/heads/main", true),
            ("repo:acme/app:*", "repo:acme/app:ref:refs/heads/main", true),
            ("repo:acme/app:*", "repo:acme/application:ref", false),
            ("repo:acme/*:ref:refs/tags/v*", "repo:acme/app:ref:refs/tags/v1.2", true),
            ("repo:acme/*:ref:refs/tags/v*", "repo:acme/app:ref:refs/heads/v1", false),
            ("*", "", true),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
            ("a.c", "abc", false),
            ("a?c", "abc", false),
            ("[a-z]", "b", false),
            ("", "a", false),
            ("a", "", false),
            ("A", "a", false),
        ] {
            assert_eq!(fits(pattern, text), fit, "{pattern} {text}");
        }
        let (pattern, text) = ("*a".repeat(200), "a".repeat(16_000));
        assert!(!fits(&format!("{pattern}b"), &text));
    }

    #[test]
    fn a_trust_says_who_is_meant() {
        for pairs in [
            &[("sub", "repo:acme/app:*")] as &[_],
            &[("repository", "acme/app")],
            &[("project_path", "acme/*")],
            &[("sub", "system:serviceaccount:ci:*")],
            &[("/kubernetes.io/namespace", "ci"), ("/kubernetes.io/serviceaccount/name", "*")],
        ] {
            check(&conditions(pairs)).unwrap();
        }
        for pairs in [
            &[] as &[_],
            &[("ref", "refs/heads/main")],
            &[("environment", "prod"), ("ref_protected", "true")],
            &[("sub", "*")],
            &[("sub", "repo:*")],
            &[("sub", "project_path:*")],
            &[("repository", "*app")],
            &[("sub", "")],
            &[("sub", "a"), ("aud", "b")],
        ] {
            assert!(check(&conditions(pairs)).is_err(), "{pairs:?}");
        }
    }
}
