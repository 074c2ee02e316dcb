//! The layout of a sealed object: 64 KiB of the blob in each segment but the last, stored as nonce, ciphertext and tag.
//! A segment opens only with its object's key, for its object, and at its place in it.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use berth_access::DATA_KEY_BYTES;
use berth_blobs::{BlobsError, ObjectKey};
use berth_oci::ByteRange;
use bytes::{Bytes, BytesMut};

/// Bytes of the blob in a whole segment.
pub(super) const SEGMENT: u64 = 64 * 1024;
/// Bytes that sealing adds to a segment.
pub(super) const OVERHEAD: u64 = (NONCE_LEN + MAX_TAG_LEN) as u64;
/// Bytes of a whole segment as it is stored.
pub(super) const STORED: u64 = SEGMENT + OVERHEAD;

/// What a sealed piece is, so that one never opens as the other.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// The segment with this number, in the object.
    Segment(u64),
    /// The bytes up to this offset of the blob that make no whole segment yet, beside the object.
    Rest(u64),
}

/// The size of the object that holds so many bytes of a blob.
pub(super) fn stored_size(size: u64) -> Option<u64> {
    size.div_ceil(SEGMENT).checked_mul(OVERHEAD)?.checked_add(size)
}

/// The segments that hold a range of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segments {
    /// Their bytes in the object.
    pub(super) stored: ByteRange,
    /// The number of the first.
    pub(super) first: u64,
    /// Bytes of the first that are before the range.
    pub(super) skip: usize,
    /// Bytes of the range.
    pub(super) length: u64,
}

/// The segments around a range, which lies in the blob.
pub(super) fn around(range: ByteRange, size: u64) -> Segments {
    let ByteRange { offset, length } = range;
    if length == 0 {
        return Segments { stored: ByteRange { offset: 0, length: 0 }, first: 0, skip: 0, length };
    }
    let (first, last) = (offset / SEGMENT, (offset + length - 1) / SEGMENT);
    let end = size.min((last + 1) * SEGMENT) + (last + 1) * OVERHEAD;
    let start = first * STORED;
    Segments {
        stored: ByteRange { offset: start, length: end - start },
        first,
        skip: usize::try_from(offset % SEGMENT).unwrap_or_default(),
        length,
    }
}

/// The key of one object, which seals and opens its segments.
#[derive(Debug)]
pub(super) struct DataKey {
    key: LessSafeKey,
    /// The object's name, without what epochs add to it.
    session: String,
}

impl DataKey {
    pub(super) fn new(object: &ObjectKey, bytes: &[u8; DATA_KEY_BYTES]) -> Result<Self, BlobsError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| broken())?;
        Ok(Self { key: LessSafeKey::new(key), session: object.session().to_owned() })
    }

    /// The associated data. The object's name has one length.
    fn associated(&self, place: Place) -> Vec<u8> {
        let (domain, number): (&[u8], u64) = match place {
            Place::Segment(number) => (b"berth segment", number),
            Place::Rest(end) => (b"berth rest", end),
        };
        [domain, self.session.as_bytes(), &number.to_be_bytes()].concat()
    }

    /// Seals a piece under a nonce that was never used.
    pub(super) fn seal(&self, place: Place, plain: &[u8]) -> Result<Bytes, BlobsError> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| broken())?;
        let mut sealed = BytesMut::with_capacity(plain.len() + NONCE_LEN + MAX_TAG_LEN);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.associated(place)),
                &mut sealed[NONCE_LEN..],
            )
            .map_err(|_| broken())?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed.freeze())
    }

    /// Opens a piece that was sealed for this place; nothing of it is seen when it was not.
    pub(super) fn open(&self, place: Place, mut sealed: BytesMut) -> Result<Bytes, BlobsError> {
        let damaged = || BlobsError::Damaged("a segment does not open");
        if sealed.len() < NONCE_LEN + MAX_TAG_LEN {
            return Err(damaged());
        }
        let nonce = sealed.split_to(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| damaged())?;
        let associated = Aad::from(self.associated(place));
        let length = self.key.open_in_place(nonce, associated, &mut sealed).map_err(|_| damaged())?.len();
        sealed.truncate(length);
        Ok(sealed.freeze())
    }
}

fn broken() -> BlobsError {
    BlobsError::Remote("the cryptographic library failed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(object: &str) -> DataKey {
        DataKey::new(&format!("i/01ARZ3NDEKTSV4RRFFQ69G5FAV/{object}").parse().unwrap(), &[7; 32]).unwrap()
    }

    #[test]
    fn a_piece_opens_only_in_its_place() {
        let (here, elsewhere) = (key("01BX5ZZKBKACTAV9WEVGEMMVRZ"), key("01BX5ZZKBKACTAV9WEVGEMMVRY"));
        let sealed = here.seal(Place::Segment(3), b"plain").unwrap();
        assert_eq!(sealed.len() as u64, 5 + OVERHEAD);
        let open = |key: &DataKey, place, bytes: &[u8]| key.open(place, BytesMut::from(bytes));
        assert_eq!(open(&here, Place::Segment(3), &sealed).unwrap(), b"plain"[..]);
        // The name of an epoch seals as its session's does.
        assert!(open(&key("01BX5ZZKBKACTAV9WEVGEMMVRZ.7"), Place::Segment(3), &sealed).is_ok());
        assert!(open(&elsewhere, Place::Segment(3), &sealed).is_err());
        assert!(open(&here, Place::Segment(4), &sealed).is_err());
        assert!(open(&here, Place::Rest(3), &sealed).is_err());
        for at in 0..sealed.len() {
            let mut damaged = sealed.to_vec();
            damaged[at] ^= 1;
            assert!(open(&here, Place::Segment(3), &damaged).is_err(), "byte {at}");
            assert!(open(&here, Place::Segment(3), &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn no_nonce_comes_twice() {
        let key = key("01BX5ZZKBKACTAV9WEVGEMMVRZ");
        let nonces: std::collections::BTreeSet<_> =
            (0..1000).map(|_| key.seal(Place::Segment(0), b"").unwrap()[..NONCE_LEN].to_vec()).collect();
        assert_eq!(nonces.len(), 1000);
    }

    #[test]
    fn the_segments_around_a_range() {
        assert_eq!(stored_size(0), Some(0));
        assert_eq!(stored_size(1), Some(29));
        assert_eq!(stored_size(SEGMENT), Some(STORED));
        assert_eq!(stored_size(SEGMENT + 1), Some(STORED + 29));
        assert_eq!(stored_size(u64::MAX), None);
        let size = 3 * SEGMENT + 100;
        let around = |offset, length| {
            let found = around(ByteRange { offset, length }, size);
            (found.stored.offset, found.stored.length, found.first, found.skip)
        };
        assert_eq!(around(0, size), (0, stored_size(size).unwrap(), 0, 0));
        assert_eq!(around(0, 1), (0, STORED, 0, 0));
        assert_eq!(around(SEGMENT - 1, 1), (0, STORED, 0, 65_535));
        assert_eq!(around(SEGMENT - 1, 2), (0, 2 * STORED, 0, 65_535));
        assert_eq!(around(SEGMENT, SEGMENT), (STORED, STORED, 1, 0));
        assert_eq!(around(size - 1, 1), (3 * STORED, 100 + OVERHEAD, 3, 99));
        assert_eq!(around(5, 0), (0, 0, 0, 0));
    }
}
