//! What may be done with content, roles, where they may be given, and who may see a repository.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::{Arc, LazyLock},
};

use crate::Permission;

/// What a request does to a repository's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Read content.
    Pull,
    /// Add content, and tags that are new.
    Push,
    /// Move tags that are there. No word of token scopes: whoever asks for push asks for it as well.
    Overwrite,
    /// Delete content.
    Delete,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 4] = [Self::Pull, Self::Push, Self::Overwrite, Self::Delete];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Overwrite => "overwrite",
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

/// The kinds of places where a role may be given, widest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeKind {
    /// All instances, for operators.
    Deployment,
    /// One instance.
    Instance,
    /// One namespace.
    Namespace,
    /// One repository.
    Repository,
}

impl ScopeKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Deployment, Self::Instance, Self::Namespace, Self::Repository];

    /// The word in SQL, commands and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::Instance => "instance",
            Self::Namespace => "namespace",
            Self::Repository => "repository",
        }
    }
}

impl FromStr for ScopeKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| {
            format!("no scope named {text:?}; there are deployment, instance, namespace, repository")
        })
    }
}

impl fmt::Display for ScopeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A role: what it allows, wherever it was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// Of a built-in role its name, of another its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// For people.
    pub description: String,
    /// Where it may be given.
    pub scopes: BTreeSet<ScopeKind>,
    /// What it allows there.
    pub permissions: BTreeSet<Permission>,
}

/// The role that has everything in an instance.
pub const INSTANCE_ADMIN: &str = "instance-admin";

/// The role that runs the deployment.
pub const OPERATOR: &str = "operator";

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleData {
    description: String,
    scopes: BTreeSet<ScopeKind>,
    permissions: Vec<String>,
}

fn read(text: &str) -> Result<BTreeMap<String, Arc<Role>>, String> {
    let data: BTreeMap<String, RoleData> = toml::from_str(text).map_err(|error| error.to_string())?;
    let role = |(name, data): (String, RoleData)| {
        let mut permissions = BTreeSet::new();
        for text in &data.permissions {
            permissions.extend(Permission::parse_set(text).map_err(|error| format!("{name}: {error}"))?);
        }
        let RoleData { description, scopes, .. } = data;
        Ok((name.clone(), Arc::new(Role { id: name.clone(), name, description, scopes, permissions })))
    };
    data.into_iter().map(role).collect()
}

static BUILT_IN: LazyLock<BTreeMap<String, Arc<Role>>> =
    LazyLock::new(|| read(include_str!("../data/roles.toml")).expect("the built-in roles are tested"));

impl Role {
    /// The built-in roles, by name.
    pub fn built_in() -> &'static BTreeMap<String, Arc<Self>> {
        &BUILT_IN
    }

    /// Whether it allows something.
    pub fn allows(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_roles_can_be_read_and_each_allows_no_more_than_the_next_wider_one() {
        let roles = Role::built_in();
        let names: Vec<&str> = roles.keys().map(String::as_str).collect();
        let expected = [
            "auditor",
            "developer",
            "instance-admin",
            "maintainer",
            "namespace-admin",
            "operator",
            "reader",
            "scanner",
        ];
        assert_eq!(names, expected);
        let within = |narrow: &str, wide: &str| {
            assert!(roles[narrow].permissions.is_subset(&roles[wide].permissions), "{narrow} in {wide}");
        };
        within("reader", "developer");
        within("developer", "maintainer");
        within("maintainer", INSTANCE_ADMIN);
        within("namespace-admin", INSTANCE_ADMIN);
        within("auditor", INSTANCE_ADMIN);
        assert!(!roles[OPERATOR].permissions.iter().any(|permission| permission.resource() == "artifact"));
        assert!(roles["auditor"].permissions.iter().all(|permission| permission.action() == "read"));
        assert!(!roles[INSTANCE_ADMIN].allows(Permission::InstanceCreate));
        assert!(!roles[INSTANCE_ADMIN].allows(Permission::InstanceOperate));
    }

    #[test]
    fn a_role_with_an_unknown_permission_is_not_read() {
        let text = "[r]\ndescription = \"\"\nscopes = [\"instance\"]\npermissions = [\"artifact:fly\"]\n";
        assert!(read(text).unwrap_err().contains("artifact:fly"));
    }
}
