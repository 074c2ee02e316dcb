//! On whose behalf something is done.

use berth_database::Once;
use berth_model::{AuditKind, EventId, InstanceId, Principal, ProviderId, SecretId};
use berth_oci::{ErrorCode, Problem};
use berth_proto::{instance_manager as wire, optional, parse};
use berth_service::{Ids, Timestamp};

use crate::{audit::bounded, error::invalid, store::AuditRow};

/// Who the audit names for what comes through the local socket.
const SYSTEM: &str = "system:admin";
/// And for what comes of itself.
const ITSELF: &str = "system:instance-manager";

/// On whose behalf something is done, and how that came in.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    /// The instance of the principal, and which it is; none: the operator of this machine.
    pub(crate) principal: Option<(InstanceId, Principal)>,
    credential: String,
    address: String,
    request_id: String,
    /// When the credential ends; none: it does not by itself.
    until: Option<Timestamp>,
    /// What the credential rests on, and what comes of it as well.
    pub(crate) secret: Option<SecretId>,
    pub(crate) provider: Option<ProviderId>,
    /// The request, when it may come twice.
    once: Option<Once>,
}

impl Actor {
    /// The operator of this machine.
    pub(crate) fn system() -> Self {
        Self {
            principal: None,
            credential: "socket".into(),
            address: "local".into(),
            request_id: String::new(),
            until: None,
            secret: None,
            provider: None,
            once: None,
        }
    }

    /// Nobody: it was due, or comes of what somebody asked for before.
    pub(crate) fn itself() -> Self {
        Self { credential: "none".into(), ..Self::system() }
    }

    /// Somebody who has just logged in by an identity provider.
    pub(crate) fn by_login(who: (InstanceId, Principal), address: String) -> Self {
        Self::shown(who, "oidc", address, String::new())
    }

    /// Somebody who has just shown a credential.
    pub(crate) fn shown(
        who: (InstanceId, Principal),
        credential: &str,
        address: String,
        request_id: String,
    ) -> Self {
        Self { principal: Some(who), credential: credential.into(), address, request_id, ..Self::system() }
    }

    /// Reads the message.
    pub(crate) fn read(actor: Option<wire::Actor>) -> Result<Self, Problem> {
        let Some(actor) = actor.filter(|actor| !actor.principal.is_empty()) else {
            return Ok(Self::system());
        };
        let principal: Principal = parse("actor.principal", &actor.principal)?;
        if principal == Principal::Anonymous {
            return Err(invalid("field actor.principal: nobody in particular changes nothing"));
        }
        // A key means something for whoever sent it.
        let scope = format!("{} {principal}", actor.instance_id);
        let once = Once::read(scope, actor.idempotency_key, actor.fingerprint.to_vec())?;
        Ok(Self {
            once,
            principal: Some((parse("actor.instance_id", &actor.instance_id)?, principal)),
            credential: bounded(actor.credential, 64),
            address: bounded(actor.address, 64),
            request_id: bounded(actor.request_id, 128),
            until: (actor.credential_expires_at > 0).then_some(Timestamp(actor.credential_expires_at)),
            secret: optional("actor.robot_secret_id", &actor.robot_secret_id)?,
            provider: optional("actor.provider_id", &actor.provider_id)?,
        })
    }

    /// As grants and the audit name it.
    pub(crate) fn name(&self) -> String {
        match self.principal {
            Some((_, principal)) => principal.to_string(),
            None if self.credential == "none" => ITSELF.to_owned(),
            None => SYSTEM.to_owned(),
        }
    }

    /// The request, when it may come twice.
    pub(crate) fn once(&self) -> Option<&Once> {
        self.once.as_ref()
    }

    /// When what it came with ends, so that nothing that comes of it lasts longer; refused when that is not known of
    /// something that was lent for a time.
    pub(crate) fn lends_until(&self) -> Result<Option<Timestamp>, Problem> {
        let lent = matches!(self.credential.as_str(), "temporary_token" | "refresh_token" | "identity_token");
        if lent && self.until.is_none() {
            let message =
                "what was lent for a time gives no token; log in with the password or a robot's secret";
            return Err(Problem::new(ErrorCode::Denied, message));
        }
        Ok(self.until)
    }

    /// An entry of the audit: `kind` was done to `subject`.
    pub(crate) fn entry(
        &self,
        ids: &Ids,
        instance: InstanceId,
        kind: &str,
        subject: impl Into<String>,
    ) -> AuditRow {
        debug_assert!(
            kind.parse::<AuditKind>().is_ok(),
            "the audit has to know {kind:?}: crates/model/src/audit.rs"
        );
        let event = EventId::new(ids.ulid());
        let mut entry = AuditRow::new(event, instance, kind);
        entry.principal = self.name();
        entry.credential.clone_from(&self.credential);
        entry.address.clone_from(&self.address);
        // What came through the socket is a request as well.
        entry.request_id =
            if self.request_id.is_empty() { event.to_string() } else { self.request_id.clone() };
        entry.subject = subject.into();
        entry
    }
}
