//! Several tenants on one deployment: what one of them has, another knows nothing of; and what each may have.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

mod creations;
mod editions;
mod ending;
mod identity;
mod lessons;
mod matrix;
mod rate;
mod shared_rate;
mod walls;

use std::time::Duration;

use berth_testkit::{Client, Deployment, Engine, Layout, Setting};
use tokio::sync::OnceCell;

const DOMAIN: &str = "berth.test";

/// A right that is taken away is gone within this time.
const GONE: Duration = Duration::from_secs(5);

/// The deployment of a setting, whose hosts say which instance is meant, shared by all cases.
async fn shared(layout: Layout, engine: Engine) -> &'static Deployment {
    static SHARED: [OnceCell<Deployment>; 4] = [const { OnceCell::const_new() }; 4];
    let place = match (layout, engine) {
        (Layout::OneProcess, Engine::Sqlite) => 0,
        (Layout::OneProcess, Engine::Postgres) => 1,
        (Layout::RolesApart, Engine::Sqlite) => 2,
        (Layout::RolesApart, Engine::Postgres) => 3,
    };
    let start = || async {
        let gateways = if layout == Layout::RolesApart { 2 } else { 1 };
        let setting = Setting::new(layout, engine).with_gateways(gateways);
        let builder = Deployment::builder(setting).with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN);
        builder.start().await.unwrap()
    };
    SHARED[place].get_or_init(start).await
}

/// Makes four tests of a case, one a setting.
macro_rules! in_every_tenancy {
    ($(async fn $case:ident($deployment:ident : &'static Deployment) $body:block)*) => {$(
        mod $case {
            use super::*;

            async fn case($deployment: &'static berth_testkit::Deployment) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn one_process_on_sqlite() {
                case(crate::shared(berth_testkit::Layout::OneProcess, berth_testkit::Engine::Sqlite).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn one_process_on_postgres() {
                case(crate::shared(berth_testkit::Layout::OneProcess, berth_testkit::Engine::Postgres).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn roles_apart_on_sqlite() {
                case(crate::shared(berth_testkit::Layout::RolesApart, berth_testkit::Engine::Sqlite).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn roles_apart_on_postgres() {
                case(crate::shared(berth_testkit::Layout::RolesApart, berth_testkit::Engine::Postgres).await).await;
            }
        }
    )*};
}
pub(crate) use in_every_tenancy;

/// An instance with an administrator of its own.
#[derive(Debug)]
pub(crate) struct Tenant {
    deployment: &'static Deployment,
    pub(crate) name: &'static str,
}

impl Tenant {
    /// Makes an instance of an edition, and waits until every gateway serves it.
    pub(crate) async fn new(deployment: &'static Deployment, name: &'static str, edition: &str) -> Self {
        let made =
            ["create-instance", name, "--edition", edition, "--region", "eu-central-1", "--create-on-push"];
        deployment.admin(&made, "").await.unwrap();
        let tenant = Self { deployment, name };
        tenant.user("owner", "instance-admin").await;
        for _ in deployment.processes() {
            until("the instance is served", async || tenant.anonymous().call_base().await == 401).await;
        }
        tenant
    }

    pub(crate) fn host(&self) -> String {
        format!("{}-registry.eu-central-1.{DOMAIN}", self.name)
    }

    /// `berth admin` about this instance.
    pub(crate) async fn admin(&self, arguments: &[&str]) -> String {
        self.try_admin(arguments, "").await.unwrap()
    }

    pub(crate) async fn try_admin(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let all: Vec<&str> = ["--instance", self.name].iter().chain(arguments).copied().collect();
        self.deployment.admin(&all, input).await
    }

    /// A person with a role in the whole instance.
    pub(crate) async fn user(&self, name: &str, role: &str) -> Client {
        self.try_admin(&["create-user", name], "the password").await.unwrap();
        self.admin(&["grant", name, role]).await;
        self.anonymous().with_credentials(name, "the password")
    }

    pub(crate) fn owner(&self) -> Client {
        self.anonymous().with_credentials("owner", "the password")
    }

    pub(crate) fn anonymous(&self) -> Client {
        self.deployment.client_at(&self.host())
    }
}

pub(crate) trait Base {
    /// The status of `/v2/` without a token.
    async fn call_base(&self) -> u16;
}

impl Base for Client {
    async fn call_base(&self) -> u16 {
        self.call(reqwest::Method::GET, "/v2/").send().await.unwrap().status
    }
}

/// Waits until something is so; fails when it is not within [`GONE`].
pub(crate) async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let wait = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(GONE, wait).await.is_ok(), "not within {GONE:?}: {what}");
}
