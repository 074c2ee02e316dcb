//! What must hold in every state.

use std::collections::BTreeSet;

use stateright::Property;

use crate::{
    Checked,
    locks::in_the_way,
    state::{CHUNKS, Key, Stage, State},
    units::{Statement, Stop},
    world::World,
};

pub(crate) fn all() -> Vec<Property<Checked>> {
    vec![
        Property::always(
            "I1 what a live manifest needs is there, complete and durable",
            |checked: &Checked, state| manifests_are_whole(&checked.0, state),
        ),
        Property::always("I2 what nothing needs is in review or goes", |checked: &Checked, state| {
            nothing_is_forgotten(&checked.0, state)
        }),
        Property::always("I3 what was acknowledged is there", |_, state: &State| promises_are_kept(state)),
        Property::always("I4 instances share nothing", |checked: &Checked, state| {
            nothing_is_shared(&checked.0, state)
        }),
        Property::always("bytes of an older epoch are not among a newer one's", |_, state: &State| {
            epochs_are_apart(state)
        }),
        Property::always("what was touched within the floor is there", |_, state: &State| floors_hold(state)),
        Property::always("a download finds its object", |_, state: &State| {
            state.reader.is_none_or(|key| state.storage.objects.contains_key(&key))
        }),
        Property::always("locks are taken in their order", |_, state: &State| {
            state.ghost.descended.is_none()
        }),
        Property::always("transactions don't wait for each other", |checked: &Checked, state| {
            !is_deadlocked(&checked.0, state)
        }),
    ]
}

fn blob_is_whole(world: &World, state: &State, repository: u8, blob: u8) -> bool {
    let row = state.db.blobs.get(&(world.instance(repository), blob));
    row.is_some_and(|row| {
        let object = state.storage.objects.get(&row.key);
        object.is_some_and(|object| object.durable == CHUNKS && object.chunks == row.content)
    })
}

/// Whether what waits for its deletion is nobody's.
fn deletes_hit_nothing(state: &State) -> bool {
    let db = &state.db;
    let free = |key: &Key| !db.object_deletes.contains_key(key);
    db.blobs.values().all(|row| free(&row.key))
        && db.sessions.values().filter(|row| row.stage == Stage::Open).all(|row| free(&row.key))
}

/// Tags lead to manifests, indexes to children, manifests to links, links to blobs, blobs to all of their bytes.
fn manifests_are_whole(world: &World, state: &State) -> bool {
    let db = &state.db;
    deletes_hit_nothing(state)
        && db.tags.iter().all(|(repository, manifest)| db.manifests.contains(&(*repository, *manifest)))
        && db.manifests.iter().all(|(repository, manifest)| {
            let shape = world.shape(*manifest);
            db.repositories.contains_key(repository)
                && shape.children.iter().all(|child| db.manifests.contains(&(*repository, *child)))
                && shape.blobs.iter().all(|blob| db.links.contains(&(*repository, *blob)))
        })
        && db.links.iter().all(|(repository, blob)| {
            db.repositories.contains_key(repository) && blob_is_whole(world, state, *repository, *blob)
        })
}

/// Stronger than "at rest nothing unreferenced is left": at every moment, whatever nothing needs has the row that will
/// bring its review. So what is at rest, without rows, has nothing unreferenced.
fn nothing_is_forgotten(world: &World, state: &State) -> bool {
    let db = &state.db;
    let held = |repository: u8, blob: u8| {
        db.manifests.iter().any(|(home, one)| *home == repository && world.shape(*one).blobs.contains(&blob))
    };
    let links = db.links.iter().all(|link| held(link.0, link.1) || db.link_reviews.contains_key(link));
    let blobs = db.blobs.keys().all(|key| {
        let linked = db.links.iter().any(|(home, blob)| world.instance(*home) == key.0 && *blob == key.1);
        linked || db.blob_reviews.contains_key(key)
    });
    let manifests =
        db.manifests.iter().all(|key| db.manifest_reviews.contains_key(key) || stays(world, state, *key));
    let repositories = db
        .repositories
        .iter()
        .all(|(repository, provisional)| !provisional || db.repository_reviews.contains_key(repository));
    let open = db.sessions.values().filter(|row| row.stage == Stage::Open).map(|row| row.key);
    let known: BTreeSet<Key> =
        db.blobs.values().map(|row| row.key).chain(db.object_deletes.keys().copied()).chain(open).collect();
    let objects = state.storage.objects.keys().all(|key| known.contains(key));
    links && blobs && manifests && repositories && objects
}

/// Whether a manifest that is in no review has a reason to stay.
fn stays(world: &World, state: &State, (repository, manifest): (u8, u8)) -> bool {
    let db = &state.db;
    let tagged = db.tags.get(&repository) == Some(&manifest);
    let parent = db
        .manifests
        .iter()
        .any(|(home, one)| *home == repository && world.shape(*one).children.contains(&manifest));
    let policy = match world.shape(manifest).subject {
        Some(subject) => db.manifests.contains(&(repository, subject)),
        None => world.keep_untagged && !state.ghost.released.contains(&(repository, manifest)),
    };
    tagged || parent || policy
}

/// Manifests that were pushed, and the recorded bytes of open sessions.
fn promises_are_kept(state: &State) -> bool {
    let manifests = state.ghost.promised.iter().all(|key| state.db.manifests.contains(key));
    let sessions = state.db.sessions.values().filter(|row| row.stage == Stage::Open).all(|row| {
        let object = state.storage.objects.get(&row.key);
        row.recorded.is_empty()
            || object.is_some_and(|object| {
                object.durable >= row.recorded.len() && object.chunks.starts_with(&row.recorded)
            })
    });
    manifests && sessions
}

fn nothing_is_shared(world: &World, state: &State) -> bool {
    let db = &state.db;
    let mut keys = BTreeSet::new();
    db.blobs.iter().all(|((instance, _), row)| row.key.instance == *instance && keys.insert(row.key))
        && db.sessions.values().all(|row| row.key.instance == world.instance(row.repository))
}

/// The object of the newest writer is exactly what that writer has hashed.
fn epochs_are_apart(state: &State) -> bool {
    state.appends.iter().flatten().filter(|append| append.opened && !append.closed && !append.committed).all(
        |append| {
            let newest = state.storage.claims.get(&append.key) == Some(&append.epoch);
            let object = state.storage.objects.get(&append.key);
            !newest || object.is_some_and(|object| object.chunks == append.hash)
        },
    )
}

fn floors_hold(state: &State) -> bool {
    state.ghost.held_links.iter().all(|link| state.db.links.contains(link))
        && state.ghost.held_manifests.iter().all(|key| state.db.manifests.contains(key))
}

/// Whether some transactions wait for each other in a circle.
fn is_deadlocked(world: &World, state: &State) -> bool {
    let mut waits: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); state.running.len()];
    if state.running.iter().flatten().count() < 2 {
        return false;
    }
    for (lane, running) in state.running.iter().enumerate() {
        if running.is_some() {
            let mut tried = state.clone();
            let stop = (Statement { world, state: &mut tried, lane }).run();
            if let Err(Stop::Wait(lock, mode)) = stop {
                waits[lane] = in_the_way(state, lane, lock, mode).collect();
            }
        }
    }
    // Who waits for nobody is taken away until nobody is left, or only those in a circle.
    let mut waiting: BTreeSet<usize> = (0..waits.len()).collect();
    loop {
        let free: Vec<usize> =
            waiting.iter().copied().filter(|lane| waits[*lane].is_disjoint(&waiting)).collect();
        if free.is_empty() {
            return !waiting.is_empty();
        }
        waiting.retain(|lane| !free.contains(lane));
    }
}
