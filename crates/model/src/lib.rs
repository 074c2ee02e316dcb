//! The tenant vocabulary: typed ids, principals, permissions, roles, editions, regions, token scopes. Pure: no I/O, no
//! clock, no randomness.

mod audit;
mod delivery;
mod edition;
mod host;
mod id;
mod instance;
mod permission;
mod principal;
mod region;
mod role;
mod scope;

pub use audit::{AuditKind, DONE};
pub use delivery::BlobDelivery;
pub use edition::{
    AddOns, Edition, EditionError, EditionRequired, Editions, Feature, Limit, Limits, PullRate, UNLIMITED,
};
pub use host::own_part;
pub use id::{
    EventId, GrantId, IdError, InstanceId, NamespaceId, PrincipalId, ProviderId, RepositoryId, SecretId,
    TrustId, UploadId,
};
pub use instance::{InstanceState, is_instance_name};
pub use permission::{Permission, PermissionError};
pub use principal::{Principal, PrincipalKind, RobotName};
pub use region::{Region, RegionError, Regions};
pub use role::{Action, INSTANCE_ADMIN, OPERATOR, Role, ScopeKind, Visibility};
pub use scope::{Scope, ScopeError};
