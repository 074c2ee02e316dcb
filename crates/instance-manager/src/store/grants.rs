//! Who has which role where.

use berth_access::GrantScope;
use berth_database::{Row, Transaction, args};
use berth_model::{GrantId, InstanceId, Principal, PrincipalId, PrincipalKind, ScopeKind};
use berth_oci::{ErrorCode, Problem};
use berth_service::Timestamp;

use super::{
    AuditRow, Store, add_audit, id,
    principals::lock,
    revocations::{refuse_instance, refuse_principal},
    statements as sql,
};
use crate::Error;

/// How many grants a principal may have.
pub(crate) const MAX_GRANTS: i64 = 10_000;

/// A grant to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewGrant {
    pub(crate) id: GrantId,
    pub(crate) principal: PrincipalId,
    /// The id of a role.
    pub(crate) role: String,
    pub(crate) scope: GrantScope,
    pub(crate) created_by: String,
}

/// What a principal has, by itself or by a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredGrant {
    pub(crate) id: GrantId,
    pub(crate) role: String,
    pub(crate) scope: GrantScope,
    pub(crate) group: Option<PrincipalId>,
}

/// A grant as it is listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GrantRow {
    pub(crate) id: GrantId,
    pub(crate) principal: PrincipalId,
    pub(crate) kind: PrincipalKind,
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) scope: GrantScope,
    pub(crate) created_by: String,
    pub(crate) created_at: Timestamp,
}

fn scope(row: &Row, index: usize) -> Result<GrantScope, Error> {
    let kind: ScopeKind =
        row.get::<String>(index)?.parse().map_err(|_| Error::Inconsistent("a grant of an unknown scope"))?;
    Ok(match kind {
        ScopeKind::Deployment => GrantScope::Deployment,
        ScopeKind::Instance => GrantScope::Instance(id(row, index + 1)?),
        ScopeKind::Namespace => GrantScope::Namespace(id(row, index + 1)?),
        ScopeKind::Repository => GrantScope::Repository(id(row, index + 1)?),
    })
}

fn listed(row: &Row) -> Result<GrantRow, Error> {
    Ok(GrantRow {
        id: id(row, 0)?,
        principal: id(row, 1)?,
        kind: row
            .get::<String>(2)?
            .parse()
            .map_err(|_| Error::Inconsistent("an unknown kind of principal"))?,
        name: row.get(3)?,
        role: row.get(4)?,
        scope: scope(row, 5)?,
        created_by: row.get(7)?,
        created_at: Timestamp(row.get(8)?),
    })
}

/// Adds a grant, unless it is there; the id under which it is.
pub(super) async fn add_grant(
    tx: &mut Transaction,
    instance: InstanceId,
    grant: &NewGrant,
) -> Result<GrantId, Error> {
    let (principal, kind, scope) =
        (grant.principal.to_string(), grant.scope.kind().as_str(), grant.scope.id());
    let values = args![
        grant.id.to_string(),
        instance.to_string(),
        &principal,
        &grant.role,
        kind,
        &scope,
        &grant.created_by,
        tx.now()
    ];
    tx.execute(&sql::ADD_GRANT, values).await?;
    let kept = tx.one(&sql::FIND_GRANT, args![principal, &grant.role, kind, scope]).await?;
    id(&kept, 0)
}

impl Store {
    /// Gives a role. A grant that is there already stays; its id is the answer.
    pub(crate) async fn create_grant(
        &self,
        instance: InstanceId,
        grant: NewGrant,
        entry: AuditRow,
    ) -> Result<GrantId, Error> {
        self.database
            .write("create_grant", move |tx| {
                let (grant, entry) = (grant.clone(), entry.clone());
                Box::pin(async move {
                    let principal = grant.principal.to_string();
                    let kind = lock(tx, instance, grant.principal, None).await?.kind;
                    let counted = tx.one(&sql::COUNT_GRANTS, args![&principal]).await?;
                    if counted.get::<i64>(0)? >= MAX_GRANTS {
                        let message = format!(
                            "nobody can have more than {MAX_GRANTS} grants; use wider ones, or groups"
                        );
                        return Err(Problem::new(ErrorCode::RequestInvalid, message).into());
                    }
                    let kept = add_grant(tx, instance, &grant).await?;
                    if kept != grant.id {
                        return Ok(kept);
                    }
                    tx.execute(&sql::BUMP_GRANTS, args![principal]).await?;
                    if kind == PrincipalKind::Group {
                        tx.execute(&sql::BUMP_ACCESS, args![instance.to_string()]).await?;
                    }
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    Ok::<_, Error>(kept)
                })
            })
            .await
    }

    /// Takes a role back, and what tokens say of it. False: it was gone.
    pub(crate) async fn delete_grant(
        &self,
        instance: InstanceId,
        grant: GrantId,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        self.database
            .write("delete_grant", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    let values = args![instance.to_string(), grant.to_string()];
                    let Some(row) = tx.optional(&sql::GRANT, values).await? else { return Ok(false) };
                    let found = listed(&row)?;
                    lock(tx, instance, found.principal, None).await?;
                    if tx.execute(&sql::DELETE_GRANT, args![grant.to_string()]).await? == 0 {
                        return Ok(false);
                    }
                    tx.execute(&sql::BUMP_GRANTS, args![found.principal.to_string()]).await?;
                    let now = tx.now();
                    if found.kind == PrincipalKind::Group {
                        tx.execute(&sql::BUMP_ACCESS, args![instance.to_string()]).await?;
                        add_audit(tx, entry, now).await?;
                        refuse_instance(tx, instance).await?;
                    } else {
                        add_audit(tx, entry, now).await?;
                        refuse_principal(tx, Principal::Known(found.kind, found.principal), instance).await?;
                    }
                    Ok::<_, Error>(true)
                })
            })
            .await
    }

    /// One grant of an instance.
    pub(crate) async fn grant(
        &self,
        instance: InstanceId,
        grant: GrantId,
    ) -> Result<Option<GrantRow>, Error> {
        let values = args![instance.to_string(), grant.to_string()];
        self.database.read_optional(&sql::GRANT, values).await?.as_ref().map(listed).transpose()
    }

    /// Grants of an instance by id, perhaps of one principal only.
    pub(crate) async fn list_grants(
        &self,
        instance: InstanceId,
        principal: Option<PrincipalId>,
        place: &str,
        after: Option<GrantId>,
        limit: u32,
    ) -> Result<Vec<GrantRow>, Error> {
        let text = |id: Option<String>| id.unwrap_or_default();
        let mut values = args![
            instance.to_string(),
            text(after.map(|id| id.to_string())),
            text(principal.map(|id| id.to_string())),
            i64::from(limit)
        ];
        if !place.is_empty() {
            values.push(place.into());
            let rows = self.database.read_all(&sql::LIST_GRANTS_AT, values).await?;
            return rows.iter().map(listed).collect();
        }
        self.database.read_all(&sql::LIST_GRANTS, values).await?.iter().map(listed).collect()
    }

    /// All that a principal has, by itself and by its groups.
    pub(crate) async fn grants_of(&self, principal: PrincipalId) -> Result<Vec<StoredGrant>, Error> {
        let rows = self.database.read_all(&sql::GRANTS_OF, args![principal.to_string()]).await?;
        rows.iter()
            .map(|row| {
                let group = match row.get::<String>(4)?.as_str() {
                    "" => None,
                    _ => Some(id(row, 4)?),
                };
                Ok(StoredGrant { id: id(row, 0)?, role: row.get(1)?, scope: scope(row, 2)?, group })
            })
            .collect()
    }

    /// Whether anybody runs the deployment.
    pub(crate) async fn has_operator(&self, instance: InstanceId) -> Result<bool, Error> {
        Ok(self.database.read_optional(&sql::ANY_OPERATOR, args![instance.to_string()]).await?.is_some())
    }
}
