//! What may be done, by whom, and who may see a repository.

use std::{fmt, str::FromStr};

/// What a request does to a repository; the words of token scopes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Read content.
    Pull,
    /// Add content and move tags.
    Push,
    /// Delete content.
    Delete,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// The word in a scope.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

impl FromStr for Action {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|action| action.as_str() == text).ok_or(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The built-in roles. What each may do is data: [`Role::actions`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything in an instance.
    InstanceAdmin,
    /// Everything in a namespace.
    NamespaceAdmin,
    /// Push, pull and delete.
    Maintainer,
    /// Push and pull.
    Developer,
    /// Pull.
    Reader,
}

impl Role {
    /// All built-in roles.
    pub const ALL: [Self; 5] =
        [Self::InstanceAdmin, Self::NamespaceAdmin, Self::Maintainer, Self::Developer, Self::Reader];

    /// The name in grants and commands.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InstanceAdmin => "instance-admin",
            Self::NamespaceAdmin => "namespace-admin",
            Self::Maintainer => "maintainer",
            Self::Developer => "developer",
            Self::Reader => "reader",
        }
    }

    /// What the role may do with content.
    pub const fn actions(self) -> &'static [Action] {
        match self {
            Self::InstanceAdmin | Self::NamespaceAdmin | Self::Maintainer => {
                &[Action::Pull, Action::Push, Action::Delete]
            }
            Self::Developer => &[Action::Pull, Action::Push],
            Self::Reader => &[Action::Pull],
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            format!("no role named {text:?}; there are instance-admin, namespace-admin, maintainer, developer, reader")
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who may pull a repository without a grant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Nobody.
    Private,
    /// Everybody, also without logging in.
    Public,
}

impl Visibility {
    /// The word in SQL, commands and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Public => "public",
        }
    }
}

impl FromStr for Visibility {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "private" => Ok(Self::Private),
            "public" => Ok(Self::Public),
            _ => Err(format!("no visibility named {text:?}; it is private or public")),
        }
    }
}
