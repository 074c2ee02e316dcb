//! A small OCI client: Docker's token flow, pushes and pulls, and raw calls for tests that want to see every header.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use berth_oci::Digest;
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Body, Method, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};

use crate::{Blob, Image, Manifest};

/// The media types that a pull accepts.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, */*";

/// Tokens last five minutes; a client asks for another before.
const RENEWAL: Duration = Duration::from_secs(240);

/// A plain client: no proxy, no redirects, no waiting for ever.
pub(crate) fn http_client(http2: bool) -> reqwest::Client {
    client_builder(http2).build().unwrap()
}

fn client_builder(http2: bool) -> reqwest::ClientBuilder {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let _installed_already = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(60))
        .tcp_nodelay(true);
    if http2 { builder.http2_prior_knowledge() } else { builder.http1_only() }
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The first header of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The code of the first error in the body.
    pub fn error_code(&self) -> Option<String> {
        Some(self.json().pointer("/errors/0/code")?.as_str()?.to_owned())
    }

    /// The path of `Location`, also when it names this host.
    pub fn location(&self) -> anyhow::Result<String> {
        let location = self.header("location").context("the answer has no Location")?;
        Ok(match location.split_once("://") {
            Some((_, rest)) => rest[rest.find('/').context("a Location without a path")?..].to_owned(),
            None => location.to_owned(),
        })
    }

    /// The target of `Link: <…>; rel="next"`.
    pub fn next_page(&self) -> Option<String> {
        let link = self.header("link")?;
        let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
        rest.contains("rel=\"next\"").then(|| target.to_owned())
    }

    /// Bytes that the session has, from `Range: 0-<last>`. An empty session says `0-0`, which is read as nothing.
    pub fn session_bytes(&self) -> Option<u64> {
        let last: u64 = self.header("range")?.strip_prefix("0-")?.parse().ok()?;
        Some(if last == 0 { 0 } else { last + 1 })
    }

    /// The reply itself, if its status is the expected one.
    ///
    /// # Errors
    /// Names both and the body.
    pub fn expect(self, status: u16) -> anyhow::Result<Self> {
        ensure!(
            self.status == status,
            "status {}, not {status}: {}",
            self.status,
            String::from_utf8_lossy(&self.body[..self.body.len().min(500)])
        );
        Ok(self)
    }
}

/// A client of one registry, with or without credentials. Clones share their tokens.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    credentials: Option<(String, String)>,
    tokens: Arc<Mutex<HashMap<String, (String, Instant)>>>,
}

/// One request being put together.
#[derive(Debug)]
pub struct Call {
    client: Client,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Option<Body>,
    token: Option<String>,
}

impl Call {
    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_str(value.as_ref()).unwrap());
        self
    }

    /// Sets the body. A stream goes out in chunks, without a length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends `Authorization: Bearer`.
    #[must_use]
    pub fn bearer(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sends the request and leaves the body to be read.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn open(self) -> anyhow::Result<reqwest::Response> {
        let target = format!("{}{}", self.client.url, self.target);
        let mut request = self.client.http.request(self.method, target).headers(self.headers);
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = self.body {
            request = request.body(body);
        }
        Ok(request.send().await?)
    }

    /// Sends the request and reads the answer.
    ///
    /// # Errors
    /// When the connection breaks, also inside the answer.
    pub async fn send(self) -> anyhow::Result<Reply> {
        let response = self.open().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Reply { status, headers, body: response.bytes().await? })
    }
}

impl Client {
    /// A client of nobody, over HTTP/1.1.
    pub fn new(url: impl Into<String>) -> Self {
        Self { http: http_client(false), url: url.into(), credentials: None, tokens: Arc::default() }
    }

    /// A client of nobody that asks for a host, whose address is this one.
    pub fn at_host(host: &str, address: std::net::SocketAddr) -> Self {
        let http = client_builder(false).resolve(host, address).build().unwrap();
        let url = format!("http://{host}:{}", address.port());
        Self { http, url, credentials: None, tokens: Arc::default() }
    }

    /// The same over HTTP/2 without TLS.
    #[must_use]
    pub fn over_http2(mut self) -> Self {
        self.http = http_client(true);
        self
    }

    /// The same for a name and a password.
    #[must_use]
    pub fn with_credentials(mut self, name: &str, password: &str) -> Self {
        self.credentials = Some((name.to_owned(), password.to_owned()));
        self.tokens = Arc::default();
        self
    }

    /// The registry's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request to a target such as `/v2/`, without a token.
    pub fn call(&self, method: Method, target: impl Into<String>) -> Call {
        let headers = HeaderMap::new();
        Call { client: self.clone(), method, target: target.into(), headers, body: None, token: None }
    }

    /// Gets a new token for scopes: follows the challenge of `/v2/`, with Basic credentials if there are any.
    ///
    /// # Errors
    /// When there is no challenge, or no token.
    pub async fn fresh_token(&self, scopes: &[&str]) -> anyhow::Result<String> {
        let reply = self.token_reply(scopes).await?.expect(200)?;
        let document = reply.json();
        let token = document.get("token").and_then(|token| token.as_str());
        Ok(token.context("the token endpoint answered without a token")?.to_owned())
    }

    /// The token endpoint's answer for scopes.
    ///
    /// # Errors
    /// When there is no challenge.
    pub async fn token_reply(&self, scopes: &[&str]) -> anyhow::Result<Reply> {
        let challenge = self.call(Method::GET, "/v2/").send().await?.expect(401)?;
        let challenge = challenge.header("www-authenticate").context("a 401 without a challenge")?.to_owned();
        let realm = parameter(&challenge, "realm").context("a challenge without a realm")?;
        let mut target = realm.strip_prefix(&self.url).context("the realm is on another host")?.to_owned();
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut mark = '?';
        if let Some(service) = parameter(&challenge, "service") {
            target.push_str(&format!("{mark}service={}", encode(service)));
            mark = '&';
        }
        for scope in scopes {
            target.push_str(&format!("{mark}scope={}", encode(scope)));
            mark = '&';
        }
        let mut call = self.call(Method::GET, target);
        if let Some((name, password)) = &self.credentials {
            use base64::Engine;
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
            call = call.header("authorization", format!("Basic {pair}"));
        }
        call.send().await
    }

    /// A token for scopes, remembered by this client.
    ///
    /// # Errors
    /// As [`Self::fresh_token`].
    pub async fn token(&self, scope: &str) -> anyhow::Result<String> {
        let known = self.tokens.lock().unwrap().get(scope).cloned();
        if let Some((token, since)) = known
            && since.elapsed() < RENEWAL
        {
            return Ok(token);
        }
        let since = Instant::now();
        let token = self.fresh_token(&[scope]).await?;
        self.tokens.lock().unwrap().insert(scope.to_owned(), (token.clone(), since));
        Ok(token)
    }

    /// `GET /v2/_catalog` and a query, with a token for it.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn catalog(&self, query: &str) -> anyhow::Result<Reply> {
        let token = self.token("registry:catalog:*").await?;
        self.call(Method::GET, format!("/v2/_catalog{query}")).bearer(token).send().await
    }

    /// A repository, for every action.
    pub fn repository(&self, name: impl Into<String>) -> Repository {
        Repository { client: self.clone(), name: name.into() }
    }
}

/// The value of `key="…"` in a challenge.
fn parameter<'a>(challenge: &'a str, key: &str) -> Option<&'a str> {
    let start = challenge.find(&format!("{key}=\""))? + key.len() + 2;
    challenge[start..].split('"').next()
}

/// A repository of a registry.
#[derive(Clone, Debug)]
pub struct Repository {
    client: Client,
    name: String,
}

impl Repository {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A token for every action here.
    ///
    /// # Errors
    /// As [`Client::fresh_token`].
    pub async fn token(&self) -> anyhow::Result<String> {
        self.client.token(&format!("repository:{}:pull,push,delete", self.name)).await
    }

    /// A request to a target under this repository, such as `tags/list`, or a whole one from a `Location`.
    ///
    /// # Errors
    /// When there is no token to be had.
    pub async fn call(&self, method: Method, target: &str) -> anyhow::Result<Call> {
        let target = match target.strip_prefix("/v2/") {
            Some(_) => target.to_owned(),
            None => format!("/v2/{}/{}", self.name, target.trim_start_matches('/')),
        };
        Ok(self.client.call(method, target).bearer(self.token().await?))
    }

    /// GET.
    ///
    /// # Errors
    /// When the connection breaks; so all below.
    pub async fn get(&self, target: &str) -> anyhow::Result<Reply> {
        self.call(Method::GET, target).await?.send().await
    }

    /// HEAD.
    pub async fn head(&self, target: &str) -> anyhow::Result<Reply> {
        self.call(Method::HEAD, target).await?.send().await
    }

    /// DELETE.
    pub async fn delete(&self, target: &str) -> anyhow::Result<Reply> {
        self.call(Method::DELETE, target).await?.send().await
    }

    /// Starts an upload and gives its path.
    pub async fn start_upload(&self) -> anyhow::Result<String> {
        self.call(Method::POST, "/blobs/uploads/").await?.send().await?.expect(202)?.location()
    }

    /// PATCH of an upload, with a `Content-Range` from `first` on if given.
    pub async fn patch(&self, upload: &str, first: Option<u64>, chunk: Bytes) -> anyhow::Result<Reply> {
        let mut call =
            self.call(Method::PATCH, upload).await?.header("content-type", "application/octet-stream");
        if let Some(first) = first {
            call = call.header("content-range", format!("{first}-{}", first + chunk.len() as u64 - 1));
        }
        call.body(chunk).send().await
    }

    /// The closing PUT of an upload, with the last bytes.
    pub async fn finish(&self, upload: &str, digest: &str, last: Bytes) -> anyhow::Result<Reply> {
        let mark = if upload.contains('?') { '&' } else { '?' };
        let call = self.call(Method::PUT, &format!("{upload}{mark}digest={digest}")).await?;
        call.header("content-type", "application/octet-stream").body(last).send().await
    }

    /// POST and PUT: a blob in two requests.
    pub async fn push_blob(&self, blob: &Blob) -> anyhow::Result<Reply> {
        let upload = self.start_upload().await?;
        self.finish(&upload, &blob.digest.to_string(), blob.bytes.clone()).await?.expect(201)
    }

    /// A blob in one POST.
    pub async fn push_blob_at_once(&self, blob: &Blob) -> anyhow::Result<Reply> {
        let target = format!("/blobs/uploads/?digest={}", blob.digest);
        let call = self.call(Method::POST, &target).await?.header("content-type", "application/octet-stream");
        call.body(blob.bytes.clone()).send().await?.expect(201)
    }

    /// A blob in chunks of a size.
    pub async fn push_blob_in_chunks(&self, blob: &Blob, size: usize) -> anyhow::Result<Reply> {
        let mut upload = self.start_upload().await?;
        let mut rest = blob.bytes.clone();
        let mut first = 0;
        while !rest.is_empty() {
            let chunk = rest.split_to(rest.len().min(size));
            let length = chunk.len() as u64;
            upload = self.patch(&upload, Some(first), chunk).await?.expect(202)?.location()?;
            first += length;
        }
        self.finish(&upload, &blob.digest.to_string(), Bytes::new()).await?.expect(201)
    }

    /// PUT of a manifest under a tag, or a digest with `?tag=`.
    pub async fn put_manifest(&self, reference: &str, manifest: &Manifest) -> anyhow::Result<Reply> {
        let call = self.call(Method::PUT, &format!("/manifests/{reference}")).await?;
        call.header("content-type", &manifest.media_type).body(manifest.bytes.clone()).send().await
    }

    /// Blobs, then the manifest under a tag or its digest.
    pub async fn push_image(&self, reference: &str, image: &Image) -> anyhow::Result<Reply> {
        for blob in image.blobs() {
            self.push_blob_at_once(blob).await?;
        }
        self.put_manifest(reference, &image.manifest).await?.expect(201)
    }

    /// GET of a manifest.
    pub async fn manifest(&self, reference: &str) -> anyhow::Result<Reply> {
        let call = self.call(Method::GET, &format!("/manifests/{reference}")).await?;
        call.header("accept", ACCEPTED).send().await
    }

    /// A manifest and all blobs, compared with what was pushed.
    pub async fn pull_image(&self, reference: &str, image: &Image) -> anyhow::Result<()> {
        let reply = self.manifest(reference).await?.expect(200)?;
        ensure!(reply.body == image.manifest.bytes, "{reference} has other bytes than were pushed");
        for blob in image.blobs() {
            self.pull_blob(blob).await?;
        }
        Ok(())
    }

    /// A blob, compared with what was pushed.
    pub async fn pull_blob(&self, blob: &Blob) -> anyhow::Result<()> {
        let reply = self.get(&format!("/blobs/{}", blob.digest)).await?.expect(200)?;
        ensure!(reply.body == blob.bytes, "{} has other bytes than were pushed", blob.digest);
        Ok(())
    }

    /// Whether the repository has a blob.
    pub async fn has_blob(&self, digest: &Digest) -> anyhow::Result<bool> {
        let reply = self.head(&format!("/blobs/{digest}")).await?;
        match StatusCode::from_u16(reply.status)? {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => bail!("HEAD of a blob answered {status}"),
        }
    }

    /// Every item of a paged list, page after page, and the number of pages.
    pub async fn all_pages(
        &self,
        target: &str,
        key: &str,
    ) -> anyhow::Result<(Vec<serde_json::Value>, usize)> {
        let (mut items, mut pages, mut next) = (Vec::new(), 0, Some(target.to_owned()));
        while let Some(target) = next {
            let reply = self.get(&target).await?.expect(200)?;
            let page = reply.json().get(key).and_then(|page| page.as_array().cloned());
            items.extend(page.with_context(|| format!("a page without {key}"))?);
            pages += 1;
            next = reply.next_page();
        }
        Ok((items, pages))
    }

    /// The tags, all pages.
    pub async fn tags(&self) -> anyhow::Result<Vec<String>> {
        let (tags, _) = self.all_pages("/tags/list", "tags").await?;
        Ok(tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect())
    }

    /// The digests of the referrers of a subject, all pages.
    pub async fn referrers(&self, subject: &Digest, query: &str) -> anyhow::Result<Vec<String>> {
        let (referrers, _) = self.all_pages(&format!("/referrers/{subject}{query}"), "manifests").await?;
        let digest = |entry: &serde_json::Value| Some(entry.get("digest")?.as_str()?.to_owned());
        Ok(referrers.iter().filter_map(digest).collect())
    }
}
