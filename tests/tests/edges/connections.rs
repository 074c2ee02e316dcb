//! T24 before there is a request: connections that say nothing, heads that come a byte at a time, connections that are
//! kept, and more of them than there may be.

use std::time::{Duration, Instant};

use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    http2::{END_HEADERS, END_STREAM, HEADERS, Http2, frame},
    on_both_listeners,
    server::{Server, ask, rest, say},
};

/// Sends a text a byte at a time until nobody listens any more.
async fn trickle(wire: &mut crate::server::Wire, text: &str) {
    for byte in text.bytes().cycle() {
        if wire.write_all(&[byte]).await.is_err() || wire.flush().await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

on_both_listeners! {
    async fn t24_a_head_has_to_come_in_time(listener: Listener) {
        let server = Server::start(listener, &[("LISTEN__LIMITS__HEAD_SECONDS", "1")]).await;
        let began = Instant::now();
        // Nothing at all, not even of a handshake.
        let silent = async {
            let mut wire: crate::server::Wire = Box::new(server.tcp().await.unwrap());
            assert!(rest(&mut wire).await.is_empty());
        };
        // What may still be either protocol.
        let half = async {
            let mut wire = server.wire().await;
            say(&mut wire, b"PR").await;
            rest(&mut wire).await;
        };
        let slow = async {
            let mut wire = server.wire().await;
            trickle(&mut wire, "GET /v2/ HTTP/1.1\r\nX: ").await;
        };
        // Behind a request that was answered.
        let second = async {
            let mut wire = server.wire().await;
            assert_eq!(ask(&mut wire, &server.head("GET", "/v2/")).await.status, 401);
            say(&mut wire, b"GET /v2/ HTTP/1.1\r\n").await;
            rest(&mut wire).await;
        };
        let others = async {
            for _ in 0..10 {
                server.serves().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::join!(silent, half, slow, second, others);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        server.has_cut("head", 2).await;
        let silent = server.cut("silent").await + server.cut("handshake").await;
        assert_eq!(silent, 2);
    }

    async fn t24_a_connection_without_a_request_is_kept_for_a_while(listener: Listener) {
        let server = Server::start(listener, &[("LISTEN__LIMITS__IDLE_SECONDS", "1")]).await;
        let kept = async {
            let mut wire = server.wire().await;
            for _ in 0..4 {
                assert_eq!(ask(&mut wire, &server.head("GET", "/v2/")).await.status, 401);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            assert!(rest(&mut wire).await.is_empty());
        };
        let of_http2 = async {
            let mut connection = Http2::connect(&server, None).await;
            for stream in [1, 3, 5, 7] {
                connection.get(stream, "/v2/", None).await;
                connection.answer(stream).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            assert!(connection.ends().await, "it is said before");
        };
        // Half a header block is no request.
        let begun = async {
            let mut connection = Http2::connect(&server, None).await;
            let block = connection.block("/v2/", None);
            say(&mut connection.wire, &frame(HEADERS, END_STREAM & !END_HEADERS, 1, &block)).await;
            connection.ends().await;
        };
        tokio::join!(kept, of_http2, begun);
        server.has_cut("idle", 3).await;
    }

    async fn connections_beyond_the_most_wait_and_harm_nobody(listener: Listener) {
        let server = Server::start(listener, &[("LISTEN__LIMITS__CONNECTIONS", "3")]).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut wire = server.wire().await;
            assert_eq!(ask(&mut wire, &server.head("GET", "/v2/")).await.status, 401);
            held.push(wire);
        }
        let waiting = server.call("GET", "/v2/", "", b"");
        tokio::pin!(waiting);
        assert!(timeout(Duration::from_millis(300), &mut waiting).await.is_err());
        for wire in &mut held {
            assert_eq!(ask(wire, &server.head("GET", "/v2/")).await.status, 401);
        }
        assert!(timeout(Duration::from_millis(100), &mut waiting).await.is_err());
        held.pop();
        assert_eq!(waiting.await.status, 401);
    }

    async fn an_address_may_have_so_many(listener: Listener) {
        let server = Server::start(listener, &[("LISTEN__LIMITS__CONNECTIONS_PER_ADDRESS", "2")]).await;
        let mut held = vec![server.wire().await, server.wire().await];
        for wire in &mut held {
            assert_eq!(ask(wire, &server.head("GET", "/v2/")).await.status, 401);
        }
        if let Ok(mut third) = server.try_wire().await {
            assert!(rest(&mut third).await.is_empty());
        }
        server.has_cut("address", 1).await;
        for wire in &mut held {
            assert_eq!(ask(wire, &server.head("GET", "/v2/")).await.status, 401);
        }
        drop(held);
        berth_testkit::eventually("there is room again", || async {
            let mut wire = server.try_wire().await.ok()?;
            wire.write_all(format!("{}\r\n", server.head("GET", "/v2/")).as_bytes()).await.ok()?;
            berth_testkit::raw::read_reply(&mut wire).await.ok().map(|reply| assert_eq!(reply.status, 401))
        })
        .await
        .unwrap();
    }
}
