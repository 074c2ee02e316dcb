//! Why a command did not do what it was asked for, with what to do.

use std::fmt;

use crate::document::{Kind, Operation, Parameter};

/// A failure, by whose fault.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The registry said no.
    Refused { detail: String, code: String, request: String, hint: String },
    /// What was asked for can't be understood, or something on this machine is not as it has to be.
    Usage(String),
    /// Nobody answered.
    Unreachable(String),
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// What was refused in the words of REST has a hint in flags.
    pub(crate) fn in_flags(mut self, operation: &Operation) -> Self {
        if let Self::Refused { detail, code, hint, .. } = &mut self
            && hint.is_empty()
        {
            *hint = in_flags(operation, detail, code).unwrap_or_default();
        }
        self
    }

    /// 1: refused; 2: not understood; 3: nobody answered.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }
}

fn flag(parameter: &Parameter) -> String {
    match parameter.kind {
        Kind::Secret => format!("--{}-file", parameter.flag),
        _ => format!("--{}", parameter.flag),
    }
}

/// The flags that a refusal is about.
fn in_flags(operation: &Operation, detail: &str, code: &str) -> Option<String> {
    let mut flags = operation.query.iter().chain(operation.body.iter().flatten());
    // Fields have quotes; what looks like no other word needs none.
    let is_named = |field: &str| {
        let mut words = detail.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        detail.contains(&format!("`{field}`")) || (field.contains('_') && words.any(|word| word == field))
    };
    if code == "CONFLICT" && detail.contains("repositories") {
        let force = flags.find(|one| one.name == "force")?;
        return Some(format!("{}: {}", flag(force), force.help));
    }
    let named: Vec<String> = flags.filter(|one| is_named(one.name)).map(flag).collect();
    (!named.is_empty()).then(|| format!("see {}", named.join(", ")))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { detail, code, request, hint } => {
                write!(f, "{detail}")?;
                if !hint.is_empty() {
                    write!(f, "\n  {hint}")?;
                }
                write!(f, "\n  {code}, request {request}")
            }
            Self::Usage(message) | Self::Unreachable(message) => f.write_str(message),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Usage(format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

    use super::*;
    use crate::document::Document;

    #[test]
    fn a_refusal_says_which_flag_it_is_about() {
        let document = Document::read().unwrap();
        let hint = |noun: &str, verb: &str, code: &str, detail: &str| {
            in_flags(document.operation(noun, verb).unwrap(), detail, code)
        };
        let missing = "the body: missing field `password` at line 1 column 2";
        let said = hint("user", "set-password", "REQUEST_INVALID", missing);
        assert_eq!(said.as_deref(), Some("see --password-file"));
        let said = hint("robot", "update", "REQUEST_INVALID", "expires_at is past");
        assert_eq!(said.as_deref(), Some("see --expires-at"));
        let held = "the instance has 2 repositories; delete them first, or insist";
        assert!(hint("instance", "delete", "CONFLICT", held).unwrap().starts_with("--force: "));
        assert_eq!(hint("namespace", "create", "CONFLICT", "the name is taken"), None);
    }
}
