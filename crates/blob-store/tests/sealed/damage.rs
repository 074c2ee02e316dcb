//! What was changed, cut, moved or exchanged in a store never comes out, and never looks complete.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use berth_blobs::{BlobsError, ObjectRef, SEALED, Sealing, suite::bytes_of};
use berth_oci::{Algorithm, Digest};
use futures::StreamExt;

use super::*;

const SEGMENT: usize = 65_536;
const STORED: usize = SEGMENT + 28;

/// What came before the error, and the error.
async fn read_until_error(store: &Store, object: &ObjectRef) -> (Vec<u8>, Option<BlobsError>) {
    let mut steps = match store.blobs.open(object, None).await {
        Ok(reader) => reader.into_stream(),
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut came = Vec::new();
    while let Some(step) = steps.next().await {
        match step {
            Ok(bytes) => came.extend_from_slice(&bytes),
            Err(error) => return (came, Some(error)),
        }
    }
    (came, None)
}

fn flip(file: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[tokio::test]
async fn nothing_of_a_blob_is_in_the_store() {
    let store = Store::new().await;
    let line = b"what must not be seen in the store; ".repeat(5000);
    let object = store.put(1, &Bytes::from(line.clone())).await;
    assert_eq!(object.format, SEALED);
    let stored = std::fs::read(store.file(&object.key)).unwrap();
    assert_eq!(stored.len(), line.len() + 28 * line.len().div_ceil(SEGMENT));
    for window in [&line[..36], &line[..8]] {
        assert!(!stored.windows(window.len()).any(|found| found == window));
    }
    // The same again is stored differently.
    let again = store.put(2, &Bytes::from(line)).await;
    assert_ne!(stored, std::fs::read(store.file(&again.key)).unwrap());
}

#[tokio::test]
async fn a_changed_byte_ends_what_comes_before_its_segment() {
    let store = Store::new().await;
    let bytes = bytes_of(1, 3 * SEGMENT + 100);
    let object = store.put(1, &bytes).await;
    let file = store.file(&object.key);
    // In each segment: its nonce, its text, its tag.
    for segment in 0..4 {
        let start = segment * STORED;
        let end = (start + STORED).min(3 * STORED + 128);
        for at in [start, start + 11, start + 12, start + 60, end - 16, end - 1] {
            flip(&file, at as u64);
            let (came, error) = read_until_error(&store, &object).await;
            assert_eq!(came, bytes[..segment * SEGMENT], "byte {at}");
            assert!(matches!(error, Some(BlobsError::Damaged(_))), "byte {at}: {error:?}");
            let rehashed = store.blobs.rehash(&object, Algorithm::Sha256).await;
            assert!(matches!(rehashed, Err(BlobsError::Damaged(_))), "{rehashed:?}");
            // What lies beside it is still there.
            let other = if segment == 0 { SEGMENT } else { 0 } as u64;
            let part = store.read(&object, Some((other, 10))).await.unwrap();
            assert_eq!(part, bytes[other as usize..other as usize + 10]);
            let touched = store.read(&object, Some(((segment * SEGMENT) as u64, 1))).await;
            assert!(matches!(touched, Err(BlobsError::Damaged(_))), "{touched:?}");
            flip(&file, at as u64);
        }
    }
    assert_eq!(store.read(&object, None).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_cut_at_the_edge_of_a_segment_is_noticed() {
    let store = Store::new().await;
    let bytes = bytes_of(2, 3 * SEGMENT);
    let object = store.put(1, &bytes).await;
    let file = store.file(&object.key);
    let whole = std::fs::read(&file).unwrap();
    for length in [2 * STORED, STORED, 0, 3 * STORED - 1, 2 * STORED + 28] {
        cut(&file, length as u64);
        let (came, error) = read_until_error(&store, &object).await;
        assert!(came.len() < bytes.len());
        assert!(matches!(error, Some(BlobsError::Short { .. })), "{length}: {error:?}");
        std::fs::write(&file, &whole).unwrap();
    }
    // A row that says less than there is gets no less than a whole segment's worth.
    let shorter = ObjectRef { size: object.size - 1, ..object.clone() };
    let (_, error) = read_until_error(&store, &shorter).await;
    assert!(matches!(error, Some(BlobsError::Damaged(_))), "{error:?}");
}

#[tokio::test]
async fn segments_stay_in_their_place_and_in_their_object() {
    let store = Store::new().await;
    let bytes = bytes_of(3, 3 * SEGMENT);
    let (one, two) = (store.put(1, &bytes).await, store.put(2, &bytes).await);
    let file = store.file(&one.key);
    let whole = std::fs::read(&file).unwrap();
    let other = std::fs::read(store.file(&two.key)).unwrap();

    let mut swapped = whole.clone();
    swapped[..STORED].copy_from_slice(&whole[STORED..2 * STORED]);
    swapped[STORED..2 * STORED].copy_from_slice(&whole[..STORED]);
    let mut exchanged = whole.clone();
    exchanged[STORED..2 * STORED].copy_from_slice(&other[STORED..2 * STORED]);
    for (changed, intact) in [(&swapped, 0), (&exchanged, SEGMENT), (&other, 0)] {
        std::fs::write(&file, changed).unwrap();
        let (came, error) = read_until_error(&store, &one).await;
        assert_eq!(came.len(), intact);
        assert!(matches!(error, Some(BlobsError::Damaged(_))), "{error:?}");
    }
    // Not even with the other's key beside it.
    let moved = ObjectRef { sealing: two.sealing.clone(), ..one.clone() };
    let (came, error) = read_until_error(&store, &moved).await;
    assert!(came.is_empty() && matches!(error, Some(BlobsError::Damaged(_))), "{error:?}");
}

#[tokio::test]
async fn a_key_that_is_damaged_wrong_or_gone_opens_nothing() {
    let store = Store::new().await;
    let bytes = bytes_of(4, 100);
    let object = store.put(1, &bytes).await;
    let sealing = object.sealing.clone().unwrap();
    let with = |sealing: Option<Sealing>| ObjectRef { sealing, ..object.clone() };
    for at in 0..sealing.wrapped_key.len() {
        let mut damaged = sealing.clone();
        damaged.wrapped_key[at] ^= 1;
        let read = store.read(&with(Some(damaged)), None).await;
        assert!(matches!(read, Err(BlobsError::Damaged(_))), "{read:?}");
    }
    let read = store.read(&with(None), None).await;
    assert!(matches!(read, Err(BlobsError::Damaged(_))), "{read:?}");
    store.keys.rotate("second", 2);
    let other = Sealing { key_id: "second".to_owned(), ..sealing.clone() };
    let read = store.read(&with(Some(other)), None).await;
    assert!(matches!(read, Err(BlobsError::Damaged(_))), "{read:?}");
    let none = Sealing { key_id: "none".to_owned(), ..sealing };
    let read = store.read(&with(Some(none)), None).await;
    assert!(matches!(read, Err(BlobsError::KeyGone)), "{read:?}");
    assert_eq!(store.read(&object, None).await.unwrap(), bytes);
    store.keys.destroy("first");
    assert!(matches!(store.read(&object, None).await, Err(BlobsError::KeyGone)));
    assert!(matches!(store.blobs.rehash(&object, Algorithm::Sha256).await, Err(BlobsError::KeyGone)));
}

#[tokio::test]
async fn keys_that_are_away_stop_what_needs_them_and_leave_nothing() {
    let store = Store::new().await;
    let bytes = bytes_of(5, 200_000);
    let object = store.put(1, &bytes).await;
    let mut begun = Upload::new(2);
    let mut writer = begun.open(&*store.blobs).await.unwrap();
    store.keys.set_away(true);
    assert!(matches!(store.read(&object, None).await, Err(BlobsError::Unavailable(_))));
    let mut refused = Upload::new(3);
    let opened = refused.open(&*store.blobs).await;
    assert!(matches!(opened, Err(BlobsError::Unavailable(_))), "{opened:?}");
    assert!(!store.file(&refused.key).exists());
    // What has its key goes on.
    writer.write(bytes.clone()).await.unwrap();
    begun.record(&writer.sync().await.unwrap());
    let ended = begun.finish(&mut *writer).await;
    store.keys.set_away(false);
    assert_eq!(store.read(&ended, None).await.unwrap(), bytes);
    assert_eq!(store.read(&object, None).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_store_holds_both_kinds() {
    let store = Store::new().await;
    let bytes = bytes_of(6, 150_000);
    let sealed = store.put(1, &bytes).await;
    let mut begun = Upload::new(2);
    let mut writer = begun.open(&*store.blobs).await.unwrap();
    writer.write(bytes.slice(..70_000)).await.unwrap();
    begun.record(&writer.sync().await.unwrap());
    drop(writer);
    let store = store.reopened(false).await;
    let plain = store.put(3, &bytes).await;
    assert_eq!(plain.sealing, None);
    assert_eq!(std::fs::read(store.file(&plain.key)).unwrap(), bytes);
    // What was begun sealed ends sealed, and the other way round.
    let mut writer = begun.open(&*store.blobs).await.unwrap();
    writer.write(bytes.slice(70_000..)).await.unwrap();
    let ended = begun.finish(&mut *writer).await;
    drop(writer);
    assert_eq!(ended.sealing, Some(begun.sealing()));
    let mut begun = Upload::new(4);
    let mut writer = begun.open(&*store.blobs).await.unwrap();
    writer.write(bytes.slice(..70_000)).await.unwrap();
    begun.record(&writer.sync().await.unwrap());
    drop(writer);
    let store = store.reopened(true).await;
    let mut writer = begun.open(&*store.blobs).await.unwrap();
    writer.write(bytes.slice(70_000..)).await.unwrap();
    let ended_plain = begun.finish(&mut *writer).await;
    assert_eq!(ended_plain.sealing, None);
    for object in [sealed, plain, ended, ended_plain] {
        assert_eq!(store.read(&object, None).await.unwrap(), bytes);
        let rehashed = store.blobs.rehash(&object, Algorithm::Sha512).await.unwrap();
        assert_eq!(rehashed, Digest::of(Algorithm::Sha512, &bytes));
    }
}

#[tokio::test]
async fn every_range_is_exact() {
    let store = Store::new().await;
    let size = 2 * SEGMENT + 77;
    let bytes = bytes_of(7, size);
    let object = store.put(1, &bytes).await;
    let edges = [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT - 1, 2 * SEGMENT, size - 1, size];
    for start in edges {
        for end in edges.into_iter().filter(|end| *end >= start) {
            let read = store.read(&object, Some((start as u64, (end - start) as u64))).await.unwrap();
            assert_eq!(read, bytes.slice(start..end), "{start}..{end}");
        }
    }
    for size in [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1] {
        let bytes = bytes_of(8, size);
        let object = store.put(100 + size as u128, &bytes).await;
        assert_eq!(store.read(&object, None).await.unwrap(), bytes, "{size} bytes");
        assert!(store.read(&object, Some((0, size as u64 + 1))).await.is_err());
    }
}

#[tokio::test]
async fn no_url_leads_to_a_sealed_object() {
    let storage = ObjectStorage::start();
    let folder = tempfile::tempdir().unwrap();
    let blobs = bucket(&storage, folder.path(), &FixedKeys::default()).await;
    let key = Upload::new(1).key;
    let now = 1_700_000_000_000_000;
    let plain = ObjectRef::new("s3", key.clone(), 100, None);
    assert!(blobs.presign(&plain, now).await.unwrap().is_some());
    let sealing = Sealing { key_id: "first".to_owned(), wrapped_key: vec![1] };
    let sealed = ObjectRef::new("s3", key, 100, Some(sealing));
    assert!(blobs.presign(&sealed, now).await.unwrap().is_none());
}
