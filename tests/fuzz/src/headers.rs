//! Headers and heads: ranges, the challenge, and the framing of HTTP/1.

use berth_model::Scope;
use berth_oci::{ByteRange, ContentRange, RangeOutcome, parse_range};

use crate::{challenge::bearer, heads::Heads};

/// The first eight bytes are the size of the content, the others a `Range`.
pub(crate) fn range(data: &[u8]) {
    let Some((size, header)) = data.split_first_chunk::<8>() else { return };
    let size = u64::from_be_bytes(*size);
    let Ok(header) = std::str::from_utf8(header) else { return };
    for size in [size, size % 1000, 0, 1, u64::MAX] {
        match parse_range(header, size) {
            RangeOutcome::Whole => {}
            RangeOutcome::Part(ByteRange { offset, length }) => {
                let end = offset.checked_add(length).expect("the end of a part is a number");
                assert!(length > 0 && end <= size, "{header:?} of {size}");
                // Said again in the plainest way it is the same part.
                let plain = format!("bytes={offset}-{}", end - 1);
                assert_eq!(parse_range(&plain, size), RangeOutcome::Part(ByteRange { offset, length }));
            }
            RangeOutcome::Unsatisfiable => {
                let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let spec = header.split_once('=').expect("a unit").1.trim();
                let (first, last) = spec.split_once('-').expect("two ends");
                assert!(digits(first) || digits(last), "{header:?}");
                assert!(
                    size < u64::MAX
                        || digits(first) && digits(last)
                        || last.trim_matches('0').is_empty()
                        || first.len() >= 20
                );
            }
        }
    }
}

pub(crate) fn content_range(data: &[u8]) {
    let Ok(header) = std::str::from_utf8(data) else { return };
    let Some(range) = ContentRange::parse(header) else { return };
    assert!(range.first <= range.last && range.length() > 0);
    assert_eq!(range.first.checked_add(range.length()), range.last.checked_add(1), "no end overflows");
    let (plain, long) =
        (format!("{}-{}", range.first, range.last), format!("bytes {}-{}/*", range.first, range.last));
    assert_eq!((ContentRange::parse(&plain), ContentRange::parse(&long)), (Some(range), Some(range)));
    assert!(header.contains(['-']) && header.bytes().any(|byte| byte.is_ascii_digit()));
}

/// The parameters of a challenge, as RFC 9110 section 11.6.1 has clients read them.
fn parameters(challenge: &str) -> Vec<(String, String)> {
    let mut rest = challenge.strip_prefix("Bearer ").expect("the scheme");
    let mut found = Vec::new();
    loop {
        let (name, value) = rest.split_once("=\"").expect("a quoted value");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()), "{challenge}");
        let (value, after) = value.split_once('"').expect("the end of a value");
        assert!(!value.contains('\\'), "nothing is escaped: {challenge}");
        found.push((name.to_owned(), value.to_owned()));
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => {
                assert!(after.is_empty(), "{challenge}");
                return found;
            }
        }
    }
}

/// A scope, and what a client asks for by it is what was meant.
pub(crate) fn challenge(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let scope = text.parse::<Scope>().ok();
    for error in [None, Some("invalid_token"), Some("insufficient_scope")] {
        let challenge = bearer("https://registry.example:5000", "default", scope.as_ref(), error);
        assert!(challenge.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "it is a header: {challenge}");
        let mut expected = vec![
            ("realm".to_owned(), "https://registry.example:5000/token".to_owned()),
            ("service".to_owned(), "default".to_owned()),
        ];
        expected.extend(scope.as_ref().map(|scope| ("scope".to_owned(), scope.to_string())));
        expected.extend(error.map(|error| ("error".to_owned(), error.to_owned())));
        let found = parameters(&challenge);
        assert_eq!(found, expected);
        let asked = found.iter().find(|(name, _)| name == "scope").map(|(_, text)| text.parse());
        assert_eq!(asked, scope.clone().map(Ok));
    }
}

/// Where the first line feed without a carriage return stands in the head that the bytes begin with.
fn bare(bytes: &[u8]) -> Option<usize> {
    let begin = bytes.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(bytes.len());
    let end = bytes[begin..].windows(4).position(|four| four == b"\r\n\r\n").map(|end| begin + end);
    let head = &bytes[..end.unwrap_or(bytes.len())];
    (0..head.len()).find(|at| head[*at] == b'\n' && (*at == 0 || head[at - 1] != b'\r'))
}

/// The first byte says how the others are cut; what is found does not depend on it.
pub(crate) fn heads(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let mut whole = Heads::new();
    let refused = whole.follow(bytes);
    let mut pieces = Heads::new();
    let mut before = 0;
    let mut found = None;
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        found = pieces.follow(piece).map(|at| before + at);
        if found.is_some() {
            break;
        }
        before += piece.len();
    }
    assert_eq!(found, refused);
    assert!(!(whole.inside() && whole.between()), "inside a head, and between two");
    if refused.is_none() {
        assert_eq!((whole.inside(), format!("{whole:?}")), (pieces.inside(), format!("{pieces:?}")));
    }
    if let Some(bare) = bare(bytes) {
        assert!(refused.is_some_and(|at| at <= bare), "a bare line feed at {bare} was let through");
    }
    if let Some(at) = refused {
        assert!(at < bytes.len());
        // What stands before is harmless by itself, and nothing is read behind.
        assert_eq!(Heads::new().follow(&bytes[..at]), None);
        assert_eq!(whole.follow(bytes), None);
    }
}
