//! T23: many connections that do nothing. Each costs little, those who work don't notice them, and when they are gone
//! nothing of them is left.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    http2::Http2,
    on_both_listeners,
    server::{Listener, Server, Wire, ask},
};

/// The longest of so many requests one after the other.
async fn slowest(server: &Server, wire: &mut Wire, requests: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..requests {
        let began = Instant::now();
        assert_eq!(ask(wire, &server.head("GET", "/v2/")).await.status, 401);
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

async fn crowd(listener: Listener, of_http1: usize, of_http2: usize) {
    let files = getrlimit(Resource::Nofile);
    // The server, which inherits it, takes three quarters as many connections.
    let wanted = (3 * (of_http1 + of_http2) / 2 + 1000) as u64;
    let most = files.maximum.map(|most| most.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
        .expect("that many files may be opened");
    let connections = (of_http1 + of_http2 + 100).to_string();
    let settings =
        [("LISTEN__LIMITS__CONNECTIONS", connections.as_str()), ("LISTEN__LIMITS__IDLE_SECONDS", "3600")];
    let server = Server::start(listener, &settings).await;
    let mut active = server.wire().await;
    let alone = slowest(&server, &mut active, 200).await;
    let (descriptors, memory) =
        (server.process.descriptors().unwrap(), server.process.resident_bytes().unwrap());
    let began = Instant::now();
    let idle = stream::iter(0..of_http1).map(|_| async {
        let mut wire = server.wire().await;
        assert_eq!(ask(&mut wire, &server.head("GET", "/v2/")).await.status, 401);
        wire
    });
    let idle: Vec<Wire> = idle.buffer_unordered(32).collect().await;
    let of_first = server.process.resident_bytes().unwrap();
    let second = stream::iter(0..of_http2).map(|_| async {
        let mut connection = Http2::connect(&server, None).await;
        connection.get(1, "/v2/", None).await;
        connection.answer(1).await;
        connection
    });
    let second: Vec<Http2> = second.buffer_unordered(32).collect().await;
    let of_both = server.process.resident_bytes().unwrap();
    let among = slowest(&server, &mut active, 200).await;
    let slope = |grown: u64, count: usize| grown as f64 / 1_048_576.0 / count as f64 * 1000.0;
    let (first, rest) =
        (slope(of_first.saturating_sub(memory), of_http1), slope(of_both.saturating_sub(of_first), of_http2));
    println!(
        "{listener:?}: {of_http1} idle connections of HTTP/1.1 take {first:.1} MiB a thousand, {of_http2} of HTTP/2 \
         {rest:.1} MiB a thousand (in {:?}); the slowest of 200 requests took {alone:?} before, {among:?} among them",
        began.elapsed()
    );
    let open = server.process.descriptors().unwrap() - descriptors;
    assert!((of_http1 + of_http2..of_http1 + of_http2 + 20).contains(&open), "{open}");
    // Sixteen of them are the library's buffers, while it has the connection.
    assert!(first <= 28.0, "{first} MiB a thousand");
    assert!(rest <= 100.0, "{rest} MiB a thousand");
    assert!(among < alone * 10 + Duration::from_millis(200), "{alone:?}, {among:?}");
    drop((idle, second));
    berth_testkit::eventually("their descriptors are closed", || async {
        (server.process.descriptors()? <= descriptors + 2).then_some(())
    })
    .await
    .unwrap();
    slowest(&server, &mut active, 1).await;
}

on_both_listeners! {
    async fn t23_idle_connections_cost_little(listener: Listener) {
        crowd(listener, 1000, 100).await;
    }

    #[ignore = "some minutes; the long tier"]
    async fn long_t23_idle_connections_cost_little(listener: Listener) {
        crowd(listener, 10_000, 1000).await;
    }
}
