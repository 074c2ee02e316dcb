//! Who acts, and what such a one is called.

use std::{fmt, str::FromStr};

use crate::PrincipalId;

/// What kind of principal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// A person.
    User,
    /// A program.
    Robot,
    /// Several people; a group never acts by itself.
    Group,
}

impl PrincipalKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::User, Self::Robot, Self::Group];

    /// The word in SQL, tokens, answers and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Robot => "robot",
            Self::Group => "group",
        }
    }
}

impl FromStr for PrincipalKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("no kind of principal named {text:?}; there are user, robot, group"))
    }
}

impl fmt::Display for PrincipalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who acts, as tokens, events and the audit say it: `user:<id>`, `robot:<id>`, `anonymous`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous,
    /// One that is known.
    Known(PrincipalKind, PrincipalId),
}

impl FromStr for Principal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "anonymous" {
            return Ok(Self::Anonymous);
        }
        let (kind, id) = text.split_once(':').ok_or_else(|| format!("{text:?} is no principal"))?;
        Ok(Self::Known(kind.parse()?, id.parse().map_err(|_| format!("{text:?} is no principal"))?))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Known(kind, id) => write!(f, "{kind}:{id}"),
        }
    }
}

/// What a robot logs in as: its name behind a prefix that no person's name may have. No shell and no URL changes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RobotName;

impl RobotName {
    /// The prefix.
    pub const PREFIX: &'static str = "robot+";

    /// The name of the robot, if this is the login of one.
    pub fn of(login: &str) -> Option<&str> {
        login.strip_prefix(Self::PREFIX)
    }

    /// The login of a robot.
    pub fn login(name: &str) -> String {
        format!("{}{name}", Self::PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_reads_back() {
        for text in ["anonymous", "user:01ARZ3NDEKTSV4RRFFQ69G5FAV", "robot:01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
            assert_eq!(text.parse::<Principal>().unwrap().to_string(), text);
        }
        for text in ["", "user", "user:", "user:1", "cat:01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
            assert!(text.parse::<Principal>().is_err(), "{text}");
        }
        assert_eq!(RobotName::of("robot+ci"), Some("ci"));
        assert_eq!(RobotName::of("robot"), None);
        assert_eq!(RobotName::login("ci"), "robot+ci");
    }
}
