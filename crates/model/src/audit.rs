//! What the audit speaks of: a closed set of kinds, whose names stay.

use std::{fmt, str::FromStr};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal;)*) => {
        /// What was done. docs/audit.md has the table.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum AuditKind {
            $($(#[$doc])* $kind,)*
        }

        impl AuditKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The word in SQL, answers, filters and exports.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A manifest is new in a repository.
    ArtifactPushed = "artifact.pushed";
    /// A tag was made or moved.
    ArtifactTagged = "artifact.tagged";
    /// A tag or a manifest was deleted.
    ArtifactDeleted = "artifact.deleted";
    /// A manifest was read.
    ArtifactPulled = "artifact.pulled";
    /// The bytes of a blob were uploaded.
    BlobPushed = "blob.pushed";
    /// A blob was linked from another repository.
    BlobMounted = "blob.mounted";
    /// A blob was taken out of a repository.
    BlobDeleted = "blob.deleted";
    /// A blob was read, or a part of it.
    BlobPulled = "blob.pulled";
    /// A repository was made, by hand or by a push.
    RepositoryCreated = "repository.created";
    /// Its settings were changed.
    RepositoryUpdated = "repository.updated";
    /// It was deleted, with all that was in it.
    RepositoryDeleted = "repository.deleted";
    /// A namespace was made, by hand or by a push.
    NamespaceCreated = "namespace.created";
    /// Its settings were changed.
    NamespaceUpdated = "namespace.updated";
    /// It was deleted, with all that was in it.
    NamespaceDeleted = "namespace.deleted";

    /// A credential got a token.
    LoginAccepted = "login.accepted";
    /// A credential got none.
    LoginRefused = "login.refused";
    /// A call was refused.
    CallRefused = "call.refused";

    /// A person was made.
    UserCreated = "user.created";
    /// A person was changed.
    UserUpdated = "user.updated";
    /// A person was deleted.
    UserDeleted = "user.deleted";
    /// A person was recognised by an identity provider.
    UserLoggedIn = "user.logged_in";
    /// A person was linked to one at an identity provider.
    UserLinked = "user.linked";
    /// Such a link was taken away.
    UserUnlinked = "user.unlinked";
    /// An identity provider said other groups.
    UserGroupsChanged = "user.groups_changed";
    /// An identity provider was made known.
    IdentityProviderCreated = "identity_provider.created";
    /// An identity provider was changed.
    IdentityProviderUpdated = "identity_provider.updated";
    /// An identity provider was deleted, and with it what came from it.
    IdentityProviderDeleted = "identity_provider.deleted";
    /// Tokens of an issuer were made to stand for a robot.
    TrustCreated = "trust.created";
    /// They no longer do.
    TrustDeleted = "trust.deleted";
    /// A password was set.
    UserPasswordSet = "user.password_set";
    /// A robot was made.
    RobotCreated = "robot.created";
    /// A robot was changed.
    RobotUpdated = "robot.updated";
    /// A robot was deleted.
    RobotDeleted = "robot.deleted";
    /// A robot got another secret.
    RobotSecretAdded = "robot.secret_added";
    /// A secret was taken from a robot.
    RobotSecretDeleted = "robot.secret_deleted";
    /// A secret was made that logs in for an hour.
    TemporaryTokenCreated = "temporary_token.created";
    /// A group was made.
    GroupCreated = "group.created";
    /// A group was changed.
    GroupUpdated = "group.updated";
    /// A group was deleted.
    GroupDeleted = "group.deleted";
    /// Somebody was put into a group.
    GroupMemberAdded = "group.member_added";
    /// Somebody was taken out of a group.
    GroupMemberDeleted = "group.member_deleted";
    /// A role was made.
    RoleCreated = "role.created";
    /// A role was changed.
    RoleUpdated = "role.updated";
    /// A role was deleted.
    RoleDeleted = "role.deleted";
    /// A role was given.
    GrantCreated = "grant.created";
    /// A role was taken back.
    GrantDeleted = "grant.deleted";

    /// An instance was made.
    InstanceCreated = "instance.created";
    /// Its description or settings were changed.
    InstanceUpdated = "instance.updated";
    /// Another edition or other add-ons were asked for.
    InstanceEditionWished = "instance.edition_wished";
    /// What was asked for is in force.
    InstanceEditionChanged = "instance.edition_changed";
    /// What is used does not fit it.
    InstanceEditionRefused = "instance.edition_refused";
    /// It is served again.
    InstanceStarted = "instance.started";
    /// It is no longer served.
    InstanceStopped = "instance.stopped";
    /// Its deletion was asked for.
    InstanceDeletionRequested = "instance.deletion_requested";
    /// It has content, so it stays.
    InstanceDeletionRefused = "instance.deletion_refused";
    /// It is no longer served, and its content goes.
    InstanceDeletionBegan = "instance.deletion_began";
    /// Nothing of it is left.
    InstanceDeleted = "instance.deleted";
    /// Its blobs go through the registry.
    InstanceBlobsStreamed = "instance.blobs_streamed";
    /// Its blobs come from object storage.
    InstanceBlobsRedirected = "instance.blobs_redirected";
    /// New blobs go elsewhere.
    InstanceStorageChanged = "instance.storage_changed";
    /// Its storage has other credentials.
    InstanceStorageCredentialsRotated = "instance.storage_credentials_rotated";
    /// It has another key.
    InstanceKeyRotated = "instance_key.rotated";
    /// All of its keys were destroyed.
    InstanceKeysShredded = "instance_keys.shredded";
    /// Tokens are signed with another key.
    TokenKeyRotated = "token_key.rotated";
    /// Collection was asked for, of everything that may go.
    GarbageCollectionRequested = "garbage_collection.requested";
    /// A comparison of rows and bytes was asked for.
    ScrubRequested = "scrub.requested";

    /// So many entries were not recorded.
    AuditLost = "audit.lost";
    /// Old entries were deleted.
    AuditExpired = "audit.expired";
}

impl FromStr for AuditKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|kind| kind.as_str() == text);
        found.copied().ok_or_else(|| format!("the audit knows no kind {text:?}"))
    }
}

impl fmt::Display for AuditKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The result of what was done.
pub const DONE: &str = "done";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_is_in_the_documentation_once_and_reads_back() {
        let documented = include_str!("../../../docs/audit.md");
        let names: BTreeSet<&str> = AuditKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), AuditKind::ALL.len());
        for kind in AuditKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
            assert_eq!(documented.matches(&format!("`{kind}`")).count(), 1, "{kind} in docs/audit.md");
        }
    }
}
