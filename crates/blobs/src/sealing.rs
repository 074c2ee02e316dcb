//! How an object is sealed, as its row says. The bytes of a data key are never here, only what a key of the instance made
//! of them.

use std::fmt;

/// The format of objects that hold a blob's bytes as they are.
pub const PLAIN: i32 = 0;
/// The format of objects that hold a blob's bytes in sealed segments.
pub const SEALED: i32 = 1;

/// The data key of an object, sealed by a key of the instance.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealing {
    /// The instance's key.
    pub key_id: String,
    /// The data key.
    pub wrapped_key: Vec<u8>,
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// What a sealed object that isn't whole yet stands at. A store keeps whole segments; the bytes behind the last of them
/// wait here, so that nothing is sealed twice in one place and nothing that was recorded is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealingState {
    /// The object's key.
    pub key: Sealing,
    /// The running hash of the bytes as they are stored.
    pub hash_state: Vec<u8>,
    /// The bytes behind the last whole segment, sealed; empty when there are none.
    pub rest: Vec<u8>,
}

/// A later [`SealingState`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealingChange {
    /// The object's key, until it was handed out once.
    pub key: Option<Sealing>,
    /// See [`SealingState::hash_state`].
    pub hash_state: Vec<u8>,
    /// See [`SealingState::rest`].
    pub rest: Vec<u8>,
}

impl SealingChange {
    /// Adds a later change to this one.
    pub(crate) fn then(&mut self, later: Self) {
        let key = later.key.clone().or(self.key.take());
        *self = Self { key, ..later };
    }

    /// The state after this change, unless no key is known.
    pub(crate) fn apply(&self, before: Option<SealingState>) -> Option<SealingState> {
        let key = self.key.clone().or(before.map(|state| state.key))?;
        Some(SealingState { key, hash_state: self.hash_state.clone(), rest: self.rest.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: Option<&str>, rest: u8) -> SealingChange {
        let key = key.map(|id| Sealing { key_id: id.to_owned(), wrapped_key: vec![1] });
        SealingChange { key, hash_state: vec![rest], rest: vec![rest] }
    }

    #[test]
    fn a_key_that_was_handed_out_stays() {
        let mut first = change(Some("k"), 1);
        first.then(change(None, 2));
        assert_eq!(first, change(Some("k"), 2));
        let state = first.apply(None).unwrap();
        let later = change(None, 3).apply(Some(state)).unwrap();
        assert_eq!((later.key.key_id.as_str(), later.rest), ("k", vec![3]));
        assert_eq!(change(None, 3).apply(None), None);
    }

    #[test]
    fn a_sealing_is_not_printed_with_its_key() {
        let sealing = Sealing { key_id: "k".to_owned(), wrapped_key: b"wrapped".to_vec() };
        assert_eq!(format!("{sealing:?}"), "Sealing { key_id: \"k\", .. }");
    }
}
