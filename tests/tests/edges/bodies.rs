//! T24 for bodies of requests: too slow, or too large, on every route that takes one and on those that don't.

use std::time::{Duration, Instant};

use berth_testkit::raw;
use tokio::{
    io::{AsyncWriteExt, split},
    time::timeout,
};

use crate::{
    on_both_listeners,
    server::{PATIENCE, Server, Wire, say},
};

/// The type of a manifest; it means nothing elsewhere.
const MANIFEST: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";

/// Sends a head, and then so many bytes each tenth of a second until it is answered. The status and what it says.
async fn drip(wire: Wire, head: String, bytes: usize) -> raw::RawReply {
    let (mut reading, mut writing) = split(wire);
    writing.write_all(head.as_bytes()).await.unwrap();
    let drops = async {
        let body = vec![b'x'; bytes];
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if writing.write_all(&body).await.is_err() || writing.flush().await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    tokio::select! {
        reply = timeout(PATIENCE, raw::read_reply(&mut reading)) => reply.unwrap().unwrap(),
        () = drops => unreachable!(),
    }
}

on_both_listeners! {
    async fn t24_a_body_that_comes_too_slowly_is_cut(listener: Listener) {
        let settings = [("GATEWAY__UPLOAD_IDLE_SECONDS", "1"), ("GATEWAY__UPLOAD_BYTES_PER_SECOND", "1000")];
        let server = Server::start(listener, &settings).await;
        let authorization = server.authorization("edges/slow").await;
        let upload = server.begin_upload("edges/slow", &authorization).await;
        let silent = server.begin_upload("edges/slow", &authorization).await;
        let silent = format!("{silent}?digest=sha256:{}", "0".repeat(64));
        let steady = server.begin_upload("edges/slow", &authorization).await;
        let began = Instant::now();
        let send = async |method: &str, target: &str, length: usize, bytes: usize| {
            let more = format!("{authorization}{MANIFEST}Content-Length: {length}\r\n\r\n");
            let head = format!("{}{more}", server.head(method, target));
            drip(server.wire().await, head, bytes).await
        };
        let token = async {
            let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 5000\r\n\r\n";
            drip(server.wire().await, format!("{}{form}", server.head("POST", "/token")), 1).await
        };
        let (slow, nothing, manifest, unwanted, token, fast) = tokio::join!(
            send("PATCH", &upload, 1_000_000, 1),
            send("PUT", &silent, 1_000_000, 0),
            send("PUT", "/v2/edges/slow/manifests/v1", 1_000_000, 1),
            send("GET", "/v2/", 60_000, 1),
            token,
            send("PATCH", &steady, 10_000, 500),
        );
        for reply in [&slow, &nothing, &manifest, &unwanted, &token] {
            assert_eq!((reply.status, reply.header("connection")), (408, Some("close")), "{reply:?}");
            assert!(reply.error_code().is_some());
        }
        assert_eq!(fast.status, 202, "slow, but not too slow: {fast:?}");
        assert!(began.elapsed() > Duration::from_secs(2) && began.elapsed() < Duration::from_secs(20));
        // What came is there, and the upload goes on.
        let state = server.call("GET", &upload, &authorization, b"").await;
        assert_eq!(state.status, 204);
        let last: usize = state.header("range").unwrap().strip_prefix("0-").unwrap().parse().unwrap();
        let range = format!("{authorization}Content-Range: {}-{}\r\n", last + 1, last + 1000);
        assert_eq!(server.call("PATCH", &upload, &range, &[b'x'; 1000]).await.status, 202);
    }

    async fn every_route_has_a_largest_body(listener: Listener) {
        let server = Server::start(listener, &[("GATEWAY__BLOB_BYTES", "1000000")]).await;
        let authorization = server.authorization("edges/large").await;
        let large = vec![b'x'; 5_000_000];
        let upload = server.begin_upload("edges/large", &authorization).await;
        let zeros = "0".repeat(64);
        for (method, target) in [
            ("GET", "/v2/".to_owned()),
            ("GET", "/token".to_owned()),
            ("GET", "/v2/_catalog".to_owned()),
            ("GET", "/v2/edges/large/tags/list".to_owned()),
            ("GET", format!("/v2/edges/large/referrers/sha256:{zeros}")),
            ("GET", "/v2/edges/large/manifests/v1".to_owned()),
            ("PUT", "/v2/edges/large/manifests/v1".to_owned()),
            ("DELETE", "/v2/edges/large/manifests/v1".to_owned()),
            ("GET", format!("/v2/edges/large/blobs/sha256:{zeros}")),
            ("DELETE", format!("/v2/edges/large/blobs/sha256:{zeros}")),
            ("POST", "/v2/edges/large/blobs/uploads/".to_owned()),
            ("POST", format!("/v2/edges/large/blobs/uploads/?mount=sha256:{zeros}&from=edges/other")),
            ("POST", format!("/v2/edges/large/blobs/uploads/?digest=sha256:{zeros}")),
            ("PATCH", upload.clone()),
            ("PUT", format!("{upload}?digest=sha256:{zeros}")),
            ("GET", upload.clone()),
            ("DELETE", upload.clone()),
            ("POST", "/token".to_owned()),
        ] {
            let reply = server.call(method, &target, &format!("{authorization}{MANIFEST}"), &large).await;
            let what = format!("{method} {target}: {reply:?}");
            assert_eq!((reply.status, reply.header("connection")), (413, Some("close")), "{what}");
            assert_eq!(reply.error_code().as_deref(), Some("SIZE_INVALID"), "{what}");
        }
        // Without a length that is said before.
        let mut wire = server.wire().await;
        let chunked = format!("{}{authorization}Transfer-Encoding: chunked\r\n\r\n", server.head("PATCH", &upload));
        say(&mut wire, chunked.as_bytes()).await;
        for _ in 0..20 {
            say(&mut wire, &[b"186a0\r\n", &large[..100_000], b"\r\n"].concat()).await;
        }
        say(&mut wire, b"0\r\n\r\n").await;
        let reply = timeout(PATIENCE, raw::read_reply(&mut wire)).await.unwrap().unwrap();
        assert_eq!((reply.status, reply.error_code().as_deref()), (413, Some("SIZE_INVALID")));
        // A little that nobody wants does no harm.
        assert_eq!(server.call("GET", "/v2/edges/large/tags/list", &authorization, b"{}").await.status, 200);
        assert_eq!(server.call("PATCH", &upload, &authorization, &large[..1_000_000]).await.status, 202);
        assert_eq!(server.call("PATCH", &upload, &authorization, b"x").await.status, 413);
    }
}
