//! T22 for connections of every kind: those without a request end at once, those with one get their answer, and the end
//! does not wait for a client that never goes on.

use std::time::{Duration, Instant};

use berth_testkit::raw;
use tokio::time::timeout;

use crate::{
    http2::Http2,
    on_both_listeners,
    server::{PATIENCE, Server, ask, rest, say},
};

on_both_listeners! {
    async fn t22_idle_connections_end_at_once_and_requests_are_answered(listener: Listener) {
        let server = Server::start(listener, &[("DRAIN_SECONDS", "20")]).await;
        let authorization = server.authorization("edges/drain").await;
        let upload = server.begin_upload("edges/drain", &authorization).await;
        let mut idle = server.wire().await;
        assert_eq!(ask(&mut idle, &server.head("GET", "/v2/")).await.status, 401);
        let mut second = Http2::connect(&server, None).await;
        second.get(1, "/v2/", None).await;
        second.answer(1).await;
        let mut busy = server.wire().await;
        let head = format!("{}{authorization}Expect: 100-continue\r\nContent-Length: 10\r\n\r\n", server.head("PATCH", &upload));
        say(&mut busy, head.as_bytes()).await;
        // It is read from here on.
        let go_on = timeout(PATIENCE, raw::read_reply(&mut busy)).await.unwrap().unwrap();
        assert_eq!(go_on.status, 100);
        say(&mut busy, b"01234").await;
        let began = Instant::now();
        server.process.terminate();
        assert!(rest(&mut idle).await.is_empty());
        assert!(second.ends().await);
        assert!(began.elapsed() < Duration::from_secs(10));
        say(&mut busy, b"56789").await;
        let reply = timeout(PATIENCE, raw::read_reply(&mut busy)).await.unwrap().unwrap();
        assert_eq!((reply.status, reply.header("connection")), (202, Some("close")));
        assert!(server.process.wait_exit(Duration::from_secs(15)).await.unwrap().success());
    }

    async fn t22_nobody_holds_up_the_end(listener: Listener) {
        let server = Server::start(listener, &[("DRAIN_SECONDS", "1")]).await;
        let authorization = server.authorization("edges/drain").await;
        let blob = server.push_blob("edges/drain", &authorization, 40 << 20).await;
        let upload = server.begin_upload("edges/drain", &authorization).await;
        // One that never sends, one that never reads, one that never shakes hands.
        let mut sends = server.wire().await;
        let head = format!("{}{authorization}Content-Length: 10\r\n\r\n", server.head("PATCH", &upload));
        say(&mut sends, head.as_bytes()).await;
        let mut reads = server.wire().await;
        say(&mut reads, format!("{}{authorization}\r\n", server.head("GET", &blob)).as_bytes()).await;
        let _silent = server.tcp().await.unwrap();
        server.serves().await;
        let began = Instant::now();
        server.process.terminate();
        assert!(server.process.wait_exit(PATIENCE).await.unwrap().success());
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        drop((sends, reads));
    }
}
