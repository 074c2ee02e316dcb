//! The end of a login by an identity provider: who it is, in which groups, and with which token, in one unit.

use berth_database::{Transaction, args};
use berth_model::{PrincipalId, ProviderId};
use berth_oci::{ErrorCode, Problem};
use berth_service::Timestamp;

use super::{
    AuditRow, NewPrincipal, SecretToken, Store, add_audit, identity_statements as identity,
    principals::{MAX_GROUPS, lock},
    revocations::refuse_principal,
    secrets::add_secret_token,
    statements as sql,
};
use crate::Error;

/// A login that has come back.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) provider: ProviderId,
    /// The hash of its state, and when the state expires by itself.
    pub(crate) state: ([u8; 32], Timestamp),
    pub(crate) subject: String,
    /// Who is made, where nobody is linked to the subject.
    pub(crate) new: Option<NewPrincipal>,
    /// What it gets; names who it is.
    pub(crate) token: SecretToken,
    /// Every group that the provider speaks of, and whether it is in it.
    pub(crate) groups: Vec<(PrincipalId, bool)>,
    /// What the audit hears: somebody was made, was put into other groups, has logged in.
    pub(crate) made: AuditRow,
    pub(crate) regrouped: AuditRow,
    pub(crate) entered: AuditRow,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LoginOutcome {
    Done,
    /// It has come back before.
    Repeated,
    /// Somebody else has the name.
    NameTaken,
    /// Somebody else was linked meanwhile, or the provider is gone or lets nobody in.
    Overtaken,
}

impl Store {
    /// Whether the login with this state has come back before.
    pub(crate) async fn login_is_finished(&self, state: [u8; 32]) -> Result<bool, Error> {
        let row = self.database.read_optional(&identity::LOGIN_IS_FINISHED, args![state.to_vec()]).await?;
        Ok(row.is_some())
    }

    pub(crate) async fn finish_login(&self, login: Login) -> Result<LoginOutcome, Error> {
        self.database
            .write("finish_login", move |tx| {
                let login = login.clone();
                Box::pin(async move { finish(tx, login).await })
            })
            .await
    }
}

async fn finish(tx: &mut Transaction, login: Login) -> Result<LoginOutcome, Error> {
    let now = tx.now();
    tx.execute(&identity::PRUNE_FINISHED_LOGINS, args![now]).await?;
    let state = args![login.state.0.to_vec(), login.state.1];
    if tx.execute(&identity::FINISH_LOGIN, state).await? == 0 {
        return Ok(LoginOutcome::Repeated);
    }
    let (instance, who) = (login.token.instance, login.token.principal);
    let (provider, subject) = (login.provider.to_string(), &login.subject);
    if tx.optional(&identity::LETS_IN, args![&provider]).await?.is_none() {
        return Ok(LoginOutcome::Overtaken);
    }
    let linked = tx.optional(&identity::LINKED, args![&provider, subject, instance.to_string()]).await?;
    let linked = linked.map(|row| row.get::<String>(0)).transpose()?;
    match (&login.new, linked) {
        (None, Some(linked)) if linked == who.to_string() => {}
        (Some(new), None) => {
            let values = args![
                new.id.to_string(),
                instance.to_string(),
                new.kind.as_str(),
                &new.name,
                &new.description,
                None::<String>,
                &new.email,
                None::<i64>,
                now
            ];
            if tx.execute(&sql::ADD_PRINCIPAL, values).await? == 0 {
                return Ok(LoginOutcome::NameTaken);
            }
            tx.execute(&identity::ADD_LINK, args![&provider, subject, new.id.to_string(), now]).await?;
            add_audit(tx, login.made, now).await?;
        }
        _ => return Ok(LoginOutcome::Overtaken),
    }
    // The locks of principals in the order of their ids.
    let mut locks: Vec<PrincipalId> = login.groups.iter().map(|(group, _)| *group).collect();
    locks.push(who);
    locks.sort_unstable();
    locks.dedup();
    let mut kind = None;
    for one in locks {
        let locked = lock(tx, instance, one, None).await?;
        if one == who {
            kind = Some(locked.kind);
        }
    }
    let kind = kind.ok_or(Error::Inconsistent("a login of nobody"))?;
    let (mut changed, mut left) = (false, false);
    for (group, inside) in login.groups {
        let pair = args![group.to_string(), who.to_string()];
        let is_inside = tx.optional(&identity::IN_GROUP, pair.clone()).await?.is_some();
        if inside == is_inside {
            continue;
        }
        changed = true;
        if inside {
            tx.execute(&sql::ADD_MEMBER, args![group.to_string(), who.to_string(), now]).await?;
        } else {
            left = true;
            tx.execute(&sql::DELETE_MEMBER, pair).await?;
        }
    }
    if changed {
        let counted = tx.one(&sql::COUNT_GROUPS_OF, args![who.to_string()]).await?;
        if counted.get::<i64>(0)? > MAX_GROUPS {
            let message = format!("nobody can be in more than {MAX_GROUPS} groups");
            return Err(Problem::new(ErrorCode::RequestInvalid, message).into());
        }
        tx.execute(&sql::BUMP_GRANTS, args![who.to_string()]).await?;
        add_audit(tx, login.regrouped, now).await?;
    }
    add_secret_token(tx, &login.token).await?;
    add_audit(tx, login.entered, now).await?;
    if left {
        refuse_principal(tx, berth_model::Principal::Known(kind, who), instance).await?;
    }
    Ok(LoginOutcome::Done)
}
