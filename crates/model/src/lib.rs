//! The tenant vocabulary: typed ids, principals, actions, roles, token scopes. Pure: no I/O, no clock, no randomness.

mod delivery;
mod id;
mod role;
mod scope;

pub use delivery::BlobDelivery;
pub use id::{EventId, GrantId, IdError, InstanceId, NamespaceId, RepositoryId, UploadId, UserId};
pub use role::{Action, Role, Visibility};
pub use scope::{Scope, ScopeError};
