//! The roles of a process. One process has all of them, or a fleet has each where it is wanted.

use clap::ValueEnum;

/// A service that a process may run.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    ValueEnum,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// The OCI API and the token endpoint.
    Gateway,
    /// The REST API of tenants and operators.
    ManagementApi,
    /// Repositories, manifests, tags, uploads.
    Metadata,
    /// Instances, people, grants, token keys, audit.
    InstanceManager,
    /// The bytes of blobs.
    BlobStore,
}

impl Role {
    /// All roles.
    pub(crate) const ALL: [Self; 5] =
        [Self::Gateway, Self::ManagementApi, Self::Metadata, Self::InstanceManager, Self::BlobStore];

    /// The name in `--role` and in logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::ManagementApi => "management-api",
            Self::Metadata => "metadata",
            Self::InstanceManager => "instance-manager",
            Self::BlobStore => "blob-store",
        }
    }

    /// Whether the role keeps something in the data folder.
    pub(crate) const fn has_data(self) -> bool {
        !self.is_public()
    }

    /// Whether clients speak to it.
    pub(crate) const fn is_public(self) -> bool {
        matches!(self, Self::Gateway | Self::ManagementApi)
    }
}
