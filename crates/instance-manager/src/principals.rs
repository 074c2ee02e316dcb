//! People, robots and groups: what they may be called, how they are made, changed and ended.

use std::time::Duration;

use berth_access::{Passwords, random_secret, secret_hash};
use berth_model::{GrantId, InstanceId, PrincipalId, PrincipalKind, RobotName, SecretId};
use berth_oci::{ErrorCode, Problem};
use berth_service::{Ids, SharedClock, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Error,
    actor::Actor,
    authority::{Authority, Whereabouts},
    error::{invalid, no_instance, still, wrong_credentials},
    repeats::{Made, Repeats},
    roles::Roles,
    settings::SettingsBoard,
    store::{
        Member, NewPrincipal, NewSecret, PrincipalChange, SecretToken, Store, StoredPrincipal, StoredSecret,
        TokenKind,
    },
};

/// What a robot's secret begins with, so that people and scanners of leaked secrets know it.
pub(crate) const ROBOT_SECRET: &str = "berth_robot_";

/// What a temporary token begins with.
pub(crate) const TEMPORARY_TOKEN: &str = "berth_temp_";

/// How long a temporary token is valid, in seconds.
pub(crate) const TEMPORARY_SECONDS: u64 = 3_600;

/// The most members or principals of a page.
pub(crate) const MAX_PAGE: u32 = 1_000;

/// A principal in a request.
#[derive(Clone, Debug)]
pub(crate) enum Reference {
    Id(PrincipalId),
    Name(PrincipalKind, String),
}

/// A principal to be made, in words.
#[derive(Clone, Default, Debug)]
pub(crate) struct Sketch {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) email: String,
    pub(crate) password: Option<SecretString>,
    pub(crate) expires_at: Option<Timestamp>,
    /// Roles by name, and where.
    pub(crate) grants: Vec<(String, Whereabouts)>,
}

/// A robot, fresh, with the secret that nobody will see again.
#[derive(Debug)]
pub(crate) struct FreshSecret {
    pub(crate) id: SecretId,
    pub(crate) secret: SecretString,
}

impl FreshSecret {
    /// For the record of the request.
    fn made(of: PrincipalId, told: Option<&Self>) -> Made {
        let mut made = Made::of(&of);
        if let Some(told) = told {
            made.secret_id = told.id.to_string();
            told.secret.expose_secret().clone_into(&mut made.secret);
        }
        made
    }

    /// What the record says; none: there was no secret.
    fn again(made: Made) -> Option<Self> {
        Some(Self { id: made.secret_id.parse().ok()?, secret: SecretString::from(made.secret) })
    }
}

/// People, robots and groups.
#[derive(Clone, Debug)]
pub(crate) struct Principals {
    pub(crate) repeats: Repeats,
    pub(crate) store: Store,
    pub(crate) settings: SettingsBoard,
    pub(crate) passwords: Passwords,
    pub(crate) authority: Authority,
    pub(crate) roles: Roles,
    pub(crate) clock: SharedClock,
    pub(crate) ids: Ids,
}

/// What Basic credentials can carry, people can tell apart and shells leave alone.
pub(crate) fn check_name(kind: PrincipalKind, name: &str) -> Result<(), Problem> {
    let letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let more: &[u8] = if kind == PrincipalKind::User { b"._-@+" } else { b"._-" };
    let fits = (1..=128).contains(&name.len())
        && name.bytes().all(|c| letter(c) || more.contains(&c))
        && name.bytes().next().is_some_and(letter);
    if !fits {
        let more = if kind == PrincipalKind::User { ". _ - @ +" } else { ". _ -" };
        return Err(invalid(format!(
            "the name of a {kind} has 1 to 128 lower-case letters, digits and {more}, and starts with a letter or digit"
        )));
    }
    if RobotName::of(name).is_some() {
        return Err(invalid(format!("names that begin with {} are those of robots", RobotName::PREFIX)));
    }
    Ok(())
}

pub(crate) fn check_text(field: &str, text: &str, most: usize) -> Result<(), Problem> {
    if text.len() > most || text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(invalid(format!("the {field} has at most {most} bytes, and no control characters")));
    }
    Ok(())
}

/// Something before and after one @, and nothing that is not seen; empty: there is none.
pub(crate) fn check_email(text: &str) -> Result<(), Problem> {
    let parts: Vec<&str> = text.split('@').collect();
    let is_one = matches!(parts.as_slice(), [before, after] if !before.is_empty() && !after.is_empty());
    let is_seen = !text.chars().any(|c| c.is_control() || c.is_whitespace());
    if text.is_empty() || (is_one && is_seen && text.len() <= 254) {
        return Ok(());
    }
    Err(invalid("an e-mail address has the form name@host and at most 254 bytes"))
}

fn check_password(password: &SecretString) -> Result<(), Problem> {
    if (8..=1024).contains(&password.expose_secret().len()) {
        return Ok(());
    }
    Err(invalid("a password has 8 to 1024 bytes"))
}

fn taken(kind: PrincipalKind, name: &str) -> Problem {
    Problem::new(ErrorCode::AlreadyExists, format!("there is a {kind} named {name} already"))
}

/// A secret with a prefix, and the hash under which it is kept.
pub(crate) fn fresh(prefix: &str) -> Result<(SecretString, [u8; 32]), Error> {
    let secret = format!("{prefix}{}", random_secret()?.expose_secret());
    let hash = secret_hash(&secret);
    Ok((SecretString::from(secret), hash))
}

impl Principals {
    fn known(&self, instance: InstanceId) -> Result<(), Problem> {
        if self.settings.current().has(instance) { Ok(()) } else { Err(no_instance()) }
    }

    /// The principal that is meant, which is of one of these kinds.
    pub(crate) async fn find(
        &self,
        instance: InstanceId,
        reference: &Reference,
        kinds: &[PrincipalKind],
    ) -> Result<StoredPrincipal, Error> {
        let (found, called) = match reference {
            Reference::Id(id) => {
                (self.store.principal_by_id(instance, *id).await?, format!("principal {id}"))
            }
            Reference::Name(kind, name) => {
                (self.store.principal_by_name(instance, *kind, name).await?, format!("{kind} {name}"))
            }
        };
        let found = found.filter(|found| kinds.contains(&found.kind));
        Ok(found.ok_or_else(|| Problem::new(ErrorCode::NotFound, format!("there is no {called}")))?)
    }

    /// Makes a principal. A robot gets its first secret, which nobody is told again.
    pub(crate) async fn create(
        &self,
        actor: &Actor,
        instance: InstanceId,
        kind: PrincipalKind,
        sketch: Sketch,
    ) -> Result<(StoredPrincipal, Option<FreshSecret>), Error> {
        match self.repeats.once(actor, Box::pin(self.make(actor, instance, kind, sketch))).await? {
            Ok(made) => Ok(made),
            Err(made) => {
                let id = made.id.parse().map_err(|_| Error::Inconsistent("a record without an id"))?;
                let found = still(self.find(instance, &Reference::Id(id), &[kind]).await)?;
                Ok((found, FreshSecret::again(made)))
            }
        }
    }

    async fn make(
        &self,
        actor: &Actor,
        instance: InstanceId,
        kind: PrincipalKind,
        sketch: Sketch,
    ) -> Result<(StoredPrincipal, Option<FreshSecret>), Error> {
        self.known(instance)?;
        check_name(kind, &sketch.name)?;
        check_text("description", &sketch.description, 1_000)?;
        check_email(&sketch.email)?;
        if sketch.expires_at.is_some_and(|end| end <= self.clock.now()) {
            return Err(invalid("it would have expired already").into());
        }
        let id = PrincipalId::new(self.ids.ulid());
        let mut grants = Vec::with_capacity(sketch.grants.len());
        for (role, at) in &sketch.grants {
            let grant_id = GrantId::new(self.ids.ulid());
            grants.push(self.roles.wish(actor, instance, id, grant_id, role, at).await?);
        }
        let password_hash = match &sketch.password {
            Some(password) => {
                check_password(password)?;
                Some(self.passwords.hash(password).await?)
            }
            None => None,
        };
        let mut secret = None;
        let mut told = None;
        if kind == PrincipalKind::Robot {
            let (text, hash) = fresh(ROBOT_SECRET)?;
            let id = SecretId::new(self.ids.ulid());
            secret = Some(NewSecret { id, hash });
            told = Some(FreshSecret { id, secret: text });
        }
        let entry = actor.entry(&self.ids, instance, &format!("{kind}.created"), format!("{kind}:{id}"));
        let entry = entry.called(&sketch.name);
        let entry = self.repeats.record(actor, entry, &FreshSecret::made(id, told.as_ref()))?;
        let name = sketch.name.clone();
        let new = NewPrincipal {
            id,
            instance,
            kind,
            name: sketch.name,
            description: sketch.description,
            password_hash,
            email: sketch.email,
            expires_at: sketch.expires_at,
            grants,
            secret,
        };
        let made = self.store.add_principal(new, entry).await?.ok_or_else(|| taken(kind, &name))?;
        Ok((made, told))
    }

    /// Sets a password, and shuts what the old one opened.
    pub(crate) async fn set_password(
        &self,
        actor: &Actor,
        instance: InstanceId,
        user: &Reference,
        password: SecretString,
        current: Option<SecretString>,
    ) -> Result<(), Error> {
        check_password(&password)?;
        let user = self.find(instance, user, &[PrincipalKind::User]).await?;
        let own = actor.principal == Some((instance, user.principal()));
        if own && current.is_none() {
            return Err(invalid("say your current password as well").into());
        }
        if !own {
            self.authority.check_covers_principal(actor, &user).await?;
        }
        let mut seen = None;
        if let Some(current) = current {
            let right = self.passwords.verify(&user.name, &current, user.password_hash.as_deref()).await?;
            if !right {
                return Err(wrong_credentials().into());
            }
            seen.clone_from(&user.password_hash);
        }
        let hash = self.passwords.hash(&password).await?;
        let entry = actor.entry(&self.ids, instance, "user.password_set", user.principal().to_string());
        let entry = entry.called(&user.name);
        if !self.store.set_password(instance, user.id, seen, hash, entry).await? {
            return Err(
                Problem::new(ErrorCode::Conflict, "the password was changed by another meanwhile").into()
            );
        }
        self.settings.refresh().await
    }

    /// Another secret for a robot.
    pub(crate) async fn add_secret(
        &self,
        actor: &Actor,
        instance: InstanceId,
        robot: &Reference,
    ) -> Result<FreshSecret, Error> {
        match self.repeats.once(actor, Box::pin(self.make_secret(actor, instance, robot))).await? {
            Ok(made) => Ok(made),
            Err(made) => {
                Ok(FreshSecret::again(made).ok_or(Error::Inconsistent("a record without a secret"))?)
            }
        }
    }

    async fn make_secret(
        &self,
        actor: &Actor,
        instance: InstanceId,
        robot: &Reference,
    ) -> Result<FreshSecret, Error> {
        let robot = self.find(instance, robot, &[PrincipalKind::Robot]).await?;
        self.authority.check_covers_principal(actor, &robot).await?;
        let (secret, hash) = fresh(ROBOT_SECRET)?;
        let id = SecretId::new(self.ids.ulid());
        let entry = actor.entry(&self.ids, instance, "robot.secret_added", robot.principal().to_string());
        let entry = entry.called(&robot.name);
        let told = FreshSecret { id, secret };
        let entry = self.repeats.record(actor, entry, &FreshSecret::made(robot.id, Some(&told)))?;
        self.store.add_robot_secret(instance, robot.id, NewSecret { id, hash }, entry).await?;
        Ok(told)
    }

    /// Takes a secret away from a robot; tokens that came of it end.
    pub(crate) async fn delete_secret(
        &self,
        actor: &Actor,
        instance: InstanceId,
        robot: &Reference,
        secret: SecretId,
    ) -> Result<(), Error> {
        let robot = self.find(instance, robot, &[PrincipalKind::Robot]).await?;
        self.authority.check_may_end(actor, &robot).await?;
        let entry = actor.entry(&self.ids, instance, "robot.secret_deleted", robot.principal().to_string());
        let entry = entry.called(&robot.name);
        self.store.delete_robot_secret(instance, robot.id, secret, entry).await?;
        self.settings.refresh().await
    }

    /// The secrets of a robot, which nobody can read any more.
    pub(crate) async fn secrets(
        &self,
        instance: InstanceId,
        robot: &Reference,
    ) -> Result<Vec<StoredSecret>, Error> {
        let robot = self.find(instance, robot, &[PrincipalKind::Robot]).await?;
        self.store.robot_secrets(robot.id).await
    }

    /// Puts somebody into a group, or takes it out.
    pub(crate) async fn set_member(
        &self,
        actor: &Actor,
        instance: InstanceId,
        group: &Reference,
        member: &Reference,
        inside: bool,
    ) -> Result<(), Error> {
        let group = self.find(instance, group, &[PrincipalKind::Group]).await?;
        let member = self.find(instance, member, &[PrincipalKind::User, PrincipalKind::Robot]).await?;
        let kind = if inside { "group.member_added" } else { "group.member_deleted" };
        let subject = format!("{} {}", group.principal(), member.principal());
        let entry = actor.entry(&self.ids, instance, kind, subject);
        let entry = entry.called(format!("{} {}", group.name, member.name));
        if inside {
            self.authority.check_covers_principal(actor, &group).await?;
            self.store.add_member(instance, group.id, member.id, entry).await?;
            return Ok(());
        }
        self.authority.check_may_end(actor, &group).await?;
        if !self.store.delete_member(instance, group.id, member.id, entry).await? {
            let message = format!("{} is not in the group {}", member.name, group.name);
            return Err(Problem::new(ErrorCode::NotFound, message).into());
        }
        self.settings.refresh().await
    }

    /// Who is in a group, by id.
    pub(crate) async fn members(
        &self,
        instance: InstanceId,
        group: &Reference,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Member>, Error> {
        let group = self.find(instance, group, &[PrincipalKind::Group]).await?;
        self.store.members(group.id, after, limit).await
    }

    /// Changes what is said of a principal, and whether and how long it may act.
    pub(crate) async fn change(
        &self,
        actor: &Actor,
        instance: InstanceId,
        reference: &Reference,
        version: Option<i64>,
        change: PrincipalChange,
    ) -> Result<StoredPrincipal, Error> {
        check_text("description", change.description.as_deref().unwrap_or_default(), 1_000)?;
        check_email(change.email.as_deref().unwrap_or_default())?;
        let before = self.find(instance, reference, &PrincipalKind::ALL).await?;
        if change.expires_at.is_some() && before.kind != PrincipalKind::Robot {
            return Err(invalid("only robots expire; disable others instead").into());
        }
        if change.email.is_some() && before.kind != PrincipalKind::User {
            return Err(invalid("only people have an e-mail address").into());
        }
        // Whoever lets it act again, or longer, gives it what it may do.
        let wakes = change.disabled == Some(false) && before.disabled;
        if wakes || change.expires_at.is_some() {
            self.authority.check_covers_principal(actor, &before).await?;
        } else if change.disabled == Some(true) && !before.disabled {
            self.authority.check_may_end(actor, &before).await?;
        }
        let subject = before.principal().to_string();
        let entry = actor.entry(&self.ids, instance, &format!("{}.updated", before.kind), subject);
        let entry = entry.called(&before.name);
        let after = self.store.change_principal(instance, before.id, version, change, entry).await?;
        self.settings.refresh().await?;
        Ok(after)
    }

    /// Ends a principal, its grants and its credentials.
    pub(crate) async fn delete(
        &self,
        actor: &Actor,
        instance: InstanceId,
        reference: &Reference,
        version: Option<i64>,
    ) -> Result<(), Error> {
        let found = self.find(instance, reference, &PrincipalKind::ALL).await?;
        self.authority.check_may_end(actor, &found).await?;
        let subject = found.principal().to_string();
        let entry = actor.entry(&self.ids, instance, &format!("{}.deleted", found.kind), subject);
        let entry = entry.called(&found.name);
        self.store.delete_principal(instance, found.id, version, entry).await?;
        self.settings.refresh().await
    }

    /// A secret that logs the actor in for an hour, with exactly its rights.
    pub(crate) async fn temporary_token(
        &self,
        actor: &Actor,
    ) -> Result<(StoredPrincipal, SecretString, Timestamp), Error> {
        match self.repeats.once(actor, Box::pin(self.lend(actor))).await? {
            Ok(lent) => Ok(lent),
            Err(made) => {
                let id = made.id.parse().map_err(|_| Error::Inconsistent("a record without an id"))?;
                let instance = actor.principal.map(|(instance, _)| instance).ok_or_else(wrong_credentials)?;
                let kinds = [PrincipalKind::User, PrincipalKind::Robot];
                let principal = self.find(instance, &Reference::Id(id), &kinds).await?;
                Ok((principal, SecretString::from(made.secret), Timestamp(made.ends)))
            }
        }
    }

    async fn lend(&self, actor: &Actor) -> Result<(StoredPrincipal, SecretString, Timestamp), Error> {
        let Some((instance, berth_model::Principal::Known(_, id))) = actor.principal else {
            return Err(invalid("there is nobody to have a token").into());
        };
        let until = actor.lends_until()?;
        let principal =
            self.find(instance, &Reference::Id(id), &[PrincipalKind::User, PrincipalKind::Robot]).await?;
        let now = self.clock.now();
        if !principal.is_live(now) {
            return Err(wrong_credentials().into());
        }
        let (token, hash) = fresh(TEMPORARY_TOKEN)?;
        let hour = now.plus(Duration::from_secs(TEMPORARY_SECONDS));
        let ends = [Some(hour), principal.expires_at, until];
        let expires_at = ends.into_iter().flatten().min().unwrap_or(hour);
        let kept = SecretToken {
            hash,
            kind: TokenKind::Temporary,
            instance,
            principal: id,
            secret: actor.secret,
            provider: actor.provider,
            trust: None,
            created_at: now,
            expires_at,
        };
        let subject = principal.principal().to_string();
        let entry = actor.entry(&self.ids, instance, "temporary_token.created", subject);
        let entry = entry.called(&principal.name);
        let secret = token.expose_secret().to_owned();
        let made = Made { secret, ends: expires_at.0, ..Made::of(&id) };
        let entry = self.repeats.record(actor, entry, &made)?;
        self.store.keep_token(kept, Some(entry)).await?;
        Ok((principal, token, expires_at))
    }
}
