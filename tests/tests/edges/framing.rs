//! T38: requests that two readers could understand differently are answered with 400, and the connection is closed. What
//! stands behind them is never a request.

use berth_testkit::raw;
use tokio::time::timeout;

use crate::{
    on_both_listeners,
    server::{PATIENCE, Server, rest, say},
};

on_both_listeners! {
    async fn t38_ambiguous_requests_are_refused_and_nothing_behind_them_is_read(listener: Listener) {
        let server = Server::start(listener, &[]).await;
        let host = server.authority();
        let token = "POST /token HTTP/1.1\r\n";
        let lines = |lines: &str, body: &str| format!("{token}Host: {host}\r\n{lines}\r\n\r\n{body}");
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let cases = [
            lines("Content-Length: 4\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
            lines("Transfer-Encoding: chunked\r\nContent-Length: 4", "0\r\n\r\n"),
            lines("Content-Length: 5\r\nContent-Length: 6", "aaaaaa"),
            lines("Content-Length: 5\r\nContent-Length: 5", "aaaaa"),
            lines("Content-Length: 5, 5", "aaaaa"),
            lines("Content-Length: +5", "aaaaa"),
            lines("Content-Length: -5", ""),
            lines("Content-Length: 0x5", "aaaaa"),
            lines("Content-Length: ", ""),
            lines("Content-Length: 18446744073709551616", ""),
            lines("Content-Length : 5", "aaaaa"),
            lines("Transfer-Encoding: xchunked", "0\r\n\r\n"),
            lines("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
            lines("Transfer-Encoding: identity", ""),
            lines("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
            lines("Transfer-Encoding:\u{b}chunked", "0\r\n\r\n"),
            lines("Transfer-Encoding: chunked", "10000000000000001\r\na\r\n0\r\n\r\n"),
            lines("Transfer-Encoding: chunked", "+1\r\na\r\n0\r\n\r\n"),
            lines("Transfer-Encoding: chunked", "1\na\r\n0\r\n\r\n"),
            lines("Transfer-Encoding: chunked", "1\r\naa\r\n0\r\n\r\n"),
            lines("Transfer-Encoding: chunked", "1;a=\nb\r\na\r\n0\r\n\r\n"),
            lines("X: a\rb", ""),
            lines("X: a\r\n b", ""),
            lines("X: a\0b", ""),
            lines(" X: a", ""),
            lines("X\t: a", ""),
            lines("Host: other", ""),
            lines(&format!("Host: {host}"), ""),
            format!("GET /v2/ HTTP/1.1\nHost: {host}\r\n\r\n"),
            format!("GET /v2/ HTTP/1.1\r\nHost: {host}\n\r\n"),
            format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\n\n"),
            format!("GET /v2/ HTTP/1.1\n\nHost: {host}\n\n"),
            "GET /v2/ HTTP/1.1\r\n\r\n".to_owned(),
            format!("GET http://other:1/v2/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GET /v2/ HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            format!("GET /v2/ HTTP/1.1 x\r\nHost: {host}\r\n\r\n"),
            format!("GET /v2/\u{0} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("G\u{7f}T /v2/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ];
        for case in cases {
            // Alone, behind a request on the same connection, and in two pieces.
            for (first, cut) in [("", 0), (smuggled.as_str(), 0), ("", case.len() / 2)] {
                let mut wire = server.wire().await;
                say(&mut wire, first.as_bytes()).await;
                if !first.is_empty() {
                    let reply = timeout(PATIENCE, raw::read_reply(&mut wire)).await.unwrap().unwrap();
                    assert_eq!(reply.status, 404);
                }
                say(&mut wire, &case.as_bytes()[..cut]).await;
                let behind = format!("{}{smuggled}", &case[cut..]);
                say(&mut wire, behind.as_bytes()).await;
                let reply = timeout(PATIENCE, raw::read_reply(&mut wire)).await.unwrap();
                let reply = reply.unwrap_or_else(|error| panic!("{case:?}: {error}"));
                assert_eq!((reply.status, reply.header("connection")), (400, Some("close")), "{case:?}");
                let more = rest(&mut wire).await;
                assert!(more.is_empty(), "{case:?}: {}", String::from_utf8_lossy(&more));
            }
        }
        server.serves().await;
    }

    async fn requests_one_behind_the_other_are_answered_in_order(listener: Listener) {
        let server = Server::start(listener, &[]).await;
        let host = server.authority();
        let form = "grant_type=nothing";
        let mut text = String::new();
        for number in 0..20 {
            text += &format!("GET /v2/?{number} HTTP/1.1\r\nHost: {host}\r\n\r\n\r\n");
            text += &format!("POST /token HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{form}", form.len());
            text += &format!("POST /token HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
            text += "5;x=\"y\"\r\ngrant\r\n00d\r\n_type=nothing\r\n0\r\nX: y\r\n\r\n";
            text += &format!("GET http://{host}/nothing HTTP/1.1\r\nHost: {host}\r\n\r\n");
        }
        let mut wire = server.wire().await;
        say(&mut wire, text.as_bytes()).await;
        // One byte of another, as answers are read one by one.
        let text = rest_of(&mut wire, 80).await;
        let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect();
        let expected: Vec<&str> = ["401", "400", "400", "404"].into_iter().cycle().take(80).collect();
        assert_eq!(statuses, expected);
    }
}

/// Reads until so many answers have begun, and each of their bodies ended.
async fn rest_of(wire: &mut crate::server::Wire, answers: usize) -> String {
    use tokio::io::AsyncReadExt;
    let mut received = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if text.matches("HTTP/1.1 ").count() == answers && text.ends_with('}') {
            return text;
        }
        let mut buffer = vec![0; 1 << 16];
        let read = timeout(PATIENCE, wire.read(&mut buffer)).await.unwrap().unwrap();
        assert!(read > 0, "{text}");
        received.extend_from_slice(&buffer[..read]);
    }
}
