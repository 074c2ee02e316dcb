//! What holds between the calls of one upload, wherever its bytes are meanwhile. It uses sizes at which object storage
//! does something else: a tail, a part, several parts.

use berth_oci::{Algorithm, Digest};

use super::{Fixture, Put, Recorded, bytes_of, close, feed, finish, list_all, new_key, note_sealing, sync};
use crate::{Abandoned, ObjectKey, Place, WriteOpen};

const MIB: usize = 1 << 20;

/// What metadata would say of an upload that ended.
fn remains(fixture: &Fixture, key: &ObjectKey, epochs: i64, recorded: &Recorded) -> Abandoned {
    Abandoned {
        store_id: fixture.store_id.clone(),
        key: key.clone(),
        epochs: (!fixture.in_place).then_some(epochs),
        multipart: recorded.staging.multipart.clone(),
        tails: recorded
            .tails
            .iter()
            .map(|(epoch, tails)| (*epoch, *tails))
            .filter(|(_, tails)| *tails > 1)
            .collect(),
        keep: None,
    }
}

async fn check(fixture: &Fixture, put: &Put, bytes: &bytes::Bytes, what: &str) {
    assert_eq!(put.offset, bytes.len() as u64, "{what}");
    assert_eq!(put.digest, Digest::of(Algorithm::Sha256, bytes), "{what}");
    let read = fixture.read(&put.key, bytes.len() as u64, None).await.unwrap();
    assert!(read == bytes, "{what}: other bytes");
}

pub async fn an_upload_is_resumed_at_every_boundary(fixture: Fixture) {
    let five = 5 * MIB;
    let eight = 8 * MIB;
    for cuts in [
        vec![1],
        vec![five - 1],
        vec![five],
        vec![five + 1],
        vec![eight - 1],
        vec![eight],
        vec![eight + 1],
        vec![2 * eight - 1, 2 * eight, 2 * eight + 1],
        vec![100, 3 * MIB, eight + 5, eight + 6 * MIB, 3 * eight],
    ] {
        let size = 26 * MIB + 17;
        let bytes = bytes_of(cuts[0] as u64, size);
        let key = new_key();
        let mut recorded = Recorded::default();
        let (mut start, mut epoch) = (0, 1);
        for cut in &cuts {
            let mut writer = fixture.blobs.write(fixture.resumed(&key, epoch, &recorded)).await.unwrap();
            assert_eq!(writer.offset(), start as u64);
            feed(&mut *writer, &bytes.slice(start..*cut), 200_000, &mut recorded).await;
            sync(&mut *writer, &mut recorded).await;
            (start, epoch) = (*cut, epoch + 1);
        }
        let open =
            WriteOpen { expected: Some((size - start) as u64), ..fixture.resumed(&key, epoch, &recorded) };
        let mut writer = fixture.blobs.write(open).await.unwrap();
        feed(&mut *writer, &bytes.slice(start..), 200_000, &mut recorded).await;
        let put = finish(&mut *writer, &mut recorded).await;
        check(&fixture, &put, &bytes, &format!("cut at {cuts:?}")).await;
    }
}

pub async fn many_small_chunks_make_one_object(fixture: Fixture) {
    let bytes = bytes_of(50, 300 * 1024);
    let key = new_key();
    let mut recorded = Recorded::default();
    for (chunk, epoch) in (0..300).zip(1..) {
        let mut writer = fixture.blobs.write(fixture.resumed(&key, epoch, &recorded)).await.unwrap();
        feed(&mut *writer, &bytes.slice(chunk * 1024..(chunk + 1) * 1024), 300, &mut recorded).await;
        sync(&mut *writer, &mut recorded).await;
    }
    let mut writer = fixture.blobs.write(fixture.resumed(&key, 301, &recorded)).await.unwrap();
    let put = finish(&mut *writer, &mut recorded).await;
    check(&fixture, &put, &bytes, "in chunks of 1 KiB").await;
}

/// Whatever an older epoch does after a newer one began, the newer one's object has the newer one's bytes.
pub async fn an_older_epoch_changes_nothing(fixture: Fixture) {
    for size in [1000, 9 * MIB, 20 * MIB] {
        let key = new_key();
        let common = bytes_of(60, 9 * MIB);
        let mut recorded = fixture.begin(&key, &common).await;
        let (old_bytes, new_bytes) = (bytes_of(61, size), bytes_of(62, size));
        let mut older = fixture.blobs.write(fixture.resumed(&key, 2, &recorded)).await.unwrap();
        let _ = older.write(old_bytes.slice(..size / 2)).await.unwrap();
        // As the next lease does: the older one may have used numbers that it did not record.
        recorded.staging.reserved += crate::RESERVED_PARTS;
        let mut newer = fixture.blobs.write(fixture.resumed(&key, 3, &recorded)).await.unwrap();
        feed(&mut *newer, &new_bytes.slice(..size / 2), 250_000, &mut recorded).await;
        let late = async {
            older.write(old_bytes.slice(size / 2..)).await?;
            older.close().await?;
            Ok::<_, crate::BlobsError>(())
        };
        let _ = late.await;
        feed(&mut *newer, &new_bytes.slice(size / 2..), 250_000, &mut recorded).await;
        let put = finish(&mut *newer, &mut recorded).await;
        let whole = [common, new_bytes].concat().into();
        check(&fixture, &put, &whole, &format!("{size} bytes")).await;
    }
}

pub async fn a_finish_without_an_answer_is_resumed(fixture: Fixture) {
    let bytes = bytes_of(70, 17 * MIB);
    for finished in [false, true] {
        let key = new_key();
        let mut recorded = fixture.begin(&key, &bytes.slice(..9 * MIB)).await;
        let mut writer = fixture.blobs.write(fixture.resumed(&key, 2, &recorded)).await.unwrap();
        feed(&mut *writer, &bytes.slice(9 * MIB..), MIB, &mut recorded).await;
        let closed = close(&mut *writer, &mut recorded).await;
        if !closed.two_phase {
            return;
        }
        if finished {
            writer.finish().await.unwrap();
        }
        drop(writer);
        let mut keys = Vec::new();
        for epoch in 3..5 {
            keys.push(fixture.blobs.resume_finish(fixture.resumed(&key, epoch, &recorded)).await.unwrap());
        }
        assert_eq!(keys[0], keys[1], "a finish may be repeated");
        let put_key = keys.remove(0);
        note_sealing(&put_key, closed.sealing.clone());
        let put = Put { key: put_key, offset: closed.written.offset, digest: closed.written.digest };
        check(&fixture, &put, &bytes, "resumed").await;
    }
}

pub async fn nothing_is_left_of_an_abandoned_upload(fixture: Fixture) {
    let key = new_key();
    let mut recorded = fixture.begin(&key, &bytes_of(80, 1000)).await;
    for epoch in 2..5 {
        let mut writer = fixture.blobs.write(fixture.resumed(&key, epoch, &recorded)).await.unwrap();
        let bytes = bytes_of(81, 5 * MIB + 1000 * usize::try_from(epoch).unwrap());
        feed(&mut *writer, &bytes, MIB, &mut recorded).await;
        for _ in 0..2 {
            feed(&mut *writer, &bytes_of(82, 10), 10, &mut recorded).await;
            sync(&mut *writer, &mut recorded).await;
        }
        // What was written and never recorded, too.
        writer.write(bytes_of(83, 10)).await.unwrap();
        writer.sync().await.unwrap();
    }
    assert!(!list_all(&fixture, 1000).await.is_empty());
    let remains = remains(&fixture, &key, 4, &recorded);
    for _ in 0..2 {
        fixture.blobs.abandon(&remains).await.unwrap();
        assert!(list_all(&fixture, 1000).await.is_empty());
    }
}

pub async fn nothing_but_the_object_is_left_of_a_finished_upload(fixture: Fixture) {
    for size in [500, 12 * MIB] {
        let key = new_key();
        let mut recorded = fixture.begin(&key, &bytes_of(90, size)).await;
        let mut writer = fixture.blobs.write(fixture.resumed(&key, 2, &recorded)).await.unwrap();
        feed(&mut *writer, &bytes_of(91, 100), 100, &mut recorded).await;
        let mut remains = remains(&fixture, &key, 2, &recorded);
        let put = finish(&mut *writer, &mut recorded).await;
        remains.keep = Some(put.key.clone());
        fixture.blobs.abandon(&remains).await.unwrap();
        let whole = [bytes_of(90, size), bytes_of(91, 100)].concat().into();
        check(&fixture, &put, &whole, "what stays").await;
        let left = list_all(&fixture, 1000).await;
        assert_eq!(left.iter().map(|listed| &listed.key).collect::<Vec<_>>(), [&put.key]);
        fixture.blobs.delete(&fixture.store_id, &put.key).await.unwrap();
    }
}

/// An older epoch's part that lands after the newer one's has a number of its own.
pub async fn a_part_replaces_none_of_a_newer_epoch(fixture: Fixture) {
    let key = new_key();
    let common = bytes_of(95, 9 * MIB);
    let begun = fixture.begin(&key, &common).await;
    if begun.staging.multipart.is_none() {
        return;
    }
    let mut used = Vec::new();
    let mut reserved = begun.clone();
    for epoch in 2..4 {
        let mut recorded = reserved.clone();
        let mut writer = fixture.blobs.write(fixture.resumed(&key, epoch, &recorded)).await.unwrap();
        feed(&mut *writer, &bytes_of(96, 40 * MIB), MIB, &mut recorded).await;
        sync(&mut *writer, &mut recorded).await;
        let parts = recorded.staging.pieces.iter().filter(|piece| piece.epoch == epoch);
        let numbers = parts.filter_map(|piece| match &piece.place {
            Place::Part { number, .. } => Some(*number),
            Place::Tail { .. } => None,
        });
        used.push(numbers.collect::<Vec<_>>());
        // The next lease knows nothing of this one.
        reserved.staging.reserved += crate::RESERVED_PARTS;
    }
    assert!(!used[0].is_empty());
    assert!(used[0].iter().all(|number| !used[1].contains(number)), "{used:?}");
}
