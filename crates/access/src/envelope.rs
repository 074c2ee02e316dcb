//! The keys that seal what an instance stores, and the data keys of objects that hang from them. A data key opens only
//! for the object that it was made for, and only by the key that sealed it.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use zeroize::Zeroizing;

use crate::seal::{SealError, place};

/// The bytes of an instance's key, and of a data key.
pub const DATA_KEY_BYTES: usize = 32;

/// The first byte of a data key that was sealed.
const FORMAT: u8 = 1;
const HEADER_LEN: usize = 1 + NONCE_LEN;
const PURPOSE: &str = "data key";

/// Random bytes for a key.
///
/// # Errors
/// When the system gives none.
pub fn new_data_key() -> Result<Zeroizing<[u8; DATA_KEY_BYTES]>, SealError> {
    let mut bytes = Zeroizing::new([0; DATA_KEY_BYTES]);
    rand::fill(bytes.as_mut()).map_err(|_| SealError::Crypto)?;
    Ok(bytes)
}

/// A key of an instance.
pub struct InstanceKey {
    id: String,
    key: LessSafeKey,
}

impl fmt::Debug for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceKey({})", self.id)
    }
}

impl InstanceKey {
    /// The key of this id.
    ///
    /// # Errors
    /// When it has another length than [`DATA_KEY_BYTES`].
    pub fn new(id: impl Into<String>, bytes: &[u8]) -> Result<Self, SealError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| SealError::Crypto)?;
        Ok(Self { id: id.into(), key: LessSafeKey::new(key) })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The associated data: what the data key is for, and by which key it is sealed.
    fn place(&self, object: &str) -> Vec<u8> {
        let mut place = place(PURPOSE, object);
        place.extend_from_slice(self.id.as_bytes());
        place
    }

    /// Seals the data key of an object.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn wrap(&self, object: &str, data_key: &[u8; DATA_KEY_BYTES]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError::Crypto)?;
        let mut sealed = Zeroizing::new(*data_key);
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce_used, Aad::from(self.place(object)), sealed.as_mut())
            .map_err(|_| SealError::Crypto)?;
        let mut wrapped = Vec::with_capacity(HEADER_LEN + DATA_KEY_BYTES + MAX_TAG_LEN);
        wrapped.push(FORMAT);
        wrapped.extend_from_slice(&nonce);
        wrapped.extend_from_slice(sealed.as_ref());
        wrapped.extend_from_slice(tag.as_ref());
        Ok(wrapped)
    }

    /// Opens the data key of an object.
    ///
    /// # Errors
    /// [`SealError::Sealed`] when it is damaged, was sealed for another object, or by another key.
    pub fn unwrap(&self, object: &str, wrapped: &[u8]) -> Result<Zeroizing<[u8; DATA_KEY_BYTES]>, SealError> {
        let (header, sealed) = wrapped.split_at_checked(HEADER_LEN).ok_or(SealError::Sealed)?;
        if header[0] != FORMAT {
            return Err(SealError::Sealed);
        }
        let nonce = Nonce::try_assume_unique_for_key(&header[1..]).map_err(|_| SealError::Sealed)?;
        let mut opened = Zeroizing::new(sealed.to_vec());
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(self.place(object)), opened.as_mut_slice())
            .map_err(|_| SealError::Sealed)?;
        let mut data_key = Zeroizing::new([0; DATA_KEY_BYTES]);
        if opened.len() != DATA_KEY_BYTES {
            return Err(SealError::Sealed);
        }
        data_key.copy_from_slice(opened);
        Ok(data_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_key_opens_only_for_its_object_and_by_its_key() {
        let secret = new_data_key().unwrap();
        let key = InstanceKey::new("one", &[7; 32]).unwrap();
        let wrapped = key.wrap("i/a/b", &secret).unwrap();
        assert_ne!(wrapped, key.wrap("i/a/b", &secret).unwrap());
        assert_eq!(key.unwrap("i/a/b", &wrapped).unwrap(), secret);
        let other_bytes = InstanceKey::new("one", &[8; 32]).unwrap();
        let other_name = InstanceKey::new("two", &[7; 32]).unwrap();
        for opened in [
            key.unwrap("i/a/c", &wrapped),
            other_bytes.unwrap("i/a/b", &wrapped),
            other_name.unwrap("i/a/b", &wrapped),
        ] {
            assert!(matches!(opened, Err(SealError::Sealed)));
        }
        for at in 0..wrapped.len() {
            let mut damaged = wrapped.clone();
            damaged[at] ^= 1;
            assert!(key.unwrap("i/a/b", &damaged).is_err());
            assert!(key.unwrap("i/a/b", &wrapped[..at]).is_err());
        }
        assert!(InstanceKey::new("short", &[7; 31]).is_err());
        assert!(!format!("{key:?}").contains('7'));
    }
}
