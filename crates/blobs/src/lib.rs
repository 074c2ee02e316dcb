//! The bytes of blobs, whichever store holds them: one trait with a filesystem driver, object storage and a blob-store
//! process behind it. It knows objects by their keys and never what they mean: who may read what is decided elsewhere.

mod error;
mod key;
mod reader;
mod sealing;
mod staging;
#[cfg(feature = "suite")]
pub mod suite;
pub mod wire;

use std::fmt::Debug;

use async_trait::async_trait;
use berth_oci::{Algorithm, ByteRange, Digest};
use bytes::Bytes;
use secrecy::SecretString;

pub use error::BlobsError;
pub use key::{KeyError, ObjectKey};
pub use reader::{BlobReader, STEP_BYTES};
pub use sealing::{PLAIN, SEALED, Sealing, SealingChange, SealingState};
pub use staging::{Abandoned, Multipart, Piece, Place, RESERVED_PARTS, Staging, StagingChange};

/// Where an object is, as its row says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectRef {
    /// The store that holds it.
    pub store_id: String,
    /// Its name in that store.
    pub key: ObjectKey,
    /// The size of the whole object in bytes.
    pub size: u64,
    /// How the bytes are laid down: [`PLAIN`] or [`SEALED`].
    pub format: i32,
    /// The key of a sealed object.
    pub sealing: Option<Sealing>,
}

impl ObjectRef {
    /// An object whose bytes are sealed if there is a sealing, and plain otherwise.
    pub fn new(store_id: impl Into<String>, key: ObjectKey, size: u64, sealing: Option<Sealing>) -> Self {
        let format = if sealing.is_some() { SEALED } else { PLAIN };
        Self { store_id: store_id.into(), key, size, format, sealing }
    }
}

/// The start of a write: which object, from where on, and by whose right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteOpen {
    /// The store to write to.
    pub store_id: String,
    /// The object.
    pub key: ObjectKey,
    /// The epoch of the lease; an older epoch's writer is closed by this one.
    pub epoch: i64,
    /// Bytes that are durable and recorded; whatever lies beyond is cut.
    pub offset: u64,
    /// The hash of those bytes as [`Written::hash_state`] gave it; `None` at offset 0.
    pub hash_state: Option<Vec<u8>>,
    /// The algorithm of the running hash.
    pub algorithm: Algorithm,
    /// What the store keeps aside for the object, as it was recorded.
    pub staging: Staging,
    /// Bytes that are announced to come now; a store reserves memory by them.
    pub expected: Option<u64>,
    /// Before the end, whatever offset a store asks to be recorded is a multiple of this. It divides `offset`.
    pub unit: u64,
}

/// What a sync made durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Durable bytes of the object, from its start.
    pub offset: u64,
    /// The running hash after those bytes, for a later [`WriteOpen`].
    pub hash_state: Vec<u8>,
    /// The digest of those bytes.
    pub digest: Digest,
    /// What the store keeps aside since it last said so; to be recorded together with the offset.
    pub change: StagingChange,
}

/// The end of an object's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Closed {
    /// How far the object reaches, and what was put aside. Where the store keeps bytes aside, the last of them are
    /// durable only after [`BlobWriter::finish`].
    pub written: Written,
    /// Whether the end may take effect without an answer: digest, size and change are recorded as finishing first, so
    /// that [`Blobs::resume_finish`] can find out.
    pub two_phase: bool,
    /// The key of a sealed object, for its row.
    pub sealing: Option<Sealing>,
}

/// The most objects of one page of a listing.
pub const MAX_LISTED: usize = 10_000;

/// An object as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub key: ObjectKey,
    /// Bytes that are there now.
    pub size: u64,
    /// When they last changed, in microseconds since 1970.
    pub modified: i64,
}

/// Writing and reading objects. An object is written once under one key, which is never used again.
#[async_trait]
pub trait Blobs: Send + Sync + Debug + 'static {
    /// Takes over the writing of an object at the recorded offset. Where bytes are written in place, the writer of an
    /// older epoch is closed before anything is cut, no byte of it lands afterwards, and opening under an older epoch
    /// than the last is [`BlobsError::Stale`]. Where they are put aside, epochs write under names of their own, and what
    /// an older one writes late is never part of the object.
    async fn write(&self, open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError>;

    /// Reads a finished object back once, to hash it with another algorithm. Its key is what [`BlobWriter::finish`] said;
    /// of a plain object, `size` may be less than all of it.
    async fn rehash(&self, object: &ObjectRef, algorithm: Algorithm) -> Result<Digest, BlobsError>;

    /// Opens an object, or a part of it. An object shorter than its row says is an error here or at the end of the
    /// stream, never a short answer.
    async fn open(&self, object: &ObjectRef, range: Option<ByteRange>) -> Result<BlobReader, BlobsError>;

    /// A URL from which anybody may read an object, whole or in part, for five minutes from `now` on: the deployment's time,
    /// in microseconds since 1970. `None`: it is only to be had by [`Blobs::open`], which is so wherever the stored bytes
    /// are not those of the blob.
    async fn presign(&self, _object: &ObjectRef, _now: i64) -> Result<Option<SecretString>, BlobsError> {
        Ok(None)
    }

    /// Ends a write whose [`BlobWriter::finish`] had no outcome, from what was recorded as finishing: `open.offset` is
    /// the size. Repeating it is harmless.
    async fn resume_finish(&self, open: WriteOpen) -> Result<ObjectKey, BlobsError> {
        // Nothing is put aside, so the object is whole at its key.
        Ok(open.key)
    }

    /// Deletes what a session left at the store: every name that one of its epochs may have used, but for the object
    /// that stays. What is absent already is deleted.
    async fn abandon(&self, abandoned: &Abandoned) -> Result<(), BlobsError> {
        for name in abandoned.names() {
            self.delete(&abandoned.store_id, &name).await?;
        }
        Ok(())
    }

    /// Deletes an object for good; one that is absent already is deleted.
    async fn delete(&self, store_id: &str, key: &ObjectKey) -> Result<(), BlobsError>;

    /// At most `limit` objects, and [`MAX_LISTED`], that come after `after`, in an order of the store's own that never changes; fewer only at
    /// the end. What comes or goes meanwhile may be in it or not.
    ///
    /// For the scrubber alone, which looks for objects that no row names. Nothing else may ask: what exists is decided by
    /// rows, and no request, no review and no delete finds anything by listing.
    async fn list(
        &self,
        store_id: &str,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Vec<Listed>, BlobsError>;
}

/// Appends to one object. Bytes count as written only once [`BlobWriter::sync`] has returned or a write has asked for
/// them to be recorded; dropping a writer leaves whatever came after that to be cut by the next one.
///
/// After an error, or when the future of a call was dropped before its end, the writer is of no more use.
#[async_trait]
pub trait BlobWriter: Send + Debug {
    /// Takes in bytes; waits while the store is behind, so that memory stays bounded.
    ///
    /// Some: record this before the next call; it may be behind [`BlobWriter::offset`].
    async fn write(&mut self, data: Bytes) -> Result<Option<Written>, BlobsError>;

    /// Makes everything taken in durable, and says how far the object reaches.
    async fn sync(&mut self) -> Result<Written, BlobsError>;

    /// Says that all bytes have come. After it only [`BlobWriter::finish`] may be called.
    async fn close(&mut self) -> Result<Closed, BlobsError>;

    /// Makes the object whole and durable; the key under which it is, for its row. It may be dropped and resumed by
    /// [`Blobs::resume_finish`] when the close is in two phases, and otherwise begun again by a newer epoch.
    async fn finish(&mut self) -> Result<ObjectKey, BlobsError>;

    /// Whether [`BlobWriter::write`] may ask for something to be recorded.
    fn records(&self) -> bool {
        false
    }

    /// Bytes of the object including those that are not durable yet.
    fn offset(&self) -> u64;
}
