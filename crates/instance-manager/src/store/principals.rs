//! People, robots and groups: their rows and who is in a group.

use berth_database::{Row, Transaction, args};
use berth_model::{InstanceId, Principal, PrincipalId, PrincipalKind};
use berth_oci::{ErrorCode, Problem};
use berth_service::Timestamp;

use super::{
    AuditRow, NewGrant, NewSecret, Store, add_audit,
    grants::add_grant,
    id, identity_statements as identity,
    known::Known,
    revocations::{refuse_instance, refuse_principal},
    statements as sql,
};
use crate::{Error, error::stale};

/// The most groups that a principal may be in, and that hold grants for it.
pub(super) const MAX_GROUPS: i64 = 1_000;

/// A principal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredPrincipal {
    pub(crate) id: PrincipalId,
    pub(crate) instance: InstanceId,
    pub(crate) kind: PrincipalKind,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) disabled: bool,
    pub(crate) password_hash: Option<String>,
    pub(crate) email: String,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) last_used_at: Option<Timestamp>,
    /// Changes whenever what it may do does.
    pub(crate) revision: i64,
    pub(crate) version: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl StoredPrincipal {
    /// As tokens, events and the audit call it.
    pub(crate) fn principal(&self) -> Principal {
        Principal::Known(self.kind, self.id)
    }

    /// Whether it may act at all.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        !self.disabled && self.expires_at.is_none_or(|end| now < end)
    }
}

/// A principal to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewPrincipal {
    pub(crate) id: PrincipalId,
    pub(crate) instance: InstanceId,
    pub(crate) kind: PrincipalKind,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) password_hash: Option<String>,
    pub(crate) email: String,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) grants: Vec<NewGrant>,
    pub(crate) secret: Option<NewSecret>,
}

/// What is to be changed; what is absent stays.
#[derive(Clone, Default, Debug)]
pub(crate) struct PrincipalChange {
    pub(crate) description: Option<String>,
    pub(crate) email: Option<String>,
    pub(crate) disabled: Option<bool>,
    /// With `Some(None)` it never ends.
    pub(crate) expires_at: Option<Option<Timestamp>>,
}

/// Somebody in a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    pub(crate) id: PrincipalId,
    pub(crate) kind: PrincipalKind,
    pub(crate) name: String,
}

fn kind(row: &Row, index: usize) -> Result<PrincipalKind, Error> {
    row.get::<String>(index)?.parse().map_err(|_| Error::Inconsistent("an unknown kind of principal"))
}

pub(super) fn principal(row: &Row) -> Result<StoredPrincipal, Error> {
    Ok(StoredPrincipal {
        id: id(row, 0)?,
        instance: id(row, 1)?,
        kind: kind(row, 2)?,
        name: row.get(3)?,
        description: row.get(4)?,
        disabled: row.get(5)?,
        password_hash: row.get(6)?,
        email: row.get(7)?,
        expires_at: row.get::<Option<i64>>(8)?.map(Timestamp),
        last_used_at: row.get::<Option<i64>>(9)?.map(Timestamp),
        revision: row.get(10)?,
        version: row.get(11)?,
        created_at: Timestamp(row.get(12)?),
        updated_at: Timestamp(row.get(13)?),
    })
}

/// A locked principal; an error when there is none, or it is another version than was seen.
pub(super) struct Locked {
    pub(super) kind: PrincipalKind,
    pub(super) password_hash: Option<String>,
}

pub(super) async fn lock(
    tx: &mut Transaction,
    instance: InstanceId,
    principal: PrincipalId,
    version: Option<i64>,
) -> Result<Locked, Error> {
    let row = tx.optional(&sql::LOCK_PRINCIPAL, args![instance.to_string(), principal.to_string()]).await?;
    let Some(row) = row else { return Err(absent(principal).into()) };
    if version.is_some_and(|seen| row.get::<i64>(1).ok() != Some(seen)) {
        return Err(stale().into());
    }
    Ok(Locked { kind: kind(&row, 0)?, password_hash: row.get(2)? })
}

/// There is no such principal in this instance.
pub(super) fn absent(principal: PrincipalId) -> Problem {
    Problem::new(ErrorCode::NotFound, format!("there is no principal {principal}"))
}

async fn read(tx: &mut Transaction, instance: InstanceId, of: PrincipalId) -> Result<StoredPrincipal, Error> {
    principal(&tx.one(&sql::PRINCIPAL_BY_ID, args![instance.to_string(), of.to_string()]).await?)
}

/// Takes a principal away, with all it has.
pub(super) async fn forget(tx: &mut Transaction, principal: &str) -> Result<(), Error> {
    for statement in [
        &identity::UNLINK_PRINCIPAL,
        &identity::FORGET_GROUP,
        &identity::DELETE_TRUSTS_OF,
        &sql::DELETE_SECRET_TOKENS,
        &sql::DELETE_SECRETS,
        &sql::DELETE_GRANTS,
        &sql::LEAVE_GROUPS,
        &sql::DELETE_PRINCIPAL,
    ] {
        tx.execute(statement, args![principal]).await?;
    }
    Ok(())
}

impl Store {
    /// Makes a principal with what it is to have; `None` when the name is taken.
    pub(crate) async fn add_principal(
        &self,
        new: NewPrincipal,
        entry: AuditRow,
    ) -> Result<Option<StoredPrincipal>, Error> {
        self.database
            .write("add_principal", move |tx| {
                let (new, entry) = (new.clone(), entry.clone());
                Box::pin(async move {
                    let now = tx.now();
                    let values = args![
                        new.id.to_string(),
                        new.instance.to_string(),
                        new.kind.as_str(),
                        &new.name,
                        &new.description,
                        new.password_hash,
                        &new.email,
                        new.expires_at,
                        now
                    ];
                    if tx.execute(&sql::ADD_PRINCIPAL, values).await? == 0 {
                        return Ok(None);
                    }
                    for grant in &new.grants {
                        add_grant(tx, new.instance, grant).await?;
                    }
                    if let Some(secret) = &new.secret {
                        let values =
                            args![secret.id.to_string(), new.id.to_string(), secret.hash.to_vec(), now];
                        tx.execute(&sql::ADD_SECRET, values).await?;
                    }
                    add_audit(tx, entry, now).await?;
                    read(tx, new.instance, new.id).await.map(Some)
                })
            })
            .await
    }

    pub(crate) async fn principal_by_name(
        &self,
        instance: InstanceId,
        kind: PrincipalKind,
        name: &str,
    ) -> Result<Option<StoredPrincipal>, Error> {
        let known = self.known.as_deref();
        if let Some(found) = known.and_then(|known| known.get(instance, kind, name)) {
            return Ok(Some(found));
        }
        let since = known.map(Known::since);
        let values = args![instance.to_string(), kind.as_str(), name];
        let row = self.database.read_optional(&sql::PRINCIPAL_BY_NAME, values).await?;
        let found = row.as_ref().map(principal).transpose()?;
        if let (Some(known), Some(since), Some(found)) = (known, since, &found) {
            known.keep(since, found);
        }
        Ok(found)
    }

    pub(crate) async fn principal_by_id(
        &self,
        instance: InstanceId,
        id: PrincipalId,
    ) -> Result<Option<StoredPrincipal>, Error> {
        let values = args![instance.to_string(), id.to_string()];
        let row = self.database.read_optional(&sql::PRINCIPAL_BY_ID, values).await?;
        row.as_ref().map(principal).transpose()
    }

    /// Principals of a kind by name, after a name, whose names begin with `search`.
    pub(crate) async fn list_principals(
        &self,
        instance: InstanceId,
        kind: PrincipalKind,
        search: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<StoredPrincipal>, Error> {
        // No name has a tilde, and all it may have is before it. One bound from below: of two SQLite would use the first.
        let (from, end) = (search.max(after), format!("{search}~"));
        let values = args![instance.to_string(), kind.as_str(), after, i64::from(limit), from, end];
        self.database.read_all(&sql::LIST_PRINCIPALS, values).await?.iter().map(principal).collect()
    }

    /// Changes a principal. What was shut takes its tokens along.
    pub(crate) async fn change_principal(
        &self,
        instance: InstanceId,
        of: PrincipalId,
        version: Option<i64>,
        change: PrincipalChange,
        entry: AuditRow,
    ) -> Result<StoredPrincipal, Error> {
        self.database
            .write("change_principal", move |tx| {
                let (change, entry) = (change.clone(), entry.clone());
                Box::pin(async move {
                    lock(tx, instance, of, version).await?;
                    let before = read(tx, instance, of).await?;
                    let now = tx.now();
                    let disabled = change.disabled.unwrap_or(before.disabled);
                    let expires_at = change.expires_at.unwrap_or(before.expires_at);
                    let values = args![
                        of.to_string(),
                        change.description.as_ref().unwrap_or(&before.description),
                        change.email.as_ref().unwrap_or(&before.email),
                        disabled,
                        expires_at,
                        now
                    ];
                    tx.execute(&sql::SET_PRINCIPAL, values).await?;
                    let group = before.kind == PrincipalKind::Group;
                    if group && disabled != before.disabled {
                        tx.execute(&sql::BUMP_ACCESS, args![instance.to_string()]).await?;
                    }
                    let after = read(tx, instance, of).await?;
                    add_audit(tx, entry, now).await?;
                    let sooner =
                        expires_at.is_some_and(|end| before.expires_at.is_none_or(|before| end < before));
                    if (disabled && !before.disabled) || sooner {
                        if group {
                            refuse_instance(tx, instance).await?;
                        } else {
                            tx.execute(&sql::DELETE_SECRET_TOKENS, args![of.to_string()]).await?;
                            refuse_principal(tx, before.principal(), instance).await?;
                        }
                    }
                    Ok(after)
                })
            })
            .await
    }

    /// Sets a password, where `seen` still is the hash, if that is asked; what the old one opened is shut. False: it is
    /// another by now.
    pub(crate) async fn set_password(
        &self,
        instance: InstanceId,
        user: PrincipalId,
        seen: Option<String>,
        hash: String,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        self.database
            .write("set_password", move |tx| {
                let (seen, hash, entry) = (seen.clone(), hash.clone(), entry.clone());
                Box::pin(async move {
                    let locked = lock(tx, instance, user, None).await?;
                    if locked.kind != PrincipalKind::User || (seen.is_some() && locked.password_hash != seen)
                    {
                        return Ok(false);
                    }
                    let now = tx.now();
                    tx.execute(&sql::SET_PASSWORD, args![user.to_string(), hash, now]).await?;
                    tx.execute(&sql::DELETE_SECRET_TOKENS, args![user.to_string()]).await?;
                    add_audit(tx, entry, now).await?;
                    refuse_principal(tx, Principal::Known(locked.kind, user), instance).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// Deletes a principal with its grants, credentials and memberships. False: there is none.
    pub(crate) async fn delete_principal(
        &self,
        instance: InstanceId,
        of: PrincipalId,
        version: Option<i64>,
        entry: AuditRow,
    ) -> Result<(), Error> {
        self.database
            .write("delete_principal", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    let locked = lock(tx, instance, of, version).await?;
                    forget(tx, &of.to_string()).await?;
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    if locked.kind == PrincipalKind::Group {
                        tx.execute(&sql::BUMP_ACCESS, args![instance.to_string()]).await?;
                        refuse_instance(tx, instance).await
                    } else {
                        refuse_principal(tx, Principal::Known(locked.kind, of), instance).await
                    }
                })
            })
            .await
    }

    /// Puts somebody into a group. False: it was in it.
    pub(crate) async fn add_member(
        &self,
        instance: InstanceId,
        group: PrincipalId,
        member: PrincipalId,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        self.database
            .write("add_member", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    lock_pair(tx, instance, group, member).await?;
                    let counted = tx.one(&sql::COUNT_GROUPS_OF, args![member.to_string()]).await?;
                    if counted.get::<i64>(0)? >= MAX_GROUPS {
                        let message = format!("nobody can be in more than {MAX_GROUPS} groups");
                        return Err(Problem::new(ErrorCode::RequestInvalid, message).into());
                    }
                    let now = tx.now();
                    let values = args![group.to_string(), member.to_string(), now];
                    if tx.execute(&sql::ADD_MEMBER, values).await? == 0 {
                        return Ok(false);
                    }
                    tx.execute(&sql::BUMP_GRANTS, args![member.to_string()]).await?;
                    add_audit(tx, entry, now).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// Takes somebody out of a group. False: it was not in it.
    pub(crate) async fn delete_member(
        &self,
        instance: InstanceId,
        group: PrincipalId,
        member: PrincipalId,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        self.database
            .write("delete_member", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    let kind = lock_pair(tx, instance, group, member).await?;
                    if tx.execute(&sql::DELETE_MEMBER, args![group.to_string(), member.to_string()]).await?
                        == 0
                    {
                        return Ok(false);
                    }
                    tx.execute(&sql::BUMP_GRANTS, args![member.to_string()]).await?;
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    refuse_principal(tx, Principal::Known(kind, member), instance).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// Who is in a group, by id.
    pub(crate) async fn members(
        &self,
        group: PrincipalId,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Member>, Error> {
        let values = args![group.to_string(), after, i64::from(limit)];
        let rows = self.database.read_all(&sql::LIST_MEMBERS, values).await?;
        rows.iter()
            .map(|row| Ok(Member { id: id(row, 0)?, kind: kind(row, 1)?, name: row.get(2)? }))
            .collect()
    }

    /// The names of the groups that somebody is in.
    pub(crate) async fn groups_of(&self, member: PrincipalId) -> Result<Vec<String>, Error> {
        let rows = self.database.read_all(&sql::GROUPS_OF, args![member.to_string()]).await?;
        rows.iter().map(|row| Ok(row.get(0)?)).collect()
    }
}

/// Locks a group and one that is to be in it or no longer, in the order of their ids; the kind of the latter.
async fn lock_pair(
    tx: &mut Transaction,
    instance: InstanceId,
    group: PrincipalId,
    member: PrincipalId,
) -> Result<PrincipalKind, Error> {
    let mut kinds = Vec::with_capacity(2);
    for one in [group.min(member), group.max(member)] {
        kinds.push((one, lock(tx, instance, one, None).await?.kind));
    }
    let kind = |of: PrincipalId| kinds.iter().find(|(id, _)| *id == of).map(|(_, kind)| *kind);
    match (kind(group), kind(member)) {
        (Some(PrincipalKind::Group), Some(PrincipalKind::Group)) => {
            Err(Problem::new(ErrorCode::RequestInvalid, "a group can't be in a group").into())
        }
        (Some(PrincipalKind::Group), Some(kind)) => Ok(kind),
        _ => Err(absent(group).into()),
    }
}
