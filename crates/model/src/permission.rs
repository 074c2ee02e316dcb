//! Permissions: one action on one kind of resource. Only the pairs listed here exist, so that a role can't hold a
//! permission that nothing asks for.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::{Action, ScopeKind};

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $resource:literal $action:literal;)*) => {
        /// An action on a kind of resource, written `resource:action`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum Permission {
            $($(#[$doc])* $name,)*
        }

        impl Permission {
            /// All permissions.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As it is written in roles and answers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => concat!($resource, ":", $action),)* }
            }

            /// What it is about.
            pub const fn resource(self) -> &'static str {
                match self { $(Self::$name => $resource,)* }
            }

            /// What may be done to it.
            pub const fn action(self) -> &'static str {
                match self { $(Self::$name => $action,)* }
            }
        }
    };
}

permissions! {
    /// Make instances.
    InstanceCreate = "instance" "create";
    /// See an instance and its settings.
    InstanceRead = "instance" "read";
    /// Change an instance's settings.
    InstanceUpdate = "instance" "update";
    /// Stop, start and change the edition of an instance.
    InstanceOperate = "instance" "operate";
    /// Delete an instance.
    InstanceDelete = "instance" "delete";
    /// See editions.
    EditionRead = "edition" "read";
    /// See regions.
    RegionRead = "region" "read";
    /// See where bytes go.
    StorageRead = "storage" "read";
    /// Say where bytes go.
    StorageUpdate = "storage" "update";
    /// Rotate the keys of an instance.
    KeyUpdate = "key" "update";
    /// See endpoints, their hosts and access lists.
    EndpointRead = "endpoint" "read";
    /// Change them.
    EndpointUpdate = "endpoint" "update";
    /// See what is used, and the limits.
    UsageRead = "usage" "read";
    /// Read the audit.
    AuditRead = "audit" "read";
    /// See tasks.
    TaskRead = "task" "read";
    /// Begin and cancel tasks.
    TaskUpdate = "task" "update";
    /// Make people.
    UserCreate = "user" "create";
    /// See people.
    UserRead = "user" "read";
    /// Change people, and set their passwords.
    UserUpdate = "user" "update";
    /// Delete people.
    UserDelete = "user" "delete";
    /// Make groups.
    GroupCreate = "group" "create";
    /// See groups and their members.
    GroupRead = "group" "read";
    /// Change groups and their members.
    GroupUpdate = "group" "update";
    /// Delete groups.
    GroupDelete = "group" "delete";
    /// Make robots.
    RobotCreate = "robot" "create";
    /// See robots.
    RobotRead = "robot" "read";
    /// Change robots, and renew their secrets.
    RobotUpdate = "robot" "update";
    /// Delete robots.
    RobotDelete = "robot" "delete";
    /// Make roles.
    RoleCreate = "role" "create";
    /// See roles.
    RoleRead = "role" "read";
    /// Change roles.
    RoleUpdate = "role" "update";
    /// Delete roles.
    RoleDelete = "role" "delete";
    /// Give roles: never one that allows more than the giver may.
    GrantCreate = "grant" "create";
    /// See who has which role.
    GrantRead = "grant" "read";
    /// Take roles back.
    GrantDelete = "grant" "delete";
    /// Make identity providers.
    IdentityProviderCreate = "identity-provider" "create";
    /// See identity providers.
    IdentityProviderRead = "identity-provider" "read";
    /// Change identity providers.
    IdentityProviderUpdate = "identity-provider" "update";
    /// Delete identity providers.
    IdentityProviderDelete = "identity-provider" "delete";
    /// Make namespaces, also by pushing.
    NamespaceCreate = "namespace" "create";
    /// See namespaces.
    NamespaceRead = "namespace" "read";
    /// Change the settings of namespaces.
    NamespaceUpdate = "namespace" "update";
    /// Delete namespaces with all that is in them.
    NamespaceDelete = "namespace" "delete";
    /// Make repositories, also by pushing.
    RepositoryCreate = "repository" "create";
    /// See repositories.
    RepositoryRead = "repository" "read";
    /// Change the settings of repositories.
    RepositoryUpdate = "repository" "update";
    /// Delete repositories with all that is in them.
    RepositoryDelete = "repository" "delete";
    /// Read content.
    ArtifactPull = "artifact" "pull";
    /// Add content, and tags that are new.
    ArtifactPush = "artifact" "push";
    /// Move tags that are there.
    ArtifactOverwrite = "artifact" "overwrite";
    /// Delete content and tags.
    ArtifactDelete = "artifact" "delete";
}

impl Permission {
    /// Whether it allows anything when it is given there: where there is a namespace none is made, and where there is a
    /// repository none.
    pub fn has_effect_at(self, kind: ScopeKind) -> bool {
        match self {
            Self::NamespaceCreate => kind <= ScopeKind::Instance,
            Self::RepositoryCreate => kind <= ScopeKind::Namespace,
            _ => true,
        }
    }

    /// The permissions that a text stands for: one, or all of a resource (`artifact:*`).
    pub fn parse_set(text: &str) -> Result<BTreeSet<Self>, PermissionError> {
        let found: BTreeSet<Self> = match text.strip_suffix(":*") {
            Some(resource) => {
                Self::ALL.iter().copied().filter(|permission| permission.resource() == resource).collect()
            }
            None => Self::ALL.iter().copied().filter(|permission| permission.as_str() == text).collect(),
        };
        if found.is_empty() { Err(PermissionError(text.to_owned())) } else { Ok(found) }
    }
}

/// A text that is no permission.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no permission {0:?}")]
pub struct PermissionError(String);

impl FromStr for Permission {
    type Err = PermissionError;

    fn from_str(text: &str) -> Result<Self, PermissionError> {
        let found = Self::ALL.iter().copied().find(|permission| permission.as_str() == text);
        found.ok_or_else(|| PermissionError(text.to_owned()))
    }
}

impl TryFrom<String> for Permission {
    type Error = PermissionError;

    fn try_from(text: String) -> Result<Self, PermissionError> {
        text.parse()
    }
}

impl From<Permission> for String {
    fn from(permission: Permission) -> Self {
        permission.as_str().to_owned()
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Action> for Permission {
    fn from(action: Action) -> Self {
        match action {
            Action::Pull => Self::ArtifactPull,
            Action::Push => Self::ArtifactPush,
            Action::Overwrite => Self::ArtifactOverwrite,
            Action::Delete => Self::ArtifactDelete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_has_one_spelling_and_a_star_means_one_resource() {
        for permission in Permission::ALL {
            assert_eq!(permission.as_str().parse(), Ok(*permission));
            assert_eq!(permission.as_str(), format!("{}:{}", permission.resource(), permission.action()));
        }
        for text in
            ["", "*", "artifact", "artifact:", "Artifact:pull", "artifact:pull ", "user:pull", "*:pull"]
        {
            assert!(text.parse::<Permission>().is_err(), "{text}");
            assert!(Permission::parse_set(text).is_err(), "{text}");
        }
        assert_eq!(Permission::parse_set("artifact:*").unwrap().len(), 4);
        assert!(Permission::parse_set("art:*").is_err());
    }
}
