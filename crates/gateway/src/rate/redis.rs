//! The common ledger in Redis. This file alone speaks to it. What Redis holds is a number for each instance that is being
//! read, good for seconds: it may be emptied, replaced or gone at any time, and each gateway then counts for itself.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use berth_service::{Ids, Registry, Tasks};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use redis::{AsyncConnectionConfig, Client, RedisError, Script, aio::MultiplexedConnection};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::mpsc, time::Instant};

use super::ledger::{Away, Charge, Ledger, Shared};

/// An answer that takes longer is none.
const ANSWER: Duration = Duration::from_millis(250);
/// The longest try to connect.
const CONNECT: Duration = Duration::from_secs(1);
/// How long it is waited before the next try to connect; twice as long after each more, up to the longest. A random part
/// of that, at least half, so that gateways do not come all at once.
const RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Adds to the account KEYS[1] and says how far it is ahead, in microseconds of Redis' own time. ARGV: how far the gateway
/// believed it to be ahead, what is added, the most that it may be ahead. An account that is behind needs no row.
const CHARGE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local before, cost, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local due = tonumber(redis.call('GET', KEYS[1]) or now + before)
due = math.max(due, now + math.min(before, 0)) + cost
due = math.min(due, now + most)
local lives = math.max(math.ceil((due - now) / 1000), 0) + 1000
redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', lives)
return math.floor(due - now)
";

/// Where accounts are, among whatever else is in the database.
const PREFIX: &str = "berth:rate:";

/// A URL that does not say where Redis is. Never has the URL in its text, which has a password.
#[derive(Debug, thiserror::Error)]
#[error("has to be redis://[user:password@]host[:port][/database], or rediss:// with TLS")]
pub struct RedisUrlError;

/// A Redis server that gateways share.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    /// For people: without user and password.
    address: String,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.address).finish()
    }
}

impl Redis {
    /// The server at a URL. It need not be there.
    ///
    /// # Errors
    /// When it is not the URL of a Redis server.
    pub fn at(url: &SecretString) -> Result<Self, RedisUrlError> {
        let url = url.expose_secret();
        let known = url.starts_with("redis://") || url.starts_with("rediss://");
        // `#insecure` would mean that any certificate is good enough.
        if !known || url.contains('#') {
            return Err(RedisUrlError);
        }
        let client = Client::open(url).map_err(|_| RedisUrlError)?;
        let address = client.get_connection_info().addr().to_string();
        Ok(Self { client, address })
    }

    /// Begins to reach it, and goes on until `tasks` are told to stop.
    pub(crate) fn share(&self, ids: Ids, registry: &mut Registry, tasks: &Tasks) -> Shared {
        // There is at most one connection to be lost.
        let (lost, losses) = mpsc::channel(1);
        let server = Arc::new(Server {
            redis: self.clone(),
            script: Script::new(CHARGE),
            here: AtomicBool::new(false),
            connection: Mutex::new(None),
            lost,
            metrics: Metrics::register(registry),
        });
        let (kept, stopping) = (Arc::clone(&server), tasks.stopping());
        tasks.spawn("keep Redis", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = kept.keep(&ids, losses) => {}
            }
        });
        Shared::new(server, tasks.clone())
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug)]
struct Metrics {
    together: Gauge,
    charges: Family<Outcome, Counter>,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self { together: Gauge::default(), charges: Family::default() };
        registry.register(
            "berth_gateway_rate_shared",
            "1 while pulls are counted with the other gateways, 0 while Redis is away and this one counts alone",
            metrics.together.clone(),
        );
        registry.register(
            "berth_gateway_rate_charges",
            "What Redis was told of pulls, by outcome: done or failed",
            metrics.charges.clone(),
        );
        metrics
    }

    fn count(&self, outcome: &'static str) {
        self.charges.get_or_create(&Outcome { outcome }).inc();
    }
}

/// A server that is reached, or is being tried.
struct Server {
    redis: Redis,
    script: Script,
    here: AtomicBool,
    /// The connection, and its number.
    connection: Mutex<Option<(u64, MultiplexedConnection)>>,
    /// Why it was lost.
    lost: mpsc::Sender<RedisError>,
    metrics: Metrics,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.redis.fmt(f)
    }
}

impl Server {
    /// Connects, waits until the connection is lost, and begins again. Says once for each change how it stands.
    async fn keep(&self, ids: &Ids, mut losses: mpsc::Receiver<RedisError>) {
        let address = &self.redis.address;
        let (mut number, mut wait, mut told) = (0, RETRY, false);
        loop {
            match self.connect().await {
                Ok(connection) => {
                    number += 1;
                    *self.connection.lock() = Some((number, connection));
                    self.here.store(true, Ordering::Release);
                    self.metrics.together.set(1);
                    tracing::info!(redis = address, "pulls are counted with the other gateways");
                    let began = Instant::now();
                    let Some(error) = losses.recv().await else { return };
                    self.metrics.together.set(0);
                    tracing::warn!(redis = address, %error, "Redis was lost: this gateway counts pulls by itself");
                    told = true;
                    // One that is lost again and again is not tried more often than one that can't be reached.
                    wait = if began.elapsed() > LONGEST_RETRY { RETRY } else { wait };
                }
                Err(error) if told => tracing::debug!(redis = address, %error, "Redis can't be reached"),
                Err(error) => {
                    tracing::warn!(redis = address, %error, "Redis can't be reached: this gateway counts pulls by itself");
                    told = true;
                }
            }
            let half = u64::try_from(wait.as_millis() / 2).unwrap_or_default();
            tokio::time::sleep(wait / 2 + Duration::from_millis(ids.below(half + 1))).await;
            wait = (wait * 2).min(LONGEST_RETRY);
        }
    }

    /// A connection that has shown that it can do what it is for, which one to a replica can't.
    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let connecting = async {
            let mut connection =
                self.redis.client.get_multiplexed_async_connection_with_config(&config).await?;
            let nothing = Charge { before: 0, cost: 0, most: 0 };
            self.run(&mut connection, "trial", nothing).await?;
            Ok(connection)
        };
        let late = |_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
        tokio::time::timeout(CONNECT, connecting).await.map_err(late)?
    }

    async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        account: &str,
        charge: Charge,
    ) -> Result<i64, RedisError> {
        let mut call = self.script.key(format!("{PREFIX}{account}"));
        call.arg(charge.before).arg(charge.cost).arg(charge.most);
        call.invoke_async(connection).await
    }

    /// The connection of this number is of no use any more.
    fn lose(&self, number: u64, error: RedisError) {
        let mut connection = self.connection.lock();
        if connection.as_ref().is_some_and(|(current, _)| *current == number) {
            *connection = None;
            self.here.store(false, Ordering::Release);
            let _ends_with_the_process = self.lost.try_send(error);
        }
    }
}

#[async_trait]
impl Ledger for Server {
    fn is_here(&self) -> bool {
        self.here.load(Ordering::Acquire)
    }

    async fn charge(&self, account: &str, charge: Charge) -> Result<i64, Away> {
        let Some((number, mut connection)) = self.connection.lock().clone() else { return Err(Away) };
        match self.run(&mut connection, account, charge).await {
            Ok(ahead) => {
                self.metrics.count("done");
                Ok(ahead)
            }
            Err(error) => {
                self.metrics.count("failed");
                self.lose(number, error);
                Err(Away)
            }
        }
    }
}
