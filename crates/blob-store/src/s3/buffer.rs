//! The memory of a part: pages of its own, which go back to the system with the part. An allocator would keep blocks of
//! this size for each thread, several times what is in use.

use berth_blobs::BlobsError;
use bytes::Bytes;
use memmap2::MmapMut;

/// Bytes that come together, up to a capacity that was reserved.
#[derive(Default, Debug)]
pub(super) struct Buffer {
    pages: Option<MmapMut>,
    length: usize,
}

fn no_memory(source: std::io::Error) -> BlobsError {
    BlobsError::Io { operation: "get memory for a part", source }
}

impl Buffer {
    /// An empty one for so many bytes. Pages that are never written to take no memory.
    pub(super) fn with_capacity(capacity: usize) -> Result<Self, BlobsError> {
        let pages = (capacity > 0).then(|| MmapMut::map_anon(capacity)).transpose().map_err(no_memory)?;
        Ok(Self { pages, length: 0 })
    }

    /// Appends bytes, into more memory if need be.
    pub(super) fn extend(&mut self, bytes: &[u8]) -> Result<(), BlobsError> {
        let end = self.length + bytes.len();
        if self.pages.as_ref().is_none_or(|pages| pages.len() < end) {
            let mut larger = Self::with_capacity(end)?;
            if let Some(pages) = &mut larger.pages {
                pages[..self.length].copy_from_slice(self.as_slice());
            }
            self.pages = larger.pages;
        }
        if let Some(pages) = &mut self.pages {
            pages[self.length..end].copy_from_slice(bytes);
        }
        self.length = end;
        Ok(())
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.pages.as_ref().map_or(&[], |pages| &pages[..self.length])
    }

    /// The bytes with their memory; what is left has none.
    pub(super) fn take(&mut self) -> Bytes {
        let length = std::mem::take(&mut self.length);
        self.pages.take().map_or_else(Bytes::new, |pages| Bytes::from_owner(pages).slice(..length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_and_the_memory_goes_with_them() {
        let mut buffer = Buffer::with_capacity(10).unwrap();
        assert!(buffer.take().is_empty());
        for piece in [&b"0123"[..], b"456789", b"more than was reserved"] {
            buffer.extend(piece).unwrap();
        }
        assert_eq!(buffer.as_slice(), b"0123456789more than was reserved");
        assert_eq!(buffer.take(), &b"0123456789more than was reserved"[..]);
        assert!(buffer.as_slice().is_empty() && buffer.pages.is_none());
        buffer.extend(b"again").unwrap();
        assert_eq!(buffer.take(), &b"again"[..]);
    }
}
