//! Paths to ids. Metadata owns them; grants and tokens bind to ids, so it is asked whenever a path comes in.

use std::fmt::Debug;

use async_trait::async_trait;
use berth_access::Place;
use berth_model::InstanceId;
use berth_oci::{ErrorCode, Problem, RepositoryName};
use berth_proto::{
    MAX_MESSAGE_BYTES, from_status,
    metadata::{LookupRepositoriesRequest, metadata_client::MetadataClient},
    optional,
};
use berth_service::Channel;

/// What a path leads to now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) place: Place,
    pub(crate) public: bool,
}

/// Looks paths up.
#[async_trait]
pub(crate) trait Paths: Debug + Send + Sync {
    /// One answer for each path, in order.
    async fn lookup(&self, instance: InstanceId, paths: &[RepositoryName]) -> Result<Vec<Identity>, Problem>;
}

/// Asks metadata.
#[derive(Clone, Debug)]
pub(crate) struct MetadataPaths(MetadataClient<Channel>);

impl MetadataPaths {
    pub(crate) fn new(channel: Channel) -> Self {
        let client = MetadataClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self(client)
    }
}

#[async_trait]
impl Paths for MetadataPaths {
    async fn lookup(&self, instance: InstanceId, paths: &[RepositoryName]) -> Result<Vec<Identity>, Problem> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let request = LookupRepositoriesRequest {
            instance_id: instance.to_string(),
            paths: paths.iter().map(ToString::to_string).collect(),
        };
        let answer =
            self.0.clone().lookup_repositories(request).await.map_err(|status| from_status(&status))?;
        let answer = answer.into_inner().repositories;
        let in_order = answer.len() == paths.len()
            && answer.iter().zip(paths).all(|(identity, path)| identity.path == path.as_str());
        if !in_order {
            tracing::error!("metadata answered a lookup with other paths than it was asked for");
            return Err(Problem::new(ErrorCode::Internal, "internal error; the server's log has the cause"));
        }
        answer
            .iter()
            .map(|identity| {
                Ok(Identity {
                    place: Place {
                        instance: Some(instance),
                        namespace: optional("namespace_id", &identity.namespace_id)?,
                        repository: optional("repository_id", &identity.repository_id)?,
                    },
                    public: identity.public,
                })
            })
            .collect()
    }
}
