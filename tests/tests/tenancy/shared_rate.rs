//! T13, T25: gateways that share a Redis admit the rate of an instance together; when Redis is slow, emptied or gone, each
//! admits it by itself, and nobody is refused who would not have been.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use berth_testkit::{Client, Content, Deployment, Engine, Layout, Redis, Setting, eventually};
use futures::future::{join, join_all};
use reqwest::Method;

use crate::{DOMAIN, Tenant};

/// GETs of manifests a second of the edition, and its burst.
const RATE: u64 = 250;
const BURST: u64 = 50;
const GATEWAYS: u64 = 3;
const CLIENTS_EACH: usize = 12;
const MANIFEST: &str = "/v2/team/app/manifests/v1";

/// Gateways before one Redis, and an instance with an image that is beyond its rate, and one that is not.
struct Fleet {
    deployment: &'static Deployment,
    busy: Tenant,
    calm: Tenant,
    tokens: [String; 2],
}

/// What clients were told.
#[derive(Debug, Default)]
struct Told {
    admitted: AtomicU64,
    refused: AtomicU64,
}

impl Fleet {
    async fn start(redis: &Redis) -> Self {
        let gateways = usize::try_from(GATEWAYS).unwrap();
        let setting = Setting::new(Layout::RolesApart, Engine::Sqlite).with_gateways(gateways);
        let builder = Deployment::builder(setting)
            .with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN)
            .with_env("BERTH__REDIS__URL", redis.url());
        // Left to the end of the process, like those that tests share.
        let deployment: &'static Deployment = Box::leak(Box::new(builder.start().await.unwrap()));
        let busy = Tenant::new(deployment, "shared-busy", "basic").await;
        let calm = Tenant::new(deployment, "shared-calm", "basic").await;
        let image = Content::named("shared rate").image(1, 1_000);
        let mut tokens = Vec::new();
        for tenant in [&busy, &calm] {
            tenant.owner().repository("team/app").push_image("v1", &image).await.unwrap();
            tokens.push(tenant.owner().fresh_token(&["repository:team/app:pull"]).await.unwrap());
        }
        Self { deployment, busy, calm, tokens: tokens.try_into().unwrap() }
    }

    fn clients(&self, tenant: &Tenant) -> Vec<Client> {
        let of = |number| self.deployment.client_of_gateway_at(number, &tenant.host());
        (0..self.deployment.setting().gateways).map(of).collect()
    }

    /// As many reads as come through, at every gateway, while `meanwhile` runs, and a neighbour that keeps within its rate.
    /// How many were admitted and refused, and in how many seconds.
    async fn flood(&self, meanwhile: impl Future<Output = ()>) -> (u64, u64, f64) {
        let (told, stop, began) = (Told::default(), AtomicBool::new(false), Instant::now());
        let busy = self.clients(&self.busy);
        let floods = join_all((0..busy.len() * CLIENTS_EACH).map(|number| {
            let client = &busy[number % busy.len()];
            let (told, stop) = (&told, &stop);
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let call = client.call(Method::GET, MANIFEST).bearer(&self.tokens[0]);
                    let reply = call.send().await.unwrap();
                    if reply.status == 200 {
                        told.admitted.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    assert_eq!((reply.status, reply.error_code().as_deref()), (429, Some("TOOMANYREQUESTS")));
                    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
                    assert!((1..=3).contains(&wait), "{wait} s");
                    told.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
        let neighbour = async {
            let calm = self.clients(&self.calm);
            let mut turn = calm.iter().cycle();
            while !stop.load(Ordering::Relaxed) {
                let client = turn.next().unwrap();
                let reply = client.call(Method::GET, MANIFEST).bearer(&self.tokens[1]).send().await.unwrap();
                assert_eq!(reply.status, 200, "a neighbour is refused");
                tokio::time::sleep(Duration::from_millis(8)).await;
            }
        };
        let until = async {
            meanwhile.await;
            stop.store(true, Ordering::Relaxed);
        };
        join(join(floods, neighbour), until).await;
        let seconds = began.elapsed().as_secs_f64();
        let (admitted, refused) = (told.admitted.into_inner(), told.refused.into_inner());
        (admitted, refused, seconds)
    }

    /// How often a gateway had no answer of Redis, and so counted by itself for a while, as on a machine that stands still.
    async fn unanswered(&self) -> u64 {
        let mut failed = 0.0;
        for gateway in &self.deployment.processes()[..self.deployment.setting().gateways] {
            let charges = gateway.metric("berth_gateway_rate_charges_total{outcome=\"failed\"}").await;
            failed += charges.unwrap_or_default();
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        let failed = failed as u64;
        failed
    }

    /// A flood of which no more is admitted than one rate allows.
    async fn flood_together(&self, meanwhile: impl Future<Output = ()>) {
        let before = self.unanswered().await;
        let (admitted, refused, took) = self.flood(meanwhile).await;
        assert!(refused > 0, "{admitted} in {took} s were no flood");
        let alone = self.unanswered().await - before;
        let most = most(1, took) + alone * RATE;
        assert!(
            admitted <= most,
            "{admitted} in {took} s together, of {most}, {alone} times without an answer"
        );
    }

    /// Waits until all gateways count together, or all by themselves.
    async fn all_count(&self, together: bool) {
        let wanted = if together { 1.0 } else { 0.0 };
        for gateway in &self.deployment.processes()[..self.deployment.setting().gateways] {
            let counts =
                async || (gateway.metric("berth_gateway_rate_shared").await.unwrap() == wanted).then_some(());
            eventually("every gateway knows whether Redis is there", counts).await.unwrap();
        }
    }

    /// A few reads at each gateway, so that each has something to tell.
    async fn read(&self) {
        for client in self.clients(&self.calm) {
            let reply = client.call(Method::GET, MANIFEST).bearer(&self.tokens[1]).send().await.unwrap();
            assert_eq!(reply.status, 200);
        }
    }
}

/// What so many gateways that count apart admit at most, in so many seconds.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
fn most(apart: u64, seconds: f64) -> u64 {
    // Each may have its burst before it hears of the others.
    GATEWAYS * BURST + (apart as f64 * RATE as f64 * seconds * 1.1) as u64
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t25_gateways_with_one_redis_admit_the_rate_together() {
    let redis = Redis::start().unwrap();
    let fleet = Fleet::start(&redis).await;
    fleet.all_count(true).await;
    fleet.flood_together(seconds(4)).await;
    // Emptied again and again, and without its scripts.
    let emptied = async {
        for _ in 0..20 {
            assert_eq!(redis.ask("FLUSHALL").unwrap(), "+OK");
            assert_eq!(redis.ask("SCRIPT FLUSH").unwrap(), "+OK");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    fleet.flood_together(emptied).await;
    fleet.all_count(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t13_without_redis_each_gateway_counts_by_itself_until_it_is_back() {
    let redis = Redis::start().unwrap();
    // It need not be there when gateways start.
    redis.kill();
    let fleet = Fleet::start(&redis).await;
    fleet.all_count(false).await;
    let (admitted, _, took) = fleet.flood(seconds(2)).await;
    assert!(admitted <= most(GATEWAYS, took), "{admitted} in {took} s alone");
    redis.start_again().unwrap();
    fleet.all_count(true).await;
    fleet.flood_together(seconds(4)).await;
    // It dies amid a flood, of which nobody is told.
    let dies = async {
        seconds(1).await;
        redis.kill();
        seconds(1).await;
    };
    let (admitted, _, took) = fleet.flood(dies).await;
    assert!(admitted <= most(GATEWAYS, took), "{admitted} in {took} s without");
    fleet.all_count(false).await;
    redis.start_again().unwrap();
    fleet.all_count(true).await;
    // One that takes everything and answers nothing: reads do not wait for it.
    redis.freeze();
    fleet.read().await;
    fleet.all_count(false).await;
    fleet.read().await;
    redis.thaw();
    fleet.all_count(true).await;
    fleet.read().await;
    for process in fleet.deployment.processes() {
        let log = process.log();
        assert!(!log.iter().any(|line| line.contains(redis.password())), "a password in the log");
        let lines = |text: &str| log.iter().filter(|line| line.contains(text)).count();
        let (apart, together) =
            (lines("counts pulls by itself"), lines("pulls are counted with the other gateways"));
        assert_eq!(apart, together, "{}: a line for each change", process.name());
    }
}
