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
    let mut row = AuditRow {
        event_id: parse("id", &event.id)?,
        instance: parse("instance_id", &event.instance_id)?,
        kind: event.r#type,
        principal: String::new(),
        credential: String::new(),
        address: String::new(),
        request_id: String::new(),
        result: "done".to_owned(),
        subject: String::new(),
        repository_id: String::new(),
        repository: String::new(),
        digest: String::new(),
        tag: String::new(),
        occurred_at: event.occurred_at,
    };
    match event.payload {
        Some(Payload::Artifact(artifact)) => {
            row.principal = artifact.principal;
            row.repository_id = artifact.repository_id;
            row.repository = artifact.repository;
            row.digest = artifact.digest;
            row.tag = artifact.tag;
        }
        Some(Payload::Management(management)) => {
            row.principal = management.principal;
            row.credential = management.credential;
            row.address = management.address;
            row.request_id = management.request_id;
            if let Some(id) = management.subject.strip_prefix("repository:") {
                row.repository_id = id.to_owned();
                row.repository = management.name;
            }
            row.subject = management.subject;
        }
        None => return Err(invalid(format!("event {} has no payload that is known here", event.id))),
    }
    Ok(row)
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
