//! Counts the HTTP/2 frames that cost a peer nothing and make no progress: pings, settings, resets and their like. A
//! connection full of them is an attack, and ended. The library bounds the memory that they take, not the work.

use std::time::Duration;

use tokio::time::Instant;

/// The window in which frames are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// The most of them in a window. A client that cancels or pings has reason to a few times a second.
const MOST: u32 = 1000;
/// Frames about room and distance that a request gives reason to, and how many of them may be saved up.
const EARNED: u32 = 4;
const SAVED: u32 = 1000;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(crate) struct Frames {
    head: [u8; 9],
    filled: usize,
    /// Bytes of the payload that are to come.
    left: usize,
    since: Instant,
    count: u32,
    /// Frames that requests gave reason to, and that have not come.
    earned: u32,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self { head: [0; 9], filled: 0, left: 0, since: Instant::now(), count: 0, earned: 0 }
    }

    /// Follows bytes as they come. False: it is a flood. `busy`: the connection has requests.
    pub(crate) fn follow(&mut self, mut bytes: &[u8], busy: bool) -> bool {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let taken = (self.head.len() - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == self.head.len() {
                self.filled = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                let works = match kind {
                    DATA => self.left > 0 || flags & END_STREAM != 0,
                    HEADERS => {
                        self.earned = (self.earned + EARNED).min(SAVED);
                        true
                    }
                    WINDOW_UPDATE if busy => true,
                    WINDOW_UPDATE | PING | SETTINGS if self.earned > 0 => {
                        self.earned -= 1;
                        true
                    }
                    _ => false,
                };
                if !works && !self.counted() {
                    return false;
                }
            }
        }
        true
    }

    fn counted(&mut self) -> bool {
        self.count += 1;
        if self.count <= MOST {
            return true;
        }
        let within = self.since.elapsed() < WINDOW;
        self.since = Instant::now();
        self.count = 1;
        !within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame =
            vec![0, u8::try_from(length >> 8).unwrap(), (length & 0xff) as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + length, 0xff);
        frame
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_found_wherever_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        for _ in 0..400 {
            bytes.extend(frame(DATA, 0, 300));
            bytes.extend(frame(6, 0, 8));
            bytes.extend(frame(WINDOW_UPDATE, 0, 4));
            bytes.extend(frame(DATA, END_STREAM, 0));
        }
        for size in [1, 7, 9, 10, 311, 4096, usize::MAX] {
            let mut frames = Frames::new();
            assert!(bytes.chunks(size).all(|piece| frames.follow(piece, true)));
            assert_eq!((frames.count, frames.filled, frames.left), (400, 0, 0), "pieces of {size}");
        }
        let mut frames = Frames::new();
        assert!(frames.follow(&bytes, false));
        assert_eq!(frames.count, 800, "nobody asked for more of anything");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_many_quick_requests_is_none() {
        let mut frames = Frames::new();
        for _ in 0..5 * MOST {
            let request =
                [frame(HEADERS, END_STREAM, 40), frame(WINDOW_UPDATE, 0, 4), frame(WINDOW_UPDATE, 0, 4)];
            assert!(frames.follow(&request.concat(), false));
            assert!(frames.follow(&frame(PING, 1, 8), false));
        }
        // What it saved up does not last.
        let floods = (0..SAVED + MOST + 1).any(|_| !frames.follow(&frame(PING, 0, 8), false));
        assert!(floods);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_in_a_short_time_are_a_flood() {
        for (kind, length) in [(6, 8), (4, 0), (3, 4), (2, 5), (9, 0), (0, 0), (77, 0)] {
            let mut frames = Frames::new();
            let one = frame(kind, 0, length);
            for _ in 0..MOST {
                assert!(frames.follow(&one, true));
            }
            assert!(!frames.follow(&one, true), "frames of type {kind}");
        }
        let mut frames = Frames::new();
        for _ in 0..5 * MOST {
            tokio::time::advance(WINDOW / (MOST - 1)).await;
            assert!(frames.follow(&frame(6, 0, 8), true), "as many as may be");
        }
    }
}
