//! What can happen next.

use crate::{
    locks::Lock,
    state::{BURIED, Deleter, Key, Running, Seen, Session, Stage, State},
    units::{Flow, Statement, Stop, Unit},
    uploads,
    world::{Break, Kind, World},
};

/// One step of one process, the passing of time, or a crash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Action {
    /// A client's request reaches a gateway, whose transaction runs its first statement.
    Request { gateway: usize, unit: Unit },
    /// A collector takes a row that is due, and runs the first statement.
    Collect { lane: usize, unit: Unit },
    /// The next statement of the transaction in a lane.
    Statement { lane: usize },
    /// `metadata::upload::Metadata::begin_append`.
    Begin { gateway: usize, session: Session },
    /// `blob_store::filesystem::writer::Store::take_over`.
    Open { gateway: usize },
    /// `blob_store::filesystem::writer::FileWriter::write`.
    Write { gateway: usize },
    /// `blob_store::filesystem::writer::FileWriter::sync`.
    Sync { gateway: usize },
    /// `metadata::upload::Metadata::checkpoint`.
    Checkpoint { gateway: usize },
    /// `metadata::upload::Metadata::end_append`.
    Cut { gateway: usize },
    /// `metadata::upload::Metadata::commit_upload` begins.
    Finish { gateway: usize },
    /// The client has its 201.
    Answer { gateway: usize },
    /// `metadata::collect::forget_closed_sessions`: a closed session's row goes after its time.
    Forget { session: Session },
    /// `metadata::resolve`: a download knows its object.
    Resolve { key: Key },
    /// `blob_store::filesystem::Filesystem::open`: it opens it.
    Read,
    /// `metadata::collect::claim_next_object`.
    Claim { key: Key },
    /// `blob_store::filesystem::Filesystem::delete`.
    Delete,
    /// `metadata::collect::finish_object`.
    DropObjectRow,
    /// Time passes by the floor, or the grace: what was touched before is due, leases are over, the longest operation is.
    Elapse,
    /// A transaction ends without a commit: its process, its connection or the database's went away.
    CrashTransaction { lane: usize },
    /// A gateway goes away with its append.
    CrashGateway { gateway: usize },
    /// The blob store's host loses its power: what was not synced is gone, its process forgets.
    CrashStore,
    /// The worker that deletes objects goes away.
    CrashDeleter,
}

/// Every action that might be possible; those that are not have no next state.
pub(crate) fn candidates(world: &World, state: &State, actions: &mut Vec<Action>) {
    let sessions = || state.db.sessions.iter();
    for gateway in 0..2 {
        if state.running[gateway].is_none() && state.appends[gateway].is_none() && state.left.requests > 0 {
            actions.extend(world.requests.iter().map(|unit| Action::Request { gateway, unit: *unit }));
            if world.uploads {
                actions.extend(sessions().map(|(session, _)| Action::Begin { gateway, session: *session }));
            }
        }
        if state.appends[gateway].is_some() && state.running[gateway].is_none() {
            actions.extend([
                Action::Open { gateway },
                Action::Write { gateway },
                Action::Sync { gateway },
                Action::Checkpoint { gateway },
                Action::Cut { gateway },
                Action::Finish { gateway },
                Action::Answer { gateway },
                Action::CrashGateway { gateway },
            ]);
        }
    }
    for lane in 0..state.running.len() {
        if state.running[lane].is_some() {
            actions.extend([Action::Statement { lane }, Action::CrashTransaction { lane }]);
        } else if lane >= 2 {
            due(world, state, |unit| actions.push(Action::Collect { lane, unit }));
        }
    }
    let closed = sessions().filter(|(_, row)| row.stage != Stage::Open && row.expired);
    actions.extend(closed.map(|(session, _)| Action::Forget { session: *session }));
    if world.reads && state.reader.is_none() {
        actions.extend(state.db.blobs.values().map(|row| Action::Resolve { key: row.key }));
    }
    let objects = state.db.object_deletes.iter().filter(|(_, row)| row.due && !row.claimed);
    actions.extend(objects.map(|(key, _)| Action::Claim { key: *key }));
    actions.extend([
        Action::Read,
        Action::Delete,
        Action::DropObjectRow,
        Action::Elapse,
        Action::CrashStore,
        Action::CrashDeleter,
    ]);
}

/// The reviews that are due, as a worker finds them.
fn due(world: &World, state: &State, mut found: impl FnMut(Unit)) {
    let db = &state.db;
    for ((repository, manifest), review) in &db.manifest_reviews {
        if review.due {
            found(Unit::ReviewManifest { repository: *repository, manifest: *manifest });
        }
    }
    for ((repository, blob), _) in db.link_reviews.iter().filter(|(_, due)| **due) {
        found(Unit::ReviewLink { repository: *repository, blob: *blob });
    }
    for ((instance, blob), _) in db.blob_reviews.iter().filter(|(_, due)| **due) {
        found(Unit::ReviewBlob { instance: *instance, blob: *blob });
    }
    for (repository, _) in db.repository_reviews.iter().filter(|(_, due)| **due) {
        found(Unit::ReviewRepository { repository: *repository });
    }
    for (session, row) in &db.sessions {
        let blind = world.is(Break::ReapWithoutCompare) && row.stage != Stage::Reaped;
        if row.expired && (blind || (row.stage == Stage::Open && !row.leased)) {
            found(Unit::Reap { session: *session });
        }
    }
}

/// The state after `action`, or `None` where it is not possible.
pub(crate) fn apply(world: &World, before: &State, action: Action) -> Option<State> {
    let mut state = before.clone();
    match action {
        Action::Request { gateway, unit } => {
            state.left.requests = state.left.requests.checked_sub(1)?;
            begin(&mut state, gateway, unit);
            return advance(world, state, gateway);
        }
        Action::Collect { lane, unit } => {
            begin(&mut state, lane, unit);
            return advance(world, state, lane);
        }
        Action::Statement { lane } => return advance(world, state, lane),
        Action::Begin { gateway, session } => uploads::begin(world, &mut state, gateway, session)?,
        Action::Open { gateway } => uploads::open(world, &mut state, gateway)?,
        Action::Write { gateway } => uploads::write(world, &mut state, gateway)?,
        Action::Sync { gateway } => uploads::sync(world, &mut state, gateway)?,
        Action::Checkpoint { gateway } => uploads::checkpoint(world, &mut state, gateway, false)?,
        Action::Cut { gateway } => uploads::checkpoint(world, &mut state, gateway, true)?,
        Action::Finish { gateway } => {
            uploads::finish(world, &mut state, gateway)?;
            return advance(world, state, gateway);
        }
        Action::Answer { gateway } => {
            state.appends[gateway].as_ref().filter(|append| append.committed)?;
            state.appends[gateway] = None;
        }
        Action::Forget { session } => {
            let holders = state.running.iter().flatten();
            if holders.into_iter().any(|one| one.locks.contains_key(&Lock::Session(session))) {
                return None;
            }
            state.db.sessions.remove(&session);
            world.take(Kind::Forget);
        }
        Action::Resolve { key } => state.reader = Some(key),
        Action::Read => {
            state.reader.take()?;
            world.take(Kind::Read);
        }
        Action::Claim { key } => {
            if state.deleter.is_some() {
                return None;
            }
            state.db.object_deletes.get_mut(&key)?.claimed = true;
            state.deleter = Some(Deleter { key, deleted: false });
            world.take(Kind::ClaimObject);
        }
        Action::Delete => {
            let deleter = state.deleter.as_mut().filter(|deleter| !deleter.deleted)?;
            deleter.deleted = true;
            state.storage.claims.insert(deleter.key, BURIED);
            state.storage.objects.remove(&deleter.key);
            world.take(Kind::DeleteObject);
        }
        Action::DropObjectRow => {
            let deleter = state.deleter.filter(|deleter| deleter.deleted)?;
            state.db.object_deletes.remove(&deleter.key);
            state.deleter = None;
            world.take(Kind::DropObjectRow);
        }
        Action::Elapse => elapse(world, &mut state)?,
        Action::CrashTransaction { lane } => {
            state.left.crashes = state.left.crashes.checked_sub(1)?;
            state.running[lane].take()?;
            world.take(Kind::CrashTransaction);
        }
        Action::CrashGateway { gateway } => {
            state.left.crashes = state.left.crashes.checked_sub(1)?;
            state.appends[gateway].take()?;
            world.take(Kind::CrashGateway);
        }
        Action::CrashStore => crash_store(world, &mut state)?,
        Action::CrashDeleter => {
            state.left.crashes = state.left.crashes.checked_sub(1)?;
            state.deleter.take()?;
            world.take(Kind::CrashDeleter);
        }
    }
    Some(state)
}

fn begin(state: &mut State, lane: usize, unit: Unit) {
    state.running[lane] = Some(Running { unit, step: 0, locks: Default::default(), seen: Seen::default() });
}

/// Runs the next statement of a lane's transaction.
fn advance(world: &World, mut state: State, lane: usize) -> Option<State> {
    let before = state.running[lane].clone()?;
    match (Statement { world, state: &mut state, lane }).run() {
        Ok(Flow::Next) => state.running[lane].as_mut()?.step += 1,
        Ok(Flow::To(step)) => state.running[lane].as_mut()?.step = step,
        Ok(Flow::Commit(kind)) => {
            world.take(kind);
            state.running[lane] = None;
            if let Some(append) = state.appends.get_mut(lane).and_then(Option::as_mut) {
                append.committed = true;
            }
        }
        Ok(Flow::Refuse(kind)) => {
            world.take(kind);
            state.running[lane] = None;
            if let Some(append) = state.appends.get_mut(lane) {
                *append = None;
            }
        }
        Err(Stop::Wait(..)) => return None,
        Err(Stop::Again) => {
            world.take(Kind::Restart);
            begin(&mut state, lane, before.unit);
        }
        Err(Stop::GiveWay) => {
            world.take(Kind::GiveWay);
            state.running[lane] = None;
        }
    }
    Some(state)
}

/// Transactions and operations are much shorter than the floor and the grace: none lasts from before to after. An append
/// that holds its session's lease may be as slow as it likes.
fn elapse(world: &World, state: &mut State) -> Option<()> {
    state.left.ticks = state.left.ticks.checked_sub(1)?;
    let late = state.appends.iter().flatten().any(|append| {
        let row = state.db.sessions.get(&append.session);
        row.is_none_or(|row| row.stage != Stage::Open || row.epoch != append.epoch)
    });
    if state.running.iter().any(Option::is_some) || late || state.reader.is_some() || state.deleter.is_some()
    {
        return None;
    }
    let db = &mut state.db;
    db.manifest_reviews.values_mut().for_each(|review| review.due = true);
    db.link_reviews.values_mut().for_each(|due| *due = true);
    db.blob_reviews.values_mut().for_each(|due| *due = true);
    db.repository_reviews.values_mut().for_each(|due| *due = true);
    for row in db.object_deletes.values_mut() {
        row.due = true;
        row.claimed = false;
    }
    for row in db.sessions.values_mut() {
        row.leased = false;
        row.expired = true;
    }
    let ghost = &mut state.ghost;
    ghost.held_links.clear();
    ghost.held_manifests.clear();
    // A referrer that came before its subject has had its grace.
    ghost.promised.retain(|(repository, manifest)| {
        let subject = world.shape(*manifest).subject;
        subject.is_none_or(|subject| db.manifests.contains(&(*repository, subject)))
    });
    world.take(Kind::Elapse);
    Some(())
}

fn crash_store(world: &World, state: &mut State) -> Option<()> {
    if !world.crashes_of_the_store {
        return None;
    }
    state.left.crashes = state.left.crashes.checked_sub(1)?;
    state.storage.objects.retain(|_, object| {
        object.chunks.truncate(object.durable);
        object.durable > 0
    });
    state.storage.claims.clear();
    for append in &mut state.appends {
        if append.as_ref().is_some_and(|append| append.opened && append.synced < append.hash.len()) {
            *append = None;
        }
    }
    world.take(Kind::CrashStore);
    Some(())
}
