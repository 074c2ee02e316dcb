//! The one place where a credential becomes a principal, whatever it came with: passwords, robots' secrets, temporary
//! tokens, refresh tokens, tokens of other issuers.

use berth_access::{Passwords, secret_hash};
use berth_model::{InstanceId, PrincipalKind, ProviderId, RobotName, SecretId, TrustId};
use berth_service::{SharedClock, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::{
    Error,
    error::wrong_credentials,
    federation::{Federation, Vouched},
    guesses::Guesses,
    principals::{ROBOT_SECRET, TEMPORARY_TOKEN},
    store::{Store, StoredPrincipal, StoredProvider, TokenKind, TokenOwner},
};

/// What a client shows.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    Anonymous,
    /// A name and a password, a robot's secret, a temporary token or a token of another issuer.
    Password {
        name: String,
        secret: SecretString,
    },
    Refresh(SecretString),
}

/// Who that is.
#[derive(Clone, Debug)]
pub(crate) struct Authenticated {
    pub(crate) principal: StoredPrincipal,
    /// The robot's secret that it rests on.
    pub(crate) secret: Option<SecretId>,
    /// The identity provider that it rests on.
    pub(crate) provider: Option<ProviderId>,
    /// It is itself a token of that provider.
    pub(crate) foreign: Option<Foreign>,
    /// When it was used last, where that is known.
    secret_used_at: Option<Timestamp>,
    /// The credential itself ends then, and with it what comes of it.
    pub(crate) until: Option<Timestamp>,
}

impl Authenticated {
    /// When the credential ends, and with it what is kept for its owner.
    pub(crate) fn ends(&self) -> Option<Timestamp> {
        [self.until, self.foreign.map(|foreign| foreign.until)].into_iter().flatten().min()
    }
}

/// A token of another issuer. An access token that comes of it has its own five minutes, a session not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign {
    /// The trust that makes it a robot's.
    pub(crate) trust: Option<TrustId>,
    pub(crate) until: Timestamp,
}

/// Makes principals of credentials.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) store: Store,
    pub(crate) passwords: Passwords,
    pub(crate) guesses: Guesses,
    pub(crate) federation: Federation,
    pub(crate) clock: SharedClock,
}

impl Credentials {
    /// Who shows this credential; `None`: nobody in particular. Every credential that does not fit gets the same answer.
    pub(crate) async fn authenticate(
        &self,
        instance: InstanceId,
        credential: &Credential,
        address: &str,
    ) -> Result<Option<Authenticated>, Error> {
        let found = match credential {
            Credential::Anonymous => return Ok(None),
            Credential::Refresh(token) => self.by_token(instance, token, TokenKind::Refresh).await?,
            Credential::Password { secret, .. } if secret.expose_secret().starts_with(TEMPORARY_TOKEN) => {
                self.by_token(instance, secret, TokenKind::Temporary).await?
            }
            Credential::Password { name, secret } => {
                match (self.federation.provider(instance, secret).await?, RobotName::of(name)) {
                    (Some(provider), _) => self.by_foreign_token(&provider, name, secret, address).await?,
                    (None, Some(robot)) => self.by_robot_secret(instance, robot, secret).await?,
                    (None, None) => self.by_password(instance, name, secret, address).await?,
                }
            }
        };
        let found = found.filter(|found| found.principal.is_live(self.clock.now()));
        let found = found.ok_or_else(wrong_credentials)?;
        self.touch(&found).await;
        Ok(Some(found))
    }

    async fn by_password(
        &self,
        instance: InstanceId,
        name: &str,
        secret: &SecretString,
        address: &str,
    ) -> Result<Option<Authenticated>, Error> {
        let user = self.store.principal_by_name(instance, PrincipalKind::User, name).await?;
        let hash = user.as_ref().and_then(|user| user.password_hash.as_deref());
        let attempt = self.guesses.attempt(instance, name, address);
        // What was right a minute ago is right in the midst of another's guesses.
        if !self.passwords.remembers(name, secret, hash) {
            attempt.check()?;
        }
        if !self.passwords.verify(name, secret, hash).await? {
            attempt.wrong();
            return Ok(None);
        }
        attempt.right();
        Ok(user.map(|principal| Authenticated {
            principal,
            secret: None,
            provider: None,
            foreign: None,
            secret_used_at: None,
            until: None,
        }))
    }

    async fn by_robot_secret(
        &self,
        instance: InstanceId,
        name: &str,
        secret: &SecretString,
    ) -> Result<Option<Authenticated>, Error> {
        if !secret.expose_secret().starts_with(ROBOT_SECRET) {
            return Ok(None);
        }
        let robot = self.store.principal_by_name(instance, PrincipalKind::Robot, name).await?;
        let Some(robot) = robot else { return Ok(None) };
        let shown = secret_hash(secret.expose_secret());
        let secrets = self.store.robot_secrets(robot.id).await?;
        let fits = secrets.iter().find(|kept| bool::from(kept.hash.as_slice().ct_eq(&shown)));
        let until = robot.expires_at;
        Ok(fits.map(|kept| Authenticated {
            principal: robot,
            secret: Some(kept.id),
            provider: None,
            foreign: None,
            secret_used_at: kept.last_used_at,
            until,
        }))
    }

    /// Who has a temporary token or a refresh token, which knows its instance.
    pub(crate) async fn by_any_token(
        &self,
        token: SecretString,
    ) -> Result<(InstanceId, Authenticated, Credential), Error> {
        let hash = secret_hash(token.expose_secret());
        let found = self.store.token_instance(hash).await?.ok_or_else(wrong_credentials)?;
        let credential = match token.expose_secret().starts_with(TEMPORARY_TOKEN) {
            true => Credential::Password { name: String::new(), secret: token },
            false => Credential::Refresh(token),
        };
        let known = self.authenticate(found, &credential, "").await?.ok_or_else(wrong_credentials)?;
        Ok((found, known, credential))
    }

    async fn by_token(
        &self,
        instance: InstanceId,
        token: &SecretString,
        kind: TokenKind,
    ) -> Result<Option<Authenticated>, Error> {
        let hash = secret_hash(token.expose_secret());
        let found = self.store.principal_by_token(hash, kind, instance, self.clock.now()).await?;
        Ok(found.map(|TokenOwner { principal, secret, provider, expires_at: ends }| {
            let until = Some(principal.expires_at.map_or(ends, |end| end.min(ends)));
            Authenticated { principal, secret, provider, foreign: None, secret_used_at: None, until }
        }))
    }

    /// What is right is never made to wait: a signature can't be guessed, and others' wrong tokens must not shut a robot out.
    async fn by_foreign_token(
        &self,
        provider: &StoredProvider,
        name: &str,
        token: &SecretString,
        address: &str,
    ) -> Result<Option<Authenticated>, Error> {
        let attempt = self.guesses.attempt(provider.instance, name, address);
        let Some(Vouched { principal, trust, until }) = self.federation.who(provider, name, token).await?
        else {
            attempt.check()?;
            attempt.wrong();
            return Ok(None);
        };
        attempt.right();
        let foreign = Some(Foreign { trust, until });
        let until = principal.expires_at;
        Ok(Some(Authenticated {
            principal,
            secret: None,
            provider: Some(provider.id),
            foreign,
            secret_used_at: None,
            until,
        }))
    }

    /// When it was used last is known to the minute, and of no weight: without it the login goes on.
    async fn touch(&self, found: &Authenticated) {
        let now = self.clock.now();
        let recent = |used: Option<Timestamp>| used.is_some_and(|used| now.0 - used.0 < 60_000_000);
        if recent(found.principal.last_used_at) && (found.secret.is_none() || recent(found.secret_used_at)) {
            return;
        }
        if let Err(error) = self.store.touch(found.principal.id, found.secret, now).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the last use can't be recorded");
        }
    }
}
