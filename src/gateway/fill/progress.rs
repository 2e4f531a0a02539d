//! How far a fill has come and what its readers may be given: the bookkeeping behind invariant I2.
//!
//! Pure: ranges in, ranges out, no clock, no file, no task. Until the content is verified and recorded,
//! all readers together are never given every byte ([`Progress::offer`] keeps a reserve back, wherever in
//! the file it happens to lie), and no sequential reader runs so far ahead that the end would mean a long
//! pause.

use std::ops::Range;

use rangemap::RangeSet;

/// What stays back until the content is verified, in bytes. Enough that no file format makes sense
/// without it, little enough to send at once.
const RESERVE_BYTES: u64 = 64 * 1024;

/// How far a sequential reader may be ahead of what is hashed and of what the store has taken.
const LEAD_BYTES: u64 = 64 * 1024 * 1024;

/// How many bytes a waiting reader is given to keep its connection alive.
const DRIP_BYTES: u64 = 4;

/// How far ahead of the main fetch a range must begin to be worth a request of its own.
const AHEAD_BYTES: u64 = 8 * 1024 * 1024;

/// The state of one unfinished fill.
#[derive(Debug)]
pub(crate) struct Progress {
    size: u64,
    present: RangeSet<u64>,
    /// Being fetched by an extra request; the main fetch leaves it out.
    claimed: RangeSet<u64>,
    given: RangeSet<u64>,
    given_bytes: u64,
    /// Where the main fetch writes next.
    main_at: u64,
    hashed: u64,
    stored: u64,
    nothing_unverified: bool,
}

/// What a reader at some offset may do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Send these bytes; they count as given.
    Give(Range<u64>),
    /// The bytes have not arrived.
    NotThere,
    /// The bytes are there, but the rules hold them back for now; a drip is allowed.
    Held,
}

/// How a reader reads, which decides what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// To the end of the file; keeps within the lead.
    Sequential,
    /// A bounded range: a footer, a slice. Answered from what is there.
    Slice,
    /// Nothing before the end, whatever the fill gives to others: their rule lets them, this one's does not.
    Verified,
}

impl Progress {
    /// Nothing has arrived of a file of `size` bytes. With `nothing_unverified`, readers get nothing
    /// before the end.
    pub(crate) fn new(size: u64, nothing_unverified: bool) -> Self {
        Self {
            size,
            present: RangeSet::new(),
            claimed: RangeSet::new(),
            given: RangeSet::new(),
            given_bytes: 0,
            main_at: 0,
            hashed: 0,
            stored: 0,
            nothing_unverified,
        }
    }

    /// Bytes of `range` are in the staging file.
    pub(crate) fn arrived(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.present.insert(range);
        }
    }

    /// The content is hashed from the start up to here.
    pub(crate) fn hashed(&mut self, upto: u64) {
        self.hashed = upto;
    }

    /// The store has taken the content from the start up to here.
    pub(crate) fn stored(&mut self, upto: u64) {
        self.stored = upto;
    }

    /// The end of what is there without a gap from the start.
    pub(crate) fn prefix(&self) -> u64 {
        self.present.get(&0).map_or(0, |range| range.end)
    }

    /// Whether every byte is there.
    pub(crate) fn is_whole(&self) -> bool {
        self.prefix() == self.size
    }

    /// What a reader that wants `want` may send now. The answer starts at `want.start`.
    pub(crate) fn offer(&mut self, want: Range<u64>, reading: Reading) -> Offer {
        let Some(there) = self.present.get(&want.start) else { return Offer::NotThere };
        if self.nothing_unverified || reading == Reading::Verified {
            return Offer::Held;
        }
        let mut end = want.end.min(there.end);
        if reading == Reading::Sequential {
            end = end.min(self.hashed.min(self.stored) + LEAD_BYTES);
        }
        self.give(want.start..end, RESERVE_BYTES)
    }

    /// A few bytes for a reader whose connection would time out; all but the file's last ungiven byte.
    pub(crate) fn drip(&mut self, at: u64) -> Option<Range<u64>> {
        if self.nothing_unverified {
            return None;
        }
        let there = self.present.get(&at)?.end;
        match self.give(at..there.min(at + DRIP_BYTES), 1) {
            Offer::Give(range) => Some(range),
            _ => None,
        }
    }

    /// Gives as much of the start of `range` as leaves `reserve` bytes that nobody has.
    fn give(&mut self, range: Range<u64>, reserve: u64) -> Offer {
        if range.is_empty() {
            return Offer::Held;
        }
        let mut spare = (self.size - self.given_bytes).saturating_sub(reserve);
        let mut end = range.end;
        let mut fresh = 0;
        for gap in self.given.gaps(&range) {
            let length = gap.end - gap.start;
            if length > spare {
                end = gap.start + spare;
                fresh += spare;
                break;
            }
            spare -= length;
            fresh += length;
        }
        if end == range.start {
            return Offer::Held;
        }
        self.given_bytes += fresh;
        self.given.insert(range.start..end);
        Offer::Give(range.start..end)
    }

    /// Where the main fetch should go on: the first range that nobody has fetched or is fetching.
    /// `None` when there is none.
    pub(crate) fn next_gap(&mut self) -> Option<Range<u64>> {
        let mut taken = self.present.clone();
        taken.extend(self.claimed.iter().cloned());
        let gap = taken.gaps(&(0..self.size)).next();
        if let Some(gap) = &gap {
            self.main_at = gap.start;
        }
        gap
    }

    /// The main fetch has written up to here. Returns how many bytes it may still write before it meets
    /// what somebody else has fetched or is fetching.
    pub(crate) fn main_at(&mut self, at: u64) -> u64 {
        self.main_at = at;
        let rest = at..self.size;
        let next_present = self.present.overlapping(&rest).next().map_or(self.size, |range| range.start.max(at));
        let next_claimed = self.claimed.overlapping(&rest).next().map_or(self.size, |range| range.start.max(at));
        next_present.min(next_claimed) - at
    }

    /// Claims the missing part at the start of `want` for an extra request, if it lies far enough ahead of
    /// the main fetch and nobody has claimed it.
    pub(crate) fn claim_ahead(&mut self, want: &Range<u64>) -> Option<Range<u64>> {
        if want.start < self.main_at + AHEAD_BYTES || self.claimed.contains(&want.start) {
            return None;
        }
        let gap = self.present.gaps(want).next()?;
        let gap = self.claimed.gaps(&gap).next()?;
        self.claimed.insert(gap.clone());
        Some(gap)
    }

    /// Gives a claim back, fetched or not.
    pub(crate) fn unclaim(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.claimed.remove(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn footers_go_out_at_once_and_the_reserve_lies_where_nobody_was() {
        let size = 100 * MIB;
        let mut progress = Progress::new(size, false);
        progress.arrived(99 * MIB..size);
        assert_eq!(progress.offer(99 * MIB..size, Reading::Slice), Offer::Give(99 * MIB..size));
        progress.arrived(0..99 * MIB);
        progress.hashed(size);
        progress.stored(size);
        // A full reader is stopped before the footer, not at the end.
        let stop = 99 * MIB - RESERVE_BYTES;
        assert_eq!(progress.offer(0..size, Reading::Sequential), Offer::Give(0..stop));
        assert_eq!(progress.offer(stop..size, Reading::Sequential), Offer::Held);
        // What one reader was given another may have too.
        assert_eq!(progress.offer(0..10, Reading::Slice), Offer::Give(0..10));
    }

    #[test]
    fn a_sequential_reader_keeps_within_the_lead_and_a_slice_does_not() {
        let size = 200 * MIB;
        let mut progress = Progress::new(size, false);
        progress.arrived(0..size);
        progress.hashed(10 * MIB);
        progress.stored(5 * MIB);
        assert_eq!(progress.offer(0..size, Reading::Sequential), Offer::Give(0..5 * MIB + LEAD_BYTES));
        assert_eq!(progress.offer(150 * MIB..151 * MIB, Reading::Slice), Offer::Give(150 * MIB..151 * MIB));
    }

    #[test]
    fn nothing_goes_out_of_a_fill_that_is_verified_first() {
        let mut progress = Progress::new(100, true);
        progress.arrived(0..100);
        assert_eq!(progress.offer(0..100, Reading::Slice), Offer::Held);
        assert_eq!(progress.drip(0), None);
    }

    #[test]
    fn the_main_fetch_leaves_out_what_extra_requests_fetch() {
        let size = 100 * MIB;
        let mut progress = Progress::new(size, false);
        assert_eq!(progress.next_gap(), Some(0..size));
        assert_eq!(progress.claim_ahead(&(MIB..2 * MIB)), None, "near the main fetch: it will be there soon");
        assert_eq!(progress.claim_ahead(&(90 * MIB..size)), Some(90 * MIB..size));
        assert_eq!(progress.claim_ahead(&(95 * MIB..size)), None, "claimed already");
        assert_eq!(progress.main_at(MIB), 89 * MIB);
        progress.arrived(0..90 * MIB);
        assert_eq!(progress.next_gap(), None, "the rest is claimed");
        progress.unclaim(90 * MIB..size);
        assert_eq!(progress.next_gap(), Some(90 * MIB..size));
    }

    proptest! {
        #[test]
        fn all_readers_together_never_have_every_byte(
            size in 1u64..400_000,
            steps in prop::collection::vec((0u64..400_000, 1u64..200_000, 0u8..4), 1..200),
        ) {
            let mut progress = Progress::new(size, false);
            let mut had = RangeSet::new();
            for (start, length, what) in steps {
                let start = start % size;
                let range = start..(start + length).min(size);
                let got = match what {
                    0 => { progress.arrived(range); None }
                    1 => progress.drip(start),
                    2 => match progress.offer(range, Reading::Slice) { Offer::Give(range) => Some(range), _ => None },
                    _ => {
                        progress.hashed(progress.prefix());
                        progress.stored(progress.prefix());
                        match progress.offer(range, Reading::Sequential) { Offer::Give(range) => Some(range), _ => None }
                    }
                };
                if let Some(got) = got {
                    prop_assert!(!got.is_empty() && got.start == start && got.end <= size);
                    prop_assert!(progress.present.gaps(&got).next().is_none(), "gave what is not there");
                    had.insert(got);
                }
                prop_assert!(had.gaps(&(0..size)).next().is_some(), "every byte was given");
                let sum: u64 = had.iter().map(|range| range.end - range.start).sum();
                prop_assert_eq!(sum, progress.given_bytes);
            }
        }
    }
}
