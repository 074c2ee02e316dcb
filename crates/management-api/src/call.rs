//! A call that is being answered: who calls, where, and that it was allowed. Handlers get nothing else, so what they do is
//! authorised.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use berth_audit::Audit;
use berth_blobs::Blobs;
use berth_model::{InstanceId, Permission, RepositoryId};
use berth_oci::ErrorCode;
use berth_proto::{
    instance_manager::{
        Actor, AuthorizeRequest, Caller, Decision, Effect, GetInstanceRequest, InstanceEntry,
        ListReadableRequest, ListReadableResponse, audit_client::AuditClient,
        identity_providers_client::IdentityProvidersClient, instance_manager_client::InstanceManagerClient,
        instances_client::InstancesClient, principals_client::PrincipalsClient, roles_client::RolesClient,
        sessions_client::SessionsClient, tasks_client::TasksClient as EndsClient,
    },
    metadata::{
        GetRepositoryRequest, Manager, RepositoryEntry, contents_client::ContentsClient,
        metadata_client::MetadataClient, repositories_client::RepositoriesClient, tasks_client::TasksClient,
    },
};
use berth_service::{Channel, Ids, SharedClock, Tasks};
use http::{Method, header, request::Parts as Head};
use sha2::{Digest as _, Sha256};

use crate::{
    artifacts::Platform,
    operation::{Operation, Rule},
    problem::{Refusal, Result, absent, invalid},
};

/// Everything that handlers may use.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) instances: InstancesClient<Channel>,
    pub(crate) manager: InstanceManagerClient<Channel>,
    pub(crate) sessions: SessionsClient<Channel>,
    pub(crate) principals: PrincipalsClient<Channel>,
    pub(crate) roles: RolesClient<Channel>,
    pub(crate) providers: IdentityProvidersClient<Channel>,
    pub(crate) audit: AuditClient<Channel>,
    pub(crate) metadata: MetadataClient<Channel>,
    pub(crate) repositories: RepositoriesClient<Channel>,
    pub(crate) contents: ContentsClient<Channel>,
    /// Of metadata.
    pub(crate) tasks: TasksClient<Channel>,
    /// Of instance-manager: the ends of instances.
    pub(crate) ends: EndsClient<Channel>,
    pub(crate) blobs: Arc<dyn Blobs>,
    /// What artifacts run on, by digest.
    pub(crate) platforms: moka::future::Cache<String, Arc<Vec<Platform>>>,
    /// What the audit is told of refused calls. What was done is written by the service that did it.
    pub(crate) trail: Arc<Audit>,
    pub(crate) clock: SharedClock,
    pub(crate) ids: Ids,
    /// What has begun to change something.
    pub(crate) work: Tasks,
    /// The deployment's domain, in lower case; empty: there is the default instance's host only.
    pub(crate) base_domain: String,
    /// The document, as it is sent.
    pub(crate) document: bytes::Bytes,
}

/// A place by its names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At<'a> {
    Instance,
    Namespace(&'a str),
    Repository(&'a str),
}

impl At<'_> {
    fn effect(self, permission: Permission) -> Effect {
        let (namespace, repository) = match self {
            Self::Instance => ("", ""),
            Self::Namespace(name) => (name, ""),
            Self::Repository(path) => ("", path),
        };
        Effect {
            permission: permission.as_str().to_owned(),
            namespace: namespace.to_owned(),
            repository: repository.to_owned(),
        }
    }
}

/// An authorised call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) parts: Arc<Parts>,
    operation: Arc<Operation>,
    pub(crate) head: Head,
    pub(crate) request_id: String,
    pub(crate) address: String,
    caller: Option<Caller>,
    instance: Option<InstanceEntry>,
    repository: Option<RepositoryEntry>,
    params: Vec<(String, String)>,
    /// What makes this call the same as another with its Idempotency-Key.
    fingerprint: Vec<u8>,
    key: String,
    allowed: Arc<AtomicBool>,
}

fn denied(permission: Permission, place: &str) -> Box<Refusal> {
    Refusal::new(
        ErrorCode::Denied,
        format!("you need the permission {permission} {place}; ask an administrator"),
    )
}

impl Call {
    /// Finds out who calls and where, and refuses unless that is allowed.
    pub(crate) async fn begin(
        parts: Arc<Parts>,
        operation: Arc<Operation>,
        head: Head,
        params: Vec<(String, String)>,
        request_id: String,
    ) -> std::result::Result<Self, (Option<Self>, Box<Refusal>)> {
        let address = crate::caller::address(&head);
        let mut call = Self {
            parts,
            operation,
            head,
            request_id,
            address,
            caller: None,
            instance: None,
            repository: None,
            params,
            fingerprint: Vec::new(),
            key: String::new(),
            allowed: Arc::default(),
        };
        match call.authorise().await {
            Ok(()) => Ok(call),
            Err(refused) => Err((call.caller.is_some().then_some(call), refused)),
        }
    }

    async fn authorise(&mut self) -> Result<()> {
        let rule = self.operation.rule;
        if rule == Rule::Open {
            return Ok(());
        }
        self.caller = Some(crate::caller::caller(&self.parts, &self.head).await?);
        self.read_key()?;
        let has = |name: &str| self.params.iter().any(|(known, _)| known == name);
        let (in_instance, in_namespace, in_repository) =
            (has("instance"), has("namespace"), has("repository"));
        if !in_instance {
            return match rule {
                Rule::Needs(permission) | Rule::NeedsInDeployment(permission) => {
                    self.allow_in_deployment(permission).await
                }
                _ => Ok(()),
            };
        }
        let asked = self.param("instance").to_owned();
        let entry = find_instance(&self.parts, &asked).await?;
        let Some(entry) = entry.filter(|entry| entry.state != "deleted") else {
            return Err(absent("instance", &asked));
        };
        let own = self.caller().instance_id == entry.id;
        self.instance = Some(entry);
        let sees = own || self.decide(&[At::Instance.effect(Permission::InstanceRead)]).await? == [true];
        if !sees {
            self.instance = None;
            return Err(absent("instance", &asked));
        }
        self.check_served()?;
        match rule {
            Rule::Needs(permission) if in_repository => self.allow_repository(permission).await,
            Rule::Needs(permission) if in_namespace => {
                let name = self.param("namespace").to_owned();
                self.allow(permission, At::Namespace(&name)).await
            }
            Rule::Needs(permission) => self.allow(permission, At::Instance).await,
            Rule::NeedsInDeployment(permission) => self.allow_in_deployment(permission).await,
            _ => Ok(()),
        }
    }

    /// An instance that is stopped can still be managed; what it holds is neither read nor changed.
    fn check_served(&self) -> Result<()> {
        let stopped = self.instance.as_ref().is_some_and(|instance| instance.state == "stopped");
        let noun = self.operation.id.split('.').next().unwrap_or_default();
        if stopped && ["namespaces", "repositories", "tags", "artifacts"].contains(&noun) {
            let message = "the instance is stopped; whoever runs the deployment can start it again";
            return Err(Refusal::new(ErrorCode::Denied, message));
        }
        Ok(())
    }

    /// Reads Idempotency-Key.
    fn read_key(&mut self) -> Result<()> {
        let mut values = self.head.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(()) };
        if values.next().is_some() {
            return Err(invalid("a call has one Idempotency-Key"));
        }
        let text = value.to_str().unwrap_or_default();
        let fits = (1..=255).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic());
        if !fits {
            return Err(invalid("Idempotency-Key has 1 to 255 visible ASCII characters"));
        }
        if self.operation.repeatable {
            self.key = text.to_owned();
        }
        Ok(())
    }

    /// What was sent takes part in telling calls with the same key apart.
    pub(crate) fn received(&mut self, body: &[u8]) {
        if self.key.is_empty() {
            return;
        }
        let mut hash = Sha256::new();
        hash.update(self.head.method.as_str().as_bytes());
        hash.update([0]);
        hash.update(self.head.uri.path().as_bytes());
        hash.update([0]);
        hash.update(body);
        self.fingerprint = hash.finalize().to_vec();
    }

    async fn decisions(&self, instance: &str, effects: &[Effect]) -> Result<Vec<Decision>> {
        let caller = self.caller();
        let request = AuthorizeRequest {
            instance_id: instance.to_owned(),
            principal: caller.principal.clone(),
            principal_instance_id: caller.instance_id.clone(),
            effects: effects.to_vec(),
        };
        Ok(self.parts.roles.clone().authorize(request).await?.into_inner().decisions)
    }

    async fn decide(&self, effects: &[Effect]) -> Result<Vec<bool>> {
        let decisions = self.decisions(self.instance_id(), effects).await?;
        Ok(decisions.into_iter().map(|decision| decision.allowed).collect())
    }

    async fn allow_in_deployment(&self, permission: Permission) -> Result<()> {
        if self.may_in_deployment(permission).await? {
            self.allowed.store(true, Ordering::Relaxed);
            return Ok(());
        }
        Err(denied(permission, "in the deployment"))
    }

    /// Refuses unless the caller has a permission somewhere in the instance. What it may not even see is absent.
    pub(crate) async fn allow(&self, permission: Permission, at: At<'_>) -> Result<()> {
        let (reads, what, name) = match at {
            At::Instance => (Permission::InstanceRead, "instance", self.instance_name()),
            At::Namespace(name) => (Permission::NamespaceRead, "namespace", name),
            At::Repository(path) => (Permission::RepositoryRead, "repository", path),
        };
        let decided = self.decide(&[at.effect(permission), at.effect(reads)]).await?;
        match (decided.as_slice(), at) {
            ([true, ..], _) => {
                self.allowed.store(true, Ordering::Relaxed);
                Ok(())
            }
            ([_, true], _) | (_, At::Instance) => Err(denied(permission, &format!("at the {what} {name}"))),
            _ => Err(absent(what, name)),
        }
    }

    /// Refuses unless the caller has a permission in the instance of the path, or else in the deployment.
    pub(crate) async fn allow_here(&self, permission: Permission) -> Result<()> {
        match self.instance {
            Some(_) => self.allow(permission, At::Instance).await,
            None => self.allow_in_deployment(permission).await,
        }
    }

    /// Whether the caller has a permission, where the operation does not stand or fall with it.
    pub(crate) async fn may(&self, permission: Permission, at: At<'_>) -> Result<bool> {
        Ok(self.decide(&[at.effect(permission)]).await? == [true])
    }

    /// What everybody may do who acts on oneself only.
    pub(crate) fn allow_oneself(&self) {
        self.allowed.store(true, Ordering::Relaxed);
    }

    async fn allow_repository(&mut self, permission: Permission) -> Result<()> {
        let asked = self.param("repository").to_owned();
        let found = self.find_repository(&asked).await?;
        // One that is not there is asked for at the place where it would be.
        let path = found.as_ref().map_or(asked.as_str(), |found| found.path.as_str());
        let is_id = asked.parse::<RepositoryId>().is_ok();
        let at = if found.is_none() && is_id { At::Instance } else { At::Repository(path) };
        let effects = [at.effect(permission), at.effect(Permission::RepositoryRead)];
        let decided = self.decide(&effects).await?;
        let reads = matches!(permission, Permission::RepositoryRead | Permission::ArtifactPull);
        let public = found.as_ref().is_some_and(|found| found.public);
        let refusal = match (decided.as_slice(), &found) {
            ([true, ..], Some(_)) => None,
            (_, Some(_)) if public && reads => None,
            ([_, true], Some(_)) => Some(denied(permission, &format!("at the repository {path}"))),
            (_, Some(_)) if public => Some(denied(permission, &format!("at the repository {path}"))),
            _ => Some(absent("repository", &asked)),
        };
        self.repository = found;
        refusal.map_or_else(
            || {
                self.allowed.store(true, Ordering::Relaxed);
                Ok(())
            },
            Err,
        )
    }

    async fn find_repository(&self, asked: &str) -> Result<Option<RepositoryEntry>> {
        let by_id = asked.parse::<RepositoryId>().is_ok();
        let (id, path) = if by_id { (asked, "") } else { ("", asked) };
        let request = GetRepositoryRequest {
            instance_id: self.instance_id().to_owned(),
            path: path.to_owned(),
            id: id.to_owned(),
        };
        match self.parts.repositories.clone().get_repository(request).await {
            Ok(found) => Ok(Some(found.into_inner())),
            Err(status) => match berth_proto::from_status(&status).code {
                ErrorCode::NotFound => Ok(None),
                ErrorCode::NameInvalid | ErrorCode::RequestInvalid if status_is_about_name(&status) => {
                    Ok(None)
                }
                _ => Err(status.into()),
            },
        }
    }

    /// Whether the rule of the operation was kept when its handler is through.
    pub(crate) fn kept_rule(&self) -> impl Fn() -> bool + Send + 'static {
        let asks = !matches!(self.operation.rule, Rule::Open | Rule::Known);
        let allowed = Arc::clone(&self.allowed);
        move || !asks || allowed.load(Ordering::Relaxed)
    }

    /// Who calls. Open operations have nobody.
    pub(crate) fn caller(&self) -> &Caller {
        static NOBODY: std::sync::LazyLock<Caller> = std::sync::LazyLock::new(Caller::default);
        self.caller.as_ref().unwrap_or(&NOBODY)
    }

    /// The instance in the path.
    pub(crate) fn instance(&self) -> Option<&InstanceEntry> {
        self.instance.as_ref()
    }

    pub(crate) fn instance_id(&self) -> &str {
        self.instance.as_ref().map_or("", |instance| instance.id.as_str())
    }

    pub(crate) fn instance_name(&self) -> &str {
        self.instance.as_ref().map_or("", |instance| instance.name.as_str())
    }

    /// The repository in the path, which is there.
    pub(crate) fn repository(&self) -> Result<&RepositoryEntry> {
        self.repository.as_ref().ok_or_else(|| absent("repository", self.param("repository")))
    }

    /// A part of the path.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn operation(&self) -> &Operation {
        &self.operation
    }

    /// On whose behalf instance-manager acts.
    pub(crate) fn actor(&self) -> Option<Actor> {
        let caller = self.caller();
        Some(Actor {
            instance_id: caller.instance_id.clone(),
            principal: caller.principal.clone(),
            credential: caller.credential.clone(),
            address: self.address.clone(),
            request_id: self.request_id.clone(),
            credential_expires_at: caller.expires_at,
            idempotency_key: self.key.clone(),
            fingerprint: self.fingerprint.clone().into(),
            robot_secret_id: caller.robot_secret_id.clone(),
            provider_id: caller.provider_id.clone(),
        })
    }

    /// On whose behalf metadata acts.
    pub(crate) fn on_behalf(&self) -> Option<Manager> {
        let caller = self.caller();
        Some(Manager {
            principal: caller.principal.clone(),
            credential: caller.credential.clone(),
            address: self.address.clone(),
            request_id: self.request_id.clone(),
            idempotency_key: self.key.clone(),
            fingerprint: self.fingerprint.clone().into(),
        })
    }

    /// The version of If-Match; 0: whichever it is.
    pub(crate) fn version(&self) -> Result<i64> {
        let mut values = self.head.headers.get_all(header::IF_MATCH).iter();
        let (value, another) = (values.next(), values.next());
        let Some(value) = value else { return Ok(0) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" && another.is_none() {
            return Ok(0);
        }
        let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let version = version.and_then(|text| text.parse::<i64>().ok()).filter(|version| *version > 0);
        match version {
            Some(version) if another.is_none() => Ok(version),
            // A tag that none of ours ever was is an old one.
            _ => Err(changed()),
        }
    }

    /// The answer to a change; when something else was seen than is there, and the call said what it saw, 412.
    pub(crate) fn checked<T>(
        &self,
        answer: std::result::Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T> {
        answer.map(tonic::Response::into_inner).map_err(|status| {
            match berth_proto::from_status(&status).code {
                ErrorCode::PreconditionFailed => changed(),
                _ => status.into(),
            }
        })
    }

    /// Whether the caller has a permission in the whole deployment.
    pub(crate) async fn may_in_deployment(&self, permission: Permission) -> Result<bool> {
        let decisions = self.decisions("", &[At::Instance.effect(permission)]).await?;
        Ok(decisions.first().is_some_and(|decision| decision.allowed))
    }

    /// Where the caller has a permission in the instance.
    pub(crate) async fn readable(&self, permission: Permission) -> Result<ListReadableResponse> {
        let caller = self.caller();
        let request = ListReadableRequest {
            instance_id: self.instance_id().to_owned(),
            principal: caller.principal.clone(),
            permission: permission.as_str().to_owned(),
            principal_instance_id: caller.instance_id.clone(),
        };
        Ok(self.parts.manager.clone().list_readable(request).await?.into_inner())
    }

    /// The URL path of something below the instance.
    pub(crate) fn below(&self, rest: &str) -> String {
        format!("/api/v1/instances/{}/{rest}", self.instance_name())
    }
}

fn status_is_about_name(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::InvalidArgument
}

/// 412: it was changed since it was seen.
pub(crate) fn changed() -> Box<Refusal> {
    let message = "it was changed meanwhile; look at it again, and say its ETag in If-Match";
    Refusal::new(ErrorCode::PreconditionFailed, message)
}

/// An instance by name or id; none: there is no such.
pub(crate) async fn find_instance(parts: &Parts, asked: &str) -> Result<Option<InstanceEntry>> {
    let by_id = asked.parse::<InstanceId>().is_ok();
    let (id, name) = if by_id { (asked, "") } else { ("", asked) };
    let request = GetInstanceRequest { id: id.to_owned(), name: name.to_owned() };
    match parts.instances.clone().get_instance(request).await {
        Ok(found) => Ok(Some(found.into_inner())),
        Err(status) if berth_proto::from_status(&status).code == ErrorCode::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// Whether a method changes something.
pub(crate) fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}
