//! What a warm read costs: the call between services, and `Resolve` on SQLite. Prints microseconds of CPU for each call,
//! whole process. `cargo bench -p berth --bench warm_read`

use std::{io::Write, sync::Arc, time::Instant};

use berth_database::Database;
use berth_oci::{Algorithm, Digest};
use berth_proto::metadata::{
    Access, PutManifestRequest, ResolveRequest, access, metadata_client::MetadataClient, resolve_request,
};
use berth_service::{
    Address, Channel, Ids, Limits, Listener, Registry, SharedClock, SystemClock, Tasks, serve,
};

const CALLS: u32 = 50_000;
const IN_FLIGHT: u32 = 16;
const INSTANCE: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// CPU time of this process in seconds, from the kernel's accounting.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let own: f64 = stat.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let others: f64 = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum();
    others.max(own) / 1e9
}

async fn measure<F>(name: &str, call: impl Fn() -> F + Clone + Send + 'static)
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    for _ in 0..1000 {
        call().await;
    }
    let (cpu, wall) = (cpu_seconds(), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let call = call.clone();
        tasks.spawn(async move {
            for _ in 0..CALLS / IN_FLIGHT {
                call().await;
            }
        });
    }
    tasks.join_all().await;
    let (cpu, wall) = (cpu_seconds() - cpu, wall.elapsed().as_secs_f64());
    let each = |seconds: f64| seconds * 1e6 / f64::from(CALLS);
    let _closed = writeln!(
        std::io::stdout(),
        "{name:<44} {:>7.2} us CPU  {:>7.2} us wall  {:>8.0} a CPU-second",
        each(cpu),
        each(wall),
        f64::from(CALLS) / cpu
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clock: SharedClock = Arc::new(SystemClock);
    let tasks = Tasks::new();
    let ids = Ids::random(Arc::clone(&clock));
    let folder = std::env::temp_dir().join(format!("berth-bench-{}", ids.ulid()));
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("metadata.db");
    let database =
        Database::open_sqlite(&path, berth_metadata::MIGRATIONS.sqlite, Arc::clone(&clock), &tasks).await?;
    let mut registry = Registry::default();
    let deps = berth_metadata::Deps {
        database,
        clock,
        ids,
        registry: &mut registry,
        subscribers: Vec::new(),
        blobs: None,
        keys: None,
        stores: None,
        tasks: tasks.clone(),
    };
    let service = berth_metadata::build(berth_metadata::Config::default(), deps);
    let payload =
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let mut local = MetadataClient::new(Channel::local("metadata", service.server.clone()));
    local
        .put_manifest(PutManifestRequest {
            access: Some(Access {
                instance_id: INSTANCE.to_owned(),
                path: "team/app".to_owned(),
                bound_to: Some(access::BoundTo::BoundInstanceId(INSTANCE.to_owned())),
                principal: "bench".to_owned(),
                ..Access::default()
            }),
            digest: Digest::of(Algorithm::Sha256, payload).to_string(),
            media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
            payload: payload.as_slice().into(),
            tags: vec!["v1".to_owned()],
        })
        .await?;

    let socket = Address::Unix(folder.join("grpc.sock"));
    let listener = Listener::bind("grpc", &socket).await?;
    let routes = tonic::service::Routes::new(service.server).into_axum_router();
    serve(listener, routes, Limits { streams: 4096, ..Limits::default() }, &tasks);
    let remote = MetadataClient::new(Channel::remote("metadata", &socket.to_string())?);

    for (name, client) in [("in process", local), ("over a Unix socket", remote)] {
        let refused = client.clone();
        let call = move || {
            let mut client = refused.clone();
            // Refused by its first field, before any statement: what is left is the call itself.
            async move {
                client.resolve(ResolveRequest::default()).await.map(drop).expect_err("no instance is named")
            }
        };
        measure(&format!("a call without a statement, {name}"), call).await;
        let call = move || {
            let mut client = client.clone();
            async move {
                let request = ResolveRequest {
                    instance_id: INSTANCE.to_owned(),
                    path: "team/app".to_owned(),
                    reference: Some(resolve_request::Reference::Tag("v1".to_owned())),
                };
                let answer = client.resolve(request).await.expect("resolve works").into_inner();
                assert!(answer.content.is_some());
            }
        };
        measure(&format!("Resolve of a tag, {name}"), call).await;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
