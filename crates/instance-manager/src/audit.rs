//! The audit: events, each recorded once under its id, never changed.

use berth_oci::Problem;
use berth_proto::{
    events::{Event, event::Payload},
    parse,
};

use crate::{
    Error,
    error::invalid,
    store::{AuditRow, Store},
};

/// The most events of one delivery.
pub(crate) const MAX_DELIVERY: usize = 1_000;

/// The most entries of one page.
pub(crate) const MAX_PAGE: u32 = 1_000;

fn row(event: Event) -> Result<AuditRow, Problem> {
    let artifact = match event.payload {
        Some(Payload::Artifact(artifact)) => artifact,
        None => return Err(invalid(format!("event {} has no payload that is known here", event.id))),
    };
    Ok(AuditRow {
        event_id: parse("id", &event.id)?,
        instance: parse("instance_id", &event.instance_id)?,
        kind: event.r#type,
        principal: artifact.principal,
        credential: String::new(),
        address: String::new(),
        request_id: String::new(),
        result: "done".to_owned(),
        subject: String::new(),
        repository_id: artifact.repository_id,
        repository: artifact.repository,
        digest: artifact.digest,
        tag: artifact.tag,
        occurred_at: event.occurred_at,
    })
}

/// Records a delivery, in one transaction; what was recorded before stays as it is. Returns how many were new.
pub(crate) async fn apply(store: &Store, events: Vec<Event>) -> Result<u64, Error> {
    if events.len() > MAX_DELIVERY {
        return Err(invalid(format!("a delivery has at most {MAX_DELIVERY} events")).into());
    }
    let mut rows = events.into_iter().map(row).collect::<Result<Vec<_>, _>>()?;
    // Two relays may deliver the same events; in one order they can't wait for each other in a circle.
    rows.sort_unstable_by_key(|row| row.event_id);
    if rows.is_empty() { Ok(0) } else { store.record(rows).await }
}
