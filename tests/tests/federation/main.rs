//! People and workloads that another issuer vouches for, against an issuer of other people's code.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

mod api;
mod documented;
mod hostile;
mod login;
mod secure;
mod workloads;

use base64::{Engine, engine::general_purpose::STANDARD};
use berth_testkit::{Client, Deployment, Engine as Database, Layout, OidcIssuer, Reply, Setting};
use reqwest::Method;
use tokio::sync::OnceCell;

const DOMAIN: &str = "berth.test";

/// The instances that this suite uses; of each the issuer knows where its browsers come back.
const INSTANCES: [&str; 7] = ["browser", "workload", "neighbour", "hostile", "password", "session", "person"];

/// The client of the issuer whose ID tokens workloads of this suite show.
pub(crate) const API: (&str, &str) = ("api", "secret");

/// A deployment and an issuer.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) deployment: Deployment,
    pub(crate) issuer: OidcIssuer,
}

async fn world(layout: Layout, engine: Database) -> &'static World {
    static WORLDS: [OnceCell<World>; 2] = [const { OnceCell::const_new() }; 2];
    let start = || async {
        let deployment = Deployment::builder(Setting::new(layout, engine))
            .with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN)
            .with_env("BERTH__OUTBOUND__ALLOW", r#"["127.0.0.1", "::1"]"#)
            .start()
            .await
            .unwrap();
        let port = deployment.address().port();
        let back = INSTANCES.map(|name| format!("http://{}:{port}/auth/oidc/corp/callback", host(name)));
        let issuer = OidcIssuer::start(&back).await.unwrap();
        World { deployment, issuer }
    };
    WORLDS[usize::from(layout == Layout::RolesApart)].get_or_init(start).await
}

fn host(instance: &str) -> String {
    format!("{instance}-registry.eu-central-1.{DOMAIN}")
}

/// Makes two tests of a case.
macro_rules! in_both_worlds {
    ($(async fn $case:ident($world:ident : &'static World) $body:block)*) => {$(
        mod $case {
            use super::*;

            async fn case($world: &'static crate::World) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn one_process_on_sqlite() {
                case(crate::world(berth_testkit::Layout::OneProcess, berth_testkit::Engine::Sqlite).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn roles_apart_on_postgres() {
                case(crate::world(berth_testkit::Layout::RolesApart, berth_testkit::Engine::Postgres).await).await;
            }
        }
    )*};
}
pub(crate) use in_both_worlds;

impl World {
    /// Makes an instance and waits until it is served.
    pub(crate) async fn instance(&self, name: &str) {
        let made =
            ["create-instance", name, "--edition", "basic", "--region", "eu-central-1", "--create-on-push"];
        self.deployment.admin(&made, "").await.unwrap();
        let client = self.at(name);
        let served = || async {
            let reply = client.call(Method::GET, "/v2/").send().await.ok()?;
            (reply.status == 401).then_some(())
        };
        berth_testkit::eventually("the instance is served", served).await.unwrap();
    }

    /// `berth admin` about an instance.
    pub(crate) async fn try_admin(
        &self,
        instance: &str,
        arguments: &[&str],
        input: &str,
    ) -> anyhow::Result<String> {
        let all: Vec<&str> = ["--instance", instance].iter().chain(arguments).copied().collect();
        self.deployment.admin(&all, input).await
    }

    pub(crate) async fn admin(&self, instance: &str, arguments: &[&str]) -> String {
        self.try_admin(instance, arguments, "").await.unwrap()
    }

    /// A client of nobody.
    pub(crate) fn at(&self, instance: &str) -> Client {
        self.deployment.client_at(&host(instance))
    }

    /// Where the browsers of an instance come back.
    pub(crate) fn callback(&self, instance: &str) -> String {
        format!("http://{}:{}/auth/oidc/corp/callback", host(instance), self.deployment.address().port())
    }

    /// An ID token of the issuer for the client `api`, about a user.
    pub(crate) async fn id_token(&self, instance: &str, user: &str) -> String {
        id_token(&self.issuer, &self.callback(instance), user).await
    }
}

/// An ID token for the client `api` about a user, who comes back at `callback`.
pub(crate) async fn id_token(issuer: &OidcIssuer, callback: &str, user: &str) -> String {
    let client = Client::new(issuer.url().trim_end_matches('/'));
    let document = client.call(Method::GET, "/.well-known/openid-configuration").send().await.unwrap().json();
    let endpoint = |name: &str| document[name].as_str().unwrap().to_owned();
    let location = format!(
        "{}?response_type=code&client_id={}&scope=openid&state=s&redirect_uri={}",
        endpoint("authorization_endpoint"),
        API.0,
        percent_encoding::utf8_percent_encode(callback, percent_encoding::NON_ALPHANUMERIC)
    );
    let back = issuer.log_in(&location, user, "verysecure").await.unwrap();
    let code = parameter(&back, "code");
    let basic = STANDARD.encode(format!("{}:{}", API.0, API.1));
    let form = format!(
        "grant_type=authorization_code&code={}&redirect_uri={}",
        percent_encoding::utf8_percent_encode(&code, percent_encoding::NON_ALPHANUMERIC),
        percent_encoding::utf8_percent_encode(callback, percent_encoding::NON_ALPHANUMERIC)
    );
    let reply = client
        .call(Method::POST, endpoint("token_endpoint").strip_prefix(client.url()).unwrap())
        .header("authorization", format!("Basic {basic}"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    reply.json()["id_token"].as_str().unwrap().to_owned()
}

/// A parameter of a URL, decoded.
pub(crate) fn parameter(url: &str, name: &str) -> String {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    percent_encoding::percent_decode_str(found.unwrap_or_default()).decode_utf8().unwrap().into_owned()
}

/// What the token endpoint answers to a name and a secret.
pub(crate) async fn shows(client: &Client, name: &str, secret: &str) -> Reply {
    client.clone().with_credentials(name, secret).token_reply(&[]).await.unwrap()
}
