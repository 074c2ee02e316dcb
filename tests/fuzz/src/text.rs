//! Texts with one spelling: names, tags, digests, references, routes, scopes.

use std::{fmt::Display, str::FromStr, sync::LazyLock};

use berth_model::{Action, Scope};
use berth_oci::{Digest, Reference, RepositoryName, Route, Tag};
use regex::Regex;

fn regex(pattern: &str) -> Regex {
    // Not `$`: that would be before a line's end as well.
    Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap()
}

/// distribution-spec, "Pulling manifests".
static NAME: LazyLock<Regex> =
    LazyLock::new(|| regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"));
static TAG: LazyLock<Regex> = LazyLock::new(|| regex("[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"));
/// image-spec, "Digests", for the registered algorithms.
static DIGEST: LazyLock<Regex> = LazyLock::new(|| regex("sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}"));

/// Who is parsed has one spelling. What it is, if it is one.
fn one_spelling<T: FromStr + Display + PartialEq>(text: &str) -> Option<T> {
    let parsed: T = text.parse().ok()?;
    assert_eq!(parsed.to_string(), text);
    assert!(parsed.to_string().parse::<T>().is_ok_and(|again| again == parsed));
    Some(parsed)
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

pub(crate) fn name(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let reserved = format!("/{text}/").contains("/blobs/uploads/");
    let expected = NAME.is_match(text) && text.len() <= 255 && !reserved;
    let found = one_spelling::<RepositoryName>(text);
    assert_eq!(found.is_some(), expected, "{text:?}");
    if let Some(name) = found {
        assert!(text == name.namespace() || text.starts_with(&format!("{}/", name.namespace())));
        assert_eq!(name.depth(), 1 + text.matches('/').count());
    }
}

pub(crate) fn digest(data: &[u8]) {
    if let Some(text) = text(data) {
        let found = one_spelling::<Digest>(text);
        assert_eq!(found.is_some(), DIGEST.is_match(text), "{text:?}");
        if let Some(digest) = found {
            assert_eq!(Digest::from_bytes(&digest.to_bytes()), Some(digest));
        }
    }
    if let Some(digest) = Digest::from_bytes(data) {
        assert_eq!(digest.to_bytes(), data);
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
}

pub(crate) fn reference(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (tag, digest) = (TAG.is_match(text), DIGEST.is_match(text));
    assert_eq!(one_spelling::<Tag>(text).is_some(), tag, "{text:?}");
    match one_spelling::<Reference>(text) {
        Some(Reference::Tag(_)) => assert!(tag && !digest),
        Some(Reference::Digest(_)) => assert!(digest && !tag),
        None => assert!(!tag && !digest, "{text:?}"),
    }
}

/// The path that a route has.
fn path_of(route: &Route) -> String {
    match route {
        Route::Base => "/v2/".to_owned(),
        Route::Catalog => "/v2/_catalog".to_owned(),
        Route::Tags(name) => format!("/v2/{name}/tags/list"),
        Route::Manifest(name, reference) => format!("/v2/{name}/manifests/{reference}"),
        Route::Blob(name, digest) => format!("/v2/{name}/blobs/{digest}"),
        Route::Uploads(name) => format!("/v2/{name}/blobs/uploads/"),
        Route::Upload(name, session) => format!("/v2/{name}/blobs/uploads/{session}"),
        Route::Referrers(name, digest) => format!("/v2/{name}/referrers/{digest}"),
    }
}

pub(crate) fn route(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match Route::parse(text) {
        Ok(route) => {
            let path = path_of(&route);
            assert_eq!(Route::parse(&path), Ok(route.clone()), "{path}");
            if let Some(name) = route.repository() {
                assert!(NAME.is_match(name.as_str()));
            }
            // Written without percent signs it is its own path, but for what may be left out at the end.
            if !text.contains('%') {
                let same = text == path || format!("{text}/") == path;
                assert!(same, "{text:?} is {path}");
            }
        }
        Err(error) => assert!(error.to_string().len() < 300),
    }
}

pub(crate) fn scope(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(scope) = text.parse::<Scope>() else { return };
    let shown = scope.to_string();
    assert_eq!(shown.parse::<Scope>(), Ok(scope.clone()), "{shown}");
    assert!(shown.len() <= text.len() + "pull,push,delete".len());
    assert!(shown.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'), "{shown}");
    match &scope {
        Scope::Repository { name, actions } => {
            assert!(NAME.is_match(name.as_str()) && text.contains(name.as_str()));
            for action in actions {
                // Whoever asks to push asks to move tags as well, and there is no other word for that.
                let word = if *action == Action::Overwrite { Action::Push } else { *action };
                let named = text.contains('*') || text.contains(word.as_str());
                assert!(named, "{action} was not asked for: {text:?}");
            }
        }
        Scope::Catalog => assert!(text.contains(":catalog:")),
    }
}
