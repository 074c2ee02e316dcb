//! `berth admin audit`: the audit as JSON lines. docs/audit.md has the schema.

use std::time::SystemTime;

use anyhow::Result;
use berth_proto::instance_manager::{AuditEntry, AuditFilter, ExportAuditRequest, audit_client::AuditClient};
use berth_service::{Channel, Timestamp};
use clap::Args;

use crate::{admin::said, terminal};

/// Which entries; all that is said has to fit.
#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    /// What happened at this time or later, such as 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// What happened before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
    /// By whom: user:ID, robot:ID, anonymous or system:admin
    #[arg(long, default_value = "", hide_default_value = true)]
    principal: String,
    /// What was done, such as artifact.deleted
    #[arg(long, default_value = "", hide_default_value = true)]
    kind: String,
    /// In this repository: its path or its id
    #[arg(long, default_value = "", hide_default_value = true)]
    repository: String,
    /// In this namespace
    #[arg(long, default_value = "", hide_default_value = true)]
    namespace: String,
    /// With this result: done, denied, unauthorized …
    #[arg(long, default_value = "", hide_default_value = true)]
    result: String,
    /// In this request
    #[arg(long, default_value = "", hide_default_value = true)]
    request_id: String,
    /// After the entry with this cursor
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    after: String,
    /// The most entries; 0: all
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// Go on with what is recorded from now on
    #[arg(long)]
    follow: bool,
}

fn time(text: &str) -> Result<Timestamp, humantime::TimestampError> {
    let parsed = humantime::parse_rfc3339_weak(text)?;
    let since = parsed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)))
}

/// RFC 3339 in UTC, to the microsecond.
fn told(at: i64) -> String {
    let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(u64::try_from(at).unwrap_or_default());
    humantime::format_rfc3339_micros(at).to_string()
}

fn line(entry: &AuditEntry) -> String {
    let object = serde_json::json!({
        "event_id": entry.event_id,
        "occurred_at": told(entry.occurred_at),
        "last_at": told(entry.last_at),
        "recorded_at": told(entry.recorded_at),
        "instance_id": entry.instance_id,
        "type": entry.r#type,
        "result": entry.result,
        "count": entry.count,
        "principal": entry.principal,
        "credential": entry.credential,
        "address": entry.address,
        "request_id": entry.request_id,
        "subject": entry.subject,
        "name": entry.name,
        "repository_id": entry.repository_id,
        "repository": entry.repository,
        "digest": entry.digest,
        "tag": entry.tag,
        "cursor": entry.cursor,
    });
    object.to_string()
}

/// Prints an entry a line, as they come.
pub(crate) async fn print(
    mut audit: AuditClient<Channel>,
    instance_id: String,
    wanted: AuditArguments,
) -> Result<()> {
    let at = |time: Option<Timestamp>| time.map(|time| time.0).unwrap_or_default();
    let filter = AuditFilter {
        instance_id,
        from: at(wanted.from),
        to: at(wanted.to),
        principal: wanted.principal,
        r#type: wanted.kind,
        repository: wanted.repository,
        namespace: wanted.namespace,
        result: wanted.result,
        request_id: wanted.request_id,
    };
    let request = ExportAuditRequest {
        filter: Some(filter),
        after: wanted.after,
        limit: wanted.limit,
        follow: wanted.follow,
    };
    let mut entries = audit.export_audit(request).await.map_err(|status| said(&status))?.into_inner();
    while let Some(entry) = entries.message().await.map_err(|status| said(&status))? {
        terminal::line(&line(&entry));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_told_in_rfc_3339() {
        let at = time("2026-11-01T10:00:00.000007Z").unwrap();
        assert_eq!(told(at.0), "2026-11-01T10:00:00.000007Z");
        assert!(time("yesterday").is_err());
    }
}
