//! Trusts: which workloads of an identity provider are which robot.

use std::collections::BTreeMap;

use berth_database::{Row, args};
use berth_model::{InstanceId, Principal, PrincipalId, PrincipalKind, ProviderId, TrustId};
use berth_oci::{ErrorCode, Problem};
use berth_service::Timestamp;

use super::{
    AuditRow, Store, add_audit, id,
    identity::{json, lock_provider},
    identity_statements as identity,
    principals::{absent, lock},
    revocations::refuse_principal,
};
use crate::Error;

/// The most trusts of a provider.
const MAX_TRUSTS: i64 = 1_000;

/// The claims that have to fit, each with its text or pattern.
pub(crate) type Conditions = BTreeMap<String, String>;

/// A trust to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewTrust {
    pub(crate) id: TrustId,
    pub(crate) instance: InstanceId,
    pub(crate) provider: ProviderId,
    pub(crate) robot: PrincipalId,
    pub(crate) audience: String,
    pub(crate) conditions: Conditions,
    pub(crate) created_by: String,
}

/// A trust, with the names of its provider and its robot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredTrust {
    pub(crate) id: TrustId,
    pub(crate) provider: String,
    pub(crate) robot: PrincipalId,
    pub(crate) robot_name: String,
    pub(crate) audience: String,
    pub(crate) conditions: Conditions,
    pub(crate) created_by: String,
    pub(crate) created_at: Timestamp,
}

fn trust(row: &Row) -> Result<StoredTrust, Error> {
    Ok(StoredTrust {
        id: id(row, 0)?,
        provider: row.get(2)?,
        robot: id(row, 3)?,
        robot_name: row.get(4)?,
        audience: row.get(5)?,
        conditions: json(row, 6)?,
        created_by: row.get(7)?,
        created_at: Timestamp(row.get(8)?),
    })
}

impl Store {
    /// Lets workloads be a robot.
    pub(crate) async fn add_trust(&self, new: NewTrust, entry: AuditRow) -> Result<Timestamp, Error> {
        self.database
            .write("add_trust", move |tx| {
                let (new, entry) = (new.clone(), entry.clone());
                Box::pin(async move {
                    lock_provider(tx, new.instance, new.provider, None).await?;
                    if lock(tx, new.instance, new.robot, None).await?.kind != PrincipalKind::Robot {
                        return Err(absent(new.robot).into());
                    }
                    let counted = tx.one(&identity::COUNT_TRUSTS, args![new.provider.to_string()]).await?;
                    if counted.get::<i64>(0)? >= MAX_TRUSTS {
                        let message = format!("an identity provider has at most {MAX_TRUSTS} trusts");
                        return Err(Problem::new(ErrorCode::RequestInvalid, message).into());
                    }
                    let now = tx.now();
                    let conditions = serde_json::json!(new.conditions).to_string();
                    let values = args![
                        new.id.to_string(),
                        new.instance.to_string(),
                        new.provider.to_string(),
                        new.robot.to_string(),
                        new.audience,
                        conditions,
                        new.created_by,
                        now
                    ];
                    tx.execute(&identity::ADD_TRUST, values).await?;
                    add_audit(tx, entry, now).await?;
                    Ok::<_, Error>(now)
                })
            })
            .await
    }

    /// The trusts of an instance after an id.
    pub(crate) async fn trusts(
        &self,
        instance: InstanceId,
        after: &str,
        limit: u32,
    ) -> Result<Vec<StoredTrust>, Error> {
        let values = args![instance.to_string(), after, i64::from(limit)];
        self.database.read_all(&identity::LIST_TRUSTS, values).await?.iter().map(trust).collect()
    }

    /// The trusts of a provider, oldest first.
    pub(crate) async fn trusts_of(&self, of: ProviderId) -> Result<Vec<StoredTrust>, Error> {
        let rows = self.database.read_all(&identity::TRUSTS_OF_PROVIDER, args![of.to_string()]).await?;
        rows.iter().map(trust).collect()
    }

    /// Deletes a trust, and ends the tokens of its robot that may have come of it. False: there is none.
    pub(crate) async fn delete_trust(
        &self,
        instance: InstanceId,
        of: TrustId,
        entry: AuditRow,
    ) -> Result<bool, Error> {
        self.database
            .write("delete_trust", move |tx| {
                let entry = entry.clone();
                Box::pin(async move {
                    let values = args![instance.to_string(), of.to_string()];
                    let Some(row) = tx.optional(&identity::TRUST_ROBOT, values).await? else {
                        return Ok(false);
                    };
                    let (robot, provider): (PrincipalId, ProviderId) = (id(&row, 0)?, id(&row, 1)?);
                    lock_provider(tx, instance, provider, None).await?;
                    if tx.execute(&identity::DELETE_TRUST, args![of.to_string()]).await? == 0 {
                        return Ok(false);
                    }
                    let values = args![robot.to_string(), provider.to_string()];
                    tx.execute(&identity::DELETE_TOKENS_BY_PROVIDER, values).await?;
                    let now = tx.now();
                    add_audit(tx, entry, now).await?;
                    refuse_principal(tx, Principal::Known(PrincipalKind::Robot, robot), instance).await?;
                    Ok::<_, Error>(true)
                })
            })
            .await
    }
}
