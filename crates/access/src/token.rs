//! What an access token says (docs/architecture.md, "Tokens"): who acts, in which instance, on which repositories, and
//! on what each right rests.

use std::collections::BTreeSet;

use berth_model::{Action, InstanceId, NamespaceId, RepositoryId};
use berth_oci::RepositoryName;
use berth_service::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a token is not accepted. A client is told no more than that it needs a new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this deployment: shape, signature, key, algorithm, issuer or claims.
    #[error("the token is not valid")]
    Invalid,
    /// A token of another instance.
    #[error("the token is for another instance")]
    Audience,
    /// No longer valid.
    #[error("the token has expired")]
    Expired,
    /// Not valid yet.
    #[error("the token is not valid yet")]
    NotYet,
    /// A right was taken away since.
    #[error("the token was issued before its rights changed")]
    Revoked,
}

/// What an entry's path leads to. When it leads elsewhere by the time of use, the entry opens nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// This repository.
    Repository(RepositoryId),
    /// The repository was absent: whatever is made at the path within this namespace.
    Namespace(NamespaceId),
    /// The namespace was absent too: whatever is made at the path within this instance.
    Instance(InstanceId),
}

/// Why pulling is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// A grant.
    Grant,
    /// The repository is public; this holds only while it is.
    Public,
}

/// The rights to one path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccessEntry {
    /// The repository's path.
    #[serde(serialize_with = "write_name", deserialize_with = "read_name")]
    pub path: RepositoryName,
    /// What may be done.
    pub actions: BTreeSet<Action>,
    /// What the path led to when the token was issued.
    pub bound: Bound,
    /// Why.
    pub basis: Basis,
}

fn write_name<S: Serializer>(name: &RepositoryName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

fn read_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RepositoryName, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// A verified access token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessToken {
    /// Who acts: `user:<id>`, `robot:<id>` or `anonymous`.
    pub principal: String,
    /// The principal's name, for people; empty when anonymous.
    pub name: String,
    /// The kind of credential that it was issued for: password, robot_secret …; for the audit.
    pub credential: String,
    /// The instance that the token is for.
    pub instance: InstanceId,
    /// The rights, one entry a path, ascending by path.
    pub access: Vec<AccessEntry>,
    /// Whether repositories may be listed.
    pub catalog: bool,
    /// When it was issued, in whole seconds.
    pub issued_at: Timestamp,
    /// Before its rights were looked up; what is taken away later is compared with it.
    pub began: Timestamp,
    /// Before this moment it is valid.
    pub not_before: Timestamp,
    /// From this moment on it is not.
    pub expires_at: Timestamp,
}

impl AccessToken {
    /// The rights to a path; allocates nothing.
    pub fn entry(&self, path: &RepositoryName) -> Option<&AccessEntry> {
        let found = self.access.binary_search_by(|entry| entry.path.as_str().cmp(path.as_str()));
        found.ok().and_then(|index| self.access.get(index))
    }

    /// Whether the token allows an action on a path.
    pub fn allows(&self, path: &RepositoryName, action: Action) -> bool {
        self.entry(path).is_some_and(|entry| entry.actions.contains(&action))
    }
}

/// The kind of a token, in its `typ` claim.
pub(crate) const ACCESS: &str = "access";

/// The claims as they are signed. Everything that is read is required.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Claims<'a> {
    pub(crate) iss: std::borrow::Cow<'a, str>,
    pub(crate) aud: InstanceId,
    pub(crate) sub: String,
    pub(crate) name: String,
    /// Absent in tokens of the version before, which end within minutes.
    #[serde(default)]
    pub(crate) cred: String,
    pub(crate) iat: i64,
    /// Microseconds.
    pub(crate) began: i64,
    pub(crate) nbf: i64,
    pub(crate) exp: i64,
    pub(crate) jti: String,
    pub(crate) typ: String,
    pub(crate) access: Vec<AccessEntry>,
    pub(crate) catalog: bool,
}
