//! T17: sessions and chunks.

use std::sync::atomic::{AtomicUsize, Ordering};

use berth_testkit::{eventually, in_every_setting, raw};
use bytes::Bytes;
use futures::stream;
use reqwest::{Body, Method};
use tokio::{io::AsyncWriteExt, sync::oneshot, task::JoinSet};

use crate::own;

in_every_setting! {
    async fn t17_every_way_to_push_a_blob_gives_the_same_blob(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t17-ways");
        for size in [0, 1, 1000, 3_000_000] {
            let two = content.layer(size);
            repository.push_blob(&two).await.unwrap();
            repository.pull_blob(&two).await.unwrap();
            let one = content.layer(size);
            repository.push_blob_at_once(&one).await.unwrap();
            repository.pull_blob(&one).await.unwrap();
            let chunks = content.layer(size);
            repository.push_blob_in_chunks(&chunks, 999_999).await.unwrap();
            repository.pull_blob(&chunks).await.unwrap();
        }
        // Streamed: one PATCH without a length, as docker does, then an empty PUT.
        let streamed = content.layer(2_000_000);
        let upload = repository.start_upload().await.unwrap();
        let pieces: Vec<_> = (0..20).map(|i| Ok::<_, std::io::Error>(streamed.bytes.slice(i * 100_000..(i + 1) * 100_000))).collect();
        let call = repository.call(Method::PATCH, &upload).await.unwrap();
        let reply = call.body(Body::wrap_stream(stream::iter(pieces))).send().await.unwrap().expect(202).unwrap();
        assert_eq!(reply.session_bytes(), Some(2_000_000));
        let upload = reply.location().unwrap();
        let done = repository.finish(&upload, &streamed.digest.to_string(), Bytes::new()).await.unwrap().expect(201).unwrap();
        assert_eq!(done.header("docker-content-digest"), Some(streamed.digest.to_string().as_str()));
        repository.pull_blob(&streamed).await.unwrap();
    }

    async fn t17_chunks_out_of_order_are_refused_with_the_state(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t17-order");
        let blob = content.layer(3000);
        let upload = repository.start_upload().await.unwrap();
        let first = repository.patch(&upload, Some(0), blob.bytes.slice(..1000)).await.unwrap().expect(202).unwrap();
        assert_eq!(first.session_bytes(), Some(1000));
        // A gap, an overlap, the same again: 416, and where to go on.
        for (start, chunk) in [(1001, 1001..2000), (999, 999..2000), (0, 0..1000), (5000, 0..10)] {
            let refused = repository.patch(&upload, Some(start), blob.bytes.slice(chunk)).await.unwrap();
            assert_eq!(refused.status, 416, "from {start}");
            assert_eq!(refused.session_bytes(), Some(1000), "from {start}");
            assert_eq!(refused.error_code().as_deref(), Some("BLOB_UPLOAD_INVALID"));
        }
        // Ranges that are none, or that contradict the body.
        for range in ["x", "1000", "2000-1000", "1000-", "-1", "1000-1998", "1000-2000", "1000-18446744073709551615"] {
            let call = repository.call(Method::PATCH, &upload).await.unwrap().header("content-range", range);
            let refused = call.body(blob.bytes.slice(1000..2000)).send().await.unwrap();
            assert_eq!(refused.status, 400, "{range}");
        }
        let state = repository.get(&upload).await.unwrap().expect(204).unwrap();
        assert_eq!(state.session_bytes(), Some(1000), "refused chunks leave nothing behind");
        repository.patch(&upload, Some(1000), blob.bytes.slice(1000..2000)).await.unwrap().expect(202).unwrap();
        // The last chunk may come with the PUT.
        let last = blob.bytes.slice(2000..);
        repository.finish(&upload, &blob.digest.to_string(), last.clone()).await.unwrap().expect(201).unwrap();
        repository.pull_blob(&blob).await.unwrap();
        // After the end: the same PUT again has its answer, anything else has no session.
        repository.finish(&upload, &blob.digest.to_string(), last).await.unwrap().expect(201).unwrap();
        let late = repository.patch(&upload, None, blob.bytes.slice(..10)).await.unwrap().expect(404).unwrap();
        assert_eq!(late.error_code().as_deref(), Some("BLOB_UPLOAD_UNKNOWN"));
    }

    async fn t17_a_cut_upload_goes_on_where_it_was_cut(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t17-cut");
        let blob = content.layer(4_000_000);
        for chunked in [false, true] {
            let upload = repository.start_upload().await.unwrap();
            let token = repository.token().await.unwrap();
            let address = deployment.address();
            let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 4000000" };
            let head = format!("PATCH {upload} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n{framing}\r\n\r\n");
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            if chunked {
                stream.write_all(b"1e8480\r\n").await.unwrap();
            }
            stream.write_all(&blob.bytes[..2_000_000]).await.unwrap();
            stream.shutdown().await.unwrap();
            drop(stream);
            let recorded = eventually("what came of the cut body is recorded", || async {
                let state = repository.get(&upload).await.ok()?;
                assert_eq!(state.status, 204);
                state.session_bytes().filter(|bytes| *bytes > 0)
            });
            let recorded = recorded.await.unwrap();
            assert!(recorded <= 2_000_000, "{recorded}");
            let rest = blob.bytes.slice(usize::try_from(recorded).unwrap()..);
            repository.patch(&upload, Some(recorded), rest).await.unwrap().expect(202).unwrap();
            repository.finish(&upload, &blob.digest.to_string(), Bytes::new()).await.unwrap().expect(201).unwrap();
            repository.pull_blob(&blob).await.unwrap();
            repository.delete(&format!("blobs/{}", blob.digest)).await.unwrap().expect(202).unwrap();
        }
    }

    async fn t17_two_clients_on_one_session_never_mix(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t17-two");
        let (mine, theirs) = (content.layer(3_000_000), content.layer(1000));
        let upload = repository.start_upload().await.unwrap();
        let (go_on, waiting) = oneshot::channel::<()>();
        let parts = stream::unfold((0, Some(waiting), mine.bytes.clone()), |(part, waiting, bytes)| async move {
            match (part, waiting) {
                (0, waiting) => Some((Ok::<_, std::io::Error>(bytes.slice(..1_500_000)), (1, waiting, bytes))),
                (1, Some(waiting)) => {
                    waiting.await.ok();
                    Some((Ok(bytes.slice(1_500_000..)), (2, None, bytes)))
                }
                _ => None,
            }
        });
        let slow = repository.call(Method::PATCH, &upload).await.unwrap().header("content-range", "0-2999999");
        let slow = slow.body(Body::wrap_stream(Box::pin(parts)));
        let mut first = JoinSet::new();
        first.spawn(slow.send());
        // A second client at another offset is out of order; at the recorded one it takes over, whenever it comes.
        let ahead = repository.patch(&upload, Some(10), theirs.bytes.clone()).await.unwrap();
        assert_eq!(ahead.status, 416);
        let second = repository.patch(&upload, Some(0), theirs.bytes.clone()).await.unwrap();
        let _refused_before = go_on.send(()).is_err();
        let first = first.join_next().await.unwrap().unwrap();
        let first = first.map_or(0, |reply| reply.status);
        // Exactly one of them wrote: the first was cut off, or it began after the second had ended.
        let won = match (first, second.status) {
            (409 | 416 | 0, 202) => theirs.clone(),
            (202, 409 | 416) => mine.clone(),
            other => panic!("{other:?}"),
        };
        let state = repository.get(&upload).await.unwrap().expect(204).unwrap();
        assert_eq!(state.session_bytes(), Some(won.size()));
        repository.finish(&upload, &won.digest.to_string(), Bytes::new()).await.unwrap().expect(201).unwrap();
        repository.pull_blob(&won).await.unwrap();
    }

    async fn t17_a_storm_on_one_session_leaves_one_order_of_bytes(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t17-storm");
        let blob = content.layer(400_000);
        let upload = repository.start_upload().await.unwrap();
        let accepted = AtomicUsize::new(0);
        // Eight clients each try to append whatever comes next, as restarted clients do.
        let client = || async {
            loop {
                let state = repository.get(&upload).await.unwrap().expect(204).unwrap();
                let at = usize::try_from(state.session_bytes().unwrap()).unwrap();
                if at >= blob.bytes.len() {
                    return;
                }
                let chunk = blob.bytes.slice(at..blob.bytes.len().min(at + 50_000));
                let reply = repository.patch(&upload, Some(at as u64), chunk).await.unwrap();
                match reply.status {
                    202 => accepted.fetch_add(1, Ordering::Relaxed),
                    409 | 416 => 0,
                    status => panic!("{status}: {:?}", reply.body),
                };
            }
        };
        futures::future::join_all((0..8).map(|_| client())).await;
        assert!(accepted.load(Ordering::Relaxed) >= 8);
        repository.finish(&upload, &blob.digest.to_string(), Bytes::new()).await.unwrap().expect(201).unwrap();
        repository.pull_blob(&blob).await.unwrap();
    }

    async fn t17_a_session_belongs_to_its_repository_and_can_be_cancelled(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t17-cancel");
        let (other, _) = own(deployment, "t17-cancel-other");
        let blob = content.layer(1000);
        let upload = repository.start_upload().await.unwrap();
        repository.patch(&upload, None, blob.bytes.clone()).await.unwrap().expect(202).unwrap();
        let elsewhere = upload.replace("t17-cancel/app", "t17-cancel-other/app");
        other.get(&elsewhere).await.unwrap().expect(404).unwrap();
        other.finish(&elsewhere, &blob.digest.to_string(), Bytes::new()).await.unwrap().expect(404).unwrap();
        repository.delete(&upload).await.unwrap().expect(204).unwrap();
        for reply in [
            repository.get(&upload).await.unwrap(),
            repository.patch(&upload, None, blob.bytes.clone()).await.unwrap(),
            repository.finish(&upload, &blob.digest.to_string(), Bytes::new()).await.unwrap(),
            repository.delete(&upload).await.unwrap(),
        ] {
            assert_eq!((reply.status, reply.error_code().unwrap_or_default().as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
        }
        assert!(!repository.has_blob(&blob.digest).await.unwrap());
        let nonsense = raw::get(deployment.address(), "/v2/t17-cancel/app/blobs/uploads/no-such-session").await.unwrap();
        assert_eq!(nonsense.status, 404);
    }
}
