//! Instances and their settings.

use berth_model::{BlobDelivery, EventId, InstanceId};
use berth_service::Ids;

use crate::{
    Error,
    error::no_instance,
    settings::SettingsBoard,
    store::{AuditRow, Store},
};

/// Who acts through the local socket.
const PRINCIPAL: &str = "system:admin";

/// An entry of the audit about something that was done to an instance through the local socket.
pub(crate) fn entry(ids: &Ids, instance: InstanceId, kind: &str) -> AuditRow {
    AuditRow {
        event_id: EventId::new(ids.ulid()),
        instance,
        kind: kind.to_owned(),
        principal: PRINCIPAL.to_owned(),
        repository_id: String::new(),
        repository: String::new(),
        digest: String::new(),
        tag: String::new(),
        occurred_at: 0,
    }
}

/// Instances and their settings.
#[derive(Clone, Debug)]
pub(crate) struct Instances {
    pub(crate) store: Store,
    pub(crate) settings: SettingsBoard,
    pub(crate) ids: Ids,
}

impl Instances {
    /// Says how an instance's blobs reach clients; gateways know within a second.
    pub(crate) async fn set_blob_delivery(
        &self,
        instance: InstanceId,
        delivery: BlobDelivery,
    ) -> Result<(), Error> {
        if !self.settings.current().has(instance) {
            return Err(no_instance().into());
        }
        let kind = match delivery {
            BlobDelivery::Stream => "instance.blobs_streamed",
            BlobDelivery::Redirect => "instance.blobs_redirected",
        };
        let entry = entry(&self.ids, instance, kind);
        if self.store.set_blob_delivery(instance, delivery, entry).await? {
            tracing::info!(%instance, delivery = delivery.as_str(), "blob delivery was changed");
            self.settings.refresh().await?;
        }
        Ok(())
    }
}
