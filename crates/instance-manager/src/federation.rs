//! Tokens of other issuers as a password: those of workloads that are trusted to be a robot, and ID tokens of people.
//!
//! `robot+NAME` is the robot NAME, if one of its trusts fits; `robot+` alone the robot of the oldest trust that fits; a user's
//! name that user, if the token's subject is linked to it.

use berth_access::{ForeignClaims, peek_issuer};
use berth_model::{InstanceId, PrincipalKind, RobotName, TrustId};
use berth_service::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error,
    issuers::Issuers,
    store::{Store, StoredPrincipal, StoredProvider},
    trusts,
};

/// Whom a token of another issuer is about here.
#[derive(Clone, Debug)]
pub(crate) struct Vouched {
    pub(crate) principal: StoredPrincipal,
    /// The trust that fits, of a robot.
    pub(crate) trust: Option<TrustId>,
    /// The token ends then.
    pub(crate) until: Timestamp,
}

/// Knows principals by what other issuers say.
#[derive(Clone, Debug)]
pub(crate) struct Federation {
    pub(crate) store: Store,
    pub(crate) issuers: Issuers,
}

impl Federation {
    /// The provider of this instance that a secret says it is from. None: it is no such token.
    pub(crate) async fn provider(
        &self,
        instance: InstanceId,
        secret: &SecretString,
    ) -> Result<Option<StoredProvider>, Error> {
        match peek_issuer(secret.expose_secret()) {
            Some(issuer) => self.store.provider_of_issuer(instance, &issuer).await,
            None => Ok(None),
        }
    }

    /// Who a token is that is shown by `name`. Unavailable: its issuer does not answer.
    pub(crate) async fn who(
        &self,
        provider: &StoredProvider,
        name: &str,
        token: &SecretString,
    ) -> Result<Option<Vouched>, Error> {
        let verified = self.issuers.verify(&provider.issuer, token.expose_secret()).await?;
        let claims = match verified {
            Ok(claims) => claims,
            Err(error) => {
                tracing::debug!(provider = provider.name, %error, "a token of another issuer is refused");
                return Ok(None);
            }
        };
        let Some(until) = claims.ends() else { return Ok(None) };
        let (principal, trust) = match RobotName::of(name) {
            Some(robot) => self.robot(provider, robot, &claims).await?,
            None => (self.person(provider, name, &claims).await?, None),
        };
        Ok(principal.map(|principal| Vouched { principal, trust, until }))
    }

    async fn robot(
        &self,
        provider: &StoredProvider,
        name: &str,
        claims: &ForeignClaims,
    ) -> Result<(Option<StoredPrincipal>, Option<TrustId>), Error> {
        let trusts = self.store.trusts_of(provider.id).await?;
        let found = trusts.into_iter().find(|trust| {
            (name.is_empty() || trust.robot_name == name)
                && claims.is_for(&trust.audience)
                && trusts::met(&trust.conditions, claims)
        });
        match found {
            Some(trust) => {
                let robot = self.store.principal_by_id(provider.instance, trust.robot).await?;
                Ok((robot.filter(|robot| robot.kind == PrincipalKind::Robot), Some(trust.id)))
            }
            None => {
                tracing::debug!(provider = provider.name, "no trust fits a token of another issuer");
                Ok((None, None))
            }
        }
    }

    async fn person(
        &self,
        provider: &StoredProvider,
        name: &str,
        claims: &ForeignClaims,
    ) -> Result<Option<StoredPrincipal>, Error> {
        let text = &provider.text;
        let ours = text.audiences.iter().chain([&text.client_id]).any(|one| claims.is_id_token_for(one));
        let Some(subject) = claims.subject().filter(|_| text.login && ours) else { return Ok(None) };
        let found = self.store.linked(provider.instance, provider.id, &subject).await?;
        Ok(found.filter(|user| user.name == name))
    }
}
