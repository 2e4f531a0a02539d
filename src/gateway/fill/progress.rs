//! How far a fill has come and what its readers may be given: the bookkeeping behind invariant I2.
//!
//! Pure: ranges in, ranges out, no clock, no file, no task. Until the content is verified and recorded,
//! all readers together are never given every byte ([`Progress::offer`] keeps a reserve back, wherever in
//! the file it happens to lie), and no sequential reader runs so far ahead that the end would mean a long
//! pause.

use std::{collections::BTreeMap, ops::Range};

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
    /// What extra requests were made for, by where it begins. Nobody else writes there once bytes of it have come.
    claims: BTreeMap<u64, Claimed>,
    given: RangeSet<u64>,
    given_bytes: u64,
    /// Where the main fetch began last.
    main_from: u64,
    /// Where the main fetch writes next.
    main_at: u64,
    hashed: u64,
    stored: u64,
    nothing_unverified: bool,
}

/// What an extra request is to bring.
#[derive(Debug)]
struct Claimed {
    end: u64,
    /// Whether its bytes are coming. One that has not begun is no reason for anybody to leave it out.
    begun: bool,
}

/// Who fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetcher {
    /// The one that goes from gap to gap until nothing is missing.
    Main,
    /// An extra request, by where its claim begins.
    Extra(u64),
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
            claims: BTreeMap::new(),
            given: RangeSet::new(),
            given_bytes: 0,
            main_from: 0,
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

    /// Whether anything is there at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// Where the main fetch should go on: the first range that is neither there nor coming. `None` when there is none.
    pub(crate) fn next_gap(&mut self) -> Option<Range<u64>> {
        let gap = self.unattended(&(0..self.size))?;
        (self.main_from, self.main_at) = (gap.start, gap.start);
        Some(gap)
    }

    /// How many bytes a fetch that stands at `at` may write now, of `length` that it has in hand. None to the main fetch
    /// when there is an earlier gap, as an extra request that broke off leaves one; none to an extra request whose claim
    /// is lost. Claims of which nothing has come yet are lost to whoever gets there first.
    pub(crate) fn room(&mut self, at: u64, length: u64, fetcher: Fetcher) -> u64 {
        let own = match fetcher {
            Fetcher::Main => {
                self.main_at = at;
                if self.main_from > 0 && self.unattended(&(0..self.main_from)).is_some() {
                    return 0;
                }
                None
            }
            Fetcher::Extra(start) => {
                let Some(claim) = self.claims.get_mut(&start) else { return 0 };
                claim.begun = true;
                Some(start)
            }
        };
        let there = self.present.overlapping(&(at..self.size)).next().map_or(self.size, |range| range.start.max(at));
        let coming = self.claims.range(at..).find(|(start, claim)| claim.begun && own != Some(**start));
        let end = coming.map_or(self.size, |(start, _)| *start).min(there).min(at + length);
        self.claims.retain(|start, _| own == Some(*start) || !(at..end).contains(start));
        if fetcher == Fetcher::Main {
            self.main_at = end;
        }
        end - at
    }

    /// Claims the missing part at the start of `want` for an extra request, unless another fetch will be there soon.
    pub(crate) fn claim_ahead(&mut self, want: &Range<u64>) -> Option<Range<u64>> {
        let gap = self.present.gaps(want).next()?;
        let soon_there = |from: u64, at: u64, end: u64| {
            (self.reached(from)..at.saturating_add(AHEAD_BYTES).min(end)).contains(&gap.start)
        };
        let mut extra = self.claims.iter().map(|(start, claim)| (*start, self.reached(*start), claim.end));
        if soon_there(self.main_from, self.main_at, self.size)
            || extra.any(|(start, at, end)| soon_there(start, at, end))
        {
            return None;
        }
        let mut end = self.claims.range(gap.start..).next().map_or(gap.end, |(start, _)| gap.end.min(*start));
        if gap.start < self.main_from {
            // What the main fetch has in hand there is not written yet.
            end = end.min(self.main_from);
        }
        let claimed = gap.start..end;
        self.claims.insert(claimed.start, Claimed { end: claimed.end, begun: false });
        Some(claimed)
    }

    /// Whether the claim that begins there still stands.
    pub(crate) fn is_claimed(&self, start: u64) -> bool {
        self.claims.contains_key(&start)
    }

    /// Gives a claim back, fetched or not.
    pub(crate) fn unclaim(&mut self, start: u64) {
        self.claims.remove(&start);
    }

    /// The first part of `range` that is neither there nor coming.
    fn unattended(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let mut attended = self.present.clone();
        attended.extend(self.claims.iter().filter(|(_, claim)| claim.begun).map(|(start, claim)| *start..claim.end));
        attended.gaps(range).next()
    }

    /// How far it is there without a gap from `start` on.
    fn reached(&self, start: u64) -> u64 {
        self.present.get(&start).map_or(start, |range| range.end)
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
    fn the_main_fetch_leaves_out_what_extra_requests_bring() {
        let size = 100 * MIB;
        let mut progress = Progress::new(size, false);
        assert_eq!(progress.next_gap(), Some(0..size));
        assert_eq!(progress.claim_ahead(&(MIB..2 * MIB)), None, "near the main fetch: it will be there soon");
        assert_eq!(progress.claim_ahead(&(90 * MIB..size)), Some(90 * MIB..size));
        assert_eq!(progress.claim_ahead(&(95 * MIB..size)), None, "it will be there soon");
        assert_eq!(progress.room(90 * MIB, MIB, Fetcher::Extra(90 * MIB)), MIB);
        progress.arrived(0..90 * MIB);
        assert_eq!(progress.room(90 * MIB, MIB, Fetcher::Main), 0);
        assert_eq!(progress.next_gap(), None, "the rest is coming");
        progress.unclaim(90 * MIB);
        assert_eq!(progress.next_gap(), Some(90 * MIB..size));
    }

    #[test]
    fn a_claim_of_which_nothing_has_come_is_lost_to_the_main_fetch_when_that_gets_there() {
        let size = 100 * MIB;
        let mut progress = Progress::new(size, false);
        assert_eq!(progress.next_gap(), Some(0..size));
        assert_eq!(progress.claim_ahead(&(20 * MIB..21 * MIB)), Some(20 * MIB..21 * MIB));
        progress.arrived(0..20 * MIB);
        assert_eq!(progress.room(20 * MIB, MIB, Fetcher::Main), MIB);
        assert!(!progress.is_claimed(20 * MIB));
        assert_eq!(progress.room(20 * MIB, MIB, Fetcher::Extra(20 * MIB)), 0, "two would write the same bytes");
    }

    #[test]
    fn a_hole_that_an_extra_request_leaves_calls_the_main_fetch_back() {
        let size = 100 * MIB;
        let mut progress = Progress::new(size, false);
        assert_eq!(progress.next_gap(), Some(0..size));
        assert_eq!(progress.claim_ahead(&(20 * MIB..40 * MIB)), Some(20 * MIB..40 * MIB));
        assert_eq!(progress.room(20 * MIB, MIB, Fetcher::Extra(20 * MIB)), MIB);
        progress.arrived(0..21 * MIB);
        assert_eq!(progress.next_gap(), Some(40 * MIB..size), "behind what the extra request brings");
        assert_eq!(progress.room(40 * MIB, MIB, Fetcher::Main), MIB);
        // Far ahead of the extra request, and behind the main one: somebody waits there.
        assert_eq!(progress.claim_ahead(&(35 * MIB..36 * MIB)), Some(35 * MIB..36 * MIB));
        progress.arrived(40 * MIB..41 * MIB);
        progress.unclaim(20 * MIB);
        assert_eq!(progress.room(41 * MIB, MIB, Fetcher::Main), 0);
        assert_eq!(progress.next_gap(), Some(21 * MIB..40 * MIB));
    }

    #[test]
    fn what_the_main_fetch_has_in_hand_is_claimed_by_nobody() {
        let size = 100 * MIB;
        let mut progress = Progress::new(size, false);
        assert_eq!(progress.next_gap(), Some(0..size));
        progress.arrived(0..MIB);
        assert_eq!(progress.room(MIB, 3 * MIB, Fetcher::Main), 3 * MIB);
        // It has four MiB and has written one.
        assert_eq!(progress.claim_ahead(&(2 * MIB..3 * MIB)), None);
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
