//! Random secrets, each kept as its SHA-256: those of robots, temporary tokens, refresh tokens.

use berth_database::{Transaction, args};
use berth_model::{InstanceId, Principal, PrincipalId, PrincipalKind, ProviderId, SecretId, TrustId};
use berth_oci::{ErrorCode, Problem};
use berth_service::Timestamp;

use super::{
    AuditRow, Store, StoredPrincipal, add_audit, id, identity_statements as identity,
    principals::{absent, lock, principal},
    revocations::refuse_principal,
    statements as sql,
};
use crate::{Error, error::wrong_credentials};

/// How many secrets a robot may have at a time: the one in use, and the one that takes its place.
pub(crate) const MAX_ROBOT_SECRETS: usize = 2;

/// A secret to be kept.
#[derive(Clone, Debug)]
pub(crate) struct NewSecret {
    pub(crate) id: SecretId,
    pub(crate) hash: [u8; 32],
}

/// A secret of a robot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredSecret {
    pub(crate) id: SecretId,
    pub(crate) hash: Vec<u8>,
    pub(crate) created_at: Timestamp,
    pub(crate) last_used_at: Option<Timestamp>,
}

/// What a secret token is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TokenKind {
    /// In the place of a password, for an hour.
    Temporary,
    /// In the place of a login, for access tokens only.
    Refresh,
}

impl TokenKind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Temporary => "temporary",
            Self::Refresh => "refresh",
        }
    }
}

/// A token to be kept.
#[derive(Clone, Debug)]
pub(crate) struct SecretToken {
    pub(crate) hash: [u8; 32],
    pub(crate) kind: TokenKind,
    pub(crate) instance: InstanceId,
    pub(crate) principal: PrincipalId,
    pub(crate) secret: Option<SecretId>,
    /// The provider by which it was got, and with which it ends.
    pub(crate) provider: Option<ProviderId>,
    /// The trust that has to be there while it is made; none: any of the provider's for this robot.
    pub(crate) trust: Option<TrustId>,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
}

/// A token by its hash: whose it is, what it came from, and when it ends.
#[derive(Clone, Debug)]
pub(crate) struct TokenOwner {
    pub(crate) principal: StoredPrincipal,
    pub(crate) secret: Option<SecretId>,
    pub(crate) provider: Option<ProviderId>,
    pub(crate) expires_at: Timestamp,
}

/// Keeps a token, and lets go of the principal's expired ones of its kind and of all but the newest hundred.
pub(super) async fn add_secret_token(tx: &mut Transaction, token: &SecretToken) -> Result<(), Error> {
    let (principal, kind) = (token.principal.to_string(), token.kind.as_str());
    let values = args![
        token.hash.to_vec(),
        kind,
        token.instance.to_string(),
        &principal,
        token.secret.map(|id| id.to_string()),
        token.created_at,
        token.expires_at,
        token.provider.map(|id| id.to_string())
    ];
    tx.execute(&sql::ADD_SECRET_TOKEN, values).await?;
    tx.execute(&sql::PRUNE_SECRET_TOKENS, args![principal, kind, token.created_at]).await?;
    Ok(())
}

/// Refuses a token of somebody whom its provider no longer vouches for. Trusts and links go under the same locks, with the
/// tokens that have come of them.
async fn check_vouched(tx: &mut Transaction, token: &SecretToken, by: ProviderId) -> Result<(), Error> {
    let (instance, principal, by) = (token.instance.to_string(), token.principal.to_string(), by.to_string());
    let provider = tx.optional(&identity::LOCK_PROVIDER, args![&instance, &by]).await?;
    let login = provider.map(|row| row.get::<bool>(1)).transpose()?.ok_or_else(wrong_credentials)?;
    let found = match lock(tx, token.instance, token.principal, None).await?.kind {
        PrincipalKind::Robot => {
            let trust = token.trust.map(|id| id.to_string()).unwrap_or_default();
            tx.optional(&identity::IS_TRUSTED, args![principal, by, trust]).await?
        }
        PrincipalKind::User | PrincipalKind::Group => {
            tx.optional(&identity::IS_LINKED, args![principal, by]).await?.filter(|_| login)
        }
    };
    found.map(|_| ()).ok_or_else(|| wrong_credentials().into())
}

impl Store {
    /// The secrets of a robot.
    pub(crate) async fn robot_secrets(&self, robot: PrincipalId) -> Result<Vec<StoredSecret>, Error> {
        let rows = self.database.read_all(&sql::LIST_SECRETS, args![robot.to_string()]).await?;
        rows.iter()
            .map(|row| {
                Ok(StoredSecret {
                    id: id(row, 0)?,
                    hash: row.get(1)?,
                    created_at: Timestamp(row.get(2)?),
                    last_used_at: row.get::<Option<i64>>(3)?.map(Timestamp),
                })
            })
            .collect()
    }

    /// Gives a robot another secret beside the one it has.
    pub(crate) async fn add_robot_secret(
        &self,
        instance: InstanceId,
        robot: PrincipalId,
        secret: NewSecret,
        entry: AuditRow,
    ) -> Result<(), Error> {
        self.database
            .write("add_robot_secret", move |tx| {
                let (secret, entry) = (secret.clone(), entry.clone());
                Box::pin(async move {
                    if lock(tx, instance, robot, None).await?.kind != PrincipalKind::Robot {
                        return Err(absent(robot).into());
                    }
                    if tx.all(&sql::LIST_SECRETS, args![robot.to_string()]).await?.len() >= MAX_ROBOT_SECRETS {
                        let message = format!(
                            "a robot has {MAX_ROBOT_SECRETS} secrets at most; delete the one that is no longer used first"
                        );
                        return Err(Problem::new(ErrorCode::Conflict, message).into());
                    }
                    let now = tx.now();
                    let values = args![secret.id.to_string(), robot.to_string(), secret.hash.to_vec(), now];
                    tx.execute(&sql::ADD_SECRET, values).await?;
                    add_audit(tx, entry, now).await?;
                    Ok::<_, Error>(())
                })
            })
            .await
    }

    /// Takes a secret from a robot, with all tokens that came from it.
    pub(crate) async fn delete_robot_secret(
        &self,
        instance: InstanceId,
        robot: PrincipalId,
        secret: SecretId,
        entry: AuditRow,
    ) -> Result<(), Error> {
        self.database
            .write("delete_robot_secret", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    lock(tx, instance, robot, None).await?;
                    tx.execute(&sql::DELETE_TOKENS_OF_SECRET, args![secret.to_string()]).await?;
                    let values = args![robot.to_string(), secret.to_string()];
                    if tx.execute(&sql::DELETE_SECRET, values).await? == 0 {
                        let message = format!("the robot has no secret {secret}");
                        return Err(Problem::new(ErrorCode::NotFound, message).into());
                    }
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    refuse_principal(tx, Principal::Known(PrincipalKind::Robot, robot), instance).await
                })
            })
            .await
    }

    /// Records that a principal, and a secret of it, was used; to the minute.
    pub(crate) async fn touch(
        &self,
        principal: PrincipalId,
        secret: Option<SecretId>,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.database
            .write("touch_principal", move |tx| {
                Box::pin(async move {
                    tx.execute(&sql::TOUCH_PRINCIPAL, args![principal.to_string(), now]).await?;
                    if let Some(secret) = secret {
                        tx.execute(&sql::TOUCH_SECRET, args![secret.to_string(), now]).await?;
                    }
                    Ok::<_, Error>(())
                })
            })
            .await
    }

    /// Keeps a token, with `entry` in the audit. Unauthorized: what it rests on was taken away meanwhile.
    pub(crate) async fn keep_token(&self, token: SecretToken, entry: Option<AuditRow>) -> Result<(), Error> {
        self.database
            .write("keep_secret_token", move |tx| {
                let (token, entry) = (token.clone(), entry.clone());
                Box::pin(async move {
                    if let Some(provider) = token.provider {
                        check_vouched(tx, &token, provider).await?;
                    }
                    add_secret_token(tx, &token).await?;
                    if let Some(entry) = entry {
                        let now = tx.now();
                        add_audit(tx, entry, now).await?;
                    }
                    Ok::<_, Error>(())
                })
            })
            .await
    }

    /// The instance of a token, whether or not it still opens something.
    pub(crate) async fn token_instance(&self, hash: [u8; 32]) -> Result<Option<InstanceId>, Error> {
        let row = self.database.read_optional(&sql::INSTANCE_OF_SECRET_TOKEN, args![hash.to_vec()]).await?;
        row.map(|row| id(&row, 0)).transpose()
    }

    /// Lets go of a token; whether there was one.
    pub(crate) async fn drop_token(&self, hash: [u8; 32], kind: TokenKind) -> Result<bool, Error> {
        self.database
            .write("drop_token", move |tx| {
                Box::pin(async move {
                    let values = args![hash.to_vec(), kind.as_str()];
                    Ok::<_, Error>(tx.execute(&sql::DELETE_SECRET_TOKEN, values).await? > 0)
                })
            })
            .await
    }

    /// Whose token this is, in this instance, at this time.
    pub(crate) async fn principal_by_token(
        &self,
        hash: [u8; 32],
        kind: TokenKind,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<Option<TokenOwner>, Error> {
        let values = args![hash.to_vec(), kind.as_str(), instance.to_string(), now];
        let row = self.database.read_optional(&sql::PRINCIPAL_BY_SECRET_TOKEN, values).await?;
        row.map(|row| {
            let secret = row.get::<Option<String>>(14)?.map(|_| id(&row, 14)).transpose()?;
            let provider = row.get::<Option<String>>(16)?.map(|_| id(&row, 16)).transpose()?;
            Ok(TokenOwner {
                principal: principal(&row)?,
                secret,
                provider,
                expires_at: Timestamp(row.get(15)?),
            })
        })
        .transpose()
    }
}
