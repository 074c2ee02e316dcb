//! Between the types of the `Blobs` trait and those of the wire. Metadata speaks the same messages about staging.

use berth_oci::Problem;
use berth_proto::{blob_store as wire, parse, require};

use crate::{
    Abandoned, Closed, Multipart, Piece, Place, Sealing, SealingChange, SealingState, Staging, StagingChange,
    WriteOpen, Written,
};

type Read<T> = Result<T, Problem>;

/// A staging for the wire.
pub fn staging_to(staging: &Staging) -> wire::Staging {
    wire::Staging {
        multipart: staging.multipart.as_ref().map(multipart_to),
        reserved: staging.reserved,
        last: staging.last,
        pieces: staging.pieces.iter().map(piece_to).collect(),
        sealing: staging.sealing.as_ref().map(state_to),
    }
}

/// A staging from the wire.
///
/// # Errors
/// When a field can't be read.
pub fn staging_from(staging: wire::Staging) -> Read<Staging> {
    Ok(Staging {
        multipart: staging.multipart.map(multipart_from).transpose()?,
        reserved: staging.reserved,
        last: staging.last,
        pieces: staging.pieces.into_iter().map(piece_from).collect::<Read<_>>()?,
        sealing: staging.sealing.map(state_from).transpose()?,
    })
}

/// A change for the wire.
pub fn change_to(change: &StagingChange) -> wire::StagingChange {
    wire::StagingChange {
        multipart: change.multipart.as_ref().map(multipart_to),
        reserved: change.reserved,
        added: change.added.iter().map(piece_to).collect(),
        merged: change.merged.clone(),
        sealing: change.sealing.as_ref().map(sealing_change_to),
    }
}

/// A change from the wire.
///
/// # Errors
/// When a field can't be read.
pub fn change_from(change: wire::StagingChange) -> Read<StagingChange> {
    Ok(StagingChange {
        multipart: change.multipart.map(multipart_from).transpose()?,
        reserved: change.reserved,
        added: change.added.into_iter().map(piece_from).collect::<Read<_>>()?,
        merged: change.merged,
        sealing: change.sealing.map(sealing_change_from),
    })
}

/// A sealing for the wire.
pub fn sealing_to(sealing: &Sealing) -> wire::Sealing {
    wire::Sealing { key_id: sealing.key_id.clone(), wrapped_key: sealing.wrapped_key.clone().into() }
}

/// A sealing from the wire.
pub fn sealing_from(sealing: wire::Sealing) -> Sealing {
    Sealing { key_id: sealing.key_id, wrapped_key: sealing.wrapped_key.into() }
}

fn state_to(state: &SealingState) -> wire::SealingState {
    wire::SealingState {
        key: Some(sealing_to(&state.key)),
        hash_state: state.hash_state.clone().into(),
        rest: state.rest.clone().into(),
    }
}

fn state_from(state: wire::SealingState) -> Read<SealingState> {
    Ok(SealingState {
        key: sealing_from(require("key", state.key)?),
        hash_state: state.hash_state.into(),
        rest: state.rest.into(),
    })
}

fn sealing_change_to(change: &SealingChange) -> wire::SealingChange {
    wire::SealingChange {
        key: change.key.as_ref().map(sealing_to),
        hash_state: change.hash_state.clone().into(),
        rest: change.rest.clone().into(),
    }
}

fn sealing_change_from(change: wire::SealingChange) -> SealingChange {
    SealingChange {
        key: change.key.map(sealing_from),
        hash_state: change.hash_state.into(),
        rest: change.rest.into(),
    }
}

fn multipart_to(multipart: &Multipart) -> wire::Multipart {
    wire::Multipart { key: multipart.key.to_string(), id: multipart.id.clone() }
}

fn multipart_from(multipart: wire::Multipart) -> Read<Multipart> {
    Ok(Multipart { key: parse("key", &multipart.key)?, id: multipart.id })
}

fn piece_to(piece: &Piece) -> wire::Piece {
    wire::Piece {
        number: piece.number,
        epoch: piece.epoch,
        start: piece.start,
        size: piece.size,
        place: Some(match &piece.place {
            Place::Part { number, entity_tag } => {
                wire::piece::Place::Part(wire::Part { number: *number, entity_tag: entity_tag.clone() })
            }
            Place::Tail { key } => wire::piece::Place::Tail(key.to_string()),
        }),
        checksum: piece.checksum.clone().map(Into::into),
    }
}

fn piece_from(piece: wire::Piece) -> Read<Piece> {
    Ok(Piece {
        number: piece.number,
        epoch: piece.epoch,
        start: piece.start,
        size: piece.size,
        place: match require("place", piece.place)? {
            wire::piece::Place::Part(part) => {
                Place::Part { number: part.number, entity_tag: part.entity_tag }
            }
            wire::piece::Place::Tail(key) => Place::Tail { key: parse("tail", &key)? },
        },
        checksum: piece.checksum.map(Into::into),
    })
}

/// An open for the wire.
pub fn open_to(open: WriteOpen) -> wire::WriteOpen {
    wire::WriteOpen {
        staging: Some(staging_to(&open.staging)),
        store_id: open.store_id,
        key: open.key.to_string(),
        epoch: open.epoch,
        offset: open.offset,
        hash_state: open.hash_state.unwrap_or_default().into(),
        algorithm: open.algorithm.to_string(),
        expected: open.expected,
    }
}

/// An open from the wire.
///
/// # Errors
/// When a field can't be read.
pub fn open_from(open: wire::WriteOpen) -> Read<WriteOpen> {
    Ok(WriteOpen {
        store_id: open.store_id,
        key: parse("key", &open.key)?,
        epoch: open.epoch,
        offset: open.offset,
        hash_state: (!open.hash_state.is_empty()).then(|| open.hash_state.to_vec()),
        algorithm: parse("algorithm", &open.algorithm)?,
        staging: open.staging.map(staging_from).transpose()?.unwrap_or_default(),
        expected: open.expected,
        unit: 1,
    })
}

/// What was written, for the wire.
pub fn written_to(written: &Written) -> wire::Written {
    wire::Written {
        offset: written.offset,
        hash_state: written.hash_state.clone().into(),
        digest: written.digest.to_string(),
        change: Some(change_to(&written.change)),
    }
}

/// What was written, from the wire.
///
/// # Errors
/// When a field can't be read.
pub fn written_from(written: wire::Written) -> Read<Written> {
    Ok(Written {
        offset: written.offset,
        hash_state: written.hash_state.to_vec(),
        digest: parse("digest", &written.digest)?,
        change: written.change.map(change_from).transpose()?.unwrap_or_default(),
    })
}

/// A close for the wire.
pub fn closed_to(closed: &Closed) -> wire::WriteClosed {
    wire::WriteClosed {
        written: Some(written_to(&closed.written)),
        two_phase: closed.two_phase,
        sealing: closed.sealing.as_ref().map(sealing_to),
    }
}

/// A close from the wire.
///
/// # Errors
/// When a field can't be read.
pub fn closed_from(closed: wire::WriteClosed) -> Read<Closed> {
    Ok(Closed {
        written: written_from(require("written", closed.written)?)?,
        two_phase: closed.two_phase,
        sealing: closed.sealing.map(sealing_from),
    })
}

/// The remains of an upload for the wire, and for a row.
pub fn abandoned_to(abandoned: &Abandoned) -> wire::Abandoned {
    let tails =
        abandoned.tails.iter().map(|(epoch, tails)| wire::EpochTails { epoch: *epoch, tails: *tails });
    wire::Abandoned {
        store_id: abandoned.store_id.clone(),
        key: abandoned.key.to_string(),
        epochs: abandoned.epochs,
        multipart: abandoned.multipart.as_ref().map(multipart_to),
        tails: tails.collect(),
        keep: abandoned.keep.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// The remains of an upload from the wire.
///
/// # Errors
/// When a field can't be read.
pub fn abandoned_from(abandoned: wire::Abandoned) -> Read<Abandoned> {
    Ok(Abandoned {
        store_id: abandoned.store_id,
        key: parse("key", &abandoned.key)?,
        epochs: abandoned.epochs,
        multipart: abandoned.multipart.map(multipart_from).transpose()?,
        tails: abandoned.tails.into_iter().map(|of| (of.epoch, of.tails)).collect(),
        keep: match abandoned.keep.as_str() {
            "" => None,
            text => Some(parse("keep", text)?),
        },
    })
}
