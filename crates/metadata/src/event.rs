//! Events, written in the transaction of their effect: one row, and one delivery for each subscriber.

use berth_database::{Transaction, args};
use berth_model::{AuditKind, InstanceId};
use berth_oci::Digest;
use berth_proto::events::{Artifact, Event, Management, event::Payload};
use berth_service::Ids;
use prost::Message as _;

use crate::store::statements as sql;
use crate::{access::Access, error::Result};

/// The name of the sequence that orders events, and with them the moves of a tag.
pub(crate) const SEQUENCE: &str = "event";

/// Writes events into a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    pub(crate) ids: Ids,
    pub(crate) subscribers: std::sync::Arc<[String]>,
}

/// What happened; the words of the event types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Pushed,
    Tagged,
    Deleted,
    BlobPushed,
    BlobMounted,
    BlobDeleted,
}

impl Kind {
    fn name(self) -> &'static str {
        let kind = match self {
            Self::Pushed => AuditKind::ArtifactPushed,
            Self::Tagged => AuditKind::ArtifactTagged,
            Self::Deleted => AuditKind::ArtifactDeleted,
            Self::BlobPushed => AuditKind::BlobPushed,
            Self::BlobMounted => AuditKind::BlobMounted,
            Self::BlobDeleted => AuditKind::BlobDeleted,
        };
        kind.as_str()
    }
}

impl Journal {
    /// Writes an artifact event. `sequence` was taken under the lock of the tag's or the manifest's row.
    pub(crate) async fn write(
        &self,
        tx: &mut Transaction,
        kind: Kind,
        access: &Access,
        sequence: i64,
        artifact: Artifact,
    ) -> Result<()> {
        if self.subscribers.is_empty() {
            return Ok(());
        }
        let key = if artifact.tag.is_empty() {
            format!("{}@{}", artifact.repository_id, artifact.digest)
        } else {
            format!("{}:{}", artifact.repository_id, artifact.tag)
        };
        self.add(tx, kind.name(), key, access.instance, sequence, Payload::Artifact(artifact)).await
    }

    /// Writes what became of a blob in a repository.
    pub(crate) async fn write_blob(
        &self,
        tx: &mut Transaction,
        kind: Kind,
        access: &Access,
        repository: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<()> {
        if self.subscribers.is_empty() {
            return Ok(());
        }
        let sequence = tx.sequence(SEQUENCE).await?;
        let blob = Artifact { size, ..artifact(access, repository, digest) };
        self.write(tx, kind, access, sequence, blob).await
    }

    /// Writes that a push has made a namespace or a repository.
    pub(crate) async fn made(
        &self,
        tx: &mut Transaction,
        kind: AuditKind,
        access: &Access,
        subject: String,
        name: &str,
    ) -> Result<()> {
        let origin = access.origin.clone();
        let says = Management {
            subject,
            name: name.to_owned(),
            principal: access.principal.clone(),
            credential: origin.credential,
            address: origin.address,
            request_id: origin.request_id,
        };
        self.record(tx, kind.as_str(), access.instance, says).await
    }

    /// Writes that something was changed by hand.
    pub(crate) async fn record(
        &self,
        tx: &mut Transaction,
        kind: &'static str,
        instance: InstanceId,
        management: Management,
    ) -> Result<()> {
        if self.subscribers.is_empty() {
            return Ok(());
        }
        let sequence = tx.sequence(SEQUENCE).await?;
        let key = management.subject.clone();
        self.add(tx, kind, key, instance, sequence, Payload::Management(management)).await
    }

    async fn add(
        &self,
        tx: &mut Transaction,
        kind: &'static str,
        key: String,
        instance: InstanceId,
        sequence: i64,
        payload: Payload,
    ) -> Result<()> {
        let now = tx.now();
        let id = self.ids.ulid().to_string();
        let event = Event {
            id: id.clone(),
            r#type: kind.to_owned(),
            key: key.clone(),
            sequence,
            occurred_at: now.0,
            instance_id: instance.to_string(),
            payload: Some(payload),
        };
        tx.execute(&sql::ADD_EVENT, args![id.clone(), sequence, event.encode_to_vec(), now]).await?;
        for subscriber in self.subscribers.iter() {
            let args = args![subscriber, sequence, id.clone(), key.clone(), now];
            tx.execute(&sql::ADD_DELIVERY, args).await?;
        }
        Ok(())
    }
}

/// An event's artifact with what every one has.
pub(crate) fn artifact(access: &Access, repository: &str, digest: &Digest) -> Artifact {
    Artifact {
        repository_id: repository.to_owned(),
        repository: access.path.to_string(),
        principal: access.principal.clone(),
        digest: digest.to_string(),
        credential: access.origin.credential.clone(),
        address: access.origin.address.clone(),
        request_id: access.origin.request_id.clone(),
        ..Artifact::default()
    }
}
