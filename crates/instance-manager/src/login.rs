//! What the audit hears of a login: by which kind of credential, and who was meant when it was refused. What was typed is
//! never told, since people type passwords where names belong.

use berth_access::peek_issuer;
use berth_model::{InstanceId, PrincipalKind, RobotName};
use secrecy::ExposeSecret;
use tonic::{Status, metadata::MetadataValue};

use crate::{credentials::Credential, principals::TEMPORARY_TOKEN, store::Store};

/// The kind of a credential, by its shape.
pub(crate) fn kind(credential: &Credential) -> &'static str {
    match credential {
        Credential::Anonymous => "anonymous",
        Credential::Refresh(_) => "refresh_token",
        Credential::Password { secret, .. } if secret.expose_secret().starts_with(TEMPORARY_TOKEN) => {
            "temporary_token"
        }
        Credential::Password { secret, .. } if peek_issuer(secret.expose_secret()).is_some() => {
            "identity_token"
        }
        Credential::Password { name, .. } if RobotName::of(name).is_some() => "robot_secret",
        Credential::Password { .. } => "password",
    }
}

/// The principal whose name was given; empty: there is none, or it can't be told.
pub(crate) async fn meant(store: &Store, instance: InstanceId, credential: &Credential) -> String {
    let Credential::Password { name, .. } = credential else { return String::new() };
    let (kind, name) = match RobotName::of(name) {
        Some(robot) => (PrincipalKind::Robot, robot),
        None => (PrincipalKind::User, name.as_str()),
    };
    match store.principal_by_name(instance, kind, name).await {
        Ok(Some(found)) => found.principal().to_string(),
        Ok(None) | Err(_) => String::new(),
    }
}

/// Tells the gateway with a refusal; it tells nobody but the audit.
pub(crate) fn note(refused: &mut Status, principal: &str, credential: &'static str) {
    let metadata = refused.metadata_mut();
    if let Ok(principal) = MetadataValue::try_from(principal) {
        metadata.insert(berth_proto::LOGIN_PRINCIPAL, principal);
    }
    metadata.insert(berth_proto::LOGIN_CREDENTIAL, MetadataValue::from_static(credential));
}
