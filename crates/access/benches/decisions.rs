//! How many decisions a second one core makes over 50, 500 and 5,000 grants of one principal, remembered and not; and what
//! it costs to begin with grants that are new. `cargo bench -p berth-access --bench decisions`

use std::{hint::black_box, io::Write, sync::Arc, time::Instant};

use berth_access::{Decider, Grant, GrantScope, Place, PrincipalGrants};
use berth_model::{GrantId, InstanceId, NamespaceId, Permission, RepositoryId, Role};
use berth_service::{Ids, SystemClock};

/// Grants in repositories, all of the role `developer`; asked for in each of them, and in as many others.
struct Scene {
    who: PrincipalGrants,
    places: Vec<Place>,
}

fn scene(ids: &Ids, grants: usize) -> Scene {
    let instance = InstanceId::new(ids.ulid());
    let role = Role::built_in()["developer"].clone();
    let (mut given, mut places) = (Vec::new(), Vec::new());
    for _ in 0..grants {
        let (namespace, repository) = (NamespaceId::new(ids.ulid()), RepositoryId::new(ids.ulid()));
        let scope = GrantScope::Repository(repository);
        given.push(Grant { id: GrantId::new(ids.ulid()), role: role.clone(), scope, group: None });
        let place =
            Place { instance: Some(instance), namespace: Some(namespace), repository: Some(repository) };
        places.push(place);
        places.push(Place { repository: Some(RepositoryId::new(ids.ulid())), ..place });
    }
    Scene { who: PrincipalGrants { principal: "user:a".into(), revision: 1, grants: given.into() }, places }
}

async fn rate(decider: &Decider, scene: &Scene, seconds: f64) -> f64 {
    let (started, mut done) = (Instant::now(), 0_u32);
    loop {
        for place in &scene.places {
            black_box(decider.allowed(&scene.who, *place, Permission::ArtifactPush).await);
            done += 1;
            if done.is_multiple_of(64) && started.elapsed().as_secs_f64() > seconds {
                return f64::from(done) / started.elapsed().as_secs_f64();
            }
        }
    }
}

async fn run() {
    let ids = Ids::random(Arc::new(SystemClock));
    let mut out = std::io::stdout();
    for grants in [50, 500, 5_000] {
        let scene = scene(&ids, grants);
        let fresh = Decider::remembering(0);
        let started = Instant::now();
        black_box(fresh.allowed(&scene.who, scene.places[0], Permission::ArtifactPush).await);
        let begin = started.elapsed().as_secs_f64() * 1e3;
        let decided = rate(&fresh, &scene, 2.0).await;
        let remembering = Decider::default();
        rate(&remembering, &scene, 1.0).await;
        let remembered = rate(&remembering, &scene, 1.0).await;
        let _ = writeln!(
            out,
            "{grants} grants: {decided:.0} decisions/s, {remembered:.0} remembered, {begin:.2} ms for the first"
        );
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
        }
    }
}
