//! Typed ids. Each is a ULID (26 characters of Crockford's base 32), sortable by time, never reused.

use std::{fmt, str::FromStr};

use ulid::Ulid;

/// A text that is not an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an id has 26 characters of Crockford's base 32")]
pub struct IdError;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Ulid);

        impl $name {
            /// From a ULID drawn by the injected id source.
            pub const fn new(ulid: Ulid) -> Self {
                Self(ulid)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let ulid = Ulid::from_string(text).map_err(|_| IdError)?;
                // One spelling for each id: lower case and look-alike letters are refused.
                if ulid.to_string() == text { Ok(Self(ulid)) } else { Err(IdError) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// An instance (tenant).
    InstanceId;
    /// A namespace of an instance.
    NamespaceId;
    /// A repository. A deleted and remade repository has another id.
    RepositoryId;
    /// An upload session.
    UploadId;
    /// Whoever roles are given to: a person, a robot, a group.
    PrincipalId;
    /// A grant of a role to a principal.
    GrantId;
    /// One of the secrets of a robot.
    SecretId;
    /// An identity provider of an instance.
    ProviderId;
    /// A rule by which workloads of a provider are a robot.
    TrustId;
    /// An event.
    EventId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id: InstanceId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        assert_eq!(id.to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert!("01arz3ndektsv4rrffq69g5fav".parse::<InstanceId>().is_err());
        assert!("".parse::<InstanceId>().is_err());
    }
}
