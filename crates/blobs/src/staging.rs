//! What a store keeps aside for an object that isn't whole yet. A store remembers none of it: it hands it out as it
//! comes, the caller records it beside the offset, and gives it back with the next call about the object.
//!
//! Nothing here is ever found by a listing, so every name that a store may have used for an object follows from what is
//! recorded: see [`Abandoned::names`].

use crate::{ObjectKey, SealingChange, SealingState};

/// Part numbers that an epoch may have used without their being recorded. A newer epoch begins above them, so that a
/// part of an older one that lands late replaces nothing.
pub const RESERVED_PARTS: u32 = 8;

/// The upload of an object in parts, at the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Multipart {
    /// The name that the object will have.
    pub key: ObjectKey,
    /// What the store calls the upload.
    pub id: String,
}

/// Where some bytes of the object are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a part of the multipart upload.
    Part {
        /// Its number there.
        number: u32,
        /// What the store answered to it, to be said when the parts are put together.
        entity_tag: String,
    },
    /// In an object of their own, until enough has come together for a part.
    Tail {
        /// Its name.
        key: ObjectKey,
    },
}

/// Durable bytes of an object that isn't whole yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Counts the pieces of an object, from 1.
    pub number: u32,
    /// The epoch that wrote it.
    pub epoch: i64,
    /// The first byte of the object in it.
    pub start: u64,
    /// Its bytes.
    pub size: u64,
    /// Where they are.
    pub place: Place,
    /// The store's checksum of them, where it gives one.
    pub checksum: Option<Vec<u8>>,
}

/// All that a store keeps aside for an object.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Staging {
    /// The upload in parts, once there is one.
    pub multipart: Option<Multipart>,
    /// The highest part number that any epoch before this one may have used.
    pub reserved: u32,
    /// The highest number of a piece, merged ones too.
    pub last: u32,
    /// The pieces in the order of their bytes. Together they hold every byte before the recorded offset, once.
    pub pieces: Vec<Piece>,
    /// What a sealed object stands at.
    pub sealing: Option<SealingState>,
}

/// What has changed since the last change that was handed out.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct StagingChange {
    /// An upload in parts that was begun. No part goes out before it is recorded.
    pub multipart: Option<Multipart>,
    /// The highest part number that was used so far. An epoch that goes on may use [`RESERVED_PARTS`] more.
    pub reserved: Option<u32>,
    /// New pieces.
    pub added: Vec<Piece>,
    /// Numbers of pieces whose bytes are in another one now.
    pub merged: Vec<u32>,
    /// What a sealed object stands at now.
    pub sealing: Option<SealingChange>,
}

impl StagingChange {
    /// Whether there is nothing to record.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a later change to this one.
    pub fn then(&mut self, later: Self) {
        self.multipart = later.multipart.or(self.multipart.take());
        self.reserved = later.reserved.or(self.reserved);
        self.added.extend(later.added);
        self.merged.extend(later.merged);
        match (&mut self.sealing, later.sealing) {
            (Some(sealing), Some(later)) => sealing.then(later),
            (none @ None, later) => *none = later,
            (Some(_), None) => {}
        }
    }
}

impl Staging {
    /// The staging after a recorded change.
    pub fn apply(&mut self, change: &StagingChange) {
        if let Some(multipart) = &change.multipart {
            self.multipart = Some(multipart.clone());
        }
        self.reserved = change.reserved.unwrap_or(self.reserved);
        self.last = change.added.iter().map(|piece| piece.number).fold(self.last, u32::max);
        self.pieces.extend(change.added.iter().cloned());
        self.pieces.retain(|piece| !change.merged.contains(&piece.number));
        self.pieces.sort_by_key(|piece| piece.start);
        if let Some(change) = &change.sealing {
            self.sealing = change.apply(self.sealing.take());
        }
    }
}

/// An upload whose remains may go: that of a session which ended, in whatever way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Abandoned {
    /// The store.
    pub store_id: String,
    /// The session's key.
    pub key: ObjectKey,
    /// The newest epoch that wrote; they count from 1. None: the store keeps nothing aside, the key is the object.
    pub epochs: Option<i64>,
    /// The upload in parts.
    pub multipart: Option<Multipart>,
    /// The epochs that recorded more than one tail, and how many.
    pub tails: Vec<(i64, u32)>,
    /// The object that stays, if the session came to one.
    pub keep: Option<ObjectKey>,
}

impl Abandoned {
    /// Every name that the store may have used for the object, but for the one that stays.
    pub fn names(&self) -> impl Iterator<Item = ObjectKey> + '_ {
        let epochs = self.epochs.unwrap_or_default();
        (1..=epochs)
            .flat_map(move |epoch| {
                let recorded = self.tails.iter().find(|(of, _)| *of == epoch).map_or(0, |(_, tails)| *tails);
                // One more may have been written and not recorded.
                let tails = (0..=recorded.max(1)).map(move |tail| self.key.tail(epoch, tail));
                std::iter::once(self.key.at(epoch)).chain(tails)
            })
            .chain(self.epochs.is_none().then(|| self.key.clone()))
            .filter(|name| self.keep.as_ref() != Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ObjectKey {
        "i/01ARZ3NDEKTSV4RRFFQ69G5FAV/01BX5ZZKBKACTAV9WEVGEMMVRZ".parse().unwrap()
    }

    fn piece(number: u32, start: u64) -> Piece {
        let place = Place::Tail { key: key().tail(1, number) };
        Piece { number, epoch: 1, start, size: 10, place, checksum: None }
    }

    #[test]
    fn a_change_is_applied_once_for_all() {
        let mut staging = Staging::default();
        let mut change = StagingChange { added: vec![piece(1, 0), piece(2, 10)], ..Default::default() };
        assert!(!change.is_empty());
        let later = StagingChange { added: vec![piece(3, 0)], merged: vec![1, 2], ..Default::default() };
        change.then(later);
        staging.apply(&change);
        assert_eq!((staging.last, staging.pieces), (3, vec![piece(3, 0)]));
    }

    #[test]
    fn every_name_follows_from_the_epochs() {
        let mut abandoned = Abandoned {
            store_id: "s".to_owned(),
            key: key(),
            epochs: Some(2),
            multipart: None,
            tails: vec![(2, 2)],
            keep: Some(key().at(2)),
        };
        let names = |abandoned: &Abandoned| abandoned.names().collect::<Vec<_>>();
        let of_second = (0..3).map(|tail| key().tail(2, tail));
        let expected: Vec<_> =
            [key().at(1), key().tail(1, 0), key().tail(1, 1)].into_iter().chain(of_second).collect();
        assert_eq!(names(&abandoned), expected);
        abandoned.epochs = None;
        assert_eq!(names(&abandoned), [key()]);
        abandoned.keep = Some(key());
        assert!(names(&abandoned).is_empty());
    }
}
