//! Repository names (distribution-spec 1.1, "Pulling manifests").

use std::{fmt, str::FromStr, sync::Arc};

/// Why a text is not a repository name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Empty.
    #[error("a repository name can't be empty")]
    Empty,
    /// Longer than 255 characters.
    #[error("a repository name has at most 255 characters")]
    TooLong,
    /// A path component outside the specification's grammar.
    #[error(
        "each part of a repository name is lower-case letters and digits, separated by '.', '_', '__' or hyphens, \
         and parts are joined by single slashes"
    )]
    Grammar,
    /// The parts `blobs/uploads` in a row, which would read as an upload's path.
    #[error("a repository name can't contain the parts blobs/uploads")]
    Reserved,
}

/// A validated repository name such as `team/app`; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Arc<str>);

/// The longest name that is accepted, in bytes.
const MAX_LENGTH: usize = 255;

impl RepositoryName {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first part: the namespace.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(namespace, _)| namespace)
    }

    /// How many parts the name has.
    pub fn depth(&self) -> usize {
        self.0.split('/').count()
    }
}

fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    // Between two alphanumeric runs stands one of: ".", "_", "__", or any number of "-".
    let mut at = 0;
    while at < bytes.len() {
        if alphanumeric(bytes[at]) {
            at += 1;
            continue;
        }
        let separator = bytes[at];
        let run = bytes[at..].iter().take_while(|c| **c == separator).count();
        let allowed = match separator {
            b'.' => run == 1,
            b'_' => run <= 2,
            b'-' => true,
            _ => false,
        };
        at += run;
        if !allowed || !bytes.get(at).copied().is_some_and(alphanumeric) {
            return false;
        }
    }
    true
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_LENGTH {
            return Err(NameError::TooLong);
        }
        let mut previous = "";
        for component in text.split('/') {
            if !is_component(component) {
                return Err(NameError::Grammar);
            }
            if previous == "blobs" && component == "uploads" {
                return Err(NameError::Reserved);
            }
            previous = component;
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_grammar_is_accepted() {
        for name in
            ["app", "team/app", "a__b/c", "a--b", "a.b_c-d/0", "team/blobs", "a/b/c/d/e", "x/uploads/blobs"]
        {
            assert!(name.parse::<RepositoryName>().is_ok(), "{name}");
        }
        assert_eq!("team/a/b".parse::<RepositoryName>().unwrap().namespace(), "team");
    }

    #[test]
    fn everything_else_is_refused() {
        let long = "a".repeat(256);
        for name in [
            "",
            "..",
            "a/..",
            "a//b",
            "/a",
            "a/",
            "A",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a/_b",
            "a\0b",
            "tеam/app",
            "a b",
            "a._b",
            "team/blobs/uploads/x",
            &long,
        ] {
            assert!(name.parse::<RepositoryName>().is_err(), "{name:?}");
        }
        assert!("a".repeat(255).parse::<RepositoryName>().is_ok());
    }
}
