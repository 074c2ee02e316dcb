//! Reads the framing of HTTP/1 along, stricter than the library: a request whose end two readers could see in different
//! places is refused (RFC 9112 sections 2.2, 6.1 and 11.2). Behind a proxy such requests smuggle others past it. It
//! refuses by spoiling the head, so that the library answers with 400 and closes; what it can't follow it leaves alone,
//! since the library refuses that by itself.

/// The longest name that matters.
const NAME: usize = "transfer-encoding".len();

/// How the body of a request is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    None,
    Fixed(u64),
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between two requests.
    Before,
    /// Inside the request line, or a header's value.
    Line,
    /// Inside the name of a header.
    Name,
    /// Inside the value of `Content-Length`.
    Number,
    /// So many bytes of a body, or a chunk, are to come.
    Fixed(u64),
    /// In the size of a chunk.
    Size(u64),
    /// Behind the size, up to the end of its line.
    AfterSize(u64),
    /// In the end of a chunk's line; so many bytes of it are left.
    ChunkEnd(u8),
    /// In the trailers, whose line has so many bytes.
    Trailers(u32),
    /// Not followed any more.
    Lost,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(crate) struct Heads {
    state: State,
    length: Length,
    chunked: bool,
    /// The name so far, in lower case.
    name: [u8; NAME],
    /// Bytes of the name, also of one that is too long to matter.
    named: usize,
    after_return: bool,
}

impl Heads {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Before,
            length: Length::None,
            chunked: false,
            name: [0; NAME],
            named: 0,
            after_return: false,
        }
    }

    /// Whether the bytes so far end inside a head.
    pub(crate) fn inside(&self) -> bool {
        matches!(self.state, State::Line | State::Name | State::Number)
    }

    /// Whether the bytes so far end where a request may begin.
    pub(crate) fn between(&self) -> bool {
        self.state == State::Before && !self.after_return
    }

    /// Follows bytes as they come. Some: the byte at this place must not be there.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let State::Fixed(left) = self.state {
                let available = (bytes.len() - at) as u64;
                let passed = left.min(available);
                at += usize::try_from(passed).unwrap_or(usize::MAX);
                self.state = match (left - passed, self.chunked) {
                    (0, false) => State::Before,
                    (0, true) => State::ChunkEnd(2),
                    (left, _) => State::Fixed(left),
                };
                continue;
            }
            if self.state == State::Lost {
                return None;
            }
            // What a line says is nothing to us, and most of a head is that.
            if self.state == State::Line && !self.after_return {
                let rest = bytes.get(at..).unwrap_or_default();
                match memchr::memchr2(b'\r', b'\n', rest) {
                    None => return None,
                    Some(0) => {}
                    Some(passed) => {
                        at += passed;
                        continue;
                    }
                }
            }
            let fits =
                if self.inside() || self.state == State::Before { self.head(byte) } else { self.body(byte) };
            self.after_return = byte == b'\r';
            if !fits {
                self.state = State::Lost;
                return Some(at);
            }
            at += 1;
        }
        None
    }

    /// Takes a byte of a head. False: it must not be there.
    fn head(&mut self, byte: u8) -> bool {
        // Lines end in both, and neither is anywhere else.
        if (byte == b'\n') != self.after_return {
            return false;
        }
        match (self.state, byte) {
            (State::Before, b'\r' | b'\n') => {}
            (State::Before, _) => {
                self.length = Length::None;
                self.chunked = false;
                self.state = State::Line;
            }
            (State::Name, b'\n') if self.named == 0 => {
                self.state = match self.length {
                    Length::None | Length::Fixed(0) => State::Before,
                    Length::Fixed(length) => State::Fixed(length),
                    Length::Chunked => {
                        self.chunked = true;
                        State::Size(0)
                    }
                };
            }
            (_, b'\n') => {
                self.state = State::Name;
                self.named = 0;
            }
            // Before the end of a head.
            (State::Name, b'\r') => {}
            (State::Name, b':') => return self.header(),
            (State::Name, _) => {
                if let Some(place) = self.name.get_mut(self.named) {
                    *place = byte.to_ascii_lowercase();
                }
                self.named += 1;
            }
            (State::Number, b'0'..=b'9') => {
                let Length::Fixed(length) = self.length else { return false };
                let longer = length.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(byte - b'0')));
                let Some(length) = longer else { return false };
                self.length = Length::Fixed(length);
            }
            (State::Number, b' ' | b'\t' | b'\r') => {}
            (State::Number, _) => return false,
            _ => {}
        }
        true
    }

    /// The name of a header is known. False: there is one already that says the same, or something else.
    fn header(&mut self) -> bool {
        let name = self.name.get(..self.named).unwrap_or_default();
        self.state = State::Line;
        self.length = match name {
            b"content-length" if self.length == Length::None => {
                self.state = State::Number;
                Length::Fixed(0)
            }
            b"transfer-encoding" if self.length == Length::None => Length::Chunked,
            b"content-length" | b"transfer-encoding" => return false,
            _ => return true,
        };
        true
    }

    /// Takes a byte of the framing of a body; the library refuses what is wrong in it.
    fn body(&mut self, byte: u8) -> bool {
        self.state = match (self.state, byte) {
            (State::Size(size), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                match size.checked_mul(16) {
                    Some(shifted) => State::Size(shifted | digit),
                    None => State::Lost,
                }
            }
            (State::Size(size) | State::AfterSize(size), b'\n') if self.after_return => match size {
                0 => State::Trailers(0),
                size => State::Fixed(size),
            },
            (State::Size(size) | State::AfterSize(size), _) => State::AfterSize(size),
            (State::ChunkEnd(2), b'\r') => State::ChunkEnd(1),
            (State::ChunkEnd(1), b'\n') => State::Size(0),
            (State::Trailers(0), b'\n') if self.after_return => State::Before,
            (State::Trailers(_), b'\n') => State::Trailers(0),
            (State::Trailers(0), b'\r') => State::Trailers(0),
            (State::Trailers(length), _) => State::Trailers(length.saturating_add(1)),
            _ => State::Lost,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n";

    fn whole(text: &str, size: usize) -> (Option<usize>, Heads) {
        let mut heads = Heads::new();
        let mut before = 0;
        for piece in text.as_bytes().chunks(size) {
            if let Some(at) = heads.follow(piece) {
                return (Some(before + at), heads);
            }
            before += piece.len();
        }
        (None, heads)
    }

    #[test]
    fn requests_are_followed_one_after_the_other_wherever_the_bytes_are_cut() {
        let put = "PUT /x HTTP/1.1\r\nHost: a\r\ncontent-length:  12 \r\nX: y\r\n\r\n\nbare\nlines\n";
        let none = "PUT /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
        let chunked = "PATCH /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\n\nabc\n\r\n00A\r\n0123456789\r\n0\r\n";
        let trailers = "Trailer: x\r\nOther: y\r\n\r\n";
        let text = format!("{GET}{put}{GET}{none}\r\n{chunked}\r\n{chunked}{trailers}{GET}");
        for size in [1, 2, 3, 7, 50, usize::MAX] {
            let (refused, heads) = whole(&text, size);
            assert_eq!((refused, heads.state), (None, State::Before), "pieces of {size}");
            let (refused, _) = whole(&format!("{text}GET / HTTP/1.1\n"), size);
            assert_eq!(refused, Some(text.len() + "GET / HTTP/1.1".len()), "pieces of {size}");
        }
        assert!(whole(&GET[..GET.len() - 1], 5).1.inside() && whole("G", 5).1.inside());
        assert!(!whole("PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\n1", 5).1.inside());
    }

    #[test]
    fn what_could_be_understood_differently_is_found() {
        for (text, behind) in [
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", "GET / HTTP/1.1"),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", "Host: a"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", "a\r\n"),
            ("\nGET / HTTP/1.1\r\n", ""),
            ("GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", "X: a\r"),
            ("GET / HTTP/1.1\r\nX: a\r\n\r\r\n", "a\r\n\r"),
            ("\rGET / HTTP/1.1\r\n", "\r"),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                "Transfer-Encoding",
            ),
            ("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ncontent-LENGTH: 5\r\n\r\n", "content-LENGTH"),
            ("PUT / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "5\r\nContent-Length"),
            (
                "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "chunked\r\nTransfer-Encoding",
            ),
            ("PUT / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", "Content-Length: "),
            ("PUT / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", "Content-Length: 5"),
            ("PUT / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n", "1844674407370955161"),
            ("PUT / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n", "Content-Length: 0"),
        ] {
            let at = text.find(behind).unwrap() + behind.len();
            for size in [1, 4, usize::MAX] {
                assert_eq!(whole(text, size).0, Some(at), "{text:?}");
            }
        }
        // The library refuses this one.
        let (refused, heads) =
            whole("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", 5);
        assert_eq!((refused, heads.state), (None, State::Lost));
    }
}
