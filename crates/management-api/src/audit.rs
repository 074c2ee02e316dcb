//! The audit: pages, and all of it as lines of JSON.

use berth_model::{AuditKind, Permission, RepositoryId};
use berth_proto::{
    instance_manager as wire,
    metadata::{GetNamespaceRequest, GetRepositoryRequest},
};
use bytes::{BufMut, BytesMut};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::{Body, JsonLines, Page, Raw},
    call::{At, Call},
    input::{List, Query},
    operation::{Operation, Routes, Rule},
    problem::{Result, invalid},
    values::Moment,
};

/// What came of what was done.
const RESULTS: [&str; 8] = [
    "done",
    "unauthorized",
    "denied",
    "too_many_requests",
    "quota_exceeded",
    "not_found",
    "tag_immutable",
    "refused",
];

/// Something that was done, or refused.
#[derive(Debug, Serialize, ToSchema)]
struct AuditEntry {
    id: String,
    /// What was done; docs/audit.md lists the types.
    #[serde(rename = "type")]
    kind: String,
    /// Who: user:<id>, robot:<id>, anonymous, system:admin.
    principal: String,
    /// The kind of credential.
    credential: String,
    address: String,
    request_id: String,
    /// done, or why not.
    result: String,
    /// To what, where that is no artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// What that is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    /// Of how many that are equal.
    count: i64,
    /// The first of them.
    occurred_at: Moment,
    /// The last of them.
    last_at: Moment,
    recorded_at: Moment,
}

impl From<wire::AuditEntry> for AuditEntry {
    fn from(entry: wire::AuditEntry) -> Self {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            id: entry.event_id,
            kind: entry.r#type,
            principal: entry.principal,
            credential: entry.credential,
            address: entry.address,
            request_id: entry.request_id,
            result: entry.result,
            subject: some(entry.subject),
            name: some(entry.name),
            repository_id: some(entry.repository_id),
            repository: some(entry.repository),
            digest: some(entry.digest),
            tag: some(entry.tag),
            count: entry.count,
            occurred_at: Moment(entry.occurred_at),
            last_at: Moment(entry.last_at),
            recorded_at: Moment(entry.recorded_at),
        }
    }
}

/// Which entries; all that is said has to fit.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Occurred at or after: 2026-01-31T12:00:00Z.
    from: Option<String>,
    /// Occurred before.
    to: Option<String>,
    /// user:<id>, robot:<id>, anonymous, system:admin.
    principal: Option<String>,
    /// Of this type: artifact.pushed, artifact.pulled, artifact.deleted, user.created, call.refused and others; one that is none
    /// is answered with all there are.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    kind: Option<String>,
    /// The id or the path of a repository.
    repository: Option<String>,
    /// Everything in this namespace, and what was done to itself.
    namespace: Option<String>,
    /// done, or why not: unauthorized, denied, too_many_requests, quota_exceeded, not_found, tag_immutable, refused.
    result: Option<String>,
    request_id: Option<String>,
}

impl Filter {
    /// Refuses unless the caller may read the audit: of the instance, or of what is asked for. Then from when on: what was there
    /// before under the same name is not its business.
    async fn allow(&self, call: &Call) -> Result<i64> {
        if call.may(Permission::AuditRead, At::Instance).await? {
            call.allow(Permission::AuditRead, At::Instance).await?;
            return Ok(0);
        }
        let instance_id = call.instance_id().to_owned();
        let mut repositories = call.parts.repositories.clone();
        match (&self.repository, &self.namespace) {
            (Some(path), _) if path.parse::<RepositoryId>().is_err() => {
                call.allow(Permission::AuditRead, At::Repository(path)).await?;
                let path = path.clone();
                let request = GetRepositoryRequest { instance_id, path, ..GetRepositoryRequest::default() };
                Ok(repositories.get_repository(request).await?.into_inner().created_at)
            }
            (None, Some(name)) => {
                call.allow(Permission::AuditRead, At::Namespace(name)).await?;
                let name = name.clone();
                let request = GetNamespaceRequest { instance_id, name, ..GetNamespaceRequest::default() };
                Ok(repositories.get_namespace(request).await?.into_inner().created_at)
            }
            _ => call.allow(Permission::AuditRead, At::Instance).await.map(|()| 0),
        }
    }

    async fn read(self, call: &Call) -> Result<wire::AuditFilter> {
        let earliest = self.allow(call).await?;
        if let Some(kind) = &self.kind {
            kind.parse::<AuditKind>().map_err(|error| {
                let all: Vec<&str> = AuditKind::ALL.iter().map(|kind| kind.as_str()).collect();
                invalid(format!("type: {error}; there are {}", all.join(", ")))
            })?;
        }
        if let Some(result) = self.result.as_deref().filter(|result| !RESULTS.contains(result)) {
            return Err(invalid(format!("no result is {result:?}; there are {}", RESULTS.join(", "))));
        }
        if let Some(principal) = &self.principal
            && principal != "anonymous"
            && !principal.contains(':')
        {
            let message =
                format!("principal is user:<id>, robot:<id>, anonymous or system:admin, not {principal:?}");
            return Err(invalid(message));
        }
        let moment = |text: Option<String>| match text {
            None => Ok(0),
            Some(text) => Moment::parse(&text).map(|moment| moment.0).map_err(invalid),
        };
        Ok(wire::AuditFilter {
            instance_id: call.instance_id().to_owned(),
            from: moment(self.from)?.max(earliest),
            to: moment(self.to)?,
            principal: self.principal.unwrap_or_default(),
            r#type: self.kind.unwrap_or_default(),
            repository: self.repository.unwrap_or_default(),
            namespace: self.namespace.unwrap_or_default(),
            result: self.result.unwrap_or_default(),
            request_id: self.request_id.unwrap_or_default(),
        })
    }
}

pub(crate) fn add(routes: &mut Routes) {
    let read = Rule::NeedsSomewhere(Permission::AuditRead);
    let all = "/instances/{instance}/audit";
    routes.add(Operation::get(all, "audit.list", "List what was done, the newest first", read), list);
    let lines =
        Operation::get("/instances/{instance}/audit/export", "audit.export", "Read all that was done", read)
            .describe("A JSON object a line, in the order of recording.");
    routes.add(lines, export);
}

async fn list(call: Call, List { paging, filters }: List<Filter>) -> Result<Page<AuditEntry>> {
    let request = wire::ListAuditRequest {
        filter: Some(filters.read(&call).await?),
        limit: paging.size,
        before: paging.after.clone(),
    };
    let found = call.parts.audit.clone().list_audit(request).await?.into_inner();
    let next = (!found.next.is_empty()).then(|| paging.token(&found.next));
    Ok(Page { items: found.entries.into_iter().map(Into::into).collect(), next })
}

async fn export(call: Call, Query(filters): Query<Filter>) -> Result<Raw<JsonLines>> {
    let request = wire::ExportAuditRequest {
        filter: Some(filters.read(&call).await?),
        ..wire::ExportAuditRequest::default()
    };
    let entries = call.parts.audit.clone().export_audit(request).await?.into_inner();
    let lines = entries.map(|entry| {
        let entry = AuditEntry::from(entry?);
        let mut line = BytesMut::new().writer();
        // Texts and numbers: nothing that JSON has no words for.
        let _whole = serde_json::to_writer(&mut line, &entry);
        let mut line = line.into_inner();
        line.put_u8(b'\n');
        // An error ends the body before its end, so that nobody takes it for all there is.
        Ok::<_, tonic::Status>(line.freeze())
    });
    Ok(Raw::new(Body::from_stream(lines)))
}
