//! Writing to object storage: bytes are hashed as they come in and fill up one part, while the part before is on its way.
//! Two parts is all that a writer holds in memory, each reserved from the budget before its first byte is taken.

use std::sync::Arc;

use async_trait::async_trait;
use berth_blobs::{
    BlobWriter, BlobsError, Closed, Multipart, ObjectKey, Piece, Place, RESERVED_PARTS, StagingChange,
    WriteOpen, Written,
};
use berth_oci::Hasher;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{Inner, buffer::Buffer, client::Sent, config::MAX_PARTS, resources::Room};

/// Bytes that are hashed between two points where the task may yield.
const HASH_STEP: usize = 256 * 1024;
/// Parts that go out before the caller is asked to record them. One more may be on its way, and one closes.
const PARTS_BETWEEN_RECORDS: u32 = RESERVED_PARTS - 4;

/// A part on its way.
#[derive(Debug)]
struct Sending {
    task: JoinHandle<Result<Sent, BlobsError>>,
    number: u32,
    start: u64,
    /// The hash of everything up to its end.
    hasher: Hasher,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes one object in one epoch.
#[derive(Debug)]
pub(super) struct S3Writer {
    store: Arc<Inner>,
    key: ObjectKey,
    epoch: i64,
    /// What parts end at multiples of.
    unit: u64,
    multipart: Option<Multipart>,
    /// What is durable, in the order of the bytes.
    pieces: Vec<Piece>,
    next_piece: u32,
    next_part: u32,
    /// Tails of this epoch.
    tails: u32,
    /// Over everything up to `offset`.
    hasher: Hasher,
    offset: u64,
    /// Taken in, but not hashed before something else is recorded.
    waiting: Bytes,
    /// Bytes in parts, sent or on their way. What comes behind is in tails and in the buffer.
    parts_end: u64,
    buffer_start: u64,
    buffer: Buffer,
    room: Option<Room>,
    sending: Option<Sending>,
    durable: u64,
    durable_hasher: Hasher,
    /// What was not handed out yet.
    change: StagingChange,
    parts_since_record: u32,
    /// Where the body is announced to end.
    end: Option<u64>,
    closed: bool,
    /// A call failed or did not end.
    broken: bool,
}

impl S3Writer {
    pub(super) fn new(store: Arc<Inner>, open: WriteOpen, hasher: Hasher) -> Self {
        let staging = open.staging;
        let parts = staging.pieces.iter().filter_map(|piece| match &piece.place {
            Place::Part { number, .. } => Some((*number, piece.start + piece.size)),
            Place::Tail { .. } => None,
        });
        let (last_part, parts_end) =
            parts.fold((staging.reserved, 0), |(last, end), (number, to)| (last.max(number), end.max(to)));
        Self {
            store,
            key: open.key,
            epoch: open.epoch,
            unit: open.unit.max(1),
            multipart: staging.multipart,
            next_piece: staging.last + 1,
            pieces: staging.pieces,
            next_part: last_part + 1,
            tails: 0,
            durable_hasher: hasher.clone(),
            hasher,
            offset: open.offset,
            waiting: Bytes::new(),
            parts_end,
            buffer_start: open.offset,
            buffer: Buffer::default(),
            room: None,
            sending: None,
            durable: open.offset,
            change: StagingChange::default(),
            parts_since_record: 0,
            end: open.expected.map(|expected| open.offset + expected),
            closed: false,
            broken: false,
        }
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

    fn part_size(&self) -> u64 {
        self.store.sizes.of_units(self.next_part, self.unit)
    }

    /// Reserves the memory of the part that fills up, before its first byte is taken.
    async fn reserve(&mut self) -> Result<(), BlobsError> {
        if self.room.is_none() {
            let known = self.end.map(|end| end.saturating_sub(self.parts_end)).filter(|left| *left > 0);
            let whole = known.map_or(self.part_size(), |left| left.min(self.part_size()));
            self.room = Some(self.store.reserve(whole).await?);
            if self.buffer.as_slice().is_empty() {
                self.buffer = Buffer::with_capacity(usize::try_from(whole).unwrap_or_default())?;
            }
        }
        Ok(())
    }

    /// Takes in what waits. True: something has to be recorded before there may be more.
    async fn take_in(&mut self, record: bool) -> Result<bool, BlobsError> {
        while !self.waiting.is_empty() {
            let boundary = self.parts_end + self.part_size();
            if self.offset >= boundary {
                if self.multipart.is_none() {
                    self.begin_multipart().await?;
                    if record {
                        return Ok(true);
                    }
                }
                self.send().await?;
                if record && self.parts_since_record >= PARTS_BETWEEN_RECORDS {
                    return Ok(true);
                }
                continue;
            }
            self.reserve().await?;
            let left = usize::try_from(boundary - self.offset).unwrap_or(usize::MAX);
            let piece = self.waiting.split_to(self.waiting.len().min(HASH_STEP).min(left));
            self.hasher.update(&piece);
            self.buffer.extend(&piece)?;
            self.offset += piece.len() as u64;
            tokio::task::consume_budget().await;
        }
        Ok(false)
    }

    async fn begin_multipart(&mut self) -> Result<(), BlobsError> {
        let multipart = self.store.client.begin(&self.key.at(self.epoch)).await?;
        berth_service::crash::point("object.multipart_begun");
        self.change.multipart = Some(multipart.clone());
        self.multipart = Some(multipart);
        Ok(())
    }

    /// The tails that are not in the buffer.
    fn tails_before_buffer(&self) -> &[Piece] {
        let first = self.pieces.partition_point(|piece| piece.start < self.parts_end);
        let end = self.pieces.partition_point(|piece| piece.start < self.buffer_start);
        &self.pieces[first..end.max(first)]
    }

    /// Everything behind the parts, in one piece.
    async fn gather(&mut self) -> Result<Bytes, BlobsError> {
        // The buffer's memory goes with its bytes: a writer that waits for memory holds none.
        let fresh = self.buffer.take();
        if self.tails_before_buffer().is_empty() {
            return Ok(fresh);
        }
        self.store.read_tails(self.tails_before_buffer(), fresh).await
    }

    /// Sends everything behind the parts as the next one, once the one before has arrived.
    async fn send(&mut self) -> Result<(), BlobsError> {
        self.settle().await?;
        let Some(multipart) = self.multipart.clone() else {
            return Err(BlobsError::Invalid("a part without an upload"));
        };
        let number = self.next_part;
        if number > MAX_PARTS {
            return Err(BlobsError::Invalid("an object with more parts than object storage takes"));
        }
        self.reserve().await?;
        let body = self.gather().await?;
        let room = self.room.take();
        let store = Arc::clone(&self.store);
        let task = self.store.tasks.detach(async move {
            let length = body.len() as u64;
            berth_service::crash::point("object.before_part");
            let sent = store.client.part(&multipart, number, body).await;
            berth_service::crash::point("object.part_sent");
            drop(room);
            match &sent {
                Ok(_) => {
                    store.metrics.written.inc_by(length);
                }
                Err(error) => store.metrics.count(error),
            }
            sent
        });
        let start = self.parts_end;
        self.sending = Some(Sending { task, number, start, hasher: self.hasher.clone() });
        self.next_part += 1;
        self.parts_since_record += 1;
        self.parts_end = self.offset;
        self.buffer_start = self.offset;
        Ok(())
    }

    /// Waits for the part on its way, and counts it among the pieces.
    async fn settle(&mut self) -> Result<(), BlobsError> {
        let Some(sending) = &mut self.sending else { return Ok(()) };
        let sent = (&mut sending.task).await;
        let answer =
            sent.map_err(|error| BlobsError::Unavailable(format!("a part was not sent: {error}")))??;
        let Some(sending) = self.sending.take() else { return Ok(()) };
        let (start, end) = (sending.start, self.parts_end);
        let merged = self.pieces.partition_point(|piece| piece.start < start);
        self.change.merged.extend(self.pieces.drain(merged..).map(|piece| piece.number));
        let checksum = answer.checksum.map(String::into_bytes);
        let place = Place::Part { number: sending.number, entity_tag: answer.entity_tag };
        self.add(Piece { number: 0, epoch: self.epoch, start, size: end - start, place, checksum });
        self.durable = end;
        self.durable_hasher = sending.hasher.clone();
        Ok(())
    }

    fn add(&mut self, mut piece: Piece) {
        piece.number = self.next_piece;
        self.next_piece += 1;
        self.change.added.push(piece.clone());
        self.pieces.push(piece);
    }

    /// Writes what is not durable as an object of its own.
    async fn put_aside(&mut self) -> Result<(), BlobsError> {
        let from = usize::try_from(self.durable - self.buffer_start).unwrap_or(usize::MAX);
        let rest = Bytes::copy_from_slice(&self.buffer.as_slice()[from..]);
        let key = self.key.tail(self.epoch, self.tails);
        let size = rest.len() as u64;
        self.store.client.put(&key, rest, &self.mark()).await?;
        berth_service::crash::point("object.tail_written");
        self.store.metrics.written.inc_by(size);
        self.tails += 1;
        let start = self.durable;
        let place = Place::Tail { key };
        self.add(Piece { number: 0, epoch: self.epoch, start, size, place, checksum: None });
        self.durable = self.offset;
        self.durable_hasher = self.hasher.clone();
        Ok(())
    }

    /// Says what an object that ends here has in it.
    fn mark(&self) -> String {
        self.hasher.clone().finish().to_string()
    }

    /// What is durable, with the change since the last time.
    fn hand_out(&mut self) -> Written {
        self.parts_since_record = 0;
        if self.multipart.is_some() {
            self.change.reserved = Some(self.next_part - 1);
        }
        Written {
            offset: self.durable,
            hash_state: self.durable_hasher.save(),
            digest: self.durable_hasher.clone().finish(),
            change: std::mem::take(&mut self.change),
        }
    }

    /// The tail that is the whole object, if one is.
    fn whole_tail(&self) -> Option<ObjectKey> {
        match self.pieces.as_slice() {
            [Piece { size, place: Place::Tail { key }, .. }] if *size == self.offset => Some(key.clone()),
            _ => None,
        }
    }
}

#[async_trait]
impl BlobWriter for S3Writer {
    async fn write(&mut self, data: Bytes) -> Result<Option<Written>, BlobsError> {
        self.begin_before_close()?;
        self.waiting =
            if self.waiting.is_empty() { data } else { [&self.waiting[..], &data].concat().into() };
        let asked = self.take_in(true).await?;
        self.broken = false;
        Ok(asked.then(|| self.hand_out()))
    }

    async fn sync(&mut self) -> Result<Written, BlobsError> {
        self.begin_before_close()?;
        self.take_in(false).await?;
        self.settle().await?;
        if self.offset > self.durable {
            let short = self.store.sizes.short(self.next_part);
            let rest = self.offset - self.parts_end;
            if self.multipart.is_some() && short.is_some_and(|short| rest >= short) {
                self.send().await?;
                self.settle().await?;
            } else {
                self.put_aside().await?;
            }
        }
        self.store.metrics.syncs.inc();
        self.broken = false;
        Ok(self.hand_out())
    }

    async fn close(&mut self) -> Result<Closed, BlobsError> {
        self.begin_before_close()?;
        self.take_in(false).await?;
        self.settle().await?;
        let two_phase = self.multipart.is_some();
        if two_phase && self.offset > self.parts_end {
            self.send().await?;
            self.settle().await?;
        }
        self.closed = true;
        self.broken = false;
        let change = self.hand_out().change;
        let digest = self.hasher.clone().finish();
        let written = Written { offset: self.offset, hash_state: self.hasher.save(), digest, change };
        Ok(Closed { written, two_phase, sealing: None })
    }

    async fn finish(&mut self) -> Result<ObjectKey, BlobsError> {
        self.begin()?;
        if !self.closed {
            return Err(BlobsError::Invalid("a writer that was not closed"));
        }
        let key = match (&self.multipart, self.whole_tail()) {
            (Some(multipart), _) => {
                berth_service::crash::point("object.before_complete");
                self.store.complete(multipart, &self.pieces, self.offset).await?;
                berth_service::crash::point("object.completed");
                multipart.key.clone()
            }
            (None, Some(tail)) => tail,
            (None, None) => {
                if self.offset > 0 {
                    self.reserve().await?;
                }
                let body = self.gather().await?;
                let (key, size) = (self.key.at(self.epoch), body.len() as u64);
                if size != self.offset {
                    return Err(BlobsError::Short { expected: self.offset, found: size });
                }
                self.store.client.put(&key, body, &self.mark()).await?;
                berth_service::crash::point("object.put");
                self.store.metrics.written.inc_by(size);
                key
            }
        };
        self.room = None;
        self.broken = false;
        Ok(key)
    }

    fn records(&self) -> bool {
        true
    }

    fn offset(&self) -> u64 {
        self.offset + self.waiting.len() as u64
    }
}
