//! The REST API of the built binary: who may call what, what is answered, and what is not told.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

mod calls;
mod document;
mod guide;
mod lessons;
mod matrix;
mod places;
mod schema;
mod work;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use berth_testkit::{Client, Deployment, Reply};
use reqwest::Method;
use serde_json::{Value, json};

const DOMAIN: &str = "berth.test";
const PASSWORD: &str = "a long enough password";

/// A deployment whose hosts say which instance is meant.
fn builder(setting: berth_testkit::Setting) -> berth_testkit::Builder {
    Deployment::builder(setting).with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN)
}

/// Somebody who calls the API at a host.
#[derive(Clone, Debug)]
struct Api {
    client: Client,
    authorization: Option<String>,
}

impl Api {
    fn basic(client: Client, name: &str, secret: &str) -> Self {
        let authorization = Some(format!("Basic {}", STANDARD.encode(format!("{name}:{secret}"))));
        Self { client, authorization }
    }

    fn bearer(client: Client, token: &str) -> Self {
        Self { client, authorization: Some(format!("Bearer {token}")) }
    }

    fn nobody(client: Client) -> Self {
        Self { client, authorization: None }
    }

    /// The operator, who is of the default instance.
    fn operator(deployment: &Deployment) -> Self {
        Self::basic(deployment.client_at(DOMAIN), berth_testkit::ADMIN, berth_testkit::PASSWORD)
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Reply {
        self.call_with(method, path, body, &[]).await
    }

    async fn call_with(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Reply {
        let mut call = self.client.call(method, format!("/api/v1{path}"));
        if let Some(authorization) = &self.authorization {
            call = call.header("authorization", authorization);
        }
        for (name, value) in headers {
            call = call.header(name, value);
        }
        if let Some(body) = body {
            call = call.header("content-type", "application/json").body(body.to_string());
        }
        call.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await.expect(200).unwrap().json()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.call(Method::POST, path, Some(&body)).await.expect(201).unwrap().json()
    }
}

/// An instance with an administrator of its own.
#[derive(Debug)]
struct Tenant<'a> {
    deployment: &'a Deployment,
    name: String,
}

impl<'a> Tenant<'a> {
    async fn new(deployment: &'a Deployment, name: &str) -> Self {
        let operator = Api::operator(deployment);
        let made =
            json!({ "name": name, "edition": "standard", "region": "cn-hangzhou", "create_on_push": true });
        operator.post("/instances", made).await;
        let tenant = Self { deployment, name: name.to_owned() };
        let owner = json!({ "name": "owner", "password": PASSWORD });
        operator.post(&tenant.path("/users"), owner).await;
        let grant = json!({ "principal": { "kind": "user", "name": "owner" }, "role": "instance-admin" });
        operator.post(&tenant.path("/grants"), grant).await;
        tenant
    }

    fn path(&self, rest: &str) -> String {
        format!("/instances/{}{rest}", self.name)
    }

    fn client(&self) -> Client {
        self.deployment.client_at(&format!("{}-registry.cn-hangzhou.{DOMAIN}", self.name))
    }

    fn user(&self, name: &str) -> Api {
        Api::basic(self.client(), name, PASSWORD)
    }

    fn owner(&self) -> Api {
        self.user("owner")
    }

    /// Makes a user with a role in the whole instance; an empty one: none.
    async fn with_role(&self, name: &str, role: &str) -> Api {
        let owner = self.owner();
        owner.post(&self.path("/users"), json!({ "name": name, "password": PASSWORD })).await;
        if !role.is_empty() {
            let grant = json!({ "principal": { "kind": "user", "name": name }, "role": role });
            owner.post(&self.path("/grants"), grant).await;
        }
        self.user(name)
    }
}

/// A problem without what differs from call to call.
fn problem(reply: &Reply) -> Value {
    let mut problem = reply.json();
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{problem}");
    assert!(problem["request_id"].is_string(), "{problem}");
    problem.as_object_mut().unwrap().remove("request_id");
    problem
}
