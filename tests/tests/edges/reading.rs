//! T24 for bodies of answers: a client that takes nothing is cut off, one that is slow is not.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use crate::{
    http2::{DATA, Http2},
    on_both_listeners,
    server::{Server, rest, say},
};

/// More than the buffers of both machines take.
const SIZE: usize = 40 << 20;

on_both_listeners! {
    async fn t24_a_client_that_takes_nothing_is_cut_off(listener: Listener) {
        let server = Server::start(listener, &[("LISTEN__LIMITS__STALL_SECONDS", "1")]).await;
        let authorization = server.authorization("edges/stall").await;
        let blob = server.push_blob("edges/stall", &authorization, SIZE).await;
        let before = server.process.descriptors().unwrap();
        let head = format!("{}{authorization}\r\n", server.head("GET", &blob));
        let mut stalled = Vec::new();
        for _ in 0..5 {
            let mut wire = server.wire().await;
            say(&mut wire, head.as_bytes()).await;
            stalled.push(wire);
        }
        // The window of its streams is shut, and its connection lives.
        let mut shut = Http2::connect(&server, Some(1000)).await;
        let token = authorization.trim_end().strip_prefix("Authorization: ").unwrap();
        for stream in [1, 3, 5] {
            shut.get(stream, &blob, Some(token)).await;
        }
        // Meanwhile somebody reads slowly, for several times as long.
        let slow = async {
            let mut wire = server.wire().await;
            let began = Instant::now();
            say(&mut wire, format!("{}{authorization}Connection: close\r\n\r\n", server.head("GET", &blob)).as_bytes()).await;
            let (mut received, mut buffer) = (0, vec![0; 1 << 16]);
            while let read @ 1.. = wire.read(&mut buffer).await.unwrap() {
                received += read;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(received > SIZE, "{received}");
            assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
        };
        let others = async {
            for _ in 0..10 {
                server.serves().await;
            }
            server.has_cut("stalled", 6).await;
        };
        tokio::join!(slow, others);
        assert_eq!(server.cut("stalled").await, 6);
        for mut wire in stalled {
            assert!(rest(&mut wire).await.len() < SIZE);
        }
        let mut received = 0;
        while let Some(frame) = shut.next().await {
            received += if frame.kind == DATA { frame.payload.len() } else { 0 };
        }
        assert_eq!(received, 3000);
        berth_testkit::eventually("nothing of it is open any more", || async {
            (server.process.descriptors()? <= before).then_some(())
        })
        .await
        .unwrap();
    }
}
