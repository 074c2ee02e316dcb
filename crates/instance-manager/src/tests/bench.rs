//! The service over memory and a database of its own, and those who use it.

use super::*;

#[derive(Debug, Default)]
pub(super) struct MemoryPaths {
    pub(super) known: Mutex<HashMap<String, Identity>>,
    pub(super) down: Mutex<bool>,
}

#[async_trait]
impl Paths for MemoryPaths {
    async fn lookup(&self, instance: InstanceId, paths: &[RepositoryName]) -> Result<Vec<Identity>, Problem> {
        if *self.down.lock().unwrap() && !paths.is_empty() {
            return Err(Problem::new(ErrorCode::Unavailable, "away"));
        }
        let known = self.known.lock().unwrap();
        let absent = Identity { place: Place::instance(instance), public: false };
        let find = |path: &RepositoryName| {
            let exact = known.get(path.as_str()).copied();
            let namespace = || {
                let within = format!("{}/", path.namespace());
                let (_, sibling) = known.iter().find(|(name, _)| name.starts_with(&within))?;
                let place = Place { repository: None, ..sibling.place };
                Some(Identity { place, public: false })
            };
            exact.or_else(namespace).unwrap_or(absent)
        };
        Ok(paths.iter().map(find).collect())
    }
}

/// A shelf for one password, which may break.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) kept: Mutex<Option<String>>,
    pub(super) broken: AtomicBool,
}

impl PasswordKeeper for Shelf {
    fn keep(&self, password: &SecretString) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("no room"));
        }
        *self.kept.lock().unwrap() = Some(password.expose_secret().to_owned());
        Ok(())
    }

    fn discard(&self) -> io::Result<()> {
        *self.kept.lock().unwrap() = None;
        Ok(())
    }
}

/// Limits as metadata would judge them.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    pub(super) used: Mutex<u64>,
    pub(super) away: AtomicBool,
    pub(super) told: Mutex<Vec<(InstanceId, i64)>>,
    /// What is left of instances that ended.
    pub(super) left: Mutex<HashMap<InstanceId, u64>>,
}

#[async_trait]
impl Limiter for Bounds {
    async fn set_limits(
        &self,
        instance: InstanceId,
        revision: i64,
        edition: &Edition,
        add_ons: &AddOns,
    ) -> Result<u64, Problem> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Problem::new(ErrorCode::Unavailable, "away"));
        }
        self.told.lock().unwrap().push((instance, revision));
        let used = *self.used.lock().unwrap();
        let limit = edition.limits_with(add_ons).image_namespaces;
        if limit.is_some_and(|limit| used > limit) {
            return Err(Problem::new(ErrorCode::QuotaExceeded, "too many namespaces"));
        }
        Ok(used)
    }

    async fn remove(&self, instance: InstanceId, force: bool) -> Result<Left, Problem> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Problem::new(ErrorCode::Unavailable, "away"));
        }
        let mut left = self.left.lock().unwrap();
        if *self.used.lock().unwrap() > 0 && !force && !left.contains_key(&instance) {
            return Err(Problem::new(ErrorCode::Conflict, "it has repositories"));
        }
        Ok(match *left.entry(instance).or_insert(7) {
            0 => Left::Nothing,
            left => Left::Steps(left),
        })
    }

    async fn usage(&self, _: InstanceId) -> Result<GetUsageResponse, Problem> {
        Ok(GetUsageResponse { namespaces: *self.used.lock().unwrap(), ..GetUsageResponse::default() })
    }
}

pub(super) struct Bench {
    pub(super) service: Service,
    pub(super) client: InstanceManagerClient<Channel>,
    pub(super) paths: Arc<MemoryPaths>,
    pub(super) bounds: Arc<Bounds>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) ids: Ids,
    pub(super) verifier: Verifier,
    pub(super) database: Database,
    pub(super) root: Arc<RootKey>,
    pub(super) password: String,
    pub(super) shelf: Arc<Shelf>,
    pub(super) tasks: Tasks,
}

impl Bench {
    pub(super) async fn start() -> Self {
        let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
        let database = Database::for_tests(Engine::Sqlite, MIGRATIONS, clock.clone()).await.unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = Arc::new(RootKey::open_or_create(&folder.path().join("root.key")).unwrap());
        let paths = Arc::new(MemoryPaths::default());
        let ids = Ids::random(clock.clone());
        let tasks = Tasks::new();
        let shelf = Arc::new(Shelf::default());
        let bounds = Arc::new(Bounds::default());
        let ground = Ground { database: &database, root: &root, clock: &clock, tasks: &tasks };
        let service = ground.open(&paths, &bounds, &shelf, None).await.unwrap();
        assert!(service.generated_password);
        let password = shelf.kept.lock().unwrap().clone().unwrap();
        let mut client =
            InstanceManagerClient::new(Channel::local("instance-manager", service.server.clone()));
        let settings =
            client.watch(WatchRequest::default()).await.unwrap().into_inner().next().await.unwrap().unwrap();
        let verifier = Verifier::new(clock.clone());
        verifier.trust(&settings.jwks, &settings.issuer).unwrap();
        Self { service, client, paths, bounds, clock, ids, verifier, database, root, password, shelf, tasks }
    }

    pub(super) fn instance(&self) -> InstanceId {
        self.service.default_instance
    }

    pub(super) fn add(&self, path: &str, public: bool) -> Place {
        let place = Place {
            instance: Some(self.instance()),
            namespace: Some(NamespaceId::new(self.ids.ulid())),
            repository: Some(RepositoryId::new(self.ids.ulid())),
        };
        self.paths.known.lock().unwrap().insert(path.into(), Identity { place, public });
        place
    }

    pub(super) async fn ask(
        &self,
        credential: Credential,
        scopes: &[&str],
    ) -> Result<IssueTokenResponse, Problem> {
        let request = IssueTokenRequest {
            instance_id: self.instance().to_string(),
            credential: Some(credential),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            offline: true,
            client_address: String::new(),
        };
        let answer = self.client.clone().issue_token(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| from_status(&status))
    }

    pub(super) fn trail(&self) -> AuditClient<Channel> {
        AuditClient::new(Channel::local("audit", self.service.audit.clone()))
    }

    /// The audit of the default instance, in the order of recording.
    pub(super) async fn audit(&self) -> Vec<AuditEntry> {
        let filter = AuditFilter { instance_id: self.instance().to_string(), ..AuditFilter::default() };
        let request = ExportAuditRequest { filter: Some(filter), ..ExportAuditRequest::default() };
        let entries = self.trail().export_audit(request).await.unwrap().into_inner();
        entries.map(|entry| entry.unwrap()).collect().await
    }

    pub(super) fn people(&self) -> PrincipalsClient<Channel> {
        PrincipalsClient::new(Channel::local("principals", self.service.principals.clone()))
    }

    pub(super) fn roles(&self) -> RolesClient<Channel> {
        RolesClient::new(Channel::local("roles", self.service.roles.clone()))
    }

    pub(super) async fn user(&self, name: &str) -> Credential {
        let request = CreateUserRequest {
            instance_id: self.instance().to_string(),
            name: name.into(),
            password: "password".into(),
            ..CreateUserRequest::default()
        };
        self.people().create_user(request).await.unwrap();
        login(name, "password")
    }

    pub(super) async fn grant(
        &self,
        user: &str,
        role: &str,
        namespace: &str,
        repository: &str,
    ) -> Result<String, Problem> {
        let request = CreateGrantRequest {
            instance_id: self.instance().to_string(),
            principal: Some(user_named(user)),
            grant: Some(GrantWish {
                role: role.into(),
                namespace: namespace.into(),
                repository: repository.into(),
                deployment: false,
            }),
            actor: None,
        };
        let answer = self.roles().create_grant(request).await;
        answer.map(|answer| answer.into_inner().id).map_err(|status| from_status(&status))
    }
}

/// What a service is opened over.
pub(super) struct Ground<'a> {
    pub(super) database: &'a Database,
    pub(super) root: &'a Arc<RootKey>,
    pub(super) clock: &'a Arc<ManualClock>,
    pub(super) tasks: &'a Tasks,
}

impl Ground<'_> {
    pub(super) async fn open(
        &self,
        paths: &Arc<MemoryPaths>,
        bounds: &Arc<Bounds>,
        shelf: &Arc<Shelf>,
        admin_password: Option<&str>,
    ) -> Result<Service, Error> {
        let mut registry = Registry::default();
        let deps = Deps {
            database: self.database.clone(),
            metadata: Channel::slot("metadata"),
            limits: Channel::slot("limits"),
            blobs: Channel::slot("blob-store"),
            root_key: self.root.clone(),
            admin_password: admin_password.map(SecretString::from),
            password_keeper: shelf.clone(),
            outbound: &berth_service::OutboundConfig { allow: vec!["127.0.0.1".to_owned()] },
            clock: self.clock.clone(),
            ids: Ids::random(self.clock.clone()),
            tasks: self.tasks.clone(),
            registry: &mut registry,
        };
        assemble(&Config::default(), deps, paths.clone(), bounds.clone()).await
    }
}

pub(super) fn user_named(name: &str) -> PrincipalReference {
    PrincipalReference { id: String::new(), kind: "user".into(), name: name.into() }
}

pub(super) fn login(name: &str, secret: &str) -> Credential {
    Credential::Password(Password { name: name.into(), secret: secret.into() })
}
