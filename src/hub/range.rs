//! The `Range` header (RFC 9110 section 14, PROTOCOL 3.5).
//!
//! RFC 9110 lets a server ignore any range. We ignore only units that we don't know: the Python clients take
//! a 200's body for the range they asked, and so read wrong bytes without an error. For the same reason a
//! malformed range and a list of several is refused (416) rather than ignored; no client of the Hub sends
//! either, none reads `multipart/byteranges`, and a refusal is at least loud.
//!
//! A range has meaning for GET alone; with HEAD the header is to be ignored (RFC 9110 section 14.2).

use std::{fmt, ops::Range};

/// One range of bytes as a client asks for it, before the size is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=first-last`, both included.
    Bounded {
        /// The first byte.
        first: u64,
        /// The last byte, never before the first; may lie beyond the end of the file.
        last: u64,
    },
    /// `bytes=first-`: to the end.
    From {
        /// The first byte.
        first: u64,
    },
    /// `bytes=-length`: the last bytes.
    Last {
        /// How many.
        length: u64,
    },
}

/// What a range means for a file of a certain size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// These bytes: 206, with [`content_range`].
    Part(Range<u64>),
    /// The file is empty: 200 with no body and [`unsatisfied_content_range`], the only answer that every
    /// client accepts (PROTOCOL 3.5).
    Empty,
    /// Nothing of the file is in it: 416 with [`unsatisfied_content_range`].
    Unsatisfiable,
}

/// A range that is refused rather than ignored; answered like [`Selected::Unsatisfiable`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// `bytes=` with something that is no range.
    #[error("range {0:?}: write bytes=FIRST-LAST, bytes=FIRST- or bytes=-LENGTH")]
    Malformed(String),
    /// More than one range.
    #[error("range {0:?}: hubgate answers one range a request; send a request for each")]
    Several(String),
}

impl ByteRange {
    /// Reads the header's value. `None`: the unit is not `bytes`, and the whole file is to be sent.
    ///
    /// # Errors
    /// The unit is `bytes`, and what follows is not one range.
    pub fn parse(header: &str) -> Result<Option<Self>, RangeError> {
        let Some((unit, set)) = header.split_once('=') else { return Ok(None) };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Ok(None);
        }
        let shown = || header.chars().take(200).collect();
        // A list may have empty elements (RFC 9110 section 5.6.1).
        let mut ranges = set.split(',').map(str::trim).filter(|range| !range.is_empty());
        match (ranges.next(), ranges.next()) {
            (Some(one), None) => Self::parse_one(one).map(Some).ok_or_else(|| RangeError::Malformed(shown())),
            (Some(_), Some(_)) => Err(RangeError::Several(shown())),
            (None, _) => Err(RangeError::Malformed(shown())),
        }
    }

    fn parse_one(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first, last) {
            ("", length) => Some(Self::Last { length: number(length)? }),
            (first, "") => Some(Self::From { first: number(first)? }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::Bounded { first, last })
            }
        }
    }

    /// What this means for a file of `size` bytes. An end beyond the file's is brought back to it.
    pub fn select(self, size: u64) -> Selected {
        if size == 0 {
            return Selected::Empty;
        }
        match self {
            Self::Bounded { first, last } if first < size => Selected::Part(first..last.saturating_add(1).min(size)),
            Self::From { first } if first < size => Selected::Part(first..size),
            Self::Last { length } if length > 0 => Selected::Part(size.saturating_sub(length)..size),
            _ => Selected::Unsatisfiable,
        }
    }

    /// Whether a client continues a file with this whose beginning it has: `bytes=N-` with N > 0. While that
    /// beginning may be from a fill that failed, it gets the whole file instead (DESIGN section 5).
    pub fn continues(self) -> bool {
        matches!(self, Self::From { first: 1.. })
    }
}

/// Digits; a number past 64 bits is past every file's end all the same.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// As a request to the origin has it.
impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bounded { first, last } => write!(f, "bytes={first}-{last}"),
            Self::From { first } => write!(f, "bytes={first}-"),
            Self::Last { length } => write!(f, "bytes=-{length}"),
        }
    }
}

/// The `Content-Range` of a 206. `range` is not empty.
pub fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1))
}

/// The `Content-Range` of a 416, and of the 200 for an empty file.
pub fn unsatisfied_content_range(size: u64) -> String {
    format!("bytes */{size}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn select(header: &str, size: u64) -> Selected {
        ByteRange::parse(header).unwrap().unwrap().select(size)
    }

    #[test]
    fn single_ranges_are_cut_to_the_file() {
        for (header, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-99", 0..100),
            ("bytes=0-100000", 0..100),
            ("bytes=99-100", 99..100),
            ("bytes=0-", 0..100),
            ("bytes=40-", 40..100),
            ("bytes=-1", 99..100),
            ("bytes=-1000", 0..100),
            ("Bytes=5-6", 5..7),
            ("bytes= 5-6 ,", 5..7),
            ("bytes=5-99999999999999999999999", 5..100),
            ("bytes=0-18446744073709551615", 0..100),
        ] {
            assert_eq!(select(header, 100), Selected::Part(part), "{header}");
        }
        for header in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(select(header, 100), Selected::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn every_range_of_an_empty_file_is_the_empty_file() {
        for header in ["bytes=0-0", "bytes=0-", "bytes=5-", "bytes=-1"] {
            assert_eq!(select(header, 0), Selected::Empty, "{header}");
        }
        assert_eq!(unsatisfied_content_range(0), "bytes */0");
    }

    #[test]
    fn content_range_names_the_last_byte_not_the_end() {
        assert_eq!(content_range(&(0..1), 5), "bytes 0-0/5");
        assert_eq!(content_range(&(2..5), 5), "bytes 2-4/5");
    }

    #[test]
    fn only_unknown_units_are_ignored() {
        for header in ["items=0-1", "", "0-1", "bytes", "seconds=-5"] {
            assert_eq!(ByteRange::parse(header), Ok(None), "{header}");
        }
        for header in ["bytes=", "bytes=,", "bytes=a-b", "bytes=5-2", "bytes=-", "bytes=1", "bytes=+1-2", "bytes=1-2-3"]
        {
            assert!(matches!(ByteRange::parse(header), Err(RangeError::Malformed(_))), "{header}");
        }
        assert!(matches!(ByteRange::parse("bytes=0-1,5-6"), Err(RangeError::Several(_))));
    }

    #[test]
    fn only_an_open_range_past_the_start_continues_a_file() {
        assert!(ByteRange::From { first: 1 }.continues());
        for other in
            [ByteRange::From { first: 0 }, ByteRange::Bounded { first: 1, last: 2 }, ByteRange::Last { length: 1 }]
        {
            assert!(!other.continues(), "{other}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_part_is_never_empty_and_never_past_the_end(first: u64, last: u64, length: u64, size: u64) {
            let bounded = ByteRange::Bounded { first: first.min(last), last: first.max(last) };
            for range in [bounded, ByteRange::From { first }, ByteRange::Last { length }] {
                prop_assert_eq!(ByteRange::parse(&range.to_string()), Ok(Some(range)));
                if let Selected::Part(part) = range.select(size) {
                    prop_assert!(part.start < part.end && part.end <= size);
                }
            }
        }

        #[test]
        fn no_header_makes_the_parser_panic(header: String, tail in "[0-9, -]{0,30}") {
            let _ = ByteRange::parse(&header);
            let _ = ByteRange::parse(&format!("bytes={tail}"));
        }
    }
}
