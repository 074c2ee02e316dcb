//! Equal things that happened within a minute.

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
};

use berth_model::{AuditKind, DONE, InstanceId, RepositoryId};
use berth_oci::Digest;
use berth_proto::instance_manager::AuditEntry;
use berth_service::{Ids, Timestamp};
use ulid::Ulid;

pub(crate) const MINUTE: i64 = 60_000_000;

/// What happened, by reference: nothing is copied when the same happened before.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Where.
    pub instance: InstanceId,
    /// What kind of thing.
    pub kind: AuditKind,
    /// Who; empty: not known.
    pub principal: &'a str,
    /// By which kind of credential.
    pub credential: &'a str,
    /// [`DONE`], or why not.
    pub result: &'static str,
    /// A call: its method or its operation, and what it is about.
    pub subject: (&'static str, &'static str),
    /// The path of a repository.
    pub repository: &'a str,
    /// Its id, where it is known.
    pub repository_id: Option<RepositoryId>,
    /// Of content.
    pub digest: Option<Digest>,
    /// A tag by which content was asked for.
    pub tag: &'a str,
}

impl<'a> Seen<'a> {
    /// Something that says nothing but who did what.
    pub fn new(instance: InstanceId, kind: AuditKind, principal: &'a str, credential: &'a str) -> Self {
        Self {
            instance,
            kind,
            principal,
            credential,
            result: DONE,
            subject: ("", ""),
            repository: "",
            repository_id: None,
            digest: None,
            tag: "",
        }
    }

    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.kind, AuditKind::CallRefused | AuditKind::LoginRefused)
    }

    pub(crate) fn hash(&self, hasher: &mut impl Hasher, address: Option<IpAddr>, minute: i64) {
        let strings = (self.principal, self.credential, self.result, self.subject, self.repository, self.tag);
        (self.instance, self.kind, strings, self.repository_id, self.digest, address, minute).hash(hasher);
    }
}

/// Equal things that happened within a minute.
#[derive(Debug)]
pub(crate) struct Gathered {
    instance: InstanceId,
    kind: AuditKind,
    principal: Box<str>,
    credential: Box<str>,
    address: Option<IpAddr>,
    /// Of the first.
    request: Ulid,
    result: &'static str,
    subject: (&'static str, &'static str),
    repository: Box<str>,
    repository_id: Option<RepositoryId>,
    digest: Option<Digest>,
    tag: Box<str>,
    pub(crate) count: i64,
    first: Timestamp,
    pub(crate) last: Timestamp,
}

impl Gathered {
    pub(crate) fn new(seen: &Seen<'_>, address: Option<IpAddr>, request: Ulid, at: Timestamp) -> Self {
        Self {
            instance: seen.instance,
            kind: seen.kind,
            principal: seen.principal.into(),
            credential: seen.credential.into(),
            address,
            request,
            result: seen.result,
            subject: seen.subject,
            repository: seen.repository.into(),
            repository_id: seen.repository_id,
            digest: seen.digest,
            tag: seen.tag.into(),
            count: 1,
            first: at,
            last: at,
        }
    }

    pub(crate) fn is(&self, seen: &Seen<'_>, address: Option<IpAddr>, minute: i64) -> bool {
        self.instance == seen.instance
            && self.kind == seen.kind
            && self.address == address
            && self.repository_id == seen.repository_id
            && self.digest == seen.digest
            && self.first.0 / MINUTE == minute
            && self.result == seen.result
            && self.subject == seen.subject
            && *self.principal == *seen.principal
            && *self.credential == *seen.credential
            && *self.repository == *seen.repository
            && *self.tag == *seen.tag
    }

    pub(crate) fn entry(self, ids: &Ids) -> AuditEntry {
        let (method, about) = self.subject;
        AuditEntry {
            event_id: ids.ulid().to_string(),
            instance_id: self.instance.to_string(),
            r#type: self.kind.to_string(),
            principal: self.principal.into(),
            credential: self.credential.into(),
            address: self.address.map(|address| address.to_string()).unwrap_or_default(),
            request_id: self.request.to_string(),
            result: self.result.to_owned(),
            subject: format!("{method} {about}").trim().to_owned(),
            repository_id: self.repository_id.map(|id| id.to_string()).unwrap_or_default(),
            repository: self.repository.into(),
            digest: self.digest.map(|digest| digest.to_string()).unwrap_or_default(),
            tag: self.tag.into(),
            count: self.count,
            occurred_at: self.first.0,
            last_at: self.last.0,
            ..AuditEntry::default()
        }
    }
}
