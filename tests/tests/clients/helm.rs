//! helm 3 and helm 4: charts in the registry.

use berth_testkit::{Deployment, PASSWORD};

use crate::sandbox::Sandbox;

/// A chart's folder, packed: `name-version.tgz`.
async fn package(sandbox: &Sandbox, helm: &str, version: &str) {
    if !sandbox.path("web").exists() {
        sandbox.ok(format!("{helm} create web")).await;
    }
    sandbox.ok(format!("{helm} package web --version {version}")).await;
}

async fn charts(helm: &str, deployment: &Deployment) {
    let sandbox = Sandbox::new(deployment);
    let charts = format!("oci://{}/{helm}/of/five/parts", sandbox.registry);
    for version in ["1.2.3", "1.10.0", "2.0.0+build.7"] {
        package(&sandbox, helm, version).await;
    }
    let push = format!("{helm} push --plain-http");
    sandbox.run(format!("{push} web-1.2.3.tgz {charts}")).await.refused();
    let log_in = format!("{helm} registry login --plain-http {} -u admin", sandbox.registry);
    sandbox.run(format!("{log_in} -p wrong")).await.refused();
    sandbox.ok(format!("{log_in} -p {PASSWORD}")).await;
    for version in ["1.2.3", "1.10.0", "2.0.0+build.7"] {
        sandbox.ok(format!("{push} web-{version}.tgz {charts}")).await;
    }
    // A tag can't have a plus in it; helm puts an underscore there.
    let own = deployment.client().repository(format!("{helm}/of/five/parts/web"));
    assert_eq!(own.tags().await.unwrap(), ["1.10.0", "1.2.3", "2.0.0_build.7"]);

    // It comes back byte for byte, by version, by the range that it is the newest of, and by digest.
    let digest = own.manifest("1.2.3").await.unwrap().expect(200).unwrap();
    let digest = digest.header("docker-content-digest").unwrap();
    let ways = [
        (format!("{charts}/web --version 1.2.3"), "web-1.2.3.tgz"),
        (format!("{charts}/web --version ^1.0.0"), "web-1.10.0.tgz"),
        (format!("{charts}/web"), "web-2.0.0+build.7.tgz"),
        (format!("{charts}/web --version 2.0.0+build.7"), "web-2.0.0+build.7.tgz"),
        (format!("{charts}/web@{digest}"), ""),
    ];
    for (number, (chart, file)) in ways.iter().enumerate() {
        let folder = sandbox.path(&format!("pulled-{number}"));
        std::fs::create_dir(&folder).unwrap();
        sandbox.ok(format!("{helm} pull --plain-http {chart} -d pulled-{number}")).await;
        let pulled = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
        if !file.is_empty() {
            assert_eq!(pulled.file_name().to_str().unwrap(), *file, "{chart}");
        }
        let pushed = if file.is_empty() { "web-1.2.3.tgz" } else { file };
        sandbox.ok(format!("cmp {pushed} {}", pulled.path().display())).await;
    }
    let shown = sandbox.ok(format!("{helm} show chart --plain-http {charts}/web --version 1.2.3")).await;
    assert!(shown.contains("version: 1.2.3"), "{shown}");
    let values = sandbox.ok(format!("{helm} show values --plain-http {charts}/web --version 1.2.3")).await;
    assert_eq!(values, std::fs::read_to_string(sandbox.path("web/values.yaml")).unwrap().trim());
    let far = sandbox.ok(format!("{helm} template name --plain-http {charts}/web --version 1.2.3")).await;
    assert!(far.contains("kind: Deployment"), "{far}");
    assert_eq!(far, sandbox.ok(format!("{helm} template name web-1.2.3.tgz")).await);

    // A chart that needs another one gets it from the registry.
    let needs = format!(
        "apiVersion: v2\nname: shop\nversion: 0.1.0\ndependencies:\n\
         - name: web\n  version: ~1.2.0\n  repository: {charts}\n"
    );
    sandbox.write("shop/Chart.yaml", needs);
    sandbox.ok(format!("{helm} dependency update --plain-http shop")).await;
    sandbox.ok("cmp web-1.2.3.tgz shop/charts/web-1.2.3.tgz").await;

    let absent =
        sandbox.run(format!("{helm} pull --plain-http {charts}/web --version 3.0.0")).await.refused();
    assert!(absent.contains("not found") || absent.contains("Could not locate"), "{absent}");
    sandbox.ok(format!("{helm} registry logout {}", sandbox.registry)).await;
    sandbox.run(format!("{helm} pull --plain-http {charts}/web --version 1.2.3 -d away")).await.refused();
}

wherever_bytes_are! {
    async fn helm_3_pushes_shows_templates_and_pulls(deployment: &'static Deployment) {
        charts("helm3", deployment).await;
    }

    async fn helm_4_pushes_shows_templates_and_pulls(deployment: &'static Deployment) {
        charts("helm4", deployment).await;
    }
}
