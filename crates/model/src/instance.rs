//! The life of an instance.

use std::{fmt, str::FromStr};

/// Where an instance is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Made, and not yet known everywhere it has to be.
    Pending,
    /// It is served.
    Running,
    /// Reads and writes are refused; nothing is lost.
    Stopped,
    /// Its content goes.
    Deleting,
    /// Its content is gone.
    Deleted,
}

impl InstanceState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Stopped, Self::Deleting, Self::Deleted];

    /// The word in SQL, answers and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }

    /// Whether it will not be served again.
    pub const fn is_ending(self) -> bool {
        matches!(self, Self::Deleting | Self::Deleted)
    }

    /// Whether that can come next.
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Pending, Self::Running | Self::Deleting)
                | (Self::Running, Self::Stopped | Self::Deleting)
                | (Self::Stopped, Self::Running | Self::Deleting)
                | (Self::Deleting, Self::Deleted)
        )
    }
}

impl FromStr for InstanceState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| format!("no state of an instance named {text:?}"))
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an instance may have this name: 3 to 30 lower-case letters and digits, with hyphens inside.
pub fn is_instance_name(name: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    (3..=30).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && edge(name.bytes().next())
        && edge(name.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_back_from_the_end_and_names_have_bounds() {
        for state in InstanceState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert!(!InstanceState::Deleted.may_become(state));
            assert!(!state.may_become(InstanceState::Pending));
            assert!(!state.may_become(state));
        }
        assert!(!InstanceState::Deleting.may_become(InstanceState::Running));
        for name in ["abc", "a-1", "team-2026", &"x".repeat(30)] {
            assert!(is_instance_name(name), "{name}");
        }
        for name in ["", "ab", "-ab", "ab-", "Abc", "a_b", "a.b", &"x".repeat(31)] {
            assert!(!is_instance_name(name), "{name}");
        }
    }
}
