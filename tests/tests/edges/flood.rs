//! T26: HTTP/2 as an attack. The connection is closed, the work that it made is bounded, and others are served meanwhile.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};

use crate::{
    http2::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Http2, PING, RST_STREAM, SETTINGS, frame,
    },
    on_both_listeners,
    server::Server,
};

/// Frames that are sent at most.
const MOST: u32 = 1_000_000;
/// Bytes that are written together.
const BATCH: usize = 16 * 1024;

/// What the attacker sends as its frame number `number`.
type Attack = fn(number: u32, block: &[u8]) -> Vec<u8>;

/// Sends frames until the connection ends; how many went out before.
async fn attack(connection: Http2, attack: Attack) -> u32 {
    let block = connection.block("/v2/", None);
    let (mut reading, mut writing) = split(connection.wire);
    // What comes back is taken: who does not read is cut off for that.
    let taken = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(1..) = reading.read(&mut buffer).await {}
    };
    let sent = std::cell::Cell::new(0);
    let sending = async {
        let mut batch = Vec::new();
        for number in 0..MOST {
            batch.extend(attack(number, &block));
            if batch.len() >= BATCH {
                if writing.write_all(&batch).await.is_err() || writing.flush().await.is_err() {
                    return;
                }
                sent.set(number);
                batch.clear();
            }
        }
    };
    tokio::select! {
        () = taken => {}
        () = async { sending.await; std::future::pending().await } => {}
    }
    sent.get()
}

on_both_listeners! {
    async fn t26_floods_of_frames_end_the_connection(listener: Listener) {
        let server = Server::start(listener, &[]).await;
        server.serves().await;
        let attacks: [(&str, Attack); 8] = [
            ("rapid reset", |number, block| {
                let stream = 2 * number + 1;
                let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
                [frame(HEADERS, END_STREAM | END_HEADERS, stream, block), reset].concat()
            }),
            ("headers without an end", |number, block| match number {
                0 => frame(HEADERS, END_STREAM, 1, block),
                _ => frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y']),
            }),
            ("headers without an end or anything in them", |number, block| match number {
                0 => frame(HEADERS, END_STREAM, 1, block),
                _ => frame(CONTINUATION, 0, 1, &[]),
            }),
            ("pings", |_, _| frame(PING, 0, 0, &[7; 8])),
            ("answers to pings", |_, _| frame(PING, ACK, 0, &[7; 8])),
            ("settings", |_, _| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
            ("empty data", |number, block| match number {
                // A POST, whose body never gets anywhere.
                0 => frame(HEADERS, END_HEADERS, 1, &[&[0x83], &block[1..]].concat()),
                _ => frame(DATA, 0, 1, &[]),
            }),
            ("frames of no known type", |number, _| frame(77, 0, number, &[])),
        ];
        for (name, what) in attacks {
            let (began, before, memory) = (Instant::now(), server.processor_seconds(), server.process.resident_bytes().unwrap());
            let attacker = Http2::connect(&server, None).await;
            let others = async {
                for _ in 0..5 {
                    server.serves().await;
                }
            };
            let (sent, ()) = tokio::join!(attack(attacker, what), others);
            let processor = server.processor_seconds() - before;
            let grown = server.process.resident_bytes().unwrap().saturating_sub(memory) >> 20;
            println!("{listener:?}, {name}: ended behind {sent} frames, {:?}, {processor:.2} s of processor time, {grown} MiB", began.elapsed());
            // Long before it would have ended for want of requests; what was sent may wait in buffers.
            assert!(began.elapsed() < Duration::from_secs(30), "{name}");
            assert!(processor < 5.0 && grown < 32, "{name}");
        }
        server.serves().await;
    }

    /// Streams that are never let go of: no more of them are begun than there may be, and the memory is theirs.
    async fn t26_a_million_streams_are_not_begun(listener: Listener) {
        let server = Server::start(listener, &[("LISTEN__LIMITS__STREAMS", "50")]).await;
        server.serves().await;
        let (began, before) = (Instant::now(), server.processor_seconds());
        let memory = server.process.resident_bytes().unwrap();
        let attacker = Http2::connect(&server, Some(0)).await;
        // Each begins an upload's worth of a body and sends none.
        let others = async {
            for _ in 0..5 {
                server.serves().await;
            }
        };
        let attack = attack(attacker, |number, block| {
            frame(HEADERS, END_HEADERS, 2 * number + 1, &[&[0x83], &block[1..]].concat())
        });
        let (sent, ()) = tokio::join!(attack, others);
        let processor = server.processor_seconds() - before;
        let grown = server.process.resident_bytes().unwrap().saturating_sub(memory) >> 20;
        println!("{listener:?}, streams: ended behind {sent}, {processor:.2} s of processor time, {grown} MiB");
        assert!(began.elapsed() < Duration::from_secs(30) && processor < 5.0 && grown < 32);
        let running = server.process.metric("berth_gateway_requests_running").await.unwrap();
        assert!(running <= 51.0, "{running}");
        server.serves().await;
    }
}
