//! How many pulls two gateways with one Redis admit together, beside what the edition says.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use berth_testkit::{Content, Deployment, Engine, Layout, Redis, Setting};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::http::Connection;

pub(crate) const DOMAIN: &str = "berth.bench";
const REGION: &str = "eu-central-1";
const GATEWAYS: usize = 2;
/// At each gateway.
const CONNECTIONS: usize = 8;
const WARM_UP: Duration = Duration::from_secs(2);
/// The editions that have a rate, and it.
const TIERS: [(&str, u32); 3] = [("basic", 250), ("standard", 500), ("advanced", 1000)];

#[derive(Default)]
struct Told {
    admitted: u64,
    refused: u64,
}

/// An instance of an edition, and the head of a request for its one manifest.
pub(crate) async fn instance(deployment: &Deployment, name: &str, edition: &str) -> anyhow::Result<Vec<u8>> {
    let made = ["create-instance", name, "--edition", edition, "--region", REGION, "--create-on-push"];
    deployment.admin(&made, "").await?;
    deployment.admin(&["--instance", name, "create-user", "owner"], "the password").await?;
    deployment.admin(&["--instance", name, "grant", "owner", "instance-admin"], "").await?;
    let host = format!("{name}-registry.{REGION}.{DOMAIN}");
    let gateways =
        deployment.processes().iter().filter(|process| process.address("public").is_some()).count();
    for gateway in 0..gateways {
        let client = deployment.client_of_gateway_at(gateway, &host);
        let began = Instant::now();
        while client.call(http::Method::GET, "/v2/").send().await?.status != 401 {
            ensure!(began.elapsed() < Duration::from_secs(10), "{host} is not served");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let client = deployment.client_at(&host).with_credentials("owner", "the password");
    client.repository("team/app").push_image("v1", &Content::named("tiers").image(1, 1_000)).await?;
    let token = client.fresh_token(&["repository:team/app:pull"]).await?;
    let head = format!(
        "GET /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    Ok(head.into_bytes())
}

/// Asks both gateways for `times` as much as the rate; what they answered in so many seconds after warming up.
async fn flood(
    deployment: &Deployment,
    request: &[u8],
    per_second: f64,
    time: Duration,
) -> anyhow::Result<Told> {
    let mut running = JoinSet::new();
    let began = Instant::now() + WARM_UP;
    let pause = Duration::from_secs_f64((GATEWAYS * CONNECTIONS) as f64 / per_second);
    for number in 0..GATEWAYS * CONNECTIONS {
        let gateway = &deployment.processes()[number % GATEWAYS];
        let address = gateway.address("public").context("a gateway does not listen")?;
        let request = request.to_vec();
        running.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut due = tokio::time::interval(pause);
            due.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut told = Told::default();
            while began.elapsed() < time {
                due.tick().await;
                let status = connection.exchange(&request, &[]).await?.status;
                // Before its beginning no time has elapsed.
                let counts = u64::from(!began.elapsed().is_zero());
                match status {
                    200 => told.admitted += counts,
                    429 => told.refused += counts,
                    status => anyhow::bail!("a pull is answered with {status}"),
                }
            }
            anyhow::Ok(told)
        });
    }
    let mut all = Told::default();
    while let Some(told) = running.join_next().await {
        let told = told??;
        all.admitted += told.admitted;
        all.refused += told.refused;
    }
    Ok(all)
}

/// Measures each tier for so many seconds, asked for `times` its rate.
pub(crate) async fn measure(seconds: f64, times: f64) -> anyhow::Result<()> {
    let redis = Redis::start()?;
    let setting = Setting::new(Layout::RolesApart, Engine::Sqlite).with_gateways(GATEWAYS);
    let deployment = Deployment::builder(setting)
        .with_env("BERTH__GATEWAY__BASE_DOMAIN", DOMAIN)
        .with_env("BERTH__REDIS__URL", redis.url())
        .start()
        .await?;
    println!("| edition | rate | asked a second | admitted a second | off |\n|---|---:|---:|---:|---:|");
    for (edition, rate) in TIERS {
        let request = instance(&deployment, edition, edition).await?;
        let rate = f64::from(rate);
        let told = flood(&deployment, &request, rate * times, Duration::from_secs_f64(seconds)).await?;
        let (asked, admitted) =
            ((told.admitted + told.refused) as f64 / seconds, told.admitted as f64 / seconds);
        let off = (admitted / rate - 1.0) * 100.0;
        println!("| {edition} | {rate:.0} | {asked:.0} | {admitted:.1} | {off:+.2} % |");
    }
    Ok(())
}
