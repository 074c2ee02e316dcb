//! What a store keeps aside for a session: rows beside its offset, recorded in the same unit, given back with the next
//! lease. When the session ends, what is left of it follows from these rows and is queued for deletion.

use berth_blobs::{
    Abandoned, Multipart, ObjectKey, Piece, Place, RESERVED_PARTS, Sealing, SealingState, Staging,
    StagingChange, wire,
};
use berth_database::{TextList, Transaction, args};
use berth_oci::{ErrorCode, Problem};
use prost::Message as _;

use crate::{
    error::{Error, Result},
    sealing,
    store::{self, statements as sql},
};

/// The columns of a session that are about its staging.
#[derive(Clone, Default, Debug)]
pub(crate) struct Columns {
    pub(crate) staged: bool,
    pub(crate) multipart: Option<(String, String)>,
    pub(crate) reserved: u32,
    /// Of a sealed upload.
    pub(crate) sealing: Option<SealingState>,
}

impl Columns {
    /// Reads them from where they begin in a row.
    pub(crate) fn read(row: &berth_database::Row, from: usize) -> Result<Self> {
        let key: Option<String> = row.get(from + 1)?;
        let id: Option<String> = row.get(from + 2)?;
        Ok(Self {
            staged: row.get(from)?,
            multipart: key.zip(id),
            reserved: u32::try_from(row.get::<i64>(from + 3)?).unwrap_or(u32::MAX),
            sealing: match stored_sealing(row, from + 4)? {
                None => None,
                Some(key) => Some(SealingState {
                    key,
                    hash_state: row.get::<Option<_>>(from + 6)?.unwrap_or_default(),
                    rest: row.get::<Option<_>>(from + 7)?.unwrap_or_default(),
                }),
            },
        })
    }

    fn multipart(&self) -> Result<Option<Multipart>> {
        let read = |(key, id): &(String, String)| Ok(Multipart { key: stored_key(key)?, id: id.clone() });
        self.multipart.as_ref().map(read).transpose()
    }
}

/// Reads the columns that name a key and hold what it has sealed.
pub(crate) fn stored_sealing(row: &berth_database::Row, from: usize) -> Result<Option<Sealing>> {
    let key_id: Option<String> = row.get(from)?;
    let wrapped_key: Option<Vec<u8>> = row.get(from + 1)?;
    Ok(key_id.zip(wrapped_key).map(|(key_id, wrapped_key)| Sealing { key_id, wrapped_key }))
}

fn damaged(what: &'static str) -> Error {
    Error::new(ErrorCode::Internal, what)
}

fn stored_key(text: &str) -> Result<ObjectKey> {
    text.parse().map_err(|_| damaged("a stored object key can't be read"))
}

fn stored_number(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The staging of a session, for its next holder.
pub(crate) async fn read(tx: &mut Transaction, id: &str, columns: &Columns) -> Result<Staging> {
    let mut staging = Staging {
        multipart: columns.multipart()?,
        reserved: columns.reserved,
        sealing: columns.sealing.clone(),
        ..Staging::default()
    };
    for row in tx.all(&sql::PIECES, args![id]).await? {
        let number = stored_number(row.get(0)?);
        staging.last = staging.last.max(number);
        if row.get(8)? {
            continue;
        }
        let part: Option<i64> = row.get(4)?;
        let place = match part {
            Some(part) => Place::Part {
                number: stored_number(part),
                entity_tag: row.get::<Option<String>>(6)?.unwrap_or_default(),
            },
            None => Place::Tail { key: stored_key(&row.get::<Option<String>>(5)?.unwrap_or_default())? },
        };
        staging.pieces.push(Piece {
            number,
            epoch: row.get(1)?,
            start: store::size(&row, 2)?,
            size: store::size(&row, 3)?,
            place,
            checksum: row.get(7)?,
        });
    }
    Ok(staging)
}

/// Records what changed, in the unit that records the offset. `goes_on`: the holder may write more before it records
/// again.
pub(crate) async fn record(
    tx: &mut Transaction,
    id: &str,
    change: &StagingChange,
    goes_on: bool,
) -> Result<()> {
    if let Some(sealing) = &change.sealing {
        if let Some(key) = &sealing.key {
            sealing::name_key(tx, &key.key_id).await?;
        }
        let key = sealing.key.as_ref();
        let args = args![
            id,
            key.map(|key| key.key_id.clone()),
            berth_database::Arg::Bytes(key.map(|key| key.wrapped_key.clone())),
            sealing.hash_state.as_slice(),
            sealing.rest.as_slice(),
        ];
        tx.execute(&sql::SET_SEALING, args).await?;
    }
    if let Some(multipart) = &change.multipart {
        let args = args![id, multipart.key.as_str(), multipart.id.as_str()];
        tx.execute(&sql::SET_MULTIPART, args).await?;
    }
    if let Some(used) = change.reserved {
        let more = if goes_on { RESERVED_PARTS } else { 0 };
        tx.execute(&sql::SET_RESERVED, args![id, i64::from(used) + i64::from(more)]).await?;
    }
    for piece in &change.added {
        let (part, key, entity_tag) = match &piece.place {
            Place::Part { number, entity_tag } => (Some(i64::from(*number)), None, Some(entity_tag.clone())),
            Place::Tail { key } => (None, Some(key.to_string()), None),
        };
        let args = args![
            id,
            i64::from(piece.number),
            piece.epoch,
            store::stored_size(piece.start)?,
            store::stored_size(piece.size)?,
            part,
            key,
            entity_tag,
            piece.checksum.clone(),
        ];
        tx.execute(&sql::ADD_PIECE, args).await?;
    }
    if !change.merged.is_empty() {
        let merged = TextList(change.merged.iter().map(ToString::to_string).collect());
        tx.execute(&sql::MERGE_PIECES, args![id, merged]).await?;
    }
    Ok(())
}

/// A session that ended.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) id: &'a str,
    pub(crate) store_id: &'a str,
    pub(crate) object_key: &'a str,
    pub(crate) columns: &'a Columns,
    /// The newest epoch that wrote.
    pub(crate) epoch: i64,
}

impl Ended<'_> {
    /// What is left of it, as it is stored with its delete; `None` when that is its object alone. `keep` is the object
    /// that it came to.
    pub(crate) async fn remains(&self, tx: &mut Transaction, keep: Option<&str>) -> Result<Option<Vec<u8>>> {
        if !self.columns.staged {
            return Ok(None);
        }
        let mut tails = Vec::new();
        for row in tx.all(&sql::COUNT_TAILS, args![self.id]).await? {
            tails.push((row.get(0)?, stored_number(row.get(1)?)));
        }
        let abandoned = Abandoned {
            store_id: self.store_id.to_owned(),
            key: stored_key(self.object_key)?,
            epochs: Some(self.epoch),
            multipart: self.columns.multipart()?,
            tails,
            keep: keep.map(stored_key).transpose()?,
        };
        Ok(Some(wire::abandoned_to(&abandoned).encode_to_vec()))
    }
}

/// Reads what is left of a session, as it was stored.
pub(crate) fn read_remains(bytes: &[u8]) -> std::result::Result<Abandoned, String> {
    let message = berth_proto::blob_store::Abandoned::decode(bytes).map_err(|error| error.to_string())?;
    wire::abandoned_from(message).map_err(|problem: Problem| problem.message)
}
