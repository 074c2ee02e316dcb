//! Appends: a gateway's lease, its writer in the blob store, and what it records. The filesystem's rules: one file, whose
//! older writer is closed before it is cut back to the recorded offset. On object storage every epoch has keys of its
//! own, which is stricter.

use crate::{
    locks::{Lock, Mode, in_the_way},
    state::{Append, BURIED, CHUNKS, Running, Seen, Session, Stage, State},
    units::Unit,
    world::{Break, Kind, World},
};

/// Whether a transaction of one statement would have to wait for the session's row.
fn is_locked(state: &State, session: Session) -> bool {
    in_the_way(state, usize::MAX, Lock::Session(session), Mode::Update).next().is_some()
}

/// `metadata::upload::Metadata::begin_append`: takes the lease, from a live holder too, and raises the epoch.
pub(crate) fn begin(world: &World, state: &mut State, gateway: usize, session: Session) -> Option<()> {
    if state.appends[gateway].is_some() || is_locked(state, session) {
        return None;
    }
    state.left.requests = state.left.requests.checked_sub(1)?;
    let row = state.db.sessions.get_mut(&session)?;
    if row.stage != Stage::Open || row.expired {
        return None;
    }
    row.epoch += 1;
    row.leased = true;
    let taken = state.appends.iter().flatten().any(|append| append.session == session);
    world.take(if taken { Kind::TakeOver } else { Kind::BeginAppend });
    state.appends[gateway] = Some(Append {
        session,
        key: row.key,
        epoch: row.epoch,
        start: row.recorded.len(),
        hash: row.recorded.clone(),
        opened: false,
        closed: false,
        synced: row.recorded.len(),
        committed: false,
    });
    Some(())
}

/// `blob_store::filesystem::writer::Store::take_over`: refuses an older epoch, closes the writer before, cuts the file
/// back to the recorded offset. A gateway that is refused ends.
pub(crate) fn open(world: &World, state: &mut State, gateway: usize) -> Option<()> {
    let append = state.appends[gateway].as_mut()?;
    let again = append.opened;
    if again && !world.is(Break::OpenTwice) || append.committed {
        return None;
    }
    let mark = state.storage.objects.get(&append.key).map_or(0, |object| object.mark);
    let claim = state.storage.claims.get(&append.key).copied().unwrap_or(0).max(mark);
    let length = state.storage.objects.get(&append.key).map_or(0, |object| object.chunks.len());
    let stale = claim > append.epoch && !world.is(Break::WritersStayOpen);
    if stale || length < append.start {
        world.take(Kind::OpenRefused);
        state.appends[gateway] = None;
        return Some(());
    }
    let object = state.storage.objects.entry(append.key).or_default();
    object.chunks.truncate(append.start);
    object.durable = object.durable.min(append.start);
    object.mark = append.epoch;
    state.storage.claims.insert(append.key, append.epoch);
    append.opened = true;
    append.closed = again;
    world.take(Kind::Open);
    Some(())
}

fn may_write(world: &World, state: &State, append: &Append) -> bool {
    let newest = state.storage.claims.get(&append.key) == Some(&append.epoch);
    append.opened && !append.closed && (newest || world.is(Break::WritersStayOpen)) && !append.committed
}

/// `blob_store::filesystem::writer::FileWriter::write`: the next chunk, into the page cache.
pub(crate) fn write(world: &World, state: &mut State, gateway: usize) -> Option<()> {
    let mut append = state.appends[gateway].clone()?;
    if !may_write(world, state, &append) || append.hash.len() == CHUNKS {
        return None;
    }
    let object = state.storage.objects.get_mut(&append.key)?;
    let at = append.hash.len();
    if at < object.chunks.len() {
        object.chunks[at] = append.epoch;
    } else {
        // A hole, where a cut happened behind the writer's back, reads as nobody's bytes.
        object.chunks.resize(at, BURIED);
        object.chunks.push(append.epoch);
    }
    append.hash.push(append.epoch);
    state.appends[gateway] = Some(append);
    world.take(Kind::Write);
    Some(())
}

/// `blob_store::filesystem::writer::FileWriter::sync`: everything that was written is on the device.
pub(crate) fn sync(world: &World, state: &mut State, gateway: usize) -> Option<()> {
    let mut append = state.appends[gateway].clone()?;
    if !may_write(world, state, &append) || append.synced == append.hash.len() {
        return None;
    }
    let object = state.storage.objects.get_mut(&append.key)?;
    object.durable = object.chunks.len();
    append.synced = append.hash.len();
    state.appends[gateway] = Some(append);
    world.take(Kind::Sync);
    Some(())
}

/// `metadata::upload::Metadata::checkpoint` and, at the end of a body or where it was cut, `end_append`: compare and set
/// on the epoch. A gateway that is refused ends.
pub(crate) fn checkpoint(world: &World, state: &mut State, gateway: usize, end: bool) -> Option<()> {
    let append = state.appends[gateway].clone()?;
    if is_locked(state, append.session) || append.committed {
        return None;
    }
    let early = world.is(Break::RecordBeforeSync);
    let recorded = if early { append.hash.len() } else { append.synced };
    // Nothing new is never sent, and a gateway ends with everything synced.
    if recorded <= append.start || (end && recorded != append.hash.len()) {
        return None;
    }
    let row = state.db.sessions.get_mut(&append.session);
    let row = row.filter(|row| {
        let newest = row.epoch == append.epoch || world.is(Break::CheckpointWithoutEpoch);
        row.stage == Stage::Open && newest && row.recorded.len() <= recorded
    });
    let Some(row) = row else {
        world.take(Kind::CheckpointRefused);
        state.appends[gateway] = None;
        return Some(());
    };
    if !end && row.recorded == append.hash[..recorded] && row.leased {
        // The message arrives a second time and changes nothing.
        return None;
    }
    row.recorded = append.hash[..recorded].to_vec();
    row.leased = !end;
    row.expired = false;
    if end {
        state.appends[gateway] = None;
    }
    world.take(if end { Kind::Cut } else { Kind::Checkpoint });
    Some(())
}

/// The gateway compares the digest, which is that of a whole blob, and begins `commit_upload`; also a second time, when
/// the first answer was lost.
pub(crate) fn finish(world: &World, state: &mut State, gateway: usize) -> Option<()> {
    let append = state.appends[gateway].as_ref()?;
    let known = if world.is(Break::RecordBeforeSync) { append.hash.len() } else { append.synced };
    if known < CHUNKS || state.running[gateway].is_some() {
        return None;
    }
    let unit = Unit::Commit { session: append.session, epoch: append.epoch };
    state.running[gateway] =
        Some(Running { unit, step: 0, locks: Default::default(), seen: Seen::default() });
    Some(())
}
