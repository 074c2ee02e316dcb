//! Against small servers of the test's own.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;

fn client(allow: &[&str]) -> Outbound {
    Outbound::new(&OutboundConfig { allow: allow.iter().map(ToString::to_string).collect() }).unwrap()
}

/// Answers every connection with the same bytes, `repeat` again and again behind them. Returns its port.
async fn server(answer: String, repeat: Option<Vec<u8>>) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _some = stream.read(&mut head).await;
            let _closed = stream.write_all(answer.as_bytes()).await;
            while let Some(more) = &repeat {
                if stream.write_all(more).await.is_err() {
                    break;
                }
            }
        }
    };
    #[expect(clippy::disallowed_methods, reason = "a test's own server")]
    (port, tokio::spawn(serve))
}

fn refused(outcome: &Result<OutboundAnswer, OutboundError>) -> bool {
    matches!(outcome, Err(OutboundError::Refused(_)))
}

#[tokio::test]
async fn cve_2026_22874_what_is_inside_is_not_asked_by_name_or_by_number() {
    let (port, _server) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".into(), None).await;
    let guarded = client(&[]);
    for host in [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "2130706433",
        "0x7f.1",
        "169.254.169.254",
        "[fd00:ec2::254]",
    ] {
        for scheme in ["http", "https"] {
            let outcome = guarded.get(&format!("{scheme}://{host}:{port}/")).await;
            assert!(refused(&outcome), "{scheme}://{host}");
        }
    }
    for url in ["ftp://example.com/", "file:///etc/passwd", "https://", "https://a:b@example.com/", "x"] {
        assert!(guarded.check(url).is_err(), "{url}");
    }
    // The public internet only by TLS.
    assert!(refused(&guarded.get("http://8.8.8.8/").await));
    guarded.check("https://8.8.8.8/").unwrap();
    let open = client(&["127.0.0.0/8", "::1"]);
    for host in ["localhost", "127.0.0.1"] {
        let answer = open.get(&format!("http://{host}:{port}/")).await.unwrap();
        assert_eq!((answer.status, answer.body.as_ref()), (200, b"hi".as_slice()));
    }
    assert!(Outbound::new(&OutboundConfig { allow: vec!["everything".into()] }).is_err());
}

#[tokio::test]
async fn cve_2026_2376_a_redirect_is_an_answer_like_another() {
    let (inside, _inside) = server("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret".into(), None).await;
    let moved =
        format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{inside}/\r\ncontent-length: 0\r\n\r\n");
    let (port, _server) = server(moved, None).await;
    let answer = client(&["127.0.0.1"]).get(&format!("http://127.0.0.1:{port}/")).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (302, 0));
}

#[tokio::test]
async fn an_endless_answer_is_cut() {
    let (port, _server) = server("HTTP/1.1 200 OK\r\n\r\n".into(), Some(vec![b'x'; 64 * 1024])).await;
    let outcome = client(&["127.0.0.1"]).get(&format!("http://127.0.0.1:{port}/")).await;
    assert!(matches!(outcome, Err(OutboundError::TooLarge(_))), "{outcome:?}");
}

#[tokio::test]
async fn who_is_away_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let outcome = client(&["127.0.0.1"]).get(&format!("http://127.0.0.1:{port}/")).await;
    let Err(OutboundError::Away { host, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(host, "127.0.0.1");
}
