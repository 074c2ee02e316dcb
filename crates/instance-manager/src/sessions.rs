//! Who calls the management API: a credential becomes a caller, and a caller may have a token in its place.

use berth_access::secret_hash;
use berth_model::{InstanceId, Principal, ProviderId, SecretId};
use berth_service::{Ids, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error,
    actor::Actor,
    audit::bounded,
    credentials::{Authenticated, Credential},
    error::wrong_credentials,
    login,
    settings::SettingsBoard,
    store::{Store, TokenKind},
    token::{self, Issuer},
};

/// Somebody who has shown a credential.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) instance: InstanceId,
    pub(crate) principal: Principal,
    pub(crate) name: String,
    pub(crate) credential: &'static str,
    /// When the credential ends.
    pub(crate) until: Option<Timestamp>,
    /// What it rests on.
    pub(crate) secret: Option<SecretId>,
    pub(crate) provider: Option<ProviderId>,
}

/// A name and a secret, shown to an instance.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) instance: InstanceId,
    pub(crate) name: String,
    pub(crate) secret: SecretString,
}

impl Shown {
    fn credential(&self) -> Credential {
        Credential::Password { name: self.name.clone(), secret: self.secret.clone() }
    }

    /// The principal that the name means, for the audit of a refusal, and the kind of credential.
    pub(crate) async fn meant(&self, store: &Store) -> (String, &'static str) {
        let credential = self.credential();
        (login::meant(store, self.instance, &credential).await, login::kind(&credential))
    }
}

/// Logins of the management API. An instance that is stopped can still be managed.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    pub(crate) store: Store,
    pub(crate) issuer: Issuer,
    pub(crate) settings: SettingsBoard,
    pub(crate) ids: Ids,
}

fn caller(instance: InstanceId, known: &Authenticated, credential: &Credential) -> Caller {
    Caller {
        instance,
        principal: known.principal.principal(),
        name: token::login(known),
        credential: login::kind(credential),
        until: known.ends(),
        secret: known.secret,
        provider: known.provider,
    }
}

impl Sessions {
    async fn known(&self, shown: &Shown, address: &str) -> Result<Authenticated, Error> {
        // An instance that is not there knows nobody, like one that does not know the name, and takes as long to say so.
        if !self.settings.current().has(shown.instance) {
            self.issuer.credentials.passwords.verify(&shown.name, &shown.secret, None).await?;
            return Err(wrong_credentials().into());
        }
        let known =
            self.issuer.credentials.authenticate(shown.instance, &shown.credential(), address).await?;
        Ok(known.ok_or_else(wrong_credentials)?)
    }

    /// Who shows a name and a secret.
    pub(crate) async fn by_password(&self, shown: &Shown, address: &str) -> Result<Caller, Error> {
        let known = self.known(shown, address).await?;
        Ok(caller(shown.instance, &known, &shown.credential()))
    }

    /// Who has a token.
    pub(crate) async fn by_token(&self, token: SecretString) -> Result<Caller, Error> {
        let (instance, known, credential) = self.issuer.credentials.by_any_token(token).await?;
        if !self.settings.current().has(instance) {
            return Err(wrong_credentials().into());
        }
        Ok(caller(instance, &known, &credential))
    }

    /// A token in the place of a name and a secret, in the audit as a login. In the place of a token of another issuer it is
    /// for an hour at most, and ends with that.
    pub(crate) async fn open(
        &self,
        shown: &Shown,
        address: String,
        request_id: String,
    ) -> Result<(Caller, SecretString, Timestamp), Error> {
        let known = self.known(shown, &address).await?;
        let caller = caller(shown.instance, &known, &shown.credential());
        let who = (caller.instance, caller.principal);
        let actor = Actor::shown(who, caller.credential, bounded(address, 64), bounded(request_id, 128));
        let entry = actor.entry(&self.ids, caller.instance, "login.accepted", String::new());
        let credential = shown.credential();
        let kept = self.issuer.refresh_token(&known, shown.instance, credential, Some(entry)).await;
        let (token, expires_at) = kept?;
        Ok((caller, token, expires_at))
    }

    /// Ends a token.
    pub(crate) async fn close(&self, token: &SecretString) -> Result<(), Error> {
        self.store.drop_token(secret_hash(token.expose_secret()), TokenKind::Refresh).await?;
        Ok(())
    }
}
