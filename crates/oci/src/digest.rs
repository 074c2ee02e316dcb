//! Content digests: a closed set of algorithms and exactly one spelling for each value.

use std::{fmt, str::FromStr};

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

/// The digest algorithms that Berth stores (image-spec, "Registered Algorithms").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// SHA-256, the default.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon of a digest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a raw hash in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }

    const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Sha256),
            2 => Some(Self::Sha512),
            _ => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestError::Unsupported),
        }
    }
}

/// Why a text is not a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:hex` form.
    #[error("a digest has the form algorithm:hex, such as sha256:4f53…")]
    Malformed,
    /// An algorithm outside the closed set.
    #[error("unsupported digest algorithm; use sha256 or sha512")]
    Unsupported,
    /// The wrong number of hexadecimal digits.
    #[error("wrong number of hexadecimal digits for the digest's algorithm")]
    Length,
    /// A character that is not a lower-case hexadecimal digit.
    #[error("a digest is written in lower-case hexadecimal digits")]
    Character,
}

/// A content digest. Equal digests have equal text: only lower-case hexadecimal is accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hash: [u8; 64],
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// From a raw hash; `None` when its length isn't the algorithm's.
    pub fn from_hash(algorithm: Algorithm, raw: &[u8]) -> Option<Self> {
        if raw.len() != algorithm.size() {
            return None;
        }
        let mut hash = [0; 64];
        hash[..raw.len()].copy_from_slice(raw);
        Some(Self { algorithm, hash })
    }

    /// The algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw hash.
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.algorithm.size()]
    }

    /// The stored form: one byte for the algorithm (1 = sha256, 2 = sha512), then the raw hash.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.algorithm.size());
        bytes.push(self.algorithm.tag());
        bytes.extend_from_slice(self.hash());
        bytes
    }

    /// Reads the stored form.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (tag, raw) = bytes.split_first()?;
        Self::from_hash(Algorithm::from_tag(*tag)?, raw)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, digits) = text.split_once(':').ok_or(DigestError::Malformed)?;
        let algorithm: Algorithm = algorithm.parse()?;
        if digits.len() != algorithm.size() * 2 {
            return Err(DigestError::Length);
        }
        if !digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Character);
        }
        let mut hash = [0; 64];
        hex::decode_to_slice(digits, &mut hash[..algorithm.size()]).map_err(|_| DigestError::Character)?;
        Ok(Self { algorithm, hash })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0u8; 128];
        let digits = &mut digits[..self.algorithm.size() * 2];
        hex::encode_to_slice(self.hash(), digits).map_err(|_| fmt::Error)?;
        f.write_str(self.algorithm.as_str())?;
        f.write_str(":")?;
        f.write_str(std::str::from_utf8(digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A running hash whose state can be written down and taken up again by another process.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hasher").field(&self.algorithm()).finish()
    }
}

impl Hasher {
    /// A hash of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// The algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        let mut hash = [0; 64];
        let algorithm = self.algorithm();
        match self.0 {
            State::Sha256(state) => hash[..32].copy_from_slice(&state.finalize()),
            State::Sha512(state) => hash[..64].copy_from_slice(&state.finalize()),
        }
        Digest { algorithm, hash }
    }

    /// The state in a fixed layout: one byte for the algorithm, then the hash function's own state.
    pub fn save(&self) -> Vec<u8> {
        let mut bytes = vec![self.algorithm().tag()];
        match &self.0 {
            State::Sha256(state) => bytes.extend_from_slice(&state.serialize()),
            State::Sha512(state) => bytes.extend_from_slice(&state.serialize()),
        }
        bytes
    }

    /// Takes up a saved state; `None` when the bytes are not one.
    pub fn restore(bytes: &[u8]) -> Option<Self> {
        let (tag, state) = bytes.split_first()?;
        match Algorithm::from_tag(*tag)? {
            Algorithm::Sha256 => {
                let state = SerializedState::<Sha256>::try_from(state).ok()?;
                Some(Self(State::Sha256(Sha256::deserialize(&state).ok()?)))
            }
            Algorithm::Sha512 => {
                let state = SerializedState::<Sha512>::try_from(state).ok()?;
                Some(Self(State::Sha512(Sha512::deserialize(&state).ok()?)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_has_one_spelling() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest, Digest::of(Algorithm::Sha256, b""));
        assert_eq!(EMPTY.to_uppercase().parse::<Digest>(), Err(DigestError::Unsupported));
        let upper = format!("sha256:{}", EMPTY[7..].to_uppercase());
        assert_eq!(upper.parse::<Digest>(), Err(DigestError::Character));
        assert_eq!("sha256:abc".parse::<Digest>(), Err(DigestError::Length));
        assert_eq!("md5:d41d8cd98f00b204e9800998ecf8427e".parse::<Digest>(), Err(DigestError::Unsupported));
        assert_eq!("e3b0".parse::<Digest>(), Err(DigestError::Malformed));
    }

    #[test]
    fn the_stored_form_reads_back() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, b"berth");
            assert_eq!(Digest::from_bytes(&digest.to_bytes()), Some(digest));
        }
        assert_eq!(Digest::from_bytes(&[1, 2, 3]), None);
        assert_eq!(Digest::from_bytes(&[]), None);
    }

    #[test]
    fn a_hash_goes_on_from_its_saved_state() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"first part, ");
            let mut resumed = Hasher::restore(&hasher.save()).unwrap();
            resumed.update(b"second part");
            assert_eq!(resumed.finish(), Digest::of(algorithm, b"first part, second part"));
        }
        assert!(Hasher::restore(&[1; 7]).is_none());
        assert!(Hasher::restore(&[9]).is_none());
    }

    #[test]
    fn cve_2026_32590_a_saved_state_is_a_fixed_layout_and_anything_else_is_refused() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let saved = Hasher::new(algorithm).save();
            assert!(Hasher::restore(&saved).is_some());
            for length in 0..saved.len() {
                assert!(Hasher::restore(&saved[..length]).is_none(), "{length} bytes");
            }
            let mut longer = saved.clone();
            longer.push(0);
            assert!(Hasher::restore(&longer).is_none());
            // Whatever stands in it, reading runs nothing and reserves nothing: an error or a state of the same size.
            for byte in 0..saved.len() {
                let mut changed = saved.clone();
                changed[byte] ^= 0xff;
                if let Some(hasher) = Hasher::restore(&changed) {
                    assert_eq!(hasher.save().len(), saved.len());
                }
            }
        }
    }
}
