//! Token scopes: `repository:<path>:<actions>` and `registry:catalog:*` (distribution's token documentation).

use std::{collections::BTreeSet, fmt, str::FromStr};

use berth_oci::RepositoryName;

use crate::Action;

/// One requested or granted scope.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// Actions on one repository.
    Repository {
        /// The repository.
        name: RepositoryName,
        /// The actions, each once.
        actions: BTreeSet<Action>,
    },
    /// Listing repositories.
    Catalog,
}

/// A text that is not a scope that Berth knows.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a scope: use repository:<name>:<pull,push,delete> or registry:catalog:*")]
pub struct ScopeError;

impl FromStr for Scope {
    type Err = ScopeError;

    /// Parses one scope. A resource class is ignored (`repository(plugin)` is `repository`); `*` stands for every
    /// action, `push` also asks to move tags; actions that Berth does not know are dropped, as the intersection would drop them anyway.
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let (kind, rest) = text.split_once(':').ok_or(ScopeError)?;
        let (name, actions) = rest.rsplit_once(':').ok_or(ScopeError)?;
        let kind = match kind.split_once('(') {
            Some((kind, class)) if class.ends_with(')') => kind,
            Some(_) => return Err(ScopeError),
            None => kind,
        };
        match kind {
            "repository" => {
                let name = name.parse().map_err(|_| ScopeError)?;
                let actions = actions.split(',').flat_map(|word| match word {
                    "*" => Action::ALL.as_slice(),
                    "pull" => &[Action::Pull],
                    "push" => &[Action::Push, Action::Overwrite],
                    "delete" => &[Action::Delete],
                    _ => &[],
                });
                let actions = actions.copied();
                Ok(Self::Repository { name, actions: actions.collect() })
            }
            "registry" if name == "catalog" => Ok(Self::Catalog),
            _ => Err(ScopeError),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository { name, actions } => {
                write!(f, "repository:{name}:")?;
                let words = actions.iter().filter(|action| **action != Action::Overwrite);
                for (index, action) in words.enumerate() {
                    write!(f, "{}{action}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::Catalog => f.write_str("registry:catalog:*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t35_a_scope_can_not_smuggle_another() {
        for text in [
            "repository:a,b:pull",
            "repository:a b:pull",
            "repository:*:pull",
            "repository::pull",
            "x",
            "repository",
        ] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
        let scope: Scope = "repository(plugin):team/app:push,pull,fly,pull".parse().unwrap();
        assert_eq!(scope.to_string(), "repository:team/app:pull,push");
        assert_eq!("repository:a:overwrite".parse::<Scope>().unwrap().to_string(), "repository:a:");
        assert_eq!("repository:a:*".parse::<Scope>().unwrap().to_string(), "repository:a:pull,push,delete");
        assert_eq!("registry:catalog:*".parse::<Scope>(), Ok(Scope::Catalog));
    }
}
