//! Byte ranges: `Range` of downloads (RFC 9110 section 14) and `Content-Range` of upload chunks.

/// A resolved range of content: first byte and length, never empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// What a `Range` header asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeOutcome {
    /// No usable range: the whole content, 200.
    Whole,
    /// One range: 206.
    Part(ByteRange),
    /// A well-formed range outside the content: 416.
    Unsatisfiable,
}

fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|c| c.is_ascii_digit())).then(|| text.parse().unwrap_or(u64::MAX))
}

/// Resolves a `Range` header against content of `size` bytes. What can't be parsed, and several ranges at once, are
/// ignored as the RFC allows.
pub fn parse_range(header: &str, size: u64) -> RangeOutcome {
    let Some((unit, spec)) = header.split_once('=') else { return RangeOutcome::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return RangeOutcome::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return RangeOutcome::Whole };
    match (first.is_empty(), number(first), last.is_empty(), number(last)) {
        (true, _, _, Some(suffix)) => {
            let length = suffix.min(size);
            if length == 0 {
                return RangeOutcome::Unsatisfiable;
            }
            RangeOutcome::Part(ByteRange { offset: size - length, length })
        }
        (false, Some(first), true, _) => part(first, u64::MAX, size),
        (false, Some(first), false, Some(last)) if first <= last => part(first, last, size),
        // Invalid, which RFC 9110 section 14.2 lets a server reject; the OCI suite expects it.
        (false, Some(_), false, Some(_)) => RangeOutcome::Unsatisfiable,
        _ => RangeOutcome::Whole,
    }
}

fn part(first: u64, last: u64, size: u64) -> RangeOutcome {
    if first >= size {
        return RangeOutcome::Unsatisfiable;
    }
    let last = last.min(size - 1);
    RangeOutcome::Part(ByteRange { offset: first, length: last - first + 1 })
}

/// `Content-Range: <first>-<last>` of an upload chunk, both inclusive (distribution-spec, "Pushing a blob in chunks").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentRange {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset of the last byte.
    pub last: u64,
}

impl ContentRange {
    /// Parses the specification's form; also `bytes first-last/total` as some clients send it.
    pub fn parse(header: &str) -> Option<Self> {
        let spec = header.trim();
        let spec = spec.strip_prefix("bytes ").unwrap_or(spec);
        let spec = spec.split_once('/').map_or(spec, |(range, _)| range);
        let (first, last) = spec.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        (first <= last && last < u64::MAX).then_some(Self { first, last })
    }

    /// Number of bytes.
    pub const fn length(&self) -> u64 {
        self.last - self.first + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_resolve_as_the_rfc_says() {
        let part = |offset, length| RangeOutcome::Part(ByteRange { offset, length });
        assert_eq!(parse_range("bytes=0-9", 100), part(0, 10));
        assert_eq!(parse_range("bytes=90-", 100), part(90, 10));
        assert_eq!(parse_range("bytes=90-1000", 100), part(90, 10));
        assert_eq!(parse_range("bytes=-10", 100), part(90, 10));
        assert_eq!(parse_range("bytes=-1000", 100), part(0, 100));
        assert_eq!(parse_range("bytes=100-", 100), RangeOutcome::Unsatisfiable);
        assert_eq!(parse_range("bytes=-0", 100), RangeOutcome::Unsatisfiable);
        assert_eq!(parse_range("bytes=0-", 0), RangeOutcome::Unsatisfiable);
        assert_eq!(parse_range("bytes=99999999999999999999999-", 100), RangeOutcome::Unsatisfiable);
        assert_eq!(parse_range("bytes=9-1", 100), RangeOutcome::Unsatisfiable);
        for ignored in ["bytes=a-b", "items=0-1", "bytes", "bytes=0-1,5-6", "bytes=+1-2", "bytes=-"] {
            assert_eq!(parse_range(ignored, 100), RangeOutcome::Whole, "{ignored}");
        }
    }

    #[test]
    fn chunk_ranges_have_one_grammar() {
        assert_eq!(ContentRange::parse("0-9"), Some(ContentRange { first: 0, last: 9 }));
        assert_eq!(ContentRange::parse("bytes 5-9/10").map(|range| range.length()), Some(5));
        for wrong in ["", "-", "5", "9-5", "-5", "a-b", "0x1-5", "+1-5", "1 - 5"] {
            assert_eq!(ContentRange::parse(wrong), None, "{wrong}");
        }
    }
}
