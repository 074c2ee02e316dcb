//! HTTP/2 by hand, for what no library would send.

use tokio::{io::AsyncReadExt, time::timeout};

use crate::server::{PATIENCE, Server, Wire, say};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection behind its preface.
pub(crate) struct Http2 {
    pub(crate) wire: Wire,
    scheme: &'static str,
    authority: String,
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An integer of HPACK behind the bits before it.
fn integer(first: u8, bits: u32, mut value: usize, out: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    value -= most;
    while value >= 128 {
        out.push((value % 128) as u8 | 128);
        value /= 128;
    }
    out.push(value as u8);
}

/// A header whose name is in the static table.
fn header(index: usize, value: &str, out: &mut Vec<u8>) {
    integer(0, 4, index, out);
    integer(0, 7, value.len(), out);
    out.extend(value.as_bytes());
}

impl Http2 {
    /// Connects; `window` is what each stream may send at first.
    pub(crate) async fn connect(server: &Server, window: Option<u32>) -> Self {
        let mut wire = server.wire_for_http2().await;
        let mut settings = Vec::new();
        if let Some(window) = window {
            settings.extend([0, 4]);
            settings.extend(window.to_be_bytes());
        }
        let first = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &settings)].concat();
        say(&mut wire, &first).await;
        Self { wire, scheme: server.scheme(), authority: server.authority() }
    }

    /// The header block of a GET.
    pub(crate) fn block(&self, path: &str, authorization: Option<&str>) -> Vec<u8> {
        let mut block = vec![0x82, if self.scheme == "https" { 0x87 } else { 0x86 }];
        header(4, path, &mut block);
        header(1, &self.authority, &mut block);
        if let Some(value) = authorization {
            header(23, value, &mut block);
        }
        block
    }

    /// Asks for `path` on a stream.
    pub(crate) async fn get(&mut self, stream: u32, path: &str, authorization: Option<&str>) {
        let block = self.block(path, authorization);
        say(&mut self.wire, &frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read_frame()).await.expect("a frame, or the end")
    }

    async fn read_frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.wire.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, _flags, stream @ ..] = head;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        self.wire.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, stream: u32::from_be_bytes(stream), payload })
    }

    /// The frame that ends the headers of the answer on a stream.
    pub(crate) async fn answer(&mut self, stream: u32) -> Frame {
        loop {
            let frame = self.next().await.expect("an answer");
            assert_ne!(frame.kind, GOAWAY, "{frame:?}");
            if frame.kind == HEADERS && frame.stream == stream {
                return frame;
            }
        }
    }

    /// Reads on until the connection ends; whether it was said before.
    pub(crate) async fn ends(&mut self) -> bool {
        let mut said = false;
        while let Some(frame) = self.next().await {
            said |= frame.kind == GOAWAY;
        }
        said
    }
}
