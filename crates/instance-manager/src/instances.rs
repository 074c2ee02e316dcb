//! Instances: made, changed, stopped and ended. What an edition allows is wished for first, and in force once metadata,
//! which knows what is used, has agreed.

use std::sync::Arc;

use async_trait::async_trait;
use berth_model::{
    AddOns, BlobDelivery, Edition, Editions, InstanceId, InstanceState, Regions, is_instance_name,
};
use berth_oci::{ErrorCode, Problem};
use berth_proto::{
    from_status,
    metadata::{
        GetUsageRequest, GetUsageResponse, RemoveInstanceRequest, SetLimitsRequest,
        limits_client::LimitsClient,
    },
};
use berth_service::{Channel, Ids};

use crate::{
    Error,
    actor::Actor,
    error::{invalid, no_instance, still},
    repeats::{Made, Repeats},
    settings::SettingsBoard,
    store::{AuditRow, Heads, InstanceChange, NewInstance, Store, Tenant},
};

/// What metadata is told and asked about an instance.
#[async_trait]
pub(crate) trait Limiter: std::fmt::Debug + Send + Sync {
    /// Puts limits into force; how many namespaces there are.
    async fn set_limits(
        &self,
        instance: InstanceId,
        revision: i64,
        edition: &Edition,
        add_ons: &AddOns,
    ) -> Result<u64, Problem>;

    /// Ends an instance; CONFLICT while it has content and nobody insists. How much of it is left.
    async fn remove(&self, instance: InstanceId, force: bool) -> Result<Left, Problem>;

    /// What an instance has.
    async fn usage(&self, instance: InstanceId) -> Result<GetUsageResponse, Problem>;
}

/// What metadata has left of an instance that ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Left {
    Nothing,
    /// So many repositories, blobs and objects.
    Steps(u64),
    /// More than are counted.
    Many,
}

/// Asks metadata.
#[derive(Clone, Debug)]
pub(crate) struct MetadataLimiter(pub(crate) LimitsClient<Channel>);

#[async_trait]
impl Limiter for MetadataLimiter {
    async fn set_limits(
        &self,
        instance: InstanceId,
        revision: i64,
        edition: &Edition,
        add_ons: &AddOns,
    ) -> Result<u64, Problem> {
        let limits = edition.limits_with(add_ons);
        let request = SetLimitsRequest {
            instance_id: instance.to_string(),
            revision,
            max_namespaces: limits.image_namespaces,
            max_repositories: limits.image_repositories,
            max_depth: edition.repository_depth,
        };
        let answer = self.0.clone().set_limits(request).await.map_err(|status| from_status(&status))?;
        Ok(answer.into_inner().namespaces)
    }

    async fn remove(&self, instance: InstanceId, force: bool) -> Result<Left, Problem> {
        let request = RemoveInstanceRequest { instance_id: instance.to_string(), force };
        let answer = self.0.clone().remove_instance(request).await.map_err(|status| from_status(&status))?;
        let answer = answer.into_inner();
        Ok(match (answer.done, answer.left) {
            (true, _) => Left::Nothing,
            (false, Some(left)) => Left::Steps(left),
            (false, None) => Left::Many,
        })
    }

    async fn usage(&self, instance: InstanceId) -> Result<GetUsageResponse, Problem> {
        let request = GetUsageRequest { instance_id: instance.to_string() };
        let answer = self.0.clone().get_usage(request).await.map_err(|status| from_status(&status))?;
        Ok(answer.into_inner())
    }
}

/// An instance as it is asked for.
#[derive(Clone, Default, Debug)]
pub(crate) struct InstanceWish {
    pub(crate) name: String,
    pub(crate) edition: String,
    pub(crate) add_ons: AddOns,
    pub(crate) region: String,
    pub(crate) description: String,
    pub(crate) create_on_push: bool,
}

/// Instances and their settings.
#[derive(Clone, Debug)]
pub(crate) struct Instances {
    pub(crate) repeats: Repeats,
    pub(crate) store: Store,
    pub(crate) settings: SettingsBoard,
    pub(crate) limiter: Arc<dyn Limiter>,
    pub(crate) editions: Arc<Editions>,
    pub(crate) regions: Arc<Regions>,
    pub(crate) ids: Ids,
}

fn check_description(text: &str) -> Result<(), Problem> {
    if text.len() > 1_000 || text.chars().any(char::is_control) {
        return Err(invalid("the description has at most 1000 bytes, and no control characters"));
    }
    Ok(())
}

impl Instances {
    fn edition(&self, name: &str) -> Result<&Edition, Problem> {
        self.editions.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.editions.all().map(|edition| edition.name.as_str()).collect();
            invalid(format!("no edition named {name:?}; there are {}", known.join(", ")))
        })
    }

    /// Makes an instance. It runs when this returns, unless metadata is away: then a worker sees to it.
    pub(crate) async fn create(&self, actor: &Actor, wish: InstanceWish) -> Result<Tenant, Error> {
        match self.repeats.once(actor, Box::pin(self.make(actor, wish))).await? {
            Ok(made) => Ok(made),
            Err(made) => {
                let id = made.id.parse().map_err(|_| Error::Inconsistent("a record without an id"))?;
                still(self.get(id).await)
            }
        }
    }

    async fn make(&self, actor: &Actor, wish: InstanceWish) -> Result<Tenant, Error> {
        if !is_instance_name(&wish.name) {
            let message =
                "the name of an instance has 3 to 30 lower-case letters, digits, and hyphens inside";
            return Err(invalid(message).into());
        }
        self.edition(&wish.edition)?;
        wish.add_ons.check().map_err(invalid)?;
        check_description(&wish.description)?;
        if self.regions.get(&wish.region).is_none() {
            return Err(invalid(format!("no region named {:?}; see the list of regions", wish.region)).into());
        }
        let id = InstanceId::new(self.ids.ulid());
        let entry =
            actor.entry(&self.ids, id, "instance.created", format!("instance:{id}")).called(&wish.name);
        let entry = self.repeats.record(actor, entry, &Made::of(&id))?;
        let InstanceWish { name, edition, add_ons, region, description, create_on_push } = wish;
        let taken =
            Problem::new(ErrorCode::AlreadyExists, format!("there is an instance named {name} already"));
        let new = NewInstance { id, name, edition, add_ons, region, description, create_on_push };
        let made = self.store.add_instance(new, entry).await?.ok_or(taken)?;
        self.settings.refresh().await?;
        match self.tend(id).await {
            Ok(after) => Ok(after.unwrap_or(made)),
            Err(Error::Problem(problem)) if problem.code == ErrorCode::Unavailable => Ok(made),
            Err(error) => Err(error),
        }
    }

    /// An instance by its id; one that was deleted is not there.
    pub(crate) async fn get(&self, instance: InstanceId) -> Result<Tenant, Error> {
        let found = self.store.tenant(instance).await?;
        Ok(found.filter(|found| found.state != InstanceState::Deleted).ok_or_else(no_instance)?)
    }

    /// An instance by its name.
    pub(crate) async fn named(&self, name: &str) -> Result<Tenant, Error> {
        let id = self.store.instance_named(name).await?.ok_or_else(no_instance)?;
        self.get(id).await
    }

    pub(crate) async fn change(
        &self,
        actor: &Actor,
        instance: InstanceId,
        version: Option<i64>,
        change: InstanceChange,
    ) -> Result<Tenant, Error> {
        check_description(change.description.as_deref().unwrap_or_default())?;
        let entry = actor.entry(&self.ids, instance, "instance.updated", format!("instance:{instance}"));
        let after = self.store.change_instance(instance, version, change, entry).await?;
        self.settings.refresh().await?;
        Ok(after)
    }

    /// Gives an instance another edition or add-ons. What is used has to fit; if it does not, nothing changes and the
    /// problem says what stands in the way. While metadata is away the wish stays, and the answer shows it.
    pub(crate) async fn set_edition(
        &self,
        actor: &Actor,
        instance: InstanceId,
        version: Option<i64>,
        edition: &str,
        add_ons: Option<AddOns>,
    ) -> Result<Tenant, Error> {
        self.edition(edition)?;
        add_ons.unwrap_or_default().check().map_err(invalid)?;
        let entry = actor.entry(
            &self.ids,
            instance,
            "instance.edition_wished",
            format!("instance:{instance} {edition}"),
        );
        let wished = self.store.wish_edition(instance, version, edition, add_ons, entry).await?;
        match self.tend(instance).await {
            Ok(after) => Ok(after.unwrap_or(wished)),
            Err(Error::Problem(problem)) if problem.code == ErrorCode::Unavailable => Ok(wished),
            Err(error) => Err(error),
        }
    }

    /// Ends an instance for good, with all that is in it. Refused while it has repositories, unless `force`; while metadata
    /// is away the wish stays, and the answer shows it. Bytes, people and keys go by and by, as the task says.
    pub(crate) async fn delete(
        &self,
        actor: &Actor,
        instance: InstanceId,
        version: Option<i64>,
        force: bool,
    ) -> Result<(Tenant, String), Error> {
        let before = self.get(instance).await?;
        if before.default {
            return Err(invalid("the default instance can't be deleted").into());
        }
        let subject = format!("instance:{instance} {}", before.name);
        let entry = actor.entry(&self.ids, instance, "instance.deletion_requested", subject);
        let task = self.ids.ulid().to_string();
        let (wished, task) = self.store.wish_deletion(instance, version, (force, task), entry).await?;
        match self.tend(instance).await {
            Ok(after) => Ok((after.unwrap_or(wished), task)),
            Err(Error::Problem(problem)) if problem.code == ErrorCode::Unavailable => Ok((wished, task)),
            Err(error) => Err(error),
        }
    }

    /// What an instance has, of content and of principals.
    pub(crate) async fn usage(&self, instance: InstanceId) -> Result<(GetUsageResponse, Heads), Error> {
        self.get(instance).await?;
        let content = self.limiter.usage(instance).await?;
        Ok((content, self.store.count_principals(instance).await?))
    }

    /// What the audit says of what the instance comes to by itself.
    fn comes_to(&self, tenant: &Tenant, kind: &str) -> AuditRow {
        let subject = format!("instance:{} {}", tenant.id, tenant.name);
        Actor::itself().entry(&self.ids, tenant.id, kind, subject).called(&tenant.name)
    }

    async fn settle_wish(&self, tenant: &Tenant, granted: bool) -> Result<Option<Tenant>, Error> {
        let (kind, result) = if granted {
            ("instance.edition_changed", "done")
        } else {
            ("instance.edition_refused", "refused")
        };
        let mut entry = self.comes_to(tenant, kind);
        result.clone_into(&mut entry.result);
        if let Some((edition, _)) = &tenant.wish {
            entry.subject = format!("instance:{} {edition}", tenant.id);
        }
        self.store.settle_wish(tenant.id, tenant.limits_revision, granted, entry).await
    }

    /// Asks metadata whether the instance may end, and settles the wish by its answer.
    async fn tend_wish_for_end(&self, tenant: &Tenant, force: bool) -> Result<(), Error> {
        match self.remove(tenant, force).await {
            Ok(_) => {
                let entry = self.comes_to(tenant, "instance.deletion_began");
                self.store.begin_deletion(tenant.id, entry).await?;
                self.settings.refresh().await
            }
            Err(Error::Problem(problem)) if problem.code == ErrorCode::Conflict => {
                let mut entry = self.comes_to(tenant, "instance.deletion_refused");
                "refused".clone_into(&mut entry.result);
                self.store.drop_deletion_wish(tenant.id, force, &problem.message, entry).await?;
                Err(problem.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Tells metadata to end an instance, and notes in the task what it answers.
    async fn remove(&self, tenant: &Tenant, force: bool) -> Result<Left, Error> {
        let answer = self.limiter.remove(tenant.id, force).await;
        match &answer {
            Ok(Left::Steps(left)) => self.store.note_deletion(tenant.id, Ok(*left)).await?,
            Ok(Left::Many) => self.store.note_deletion(tenant.id, Err(String::new())).await?,
            Err(problem) if problem.code != ErrorCode::Conflict => {
                let reason = format!("its content can't be removed just now: {}", problem.message);
                self.store.note_deletion(tenant.id, Err(reason)).await?;
            }
            _ => {}
        }
        Ok(answer?)
    }

    /// Goes on with the end of an instance: content first, since its keys and stores are needed until it is gone.
    async fn tend_end(&self, tenant: &Tenant) -> Result<(), Error> {
        if self.remove(tenant, true).await? != Left::Nothing {
            return Ok(());
        }
        while self.store.delete_some_principals(tenant.id).await? {}
        let entry = self.comes_to(tenant, "instance.deleted");
        self.store.finish_deletion(tenant.id, entry).await?;
        self.settings.refresh().await
    }

    /// Sees to what is wished for an instance: tells metadata, and settles the wish by its answer. Done again, it changes
    /// nothing.
    pub(crate) async fn tend(&self, instance: InstanceId) -> Result<Option<Tenant>, Error> {
        let Some(tenant) = self.store.tenant(instance).await? else { return Ok(None) };
        if tenant.state == InstanceState::Deleting {
            self.tend_end(&tenant).await?;
            return self.store.tenant(instance).await;
        }
        if let Some(force) = tenant.wish_delete {
            self.tend_wish_for_end(&tenant, force).await?;
            return self.store.tenant(instance).await;
        }
        let Some((edition, add_ons)) = &tenant.wish else { return Ok(Some(tenant)) };
        let revision = tenant.limits_revision;
        let Some(edition) = self.editions.get(edition) else {
            tracing::error!(%instance, edition, "the edition that is wished for is not configured any more");
            return self.settle_wish(&tenant, false).await;
        };
        let told = self.limiter.set_limits(instance, revision, edition, add_ons).await;
        match told {
            Ok(_) => {
                let after = self.settle_wish(&tenant, true).await?;
                self.settings.refresh().await?;
                Ok(after)
            }
            Err(problem) if problem.code == ErrorCode::QuotaExceeded => {
                self.settle_wish(&tenant, false).await?;
                Err(problem.into())
            }
            Err(problem) => Err(problem.into()),
        }
    }

    /// Refuses reads and writes of an instance from now on, or serves it again.
    pub(crate) async fn set_running(
        &self,
        actor: &Actor,
        instance: InstanceId,
        version: Option<i64>,
        running: bool,
    ) -> Result<Tenant, Error> {
        let before = self.get(instance).await?;
        if before.default && !running {
            return Err(invalid("the default instance can't be stopped; stop the registry instead").into());
        }
        let (to, kind) = if running {
            (InstanceState::Running, "instance.started")
        } else {
            (InstanceState::Stopped, "instance.stopped")
        };
        let entry = actor.entry(&self.ids, instance, kind, format!("instance:{instance}"));
        let after = self.store.set_state(instance, version, to, entry).await?;
        self.settings.refresh().await?;
        Ok(after)
    }

    /// Says how an instance's blobs reach clients; gateways know within a second.
    pub(crate) async fn set_blob_delivery(
        &self,
        actor: &Actor,
        instance: InstanceId,
        delivery: BlobDelivery,
    ) -> Result<(), Error> {
        if !self.settings.current().has(instance) {
            return Err(no_instance().into());
        }
        let kind = match delivery {
            BlobDelivery::Stream => "instance.blobs_streamed",
            BlobDelivery::Redirect => "instance.blobs_redirected",
        };
        let entry = actor.entry(&self.ids, instance, kind, String::new());
        if self.store.set_blob_delivery(instance, delivery, entry).await? {
            tracing::info!(%instance, delivery = delivery.as_str(), "blob delivery was changed");
            self.settings.refresh().await?;
        }
        Ok(())
    }
}
