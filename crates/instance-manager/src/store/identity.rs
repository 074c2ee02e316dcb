//! Identity providers, and the people linked to them. Secrets pass through here sealed.

use berth_database::{Row, Transaction, args};
use berth_model::{InstanceId, Principal, PrincipalId, PrincipalKind, ProviderId};
use berth_oci::{ErrorCode, Problem};
use berth_service::Timestamp;

use super::{
    AuditRow, Store, StoredPrincipal, add_audit, id, identity_statements as identity,
    principals::{absent, lock, principal},
    revocations::{refuse_instance, refuse_principal},
    statements as sql,
};
use crate::{Error, error::stale};

/// The most identity providers of an instance.
const MAX_PROVIDERS: i64 = 100;
/// What can be changed of a provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ProviderText {
    pub(crate) client_id: String,
    /// Sealed for the provider's id.
    pub(crate) client_secret: Option<Vec<u8>>,
    pub(crate) scopes: Vec<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) username_claim: String,
    pub(crate) groups_claim: String,
    pub(crate) login: bool,
    pub(crate) create_users: bool,
}

/// A provider to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewProvider {
    pub(crate) id: ProviderId,
    pub(crate) instance: InstanceId,
    pub(crate) name: String,
    pub(crate) issuer: String,
    pub(crate) text: ProviderText,
    /// Values of the groups claim, and which group each means.
    pub(crate) groups: Vec<(String, PrincipalId)>,
}

/// What becomes of a provider.
#[derive(Clone, Debug)]
pub(crate) struct ProviderChange {
    pub(crate) text: ProviderText,
    pub(crate) groups: Option<Vec<(String, PrincipalId)>>,
}

/// A provider.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredProvider {
    pub(crate) id: ProviderId,
    pub(crate) instance: InstanceId,
    pub(crate) name: String,
    pub(crate) issuer: String,
    pub(crate) text: ProviderText,
    pub(crate) version: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

pub(super) fn json<T: serde::de::DeserializeOwned>(row: &Row, index: usize) -> Result<T, Error> {
    serde_json::from_str(&row.get::<String>(index)?)
        .map_err(|_| Error::Inconsistent("an identity provider that can't be read"))
}

fn list(texts: &[String]) -> String {
    serde_json::Value::from(texts.to_vec()).to_string()
}

fn provider(row: &Row) -> Result<StoredProvider, Error> {
    Ok(StoredProvider {
        id: id(row, 0)?,
        instance: id(row, 1)?,
        name: row.get(2)?,
        issuer: row.get(3)?,
        text: ProviderText {
            client_id: row.get(4)?,
            client_secret: row.get(5)?,
            scopes: json(row, 6)?,
            audiences: json(row, 7)?,
            username_claim: row.get(8)?,
            groups_claim: row.get(9)?,
            login: row.get(10)?,
            create_users: row.get(11)?,
        },
        version: row.get(12)?,
        created_at: Timestamp(row.get(13)?),
        updated_at: Timestamp(row.get(14)?),
    })
}

/// Locks a provider; whether people log in by it.
pub(super) async fn lock_provider(
    tx: &mut Transaction,
    instance: InstanceId,
    of: ProviderId,
    version: Option<i64>,
) -> Result<bool, Error> {
    let row = tx.optional(&identity::LOCK_PROVIDER, args![instance.to_string(), of.to_string()]).await?;
    let Some(row) = row else {
        return Err(Problem::new(ErrorCode::NotFound, "there is no such identity provider").into());
    };
    if version.is_some_and(|seen| row.get::<i64>(0).ok() != Some(seen)) {
        return Err(stale().into());
    }
    Ok(row.get(1)?)
}

/// Says which value means which group. The groups are locked, in the order of their ids.
async fn set_groups(
    tx: &mut Transaction,
    instance: InstanceId,
    of: ProviderId,
    groups: &[(String, PrincipalId)],
) -> Result<(), Error> {
    tx.execute(&identity::CLEAR_GROUPS, args![of.to_string()]).await?;
    let mut groups = groups.to_vec();
    groups.sort_by_key(|(_, group)| *group);
    for (value, group) in groups {
        if lock(tx, instance, group, None).await?.kind != PrincipalKind::Group {
            return Err(absent(group).into());
        }
        tx.execute(&identity::ADD_GROUP, args![of.to_string(), value, group.to_string()]).await?;
    }
    Ok(())
}

/// Takes a provider away, with what rests on it.
pub(super) async fn forget(tx: &mut Transaction, provider: &str) -> Result<(), Error> {
    for statement in [
        &identity::DELETE_TRUSTS,
        &identity::UNLINK_ALL,
        &identity::CLEAR_GROUPS,
        &identity::DELETE_TOKENS_OF_PROVIDER,
        &identity::DELETE_PROVIDER,
    ] {
        tx.execute(statement, args![provider]).await?;
    }
    Ok(())
}

impl Store {
    /// Makes a provider; `None` when its name or its issuer is taken.
    pub(crate) async fn add_provider(
        &self,
        new: NewProvider,
        entry: AuditRow,
    ) -> Result<Option<StoredProvider>, Error> {
        self.database
            .write("add_identity_provider", move |tx| {
                let (new, entry) = (new.clone(), entry.clone());
                Box::pin(async move {
                    let instance = new.instance.to_string();
                    tx.one(&sql::LOCK_INSTANCE, args![&instance]).await?;
                    let counted = tx.one(&identity::COUNT_PROVIDERS, args![&instance]).await?;
                    if counted.get::<i64>(0)? >= MAX_PROVIDERS {
                        let message = format!("an instance has at most {MAX_PROVIDERS} identity providers");
                        return Err(Problem::new(ErrorCode::RequestInvalid, message).into());
                    }
                    let (now, text) = (tx.now(), new.text);
                    let values = args![
                        new.id.to_string(),
                        &instance,
                        &new.name,
                        new.issuer,
                        text.client_id,
                        text.client_secret,
                        list(&text.scopes),
                        list(&text.audiences),
                        text.username_claim,
                        text.groups_claim,
                        text.login,
                        text.create_users,
                        now
                    ];
                    if tx.execute(&identity::ADD_PROVIDER, values).await? == 0 {
                        return Ok(None);
                    }
                    set_groups(tx, new.instance, new.id, &new.groups).await?;
                    add_audit(tx, entry, now).await?;
                    let row = tx.one(&identity::PROVIDER_NAMED, args![instance, new.name]).await?;
                    provider(&row).map(Some)
                })
            })
            .await
    }

    pub(crate) async fn provider_named(
        &self,
        instance: InstanceId,
        name: &str,
    ) -> Result<Option<StoredProvider>, Error> {
        let values = args![instance.to_string(), name];
        let row = self.database.read_optional(&identity::PROVIDER_NAMED, values).await?;
        row.as_ref().map(provider).transpose()
    }

    pub(crate) async fn provider_of_issuer(
        &self,
        instance: InstanceId,
        issuer: &str,
    ) -> Result<Option<StoredProvider>, Error> {
        let values = args![instance.to_string(), issuer];
        let row = self.database.read_optional(&identity::PROVIDER_OF_ISSUER, values).await?;
        row.as_ref().map(provider).transpose()
    }

    /// The providers of an instance by name.
    pub(crate) async fn providers(&self, instance: InstanceId) -> Result<Vec<StoredProvider>, Error> {
        let rows = self.database.read_all(&identity::LIST_PROVIDERS, args![instance.to_string()]).await?;
        rows.iter().map(provider).collect()
    }

    /// Which value of the groups claim means which group, with the group's name.
    pub(crate) async fn provider_groups(
        &self,
        of: ProviderId,
    ) -> Result<Vec<(String, PrincipalId, String)>, Error> {
        let rows = self.database.read_all(&identity::LIST_GROUPS, args![of.to_string()]).await?;
        rows.iter().map(|row| Ok((row.get(0)?, id(row, 1)?, row.get(2)?))).collect()
    }

    /// Changes a provider. Where people logged in by it and may no longer, what they got ends.
    pub(crate) async fn change_provider(
        &self,
        seen: &StoredProvider,
        change: ProviderChange,
        entry: AuditRow,
    ) -> Result<StoredProvider, Error> {
        let (instance, of, version, name) = (seen.instance, seen.id, seen.version, seen.name.clone());
        self.database
            .write("change_identity_provider", move |tx| {
                let (change, entry, name) = (change.clone(), entry.clone(), name.clone());
                Box::pin(async move {
                    let login_before = lock_provider(tx, instance, of, Some(version)).await?;
                    let (now, text) = (tx.now(), change.text);
                    let values = args![
                        of.to_string(),
                        text.client_id,
                        text.client_secret,
                        list(&text.scopes),
                        list(&text.audiences),
                        text.username_claim,
                        text.groups_claim,
                        text.login,
                        text.create_users,
                        now
                    ];
                    tx.execute(&identity::SET_PROVIDER, values).await?;
                    if let Some(groups) = &change.groups {
                        set_groups(tx, instance, of, groups).await?;
                    }
                    add_audit(tx, entry, now).await?;
                    let row = tx.one(&identity::PROVIDER_NAMED, args![instance.to_string(), name]).await?;
                    let after = provider(&row)?;
                    if login_before && !text.login {
                        tx.execute(&identity::DELETE_TOKENS_OF_PROVIDER, args![of.to_string()]).await?;
                        refuse_instance(tx, instance).await?;
                    }
                    Ok::<_, Error>(after)
                })
            })
            .await
    }

    /// Deletes a provider with its trusts and links. What came of it ends, and since that is not told apart in access tokens,
    /// everybody in the instance needs a new one.
    pub(crate) async fn delete_provider(
        &self,
        instance: InstanceId,
        of: ProviderId,
        version: Option<i64>,
        entry: AuditRow,
    ) -> Result<(), Error> {
        self.database
            .write("delete_identity_provider", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    lock_provider(tx, instance, of, version).await?;
                    forget(tx, &of.to_string()).await?;
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    refuse_instance(tx, instance).await
                })
            })
            .await
    }

    /// Who a subject of a provider is.
    pub(crate) async fn linked(
        &self,
        instance: InstanceId,
        of: ProviderId,
        subject: &str,
    ) -> Result<Option<StoredPrincipal>, Error> {
        let values = args![of.to_string(), subject, instance.to_string()];
        let row = self.database.read_optional(&identity::LINKED, values).await?;
        row.as_ref().map(principal).transpose()
    }

    /// Lets a subject be a user. False: one of them is linked already.
    pub(crate) async fn link_user(
        &self,
        instance: InstanceId,
        of: ProviderId,
        subject: String,
        user: PrincipalId,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        self.database
            .write("link_user", move |tx| {
                let (subject, entry) = (subject.clone(), entry.clone());
                Box::pin(async move {
                    lock_provider(tx, instance, of, None).await?;
                    if lock(tx, instance, user, None).await?.kind != PrincipalKind::User {
                        return Err(absent(user).into());
                    }
                    let now = tx.now();
                    let values = args![of.to_string(), subject, user.to_string(), now];
                    if tx.execute(&identity::ADD_LINK, values).await? == 0 {
                        return Ok(false);
                    }
                    add_audit(tx, entry, now).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// Lets a user be nobody of a provider any more; what it got by it ends. False: it is not linked.
    pub(crate) async fn unlink_user(
        &self,
        instance: InstanceId,
        of: ProviderId,
        user: PrincipalId,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        self.database
            .write("unlink_user", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    lock_provider(tx, instance, of, None).await?;
                    let kind = lock(tx, instance, user, None).await?.kind;
                    if tx.execute(&identity::UNLINK, args![of.to_string(), user.to_string()]).await? == 0 {
                        return Ok(false);
                    }
                    let values = args![user.to_string(), of.to_string()];
                    tx.execute(&identity::DELETE_TOKENS_BY_PROVIDER, values).await?;
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    refuse_principal(tx, Principal::Known(kind, user), instance).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }
}
