//! Uploads that stop and go on: at every boundary, in many small chunks, after a crash between any two steps.

use std::collections::BTreeSet;

use berth_blobs::suite::bytes_of;
use berth_oci::{Algorithm, Digest};

use super::*;

const SEGMENT: usize = 65_536;

#[tokio::test]
async fn an_upload_goes_on_from_every_boundary() {
    let store = Store::new().await;
    let bytes = bytes_of(1, 4 * SEGMENT + 10);
    let boundaries = [0, 1, 65_535, 65_536, 65_537, 2 * SEGMENT - 1, 2 * SEGMENT, 3 * SEGMENT + 5];
    let mut number = 0;
    for first in boundaries {
        for second in boundaries.into_iter().filter(|second| *second >= first) {
            number += 1;
            let mut upload = Upload::new(number);
            let mut start = 0;
            for end in [first, second] {
                let mut writer = upload.open(&*store.blobs).await.unwrap();
                writer.write(bytes.slice(start..end)).await.unwrap();
                upload.record(&writer.sync().await.unwrap());
                assert_eq!(upload.offset, end as u64);
                let rest = &upload.staging.sealing.as_ref().unwrap().rest;
                let expected = if end % SEGMENT == 0 { 0 } else { end % SEGMENT + 28 };
                assert_eq!(rest.len(), expected, "at {end}");
                start = end;
            }
            let mut writer = upload.open(&*store.blobs).await.unwrap();
            writer.write(bytes.slice(start..)).await.unwrap();
            let object = upload.finish(&mut *writer).await;
            assert_eq!(store.read(&object, None).await.unwrap(), bytes, "{first}, {second}");
            assert_eq!(object.sealing, Some(upload.sealing()), "one key for one object");
        }
    }
}

#[tokio::test]
async fn two_thousand_small_chunks_make_one_object() {
    let store = Store::new().await;
    let bytes = bytes_of(2, 2000 * 1024);
    let mut upload = Upload::new(1);
    for chunk in 0..2000 {
        let mut writer = upload.open(&*store.blobs).await.unwrap();
        writer.write(bytes.slice(chunk * 1024..(chunk + 1) * 1024)).await.unwrap();
        upload.record(&writer.sync().await.unwrap());
    }
    let mut writer = upload.open(&*store.blobs).await.unwrap();
    let object = upload.finish(&mut *writer).await;
    assert_eq!(store.read(&object, None).await.unwrap(), bytes);
    let rehashed = store.blobs.rehash(&object, Algorithm::Sha512).await.unwrap();
    assert_eq!(rehashed, Digest::of(Algorithm::Sha512, &bytes));
}

/// Every nonce of the segments of a file, which must all differ.
fn nonces(file: &[u8]) -> BTreeSet<Vec<u8>> {
    file.chunks(SEGMENT + 28).map(|segment| segment[..12].to_vec()).collect()
}

/// A crash after bytes were written and before they were recorded: with the key recorded or not.
#[tokio::test]
async fn what_was_not_recorded_is_cut_and_never_sealed_under_its_nonce_again() {
    let store = Store::new().await;
    let (old, new) = (bytes_of(3, 3 * SEGMENT + 9), bytes_of(4, 3 * SEGMENT + 9));
    for recorded in [0, 1000, SEGMENT, SEGMENT + 1000] {
        let mut upload = Upload::new(1 + recorded as u128);
        if recorded > 0 {
            let mut writer = upload.open(&*store.blobs).await.unwrap();
            writer.write(old.slice(..recorded)).await.unwrap();
            upload.record(&writer.sync().await.unwrap());
        }
        let mut lost = upload.clone();
        let mut writer = lost.open(&*store.blobs).await.unwrap();
        writer.write(old.slice(recorded..)).await.unwrap();
        lost.finish(&mut *writer).await;
        drop(writer);
        let before = std::fs::read(store.file(&upload.key)).unwrap();

        upload.epoch = lost.epoch;
        let mut writer = upload.open(&*store.blobs).await.unwrap();
        writer.write(new.slice(recorded..)).await.unwrap();
        let object = upload.finish(&mut *writer).await;
        let whole = [&old[..recorded], &new[recorded..]].concat();
        assert_eq!(store.read(&object, None).await.unwrap(), whole, "{recorded}");
        let after = std::fs::read(store.file(&upload.key)).unwrap();
        let kept = recorded / SEGMENT;
        assert_eq!(nonces(&before).intersection(&nonces(&after)).count(), kept, "{recorded}");
    }
}

#[tokio::test]
async fn a_rest_goes_on_only_where_it_was_sealed() {
    let store = Store::new().await;
    let bytes = bytes_of(5, SEGMENT + 500);
    let mut upload = Upload::new(1);
    let mut writer = upload.open(&*store.blobs).await.unwrap();
    writer.write(bytes.slice(..300)).await.unwrap();
    upload.record(&writer.sync().await.unwrap());
    let early = upload.staging.sealing.clone().unwrap();
    writer.write(bytes.slice(300..600)).await.unwrap();
    upload.record(&writer.sync().await.unwrap());
    drop(writer);
    let late = upload.staging.sealing.clone().unwrap();

    let mut damaged = late.clone();
    damaged.rest[20] ^= 1;
    let mut short = late.clone();
    short.rest.truncate(300);
    for (state, what) in [(early, "an earlier one"), (damaged, "a damaged one"), (short, "a short one")] {
        let mut other = upload.clone();
        other.staging.sealing = Some(state);
        let opened = other.open(&*store.blobs).await;
        assert!(
            matches!(opened, Err(BlobsError::Damaged(_) | BlobsError::Short { .. })),
            "{what}: {opened:?}"
        );
    }
    let mut writer = upload.open(&*store.blobs).await.unwrap();
    writer.write(bytes.slice(600..)).await.unwrap();
    let object = upload.finish(&mut *writer).await;
    assert_eq!(store.read(&object, None).await.unwrap(), bytes);
}

#[tokio::test]
async fn an_upload_outlives_a_rotation_and_not_its_key() {
    let store = Store::new().await;
    let bytes = bytes_of(6, 100_000);
    let mut upload = Upload::new(1);
    let mut writer = upload.open(&*store.blobs).await.unwrap();
    writer.write(bytes.slice(..50_000)).await.unwrap();
    upload.record(&writer.sync().await.unwrap());
    store.keys.rotate("second", 2);
    let mut writer = upload.open(&*store.blobs).await.unwrap();
    writer.write(bytes.slice(50_000..70_000)).await.unwrap();
    upload.record(&writer.sync().await.unwrap());
    assert_eq!(upload.sealing().key_id, "first");
    assert_eq!(store.put(2, &bytes).await.sealing.unwrap().key_id, "second");
    let mut orphan = upload.clone();
    let mut writer = upload.open(&*store.blobs).await.unwrap();
    writer.write(bytes.slice(70_000..)).await.unwrap();
    let object = upload.finish(&mut *writer).await;
    assert_eq!(store.read(&object, None).await.unwrap(), bytes);
    store.keys.destroy("first");
    let opened = orphan.open(&*store.blobs).await;
    assert!(matches!(opened, Err(BlobsError::KeyGone)), "{opened:?}");
}

#[tokio::test]
async fn an_older_epoch_is_refused_as_ever() {
    let store = Store::new().await;
    let mut upload = Upload::new(1);
    let mut older = upload.open(&*store.blobs).await.unwrap();
    older.write(bytes_of(7, 100)).await.unwrap();
    let mut newer = upload.open(&*store.blobs).await.unwrap();
    assert!(matches!(older.sync().await, Err(BlobsError::Stale)));
    newer.write(bytes_of(8, 100)).await.unwrap();
    let object = upload.finish(&mut *newer).await;
    assert_eq!(store.read(&object, None).await.unwrap(), bytes_of(8, 100));
    upload.epoch = 0;
    assert!(matches!(upload.open(&*store.blobs).await, Err(BlobsError::Stale)));
}
