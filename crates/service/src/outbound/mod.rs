//! The one client for outbound HTTP: whatever URL it is given, it is not led to what only this machine or its network may
//! reach. Names are resolved once and the addresses judged before a connection is made to exactly them; no redirect is
//! followed, no proxy of the environment used; time, size and number of answers are bounded.

mod addresses;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

pub use addresses::{Network, is_public};
use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::ACCEPT,
    redirect::Policy,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

/// The largest answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long all of a request may take.
const WHOLE: Duration = Duration::from_secs(10);
/// Requests at the same time.
const AT_ONCE: usize = 64;

/// Where Berth may be led to by URLs that others wrote, such as those of identity providers.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, default)]
pub struct OutboundConfig {
    /// Ranges of addresses beside the public internet, such as `["10.20.0.0/16"]`. What answers there may also be asked
    /// without TLS.
    pub allow: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The configuration can't be used.
    #[error("outbound.allow: {0}")]
    Config(String),
    /// No client can be made.
    #[error("no HTTP client can be made: {0}")]
    Client(String),
    /// What may not be asked.
    #[error("{0}")]
    Refused(String),
    /// The other side did not answer, or not in time.
    #[error("no answer from {host}: {cause}")]
    Away {
        /// Whom.
        host: String,
        /// Why, as far as it is known.
        cause: String,
    },
    /// The answer is larger than any should be.
    #[error("the answer of {0} is larger than {MAX_ANSWER_BYTES} bytes")]
    TooLarge(String),
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct OutboundAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// The client. Clones share connections and bounds.
#[derive(Clone)]
pub struct Outbound {
    /// To the public internet and what is allowed, by TLS. Made when it is needed: it reads the certificates of authorities,
    /// and most registries ask nobody.
    secure: Arc<OnceLock<Client>>,
    /// Without TLS, to what is allowed only.
    plain: Arc<OnceLock<Client>>,
    allow: Arc<[Network]>,
    permits: Arc<Semaphore>,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("allow", &self.allow).finish_non_exhaustive()
    }
}

/// Which addresses a client may connect to.
#[derive(Clone, Debug)]
struct Judge {
    allow: Arc<[Network]>,
    public: bool,
}

impl Judge {
    fn allows(&self, address: IpAddr) -> bool {
        (self.public && is_public(address)) || self.allow.iter().any(|network| network.contains(address))
    }

    fn refusal(&self, host: &str) -> String {
        if self.public {
            format!(
                "{host} may not be asked: it is not on the public internet, and outbound.allow does not name its address"
            )
        } else {
            format!(
                "{host} may not be asked without TLS: outbound.allow does not name its address; use https"
            )
        }
    }
}

impl Resolve for Judge {
    fn resolve(&self, name: Name) -> Resolving {
        let judge = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            // One address of its own kind among good ones does not make a name good: only the good ones are asked.
            let good: Vec<SocketAddr> = found.filter(|address| judge.allows(address.ip())).collect();
            if good.is_empty() {
                return Err(Forbidden(judge.refusal(&host)).into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

/// A name that leads where it must not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Forbidden(String);

/// What a failed request says: the innermost cause, where whoever looks for it finds it.
fn failure(host: &str, error: &reqwest::Error) -> OutboundError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
        if let Some(forbidden) = cause.downcast_ref::<Forbidden>() {
            return OutboundError::Refused(forbidden.0.clone());
        }
    }
    let cause = if error.is_timeout() { "it took too long".to_owned() } else { cause.to_string() };
    OutboundError::Away { host: host.to_owned(), cause }
}

impl Outbound {
    /// A client for what is configured.
    pub fn new(config: &OutboundConfig) -> Result<Self, OutboundError> {
        let allow = config.allow.iter().map(|range| range.parse().map_err(OutboundError::Config));
        let allow: Arc<[Network]> = allow.collect::<Result<Vec<_>, _>>()?.into();
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        Ok(Self { secure: Arc::default(), plain: Arc::default(), allow, permits })
    }

    /// The client for URLs with TLS, which may lead to the public internet, or for those without.
    fn client(&self, public: bool) -> Result<&Client, OutboundError> {
        let place = if public { &self.secure } else { &self.plain };
        if let Some(client) = place.get() {
            return Ok(client);
        }
        // Whoever was first has chosen; a process has one.
        let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder()
            .dns_resolver(Judge { allow: Arc::clone(&self.allow), public })
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(WHOLE)
            .pool_max_idle_per_host(2)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| OutboundError::Client(error.to_string()))?;
        Ok(place.get_or_init(|| client))
    }

    /// Whether it is to be asked by TLS, the URL and its host, judged as far as that goes without asking for addresses.
    fn judge(&self, url: &str) -> Result<(bool, Url, String), OutboundError> {
        let refused = |why: &str| OutboundError::Refused(format!("{url:?} {why}"));
        let url = Url::parse(url).map_err(|error| refused(&format!("is no URL: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("must not hold a name or a password"));
        }
        let public = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(refused("has to begin with https://")),
        };
        let host = url.host_str().ok_or_else(|| refused("names no host"))?.to_owned();
        // An address in the URL is no name: no resolver sees it.
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            let judge = Judge { allow: Arc::clone(&self.allow), public };
            if !judge.allows(address) {
                return Err(OutboundError::Refused(judge.refusal(&host)));
            }
        }
        Ok((public, url, host))
    }

    fn admit(&self, url: &str) -> Result<(&Client, Url, String), OutboundError> {
        let (public, url, host) = self.judge(url)?;
        Ok((self.client(public)?, url, host))
    }

    /// Whether a URL may be asked at all, as far as can be said without asking for addresses.
    pub fn check(&self, url: &str) -> Result<(), OutboundError> {
        self.judge(url).map(|_| ())
    }

    /// `GET`.
    pub async fn get(&self, url: &str) -> Result<OutboundAnswer, OutboundError> {
        let (client, url, host) = self.admit(url)?;
        self.send(client.get(url).header(ACCEPT, "application/json"), host).await
    }

    /// `GET` with a bearer token.
    pub async fn get_as(&self, url: &str, bearer: &SecretString) -> Result<OutboundAnswer, OutboundError> {
        let (client, url, host) = self.admit(url)?;
        let request = client.get(url).header(ACCEPT, "application/json");
        self.send(request.bearer_auth(bearer.expose_secret()), host).await
    }

    /// `POST` of a form, with Basic credentials if there are any.
    pub async fn post_form(
        &self,
        url: &str,
        form: &[(&str, &str)],
        basic: Option<(&str, &SecretString)>,
    ) -> Result<OutboundAnswer, OutboundError> {
        let (client, url, host) = self.admit(url)?;
        // Written as forms are: the query of a URL has the same syntax.
        let mut body = Url::parse("form:")
            .map_err(|error| OutboundError::Refused(format!("the form can't be written: {error}")))?;
        body.query_pairs_mut().extend_pairs(form);
        let mut request = client
            .post(url)
            .header(ACCEPT, "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.query().unwrap_or_default().to_owned());
        if let Some((name, secret)) = basic {
            request = request.basic_auth(name, Some(secret.expose_secret()));
        }
        self.send(request, host).await
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        host: String,
    ) -> Result<OutboundAnswer, OutboundError> {
        let busy = || OutboundError::Away { host: host.clone(), cause: "too many requests wait".to_owned() };
        let _permit = self.permits.try_acquire().map_err(|_| busy())?;
        let mut response = request.send().await.map_err(|error| failure(&host, &error))?;
        let status = response.status().as_u16();
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failure(&host, &error))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(OutboundError::TooLarge(host));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(OutboundAnswer { status, body: body.freeze() })
    }
}

#[cfg(test)]
mod tests;
