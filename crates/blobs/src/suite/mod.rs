//! The conformance suite of [`Blobs`]: what every implementation must do, whatever lies behind it. Run it with
//! [`blobs_suite!`](crate::blobs_suite).
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "test code: a panic is the report, and each case's name says what must hold"
)]

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use berth_oci::{Algorithm, ByteRange, Digest};
use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use ulid::Ulid;

use crate::{
    BlobWriter, Blobs, BlobsError, Closed, Listed, ObjectKey, ObjectRef, Place, STEP_BYTES, Sealing, Staging,
    WriteOpen, Written,
};

mod staging;
pub use staging::*;

/// Cuts an object to a length.
pub type Cut = Box<dyn Fn(&ObjectKey, u64) + Send + Sync>;

/// A store under test.
pub struct Fixture {
    /// The implementation.
    pub blobs: Arc<dyn Blobs>,
    /// The store to name in calls.
    pub store_id: String,
    /// Cuts an object to a length behind the implementation's back.
    pub cut: Cut,
    /// Whether it writes objects in place, so that what was synced is read at the key and one epoch shuts out another.
    pub in_place: bool,
    /// Whether it seals what it holds, and so hands the end of what was synced to its caller.
    pub sealed: bool,
    /// Whether a read that is under way sees a cut; some stores go on with the object as it was.
    pub cut_under_readers: bool,
    /// What has to live as long as the store.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Fixture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fixture").field("blobs", &self.blobs).finish_non_exhaustive()
    }
}

/// Makes a test of every case: `blobs_suite!(make)`, where `make` is an async function that returns a [`Fixture`].
#[macro_export]
macro_rules! blobs_suite {
    ($make:path) => {
        $crate::blobs_suite!(@cases $make;
            synced_bytes_are_read_back,
            an_empty_object_is_an_object,
            a_write_goes_on_where_it_was_synced,
            what_was_not_synced_is_cut,
            a_newer_epoch_closes_the_older_writer,
            an_older_epoch_is_refused,
            late_bytes_of_a_closed_writer_never_land,
            a_recorded_offset_beyond_the_object_is_an_error,
            a_hash_state_that_is_none_is_refused,
            ranges_are_exact,
            a_range_outside_the_object_is_refused,
            a_missing_object_is_not_found,
            deleting_is_idempotent,
            nobody_writes_to_a_deleted_object,
            a_short_object_never_looks_complete,
            an_object_cut_while_it_is_read_ends_in_an_error,
            sixty_four_writers_do_not_disturb_each_other,
            sha512_is_hashed_inline,
            staged_bytes_can_be_hashed_again,
            a_large_object_arrives_whole,
            slow_readers_stop_nobody,
            chunks_of_every_size_make_the_same_object,
            a_listing_in_pages_shows_every_object_once,
            a_listing_goes_on_beside_deletes,
            an_upload_is_resumed_at_every_boundary,
            many_small_chunks_make_one_object,
            an_older_epoch_changes_nothing,
            a_finish_without_an_answer_is_resumed,
            nothing_is_left_of_an_abandoned_upload,
            nothing_but_the_object_is_left_of_a_finished_upload,
            a_part_replaces_none_of_a_newer_epoch,
        );
    };
    (@cases $make:path; $($case:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            $crate::suite::$case($make().await).await;
        }
    )*};
}

/// A key that no other case uses.
fn new_key() -> ObjectKey {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let instance = Ulid::from_parts(1, 7).to_string().parse().unwrap();
    ObjectKey::new(instance, Ulid::from_parts(2, u128::from(next)))
}

/// Bytes that repeat nowhere in reach, the same for a seed.
pub fn bytes_of(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

impl Fixture {
    fn fresh(&self, key: &ObjectKey, epoch: i64) -> WriteOpen {
        WriteOpen {
            store_id: self.store_id.clone(),
            key: key.clone(),
            epoch,
            offset: 0,
            hash_state: None,
            algorithm: Algorithm::Sha256,
            staging: Staging::default(),
            expected: None,
            unit: 1,
        }
    }

    fn resumed(&self, key: &ObjectKey, epoch: i64, from: &Recorded) -> WriteOpen {
        WriteOpen {
            offset: from.offset,
            hash_state: from.hash_state.clone(),
            staging: from.staging.clone(),
            ..self.fresh(key, epoch)
        }
    }

    /// Writes a whole object in epoch 1.
    async fn put(&self, key: &ObjectKey, bytes: &Bytes) -> Put {
        let mut writer = self.blobs.write(self.fresh(key, 1)).await.unwrap();
        writer.write(bytes.clone()).await.unwrap();
        finish(&mut *writer, &mut Recorded::default()).await
    }

    /// Reads an object whole with another algorithm.
    async fn rehash(&self, key: &ObjectKey, size: u64, algorithm: Algorithm) -> Result<Digest, BlobsError> {
        self.blobs.rehash(&self.object(key, size), algorithm).await
    }

    /// Writes the beginning of an object in epoch 1 and makes it durable.
    async fn begin(&self, key: &ObjectKey, bytes: &Bytes) -> Recorded {
        let mut recorded = Recorded::default();
        let mut writer = self.blobs.write(self.fresh(key, 1)).await.unwrap();
        feed(&mut *writer, bytes, usize::MAX, &mut recorded).await;
        sync(&mut *writer, &mut recorded).await;
        recorded
    }

    /// The size of the object that holds so many bytes.
    fn stored_size(&self, size: u64) -> u64 {
        if self.sealed { size + 28 * size.div_ceil(65_536) } else { size }
    }

    fn object(&self, key: &ObjectKey, size: u64) -> ObjectRef {
        ObjectRef::new(&self.store_id, key.clone(), size, sealing_of(key))
    }

    async fn read(&self, key: &ObjectKey, size: u64, range: Option<ByteRange>) -> Result<Bytes, BlobsError> {
        let reader = self.blobs.open(&self.object(key, size), range).await?;
        reader.into_bytes(u64::MAX).await
    }
}

/// What the rows of finished objects would say of how they are sealed, by their sessions.
static SEALINGS: LazyLock<Mutex<BTreeMap<String, Sealing>>> = LazyLock::new(Mutex::default);

fn sealing_of(key: &ObjectKey) -> Option<Sealing> {
    SEALINGS.lock().unwrap().get(key.session()).cloned()
}

fn note_sealing(key: &ObjectKey, sealing: Option<Sealing>) {
    if let Some(sealing) = sealing {
        SEALINGS.lock().unwrap().insert(key.session().to_owned(), sealing);
    }
}

/// What a caller has recorded about an upload.
#[derive(Clone, Default, Debug)]
pub struct Recorded {
    offset: u64,
    hash_state: Option<Vec<u8>>,
    staging: Staging,
    /// Tails that each epoch ever recorded.
    tails: BTreeMap<i64, u32>,
}

impl Recorded {
    fn note(&mut self, written: &Written) {
        assert!(written.offset >= self.offset, "what was durable stays so");
        self.offset = written.offset;
        self.hash_state = Some(written.hash_state.clone());
        self.staging.apply(&written.change);
        for piece in &written.change.added {
            if matches!(piece.place, Place::Tail { .. }) {
                *self.tails.entry(piece.epoch).or_default() += 1;
            }
        }
    }
}

/// A finished object.
#[derive(Debug)]
struct Put {
    key: ObjectKey,
    offset: u64,
    digest: Digest,
}

/// Writes in steps, and records what is asked for.
async fn feed(writer: &mut dyn BlobWriter, bytes: &Bytes, step: usize, recorded: &mut Recorded) {
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        if let Some(written) = writer.write(rest.split_to(rest.len().min(step))).await.unwrap() {
            assert!(writer.records(), "a store says beforehand that it asks");
            recorded.note(&written);
        }
    }
}

async fn sync(writer: &mut dyn BlobWriter, recorded: &mut Recorded) -> Written {
    let written = writer.sync().await.unwrap();
    assert_eq!(written.offset, writer.offset());
    recorded.note(&written);
    written
}

async fn close(writer: &mut dyn BlobWriter, recorded: &mut Recorded) -> Closed {
    let closed = writer.close().await.unwrap();
    assert_eq!(closed.written.offset, writer.offset());
    recorded.note(&closed.written);
    closed
}

async fn finish(writer: &mut dyn BlobWriter, recorded: &mut Recorded) -> Put {
    let closed = close(writer, recorded).await;
    let key = writer.finish().await.unwrap();
    note_sealing(&key, closed.sealing);
    Put { key, offset: closed.written.offset, digest: closed.written.digest }
}

pub async fn synced_bytes_are_read_back(fixture: Fixture) {
    let key = new_key();
    let bytes = bytes_of(1, 100_000);
    let mut writer = fixture.blobs.write(fixture.fresh(&key, 1)).await.unwrap();
    assert_eq!(writer.offset(), 0);
    writer.write(bytes.slice(..40_000)).await.unwrap();
    writer.write(Bytes::new()).await.unwrap();
    writer.write(bytes.slice(40_000..)).await.unwrap();
    assert_eq!(writer.offset(), 100_000);
    let written = writer.sync().await.unwrap();
    assert_eq!((written.offset, written.digest), (100_000, Digest::of(Algorithm::Sha256, &bytes)));
    let again = writer.sync().await.unwrap();
    assert_eq!((again.offset, again.digest), (written.offset, written.digest));
    assert!(again.change.is_empty(), "a change is handed out once");
    if fixture.in_place && !fixture.sealed {
        assert_eq!(fixture.read(&key, 100_000, None).await.unwrap(), bytes);
    }
    let put = finish(&mut *writer, &mut Recorded::default()).await;
    drop(writer);
    assert_eq!((put.offset, put.digest), (100_000, written.digest));
    assert_eq!(fixture.read(&put.key, 100_000, None).await.unwrap(), bytes);
}

pub async fn an_empty_object_is_an_object(fixture: Fixture) {
    let key = new_key();
    let written = fixture.put(&key, &Bytes::new()).await;
    assert_eq!((written.offset, written.digest), (0, Digest::of(Algorithm::Sha256, b"")));
    let reader = fixture.blobs.open(&fixture.object(&written.key, 0), None).await.unwrap();
    assert_eq!(reader.length(), 0);
    assert!(reader.into_bytes(0).await.unwrap().is_empty());
}

pub async fn a_write_goes_on_where_it_was_synced(fixture: Fixture) {
    // Around the hash's block, the page, and the step of the implementation.
    for boundary in [1, 63, 64, 65, 4095, 4096, 262_144, 1_048_576, 1_048_577] {
        let key = new_key();
        let bytes = bytes_of(boundary as u64, boundary + 1000);
        let mut first = fixture.begin(&key, &bytes.slice(..boundary)).await;
        assert_eq!(first.offset, boundary as u64);
        let mut writer = fixture.blobs.write(fixture.resumed(&key, 2, &first)).await.unwrap();
        assert_eq!(writer.offset(), boundary as u64);
        writer.write(bytes.slice(boundary..)).await.unwrap();
        let put = finish(&mut *writer, &mut first).await;
        assert_eq!(put.digest, Digest::of(Algorithm::Sha256, &bytes), "boundary {boundary}");
        assert_eq!(
            fixture.read(&put.key, bytes.len() as u64, None).await.unwrap(),
            bytes,
            "boundary {boundary}"
        );
    }
}

pub async fn what_was_not_synced_is_cut(fixture: Fixture) {
    let key = new_key();
    let bytes = bytes_of(2, 5_000_000);
    let mut writer = fixture.blobs.write(fixture.fresh(&key, 1)).await.unwrap();
    writer.write(bytes.slice(..1_000_000)).await.unwrap();
    let mut recorded = Recorded::default();
    sync(&mut *writer, &mut recorded).await;
    writer.write(bytes.slice(1_000_000..)).await.unwrap();
    drop(writer);
    let mut writer = fixture.blobs.write(fixture.resumed(&key, 2, &recorded)).await.unwrap();
    writer.write(Bytes::from_static(b"end")).await.unwrap();
    let written = finish(&mut *writer, &mut recorded).await;
    let key = written.key;
    assert_eq!(written.offset, 1_000_003);
    let whole = [&bytes[..1_000_000], b"end"].concat();
    assert_eq!(written.digest, Digest::of(Algorithm::Sha256, &whole));
    assert_eq!(fixture.read(&key, 1_000_003, None).await.unwrap(), whole);
    // Nothing is left behind the end either.
    assert!(fixture.blobs.open(&fixture.object(&key, 1_000_004), None).await.is_err());
}

pub async fn a_newer_epoch_closes_the_older_writer(fixture: Fixture) {
    if !fixture.in_place {
        return;
    }
    let key = new_key();
    let mut older = fixture.blobs.write(fixture.fresh(&key, 1)).await.unwrap();
    older.write(bytes_of(3, 1000)).await.unwrap();
    let mut recorded = Recorded::default();
    sync(&mut *older, &mut recorded).await;
    let mut newer = fixture.blobs.write(fixture.resumed(&key, 2, &recorded)).await.unwrap();
    // An implementation may take bytes in before it notices; a sync always does.
    let refused = match older.write(bytes_of(4, 1000)).await {
        Ok(_) => older.sync().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(refused, BlobsError::Stale), "{refused:?}");
    newer.write(bytes_of(5, 10)).await.unwrap();
    assert_eq!(newer.sync().await.unwrap().offset, 1010);
}

pub async fn an_older_epoch_is_refused(fixture: Fixture) {
    if !fixture.in_place {
        return;
    }
    let key = new_key();
    let bytes = bytes_of(6, 1000);
    let mut writer = fixture.blobs.write(fixture.fresh(&key, 5)).await.unwrap();
    writer.write(bytes.clone()).await.unwrap();
    finish(&mut *writer, &mut Recorded::default()).await;
    let late = fixture.blobs.write(fixture.fresh(&key, 4)).await;
    assert!(matches!(late, Err(BlobsError::Stale)), "{late:?}");
    drop(writer);
    // Also once the newer writer is done, and its own open when that arrives twice: either would cut what it wrote.
    for epoch in [4, 5] {
        let late = fixture.blobs.write(fixture.fresh(&key, epoch)).await;
        assert!(matches!(late, Err(BlobsError::Stale)), "{late:?}");
    }
    assert_eq!(fixture.read(&key, 1000, None).await.unwrap(), bytes);
}

pub async fn late_bytes_of_a_closed_writer_never_land(fixture: Fixture) {
    for round in 0..20 {
        let key = new_key();
        let mut older = fixture.blobs.write(fixture.fresh(&key, 1)).await.unwrap();
        let old_bytes = bytes_of(7, 4_000_000);
        let new_bytes = bytes_of(8 + round, 3_000_000);
        let flood = async {
            for start in (0..old_bytes.len()).step_by(100_000) {
                if older.write(old_bytes.slice(start..start + 100_000)).await.is_err() {
                    return;
                }
            }
            let _ = older.sync().await;
        };
        let takeover = async {
            let mut newer = fixture.blobs.write(fixture.fresh(&key, 2)).await.unwrap();
            for start in (0..new_bytes.len()).step_by(100_000) {
                newer.write(new_bytes.slice(start..start + 100_000)).await.unwrap();
            }
            finish(&mut *newer, &mut Recorded::default()).await
        };
        let ((), written) = tokio::join!(flood, takeover);
        assert_eq!(written.digest, Digest::of(Algorithm::Sha256, &new_bytes));
        assert_eq!(fixture.read(&written.key, 3_000_000, None).await.unwrap(), new_bytes);
    }
}

pub async fn a_recorded_offset_beyond_the_object_is_an_error(fixture: Fixture) {
    if !fixture.in_place {
        return;
    }
    let key = new_key();
    let written = fixture.begin(&key, &bytes_of(9, 1000)).await;
    let beyond = WriteOpen { offset: 1001, ..fixture.resumed(&key, 2, &written) };
    let refused = fixture.blobs.write(beyond).await;
    assert!(matches!(refused, Err(BlobsError::Short { expected: 1001, found: 1000 })), "{refused:?}");
    let absent = fixture.blobs.write(fixture.resumed(&new_key(), 2, &written)).await;
    let refused = match &absent {
        // What was sealed for one object is none of another.
        Err(BlobsError::Damaged(_)) => fixture.sealed,
        Err(BlobsError::NotFound) => !fixture.sealed,
        _ => false,
    };
    assert!(refused, "{absent:?}");
}

pub async fn a_hash_state_that_is_none_is_refused(fixture: Fixture) {
    let key = new_key();
    let written = fixture.begin(&key, &bytes_of(10, 1000)).await;
    let resumed = fixture.resumed(&key, 2, &written);
    let length = written.hash_state.unwrap().len();
    for state in [None, Some(vec![1, 2, 3]), Some(vec![2; length])] {
        let refused = fixture.blobs.write(WriteOpen { hash_state: state, ..resumed.clone() }).await;
        assert!(matches!(refused, Err(BlobsError::Invalid(_) | BlobsError::Remote(_))), "{refused:?}");
    }
    let other = WriteOpen { algorithm: Algorithm::Sha512, ..resumed };
    assert!(fixture.blobs.write(other).await.is_err());
}

pub async fn ranges_are_exact(fixture: Fixture) {
    let key = new_key();
    let size = 700_000;
    let bytes = bytes_of(11, size);
    let key = fixture.put(&key, &bytes).await.key;
    for (offset, length) in
        [(0, 1), (0, size), (1, size - 1), (size - 1, 1), (262_143, 2), (300_000, 300_001)]
    {
        let range = ByteRange { offset: offset as u64, length: length as u64 };
        let reader = fixture.blobs.open(&fixture.object(&key, size as u64), Some(range)).await.unwrap();
        assert_eq!(reader.length(), length as u64);
        let read = reader.into_bytes(u64::MAX).await.unwrap();
        assert_eq!(read, bytes.slice(offset..offset + length), "{range:?}");
    }
}

pub async fn a_range_outside_the_object_is_refused(fixture: Fixture) {
    let key = new_key();
    let key = fixture.put(&key, &bytes_of(12, 100)).await.key;
    for (offset, length) in [(0, 101), (100, 1), (99, 2), (u64::MAX, 2)] {
        let refused =
            fixture.blobs.open(&fixture.object(&key, 100), Some(ByteRange { offset, length })).await;
        assert!(refused.is_err(), "{offset} {length}");
    }
}

pub async fn a_missing_object_is_not_found(fixture: Fixture) {
    let key = new_key();
    let opened = fixture.blobs.open(&fixture.object(&key, 0), None).await;
    assert!(matches!(opened, Err(BlobsError::NotFound)), "{opened:?}");
    let hashed = fixture.rehash(&key, 0, Algorithm::Sha256).await;
    assert!(matches!(hashed, Err(BlobsError::NotFound)), "{hashed:?}");
}

pub async fn deleting_is_idempotent(fixture: Fixture) {
    let key = new_key();
    let key = fixture.put(&key, &bytes_of(13, 100)).await.key;
    for _ in 0..2 {
        fixture.blobs.delete(&fixture.store_id, &key).await.unwrap();
        assert!(matches!(fixture.read(&key, 100, None).await, Err(BlobsError::NotFound)));
    }
    fixture.blobs.delete(&fixture.store_id, &new_key()).await.unwrap();
}

pub async fn nobody_writes_to_a_deleted_object(fixture: Fixture) {
    if !fixture.in_place {
        return;
    }
    let key = new_key();
    let mut writer = fixture.blobs.write(fixture.fresh(&key, 1)).await.unwrap();
    writer.write(bytes_of(14, 100)).await.unwrap();
    fixture.blobs.delete(&fixture.store_id, &key).await.unwrap();
    let refused = writer.sync().await.unwrap_err();
    assert!(matches!(refused, BlobsError::Stale), "{refused:?}");
    let late = fixture.blobs.write(fixture.fresh(&key, 2)).await;
    assert!(matches!(late, Err(BlobsError::Stale)), "{late:?}");
    assert!(matches!(fixture.read(&key, 0, None).await, Err(BlobsError::NotFound)));
}

pub async fn a_short_object_never_looks_complete(fixture: Fixture) {
    let key = new_key();
    let key = fixture.put(&key, &bytes_of(15, 600_000)).await.key;
    (fixture.cut)(&key, fixture.stored_size(599_999));
    let whole = fixture.read(&key, 600_000, None).await;
    assert!(matches!(whole, Err(BlobsError::Short { .. })), "{whole:?}");
    let range = ByteRange { offset: 599_000, length: 1000 };
    assert!(fixture.read(&key, 600_000, Some(range)).await.is_err());
    let hashed = fixture.rehash(&key, 600_000, Algorithm::Sha512).await;
    assert!(matches!(hashed, Err(BlobsError::Short { .. })), "{hashed:?}");
}

pub async fn an_object_cut_while_it_is_read_ends_in_an_error(fixture: Fixture) {
    if !fixture.cut_under_readers {
        return;
    }
    let key = new_key();
    let size = 64 * 1024 * 1024;
    let key = fixture.put(&key, &bytes_of(16, size)).await.key;
    let reader = fixture.blobs.open(&fixture.object(&key, size as u64), None).await.unwrap();
    let mut stream = reader.into_stream();
    stream.next().await.unwrap().unwrap();
    (fixture.cut)(&key, fixture.stored_size(size as u64) - 1);
    let mut last = None;
    while let Some(step) = stream.next().await {
        last = Some(step);
    }
    assert!(matches!(last, Some(Err(BlobsError::Short { .. }))), "{last:?}");
}

pub async fn sixty_four_writers_do_not_disturb_each_other(fixture: Fixture) {
    let fixture = &fixture;
    let writers = (0..64u64).map(|seed| async move {
        let key = new_key();
        let bytes = bytes_of(100 + seed, 1_500_000);
        let mut writer: Box<dyn BlobWriter> = fixture.blobs.write(fixture.fresh(&key, 1)).await.unwrap();
        for start in (0..bytes.len()).step_by(50_000) {
            writer.write(bytes.slice(start..start + 50_000)).await.unwrap();
        }
        let written = finish(&mut *writer, &mut Recorded::default()).await;
        assert_eq!(written.digest, Digest::of(Algorithm::Sha256, &bytes));
        assert_eq!(fixture.read(&written.key, 1_500_000, None).await.unwrap(), bytes);
    });
    join_all(writers).await;
}

pub async fn sha512_is_hashed_inline(fixture: Fixture) {
    let key = new_key();
    let bytes = bytes_of(17, 300_000);
    let open = WriteOpen { algorithm: Algorithm::Sha512, ..fixture.fresh(&key, 1) };
    let mut writer = fixture.blobs.write(open).await.unwrap();
    writer.write(bytes.slice(..100_000)).await.unwrap();
    let mut first = Recorded::default();
    sync(&mut *writer, &mut first).await;
    let resumed = WriteOpen { algorithm: Algorithm::Sha512, ..fixture.resumed(&key, 2, &first) };
    let mut writer = fixture.blobs.write(resumed).await.unwrap();
    writer.write(bytes.slice(100_000..)).await.unwrap();
    assert_eq!(writer.sync().await.unwrap().digest, Digest::of(Algorithm::Sha512, &bytes));
}

pub async fn staged_bytes_can_be_hashed_again(fixture: Fixture) {
    let key = new_key();
    let bytes = bytes_of(18, 2_500_000);
    let key = fixture.put(&key, &bytes).await.key;
    for (size, algorithm) in [
        (2_500_000, Algorithm::Sha512),
        (2_500_000, Algorithm::Sha256),
        (1_000_001, Algorithm::Sha512),
        (0, Algorithm::Sha512),
    ] {
        if fixture.sealed && size != 2_500_000 {
            // A part of a sealed object is none.
            continue;
        }
        let digest = fixture.rehash(&key, size, algorithm).await.unwrap();
        assert_eq!(digest, Digest::of(algorithm, &bytes[..usize::try_from(size).unwrap()]));
    }
}

pub async fn a_large_object_arrives_whole(fixture: Fixture) {
    let key = new_key();
    let size = 200 * 1024 * 1024;
    let bytes = bytes_of(19, size);
    let mut writer = fixture.blobs.write(fixture.fresh(&key, 1)).await.unwrap();
    let mut recorded = Recorded::default();
    feed(&mut *writer, &bytes, 1 << 18, &mut recorded).await;
    let written = finish(&mut *writer, &mut recorded).await;
    let key = written.key;
    let expected = Digest::of(Algorithm::Sha256, &bytes);
    assert_eq!((written.offset, written.digest), (size as u64, expected));
    let reader = fixture.blobs.open(&fixture.object(&key, size as u64), None).await.unwrap();
    let mut hasher = berth_oci::Hasher::new(Algorithm::Sha256);
    let mut stream = reader.into_stream();
    while let Some(step) = stream.next().await {
        hasher.update(&step.unwrap());
    }
    assert_eq!(hasher.finish(), expected);
}

pub async fn slow_readers_stop_nobody(fixture: Fixture) {
    let key = new_key();
    let size = 8_000_000;
    let bytes = bytes_of(21, size);
    let key = fixture.put(&key, &bytes).await.key;
    let mut slow = Vec::new();
    for _ in 0..32 {
        let reader = fixture.blobs.open(&fixture.object(&key, size as u64), None).await.unwrap();
        let mut stream = reader.into_stream();
        stream.next().await.unwrap().unwrap();
        slow.push(stream);
    }
    let other = new_key();
    let other = fixture.put(&other, &bytes).await.key;
    assert_eq!(fixture.read(&other, size as u64, None).await.unwrap(), bytes);
    let rest = join_all(
        slow.into_iter().map(|stream| stream.fold(0, |sum, step| async move { sum + step.unwrap().len() })),
    );
    let first = STEP_BYTES.min(size);
    assert!(rest.await.into_iter().all(|read| read >= size - first));
}

pub async fn chunks_of_every_size_make_the_same_object(fixture: Fixture) {
    let bytes = bytes_of(20, 3_300_000);
    for step in [7_001, 65_536, 262_145, 1_048_576, 3_300_000] {
        let key = new_key();
        let mut writer = fixture.blobs.write(fixture.fresh(&key, 1)).await.unwrap();
        for start in (0..bytes.len()).step_by(step) {
            writer.write(bytes.slice(start..bytes.len().min(start + step))).await.unwrap();
        }
        let put = finish(&mut *writer, &mut Recorded::default()).await;
        assert_eq!(put.digest, Digest::of(Algorithm::Sha256, &bytes), "step {step}");
        assert_eq!(fixture.read(&put.key, bytes.len() as u64, None).await.unwrap(), bytes, "step {step}");
    }
}

/// Objects of two instances, with their sizes; some share the ends of their names.
async fn scattered(fixture: &Fixture) -> BTreeMap<ObjectKey, u64> {
    let mut objects = BTreeMap::new();
    for number in 0..90u64 {
        let instance = Ulid::from_parts(1, 100 + u128::from(number % 2)).to_string().parse().unwrap();
        let object = Ulid::from_parts(3 + number / 9, u128::from(number % 30));
        let key = ObjectKey::new(instance, object);
        let key = fixture.put(&key, &bytes_of(number, number as usize)).await.key;
        objects.insert(key, number);
    }
    objects
}

async fn list_all(fixture: &Fixture, limit: usize) -> Vec<Listed> {
    let mut all: Vec<Listed> = Vec::new();
    loop {
        let after = all.last().map(|listed| &listed.key);
        let page = fixture.blobs.list(&fixture.store_id, after, limit).await.unwrap();
        assert!(page.len() <= limit);
        let ended = page.len() < limit;
        all.extend(page);
        if ended {
            return all;
        }
    }
}

pub async fn a_listing_in_pages_shows_every_object_once(fixture: Fixture) {
    assert!(list_all(&fixture, 10).await.is_empty(), "nothing is there yet");
    let objects = scattered(&fixture).await;
    let whole = list_all(&fixture, 1000).await;
    for limit in [1, 7, 89, 90, 91] {
        assert_eq!(list_all(&fixture, limit).await, whole, "in pages of {limit}");
    }
    assert_eq!(whole.len(), objects.len());
    let objects: BTreeMap<_, _> =
        objects.into_iter().map(|(key, size)| (key, fixture.stored_size(size))).collect();
    let listed: BTreeMap<_, _> = whole.iter().map(|listed| (listed.key.clone(), listed.size)).collect();
    assert_eq!(listed, objects);
    // A time of this century in microseconds.
    assert!(whole.iter().all(|listed| listed.modified > 1_000_000_000_000_000), "{:?}", whole[0]);
}

pub async fn a_listing_goes_on_beside_deletes(fixture: Fixture) {
    scattered(&fixture).await;
    let whole = list_all(&fixture, 1000).await;
    let store = &fixture.store_id;
    let first = fixture.blobs.list(store, None, 20).await.unwrap();
    for listed in &whole[10..40] {
        fixture.blobs.delete(store, &listed.key).await.unwrap();
    }
    let rest = fixture.blobs.list(store, Some(&first[19].key), 1000).await.unwrap();
    assert_eq!(rest, whole[40..]);
}
