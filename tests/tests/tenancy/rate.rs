//! T25: a tenant that asks for ten times its rate is told to wait, and nobody else notices.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use berth_testkit::{Client, Content, Reply};
use futures::future::join_all;
use reqwest::Method;

use crate::{Tenant, in_every_tenancy};

/// GETs of manifests a second of the edition, and its burst.
const RATE: usize = 250;
const BURST: usize = 50;
const CLIENTS: usize = 32;

async fn manifest(client: &Client, method: &Method, token: &str) -> Reply {
    let call = client.call(method.clone(), "/v2/team/app/manifests/v1").bearer(token);
    call.send().await.unwrap()
}

in_every_tenancy! {
    async fn t25_a_tenant_beyond_its_rate_is_told_to_wait_and_no_other(deployment: &'static Deployment) {
        let (busy, calm) = (Tenant::new(deployment, "rate-busy", "basic").await, Tenant::new(deployment, "rate-calm", "basic").await);
        let image = Content::named("rate").image(2, 1_000);
        for tenant in [&busy, &calm] {
            tenant.owner().repository("team/app").push_image("v1", &image).await.unwrap();
        }
        let busy_token = busy.owner().fresh_token(&["repository:team/app:pull"]).await.unwrap();
        let calm_token = calm.owner().fresh_token(&["repository:team/app:pull"]).await.unwrap();
        let stop = AtomicBool::new(false);
        let began = Instant::now();
        // As many as come through, which is far more than the rate allows.
        let flood = join_all((0..CLIENTS).map(|_| async {
            let client = busy.anonymous();
            let (mut admitted, mut refused) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let reply = manifest(&client, &Method::GET, &busy_token).await;
                match reply.status {
                    200 => admitted += 1,
                    _ => refused.push(reply),
                }
            }
            (admitted, refused)
        }));
        let neighbour = async {
            let client = calm.anonymous();
            let mut served = 0;
            // Two seconds of it, at a pace within its own rate.
            while began.elapsed() < Duration::from_secs(2) {
                assert_eq!(manifest(&client, &Method::GET, &calm_token).await.status, 200);
                served += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // A pull that was admitted is not cut short: blobs are not counted.
            for layer in &image.layers {
                let target = format!("/v2/team/app/blobs/{}", layer.digest);
                let reply = busy.anonymous().call(Method::GET, target).bearer(&busy_token).send().await.unwrap();
                assert_eq!(reply.status, 200);
            }
            stop.store(true, Ordering::Relaxed);
            served
        };
        let (told, served) = futures::join!(flood, neighbour);
        let seconds = began.elapsed().as_secs_f64();
        let admitted: usize = told.iter().map(|(admitted, _)| admitted).sum();
        let refused: Vec<&Reply> = told.iter().flat_map(|(_, refused)| refused).collect();
        let gateways = deployment.setting().gateways;
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
        let most = gateways * (BURST + (RATE as f64 * seconds * 1.02) as usize + 1);
        assert!(admitted <= most, "{admitted} in {seconds} s by {gateways} gateways, of {most}");
        assert!(!refused.is_empty() && served > 0);
        for reply in refused {
            assert_eq!((reply.status, reply.error_code().as_deref()), (429, Some("TOOMANYREQUESTS")));
            assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        }
        // HEADs are counted apart, and whoever has no token takes nothing away.
        assert_eq!(manifest(&busy.anonymous(), &Method::HEAD, &busy_token).await.status, 200);
        assert_eq!(manifest(&calm.anonymous(), &Method::GET, "nonsense").await.status, 401);
    }
}
