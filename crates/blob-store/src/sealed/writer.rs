//! Sealing as bytes come in. The store below gets whole segments until the end, so that none is ever sealed again in its
//! place: what makes no whole segment when a request ends is sealed by itself and handed to the caller to record.

use std::collections::VecDeque;

use async_trait::async_trait;
use berth_blobs::{
    BlobWriter, Blobs, BlobsError, Closed, ObjectKey, Sealing, SealingChange, SealingState, Staging,
    StagingChange, WriteOpen, Written,
};
use berth_oci::{Algorithm, Hasher};
use bytes::{Bytes, BytesMut};

use super::segment::{DataKey, OVERHEAD, Place, SEGMENT, STORED, stored_size};

/// Whole segments in memory.
const SEGMENT_LEN: usize = 64 * 1024;

/// What the caller may go on from, as it was handed out last.
#[derive(Clone, Debug)]
struct HandedOut {
    offset: u64,
    hasher: Hasher,
    hash_state: Vec<u8>,
    rest: Bytes,
}

/// Writes one sealed object in one epoch.
#[derive(Debug)]
pub(super) struct SealedWriter {
    inner: Box<dyn BlobWriter>,
    key: Sealing,
    data_key: DataKey,
    /// The caller has recorded the key, or was told to.
    key_known: bool,
    /// Over the blob's bytes up to `offset`.
    hasher: Hasher,
    /// Bytes of the blob that were taken in.
    offset: u64,
    /// Those behind the last whole segment.
    partial: BytesMut,
    /// Taken in, and not looked at before something else is recorded.
    waiting: Bytes,
    /// The hash at the end of each segment that the store may still name, where it may name one.
    ends: VecDeque<(u64, Hasher)>,
    handed_out: HandedOut,
    /// What the store below has put aside and was not handed out.
    change: StagingChange,
    closed: bool,
    /// A call failed or did not end.
    broken: bool,
}

impl SealedWriter {
    /// Opens the store below at the last whole segment, and takes up what waits behind it.
    pub(super) async fn open(
        blobs: &dyn Blobs,
        open: WriteOpen,
        (key, data_key): (Sealing, DataKey),
        recorded: Option<SealingState>,
    ) -> Result<Self, BlobsError> {
        let hasher = crate::restore_hash(&open)?;
        let key_known = recorded.is_some();
        let (hash_state, rest) =
            recorded.map_or_else(Default::default, |state| (state.hash_state, state.rest));
        let rest = Bytes::from(rest);
        let whole = open.offset / SEGMENT * SEGMENT;
        let found = whole + (rest.len() as u64).saturating_sub(OVERHEAD);
        if found != open.offset {
            return Err(BlobsError::Short { expected: open.offset, found });
        }
        let partial = match rest.is_empty() {
            true => BytesMut::new(),
            false => data_key.open(Place::Rest(open.offset), BytesMut::from(&rest[..]))?.into(),
        };
        let offset = whole / SEGMENT * STORED;
        let end = open.expected.and_then(|expected| stored_size(open.offset.checked_add(expected)?));
        let below = WriteOpen {
            offset,
            hash_state: (offset > 0).then(|| hash_state.clone()),
            algorithm: Algorithm::Sha256,
            staging: Staging { sealing: None, ..open.staging },
            expected: end.map(|end| end.saturating_sub(offset)),
            unit: STORED,
            ..open
        };
        let inner = blobs.write(below).await?;
        let handed_out = HandedOut { offset: open.offset, hasher: hasher.clone(), hash_state, rest };
        Ok(Self {
            inner,
            key,
            data_key,
            key_known,
            hasher,
            offset: open.offset,
            partial,
            waiting: Bytes::new(),
            ends: VecDeque::new(),
            handed_out,
            change: StagingChange::default(),
            closed: false,
            broken: false,
        })
    }

    fn begin(&mut self) -> Result<(), BlobsError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(BlobsError::Invalid("a writer whose last call failed or was dropped"));
        }
        Ok(())
    }

    fn begin_before_close(&mut self) -> Result<(), BlobsError> {
        self.begin()?;
        if self.closed { Err(BlobsError::Invalid("a writer that was closed")) } else { Ok(()) }
    }

    /// Takes in what waits. Some: the store below asks for this to be recorded before there may be more.
    async fn take_in(&mut self, record: bool) -> Result<Option<Written>, BlobsError> {
        while !self.waiting.is_empty() {
            let room = SEGMENT_LEN - self.partial.len();
            let piece = self.waiting.split_to(self.waiting.len().min(room));
            self.hasher.update(&piece);
            self.offset += piece.len() as u64;
            self.partial.extend_from_slice(&piece);
            if self.partial.len() == SEGMENT_LEN {
                let asked = self.pass_on().await?;
                if let Some(asked) = asked {
                    if record {
                        return self.hand_out_behind(asked).map(Some);
                    }
                    self.change.then(asked.change);
                }
            }
            // Sealing a segment takes some ten microseconds.
            tokio::task::consume_budget().await;
        }
        Ok(None)
    }

    /// Seals what is there as the next segment, and gives it to the store below.
    async fn pass_on(&mut self) -> Result<Option<Written>, BlobsError> {
        let number = (self.offset - 1) / SEGMENT;
        let sealed = self.data_key.seal(Place::Segment(number), &self.partial)?;
        self.partial.clear();
        if self.inner.records() {
            self.ends.push_back((self.offset, self.hasher.clone()));
        }
        self.inner.write(sealed).await
    }

    /// What the caller may record when the store below is behind.
    fn hand_out_behind(&mut self, below: Written) -> Result<Written, BlobsError> {
        if !below.offset.is_multiple_of(STORED) {
            return Err(BlobsError::Invalid("a store that stops within a segment"));
        }
        let offset = below.offset / STORED * SEGMENT;
        // Less than was recorded before: that was more by the bytes that waited aside.
        let moved = offset > self.handed_out.offset;
        if moved {
            while self.ends.front().is_some_and(|(end, _)| *end < offset) {
                self.ends.pop_front();
            }
            let hasher = match self.ends.front() {
                Some((end, hasher)) if *end == offset => hasher.clone(),
                _ => return Err(BlobsError::Invalid("a store that stops where nothing ended")),
            };
            let hash_state = below.hash_state;
            self.handed_out = HandedOut { offset, hasher, hash_state, rest: Bytes::new() };
        }
        self.change.then(below.change);
        Ok(self.hand_out(moved))
    }

    /// What was handed out last, with everything that the caller has not recorded yet.
    fn hand_out(&mut self, changed: bool) -> Written {
        let mut change = std::mem::take(&mut self.change);
        let key = (!std::mem::replace(&mut self.key_known, true)).then(|| self.key.clone());
        if changed || key.is_some() {
            change.sealing = Some(SealingChange {
                key,
                hash_state: self.handed_out.hash_state.clone(),
                rest: self.handed_out.rest.to_vec(),
            });
        }
        Written {
            offset: self.handed_out.offset,
            hash_state: self.handed_out.hasher.save(),
            digest: self.handed_out.hasher.clone().finish(),
            change,
        }
    }

    /// Notes that everything is durable, or will be once `rest` is recorded.
    fn settle(&mut self, below: Written, rest: Bytes) {
        self.ends.clear();
        self.change.then(below.change);
        self.handed_out = HandedOut {
            offset: self.offset,
            hasher: self.hasher.clone(),
            hash_state: below.hash_state,
            rest,
        };
    }
}

#[async_trait]
impl BlobWriter for SealedWriter {
    async fn write(&mut self, data: Bytes) -> Result<Option<Written>, BlobsError> {
        self.begin_before_close()?;
        self.waiting =
            if self.waiting.is_empty() { data } else { [&self.waiting[..], &data].concat().into() };
        let asked = self.take_in(true).await?;
        self.broken = false;
        Ok(asked)
    }

    async fn sync(&mut self) -> Result<Written, BlobsError> {
        self.begin_before_close()?;
        self.take_in(false).await?;
        let below = self.inner.sync().await?;
        let whole = self.offset / SEGMENT * STORED;
        if below.offset != whole {
            return Err(BlobsError::Short { expected: whole, found: below.offset });
        }
        let moved = self.offset != self.handed_out.offset;
        let rest = match (moved, self.partial.is_empty()) {
            (false, _) => self.handed_out.rest.clone(),
            (true, true) => Bytes::new(),
            (true, false) => self.data_key.seal(Place::Rest(self.offset), &self.partial)?,
        };
        self.settle(below, rest);
        self.broken = false;
        Ok(self.hand_out(moved))
    }

    async fn close(&mut self) -> Result<Closed, BlobsError> {
        self.begin_before_close()?;
        self.take_in(false).await?;
        if !self.partial.is_empty()
            && let Some(asked) = self.pass_on().await?
        {
            self.change.then(asked.change);
        }
        let closed = self.inner.close().await?;
        let whole = stored_size(self.offset).ok_or(BlobsError::Invalid("an object that is too large"))?;
        if closed.written.offset != whole {
            return Err(BlobsError::Short { expected: whole, found: closed.written.offset });
        }
        self.settle(closed.written, Bytes::new());
        self.closed = true;
        self.broken = false;
        let sealing = Some(self.key.clone());
        Ok(Closed { written: self.hand_out(true), two_phase: closed.two_phase, sealing })
    }

    async fn finish(&mut self) -> Result<ObjectKey, BlobsError> {
        self.begin()?;
        let key = self.inner.finish().await?;
        self.broken = false;
        Ok(key)
    }

    fn records(&self) -> bool {
        self.inner.records()
    }

    fn offset(&self) -> u64 {
        self.offset + self.waiting.len() as u64
    }
}
