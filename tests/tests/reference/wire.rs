//! A client of one deployment: sends the reference's requests, whole or cut off, and gets new tokens as clients do.

use std::time::Duration;

use anyhow::Context;
use berth_testkit::{Client, Reply};
use bytes::Bytes;
use futures::stream;
use reqwest::Body;

use crate::request::Request;

/// The client of a trial.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    client: Client,
    token: String,
}

impl Wire {
    /// With a token for everything in `repositories`.
    pub(crate) async fn new(client: Client, repositories: &[String]) -> anyhow::Result<Self> {
        let mut scopes: Vec<String> =
            repositories.iter().map(|name| format!("repository:{name}:pull,push,delete")).collect();
        scopes.push("registry:catalog:*".to_owned());
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let token = client.fresh_token(&scopes).await.context("no token")?;
        Ok(Self { client, token })
    }

    /// The same with the same token, wherever the gateway listens now.
    pub(crate) fn at(&self, client: Client) -> Self {
        Self { client, token: self.token.clone() }
    }

    /// Sends a request; `body` instead of its own.
    async fn call(&self, request: &Request, body: Option<Body>) -> anyhow::Result<Reply> {
        let mut call = self.client.call(request.method(), request.target()).bearer(&self.token);
        for (name, value) in request.headers() {
            call = call.header(name, value);
        }
        if let Some(body) = body {
            call = call.body(body);
        }
        call.send().await
    }

    pub(crate) async fn send(&self, request: &Request) -> anyhow::Result<Reply> {
        self.call(request, request.body().cloned().map(Body::from)).await
    }

    /// Sends `length` bytes of the body, waits for `then`, and goes away. An answer that comes in spite of that is given.
    pub(crate) async fn send_part(
        &self,
        request: &Request,
        length: usize,
        then: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<Reply> {
        let part = request.body().map(|body| body.slice(..length)).unwrap_or_default();
        let pieces = stream::once(async move { Ok::<Bytes, std::io::Error>(part) });
        let end = stream::once(async move {
            // What was sent is on its way before the end comes.
            tokio::time::sleep(Duration::from_millis(5)).await;
            then.await;
            Err(std::io::Error::other("the client goes away"))
        });
        let body = futures::StreamExt::chain(pieces, end);
        self.call(request, Some(Body::wrap_stream(Box::pin(body)))).await
    }
}
