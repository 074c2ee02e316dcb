//! The bytes of blobs, whichever store holds them: one trait with a filesystem driver, object storage and a blob-store
//! process behind it. It knows objects by their keys and never what they mean: who may read what is decided elsewhere.

mod error;
mod key;
mod reader;
#[cfg(feature = "suite")]
pub mod suite;

use std::fmt::Debug;

use async_trait::async_trait;
use berth_oci::{Algorithm, ByteRange, Digest};
use bytes::Bytes;

pub use error::BlobsError;
pub use key::{KeyError, ObjectKey};
pub use reader::{BlobReader, STEP_BYTES};

/// Where an object is, as its row says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectRef {
    /// The store that holds it.
    pub store_id: String,
    /// Its name in that store.
    pub key: ObjectKey,
    /// The size of the whole object in bytes.
    pub size: u64,
    /// How the bytes are laid down; 0 = plain.
    pub format: i32,
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
    /// Takes over the writing of an object at the recorded offset. The writer of an older epoch is closed before
    /// anything is cut, and no byte of it lands afterwards; opening under an older epoch than the last is
    /// [`BlobsError::Stale`].
    async fn write(&self, open: WriteOpen) -> Result<Box<dyn BlobWriter>, BlobsError>;

    /// Reads the first `size` bytes of an object back once, to hash them with another algorithm.
    async fn rehash(
        &self,
        store_id: &str,
        key: &ObjectKey,
        size: u64,
        algorithm: Algorithm,
    ) -> Result<Digest, BlobsError>;

    /// Opens an object, or a part of it. An object shorter than its row says is an error here or at the end of the
    /// stream, never a short answer.
    async fn open(&self, object: &ObjectRef, range: Option<ByteRange>) -> Result<BlobReader, BlobsError>;

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

/// Appends to one object. Bytes count as written only once [`BlobWriter::sync`] has returned; dropping a writer leaves
/// whatever came after the last sync to be cut by the next one.
///
/// After an error, or when the future of a call was dropped before its end, the writer is of no more use.
#[async_trait]
pub trait BlobWriter: Send + Debug {
    /// Takes in bytes; waits while the store is behind, so that memory stays bounded.
    async fn write(&mut self, data: Bytes) -> Result<(), BlobsError>;

    /// Makes everything taken in durable, and says how far the object reaches.
    async fn sync(&mut self) -> Result<Written, BlobsError>;

    /// Bytes of the object including those that are not durable yet.
    fn offset(&self) -> u64;
}
