//! One thing with limits, as one node has its part in it: what it has been given and not used, what is under way, and
//! what is to be put right. Values only: nobody is asked here.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::callers::{Dimension, Limits, Short, Want};

/// So large a part of a limit a node is given beyond what it needs.
const SPARE: u64 = 50;
/// What was given and is not used goes back after so long.
const KEPT: Duration = Duration::from_secs(1);
/// The same of places, of which there are few.
const PLACES_KEPT: Duration = Duration::from_millis(150);
/// So often others are told that requests are still under way.
const BEAT: Duration = Duration::from_millis(1500);
/// So long they are believed to be. (In milliseconds.)
pub(super) const BELIEVED_MS: u64 = 5000;
/// After a refusal nobody asks again for so long.
const DRY: Duration = Duration::from_millis(200);
/// The same of places, which come free at any time.
const PLACES_DRY: Duration = Duration::from_millis(20);
/// What was counted longer ago counts no more. (In seconds.)
const MINUTE: i64 = 61;
/// More than this of anything is as good as no limit; scripts count no further.
const MOST: u64 = 1 << 50;

/// So much of what is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    pub(super) requests: u64,
    pub(super) tokens: u64,
    pub(super) places: u64,
}

impl Amounts {
    /// What a request asks for, as far as it is limited.
    pub(super) fn wanted(want: Want, limits: Limits) -> Self {
        let one = |limit: Option<u64>| u64::from(want.is_request && limit.is_some());
        Self {
            requests: one(limits.requests_per_minute),
            tokens: limits.tokens_per_minute.map_or(0, |limit| want.tokens.min(limit).min(MOST)),
            places: one(limits.parallel_requests),
        }
    }

    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// So much of one of them.
    pub(super) fn of(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Requests => self.requests,
            Dimension::Tokens => self.tokens,
            Dimension::Parallel => self.places,
        }
    }

    fn holds(&self, other: Self) -> bool {
        self.least(other) == other
    }

    fn least(self, other: Self) -> Self {
        Self {
            requests: self.requests.min(other.requests),
            tokens: self.tokens.min(other.tokens),
            places: self.places.min(other.places),
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.places = self.places.saturating_add(other.places);
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            tokens: self.tokens.saturating_sub(other.tokens),
            places: self.places.saturating_sub(other.places),
        }
    }
}

/// A limit, and what is asked of it, as a script takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// -1: there is none.
    pub(super) limit: i64,
    pub(super) needed: u64,
    pub(super) waiting: u64,
    pub(super) spare: u64,
}

impl Asked {
    fn of(limit: Option<u64>, needed: u64, waiting: u64) -> Self {
        let spare = limit.filter(|_| needed > 0).map_or(0, |limit| limit.min(MOST) / SPARE);
        let waiting = if needed > 0 { waiting } else { 0 };
        // Limits below twice of this are exact.
        let spare = spare.saturating_sub(1);
        let limit = limit.map_or(-1, |limit| i64::try_from(limit.min(MOST)).unwrap_or(-1));
        Self { limit, needed, waiting, spare }
    }
}

/// What a node has of one thing.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Given and not used.
    kept: Amounts,
    /// In which second of Redis it was given, and when that was here.
    given: Option<(i64, Instant)>,
    /// When places came free that are not used.
    places_since: Option<Instant>,
    /// Requests under way.
    under_way: u64,
    /// By second: what is to be added to what was taken then.
    corrections: BTreeMap<i64, (i64, i64)>,
    /// Whether others believe in another number of places.
    is_misjudged: bool,
    told: Option<Instant>,
    dry: Option<Dry>,
    /// What those need who wait for an answer.
    pub(super) waiting: Amounts,
    /// Requests and tokens that are left for all.
    left: [Option<u64>; 2],
    used: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Dry {
    short: Short,
    needed: Amounts,
    until: Instant,
}

/// What comes of a look at what a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is there, and was taken: it was given in that second.
    Taken(i64),
    /// There is nothing, and there was nothing a moment ago where it comes from.
    Dry(Short),
    /// It has to be asked for.
    Ask,
}

/// What is to be told of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) places: u64,
    /// Second, requests, tokens.
    pub(super) corrections: Vec<(i64, i64, i64)>,
}

impl Part {
    /// Takes what is there.
    pub(super) fn take(&mut self, needed: Amounts, now: Instant) -> Look {
        self.used = Some(now);
        if self.kept.holds(needed) {
            let second = self.given.map_or(0, |(second, _)| second);
            self.kept = self.kept.without(needed);
            self.under_way += needed.places;
            return Look::Taken(second);
        }
        let covers = |dry: &&Dry| {
            let of = dry.short.dimension;
            needed.of(of) >= dry.needed.of(of)
        };
        match self.dry.as_ref().filter(|dry| now < dry.until).filter(covers) {
            Some(dry) => Look::Dry(Short { asked: needed.of(dry.short.dimension), ..dry.short }),
            None => Look::Ask,
        }
    }

    /// Takes what is there of what is needed, while the rest is asked for: it comes to what is given, or is put back.
    pub(super) fn hold(&mut self, needed: Amounts) -> Amounts {
        let held = self.kept.least(needed);
        self.kept = self.kept.without(held);
        self.under_way += held.places;
        held
    }

    /// The rest was not given.
    pub(super) fn put_back(&mut self, held: Amounts) {
        self.kept.add(held);
        self.under_way = self.under_way.saturating_sub(held.places);
    }

    /// How what is missing is asked for, with what others wait for: requests, tokens, places.
    pub(super) fn ask(&self, missing: Amounts, limits: Limits) -> [Asked; 3] {
        let others = self.waiting.without(missing);
        [
            Asked::of(limits.requests_per_minute, missing.requests, others.requests),
            Asked::of(limits.tokens_per_minute, missing.tokens, others.tokens),
            Asked::of(limits.parallel_requests, missing.places, others.places),
        ]
    }

    /// What was missing was given in that second, and more; and so much is left for all.
    pub(super) fn give(
        &mut self,
        (given, missing): (Amounts, Amounts),
        second: i64,
        left: [Option<u64>; 2],
        now: Instant,
    ) {
        self.kept.add(given.without(missing));
        self.under_way += missing.places;
        self.given = Some((second, now));
        self.left = left;
        self.dry = None;
        if self.kept.places > 0 {
            self.places_since = Some(now);
        }
        if given.places > 0 {
            (self.told, self.is_misjudged) = (Some(now), false);
        }
    }

    /// It was refused.
    pub(super) fn refuse(&mut self, short: Short, needed: Amounts, now: Instant) {
        let dry = if short.dimension == Dimension::Parallel { PLACES_DRY } else { DRY };
        self.dry = Some(Dry { short, needed, until: now + dry });
    }

    /// It is taken unasked, in that second, if that is known; others hear of it later.
    pub(super) fn take_unasked(&mut self, taken: Amounts, second: i64, now: Instant) {
        self.used = Some(now);
        self.under_way += taken.places;
        self.is_misjudged |= taken.places > 0;
        self.correct(second, signed(taken.requests), signed(taken.tokens));
    }

    /// A request is over. `is_kept`: its place may be taken by the next one.
    pub(super) fn leave(&mut self, places: u64, is_kept: bool, now: Instant) {
        self.under_way = self.under_way.saturating_sub(places);
        if is_kept && places > 0 {
            self.kept.places += places;
            self.places_since = Some(now);
        }
        self.is_misjudged |= places > 0 && !is_kept;
    }

    /// What was taken in that second is to be corrected.
    pub(super) fn correct(&mut self, second: i64, requests: i64, tokens: i64) {
        // Redis' clock has never been heard.
        if second == 0 || (requests, tokens) == (0, 0) {
            return;
        }
        let correction = self.corrections.entry(second).or_default();
        correction.0 = correction.0.saturating_add(requests);
        correction.1 = correction.1.saturating_add(tokens);
        if let Some((newest, _)) = self.corrections.last_key_value() {
            let oldest = newest - MINUTE;
            self.corrections.retain(|second, _| *second >= oldest);
        }
    }

    /// Places that others are to believe in.
    pub(super) fn places(&self) -> u64 {
        self.under_way + self.kept.places
    }

    pub(super) fn left(&self) -> [Option<u64>; 2] {
        let [requests, tokens] = self.left;
        [requests.map(|left| left + self.kept.requests), tokens.map(|left| left + self.kept.tokens)]
    }

    /// Lets go of what was kept too long, or of all. Whether there is something to tell.
    pub(super) fn tidy(&mut self, all: bool, now: Instant) -> bool {
        let is_old = |since: Instant, most: Duration| all || now.saturating_duration_since(since) >= most;
        if let Some((second, at)) = self.given
            && is_old(at, KEPT)
        {
            let Amounts { requests, tokens, .. } = self.kept;
            (self.kept.requests, self.kept.tokens) = (0, 0);
            self.correct(second, -signed(requests), -signed(tokens));
        }
        if self.kept.places > 0 && self.places_since.is_none_or(|since| is_old(since, PLACES_KEPT)) {
            self.kept.places = 0;
            self.is_misjudged = true;
        }
        let beats = self.places() > 0 && self.told.is_none_or(|told| is_old(told, BEAT));
        beats || self.is_misjudged || !self.corrections.is_empty()
    }

    /// What is to be told now. Nothing of it is left.
    pub(super) fn report(&mut self, now: Instant) -> Report {
        (self.told, self.is_misjudged) = (Some(now), false);
        let corrections = std::mem::take(&mut self.corrections);
        let corrections =
            corrections.into_iter().map(|(second, (requests, tokens))| (second, requests, tokens));
        Report { places: self.places(), corrections: corrections.collect() }
    }

    /// It could not be told.
    pub(super) fn take_back(&mut self, report: Report) {
        for (second, requests, tokens) in report.corrections {
            self.correct(second, requests, tokens);
        }
        self.is_misjudged = true;
    }

    /// Whether nobody would miss it.
    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        let is_unused = self.used.is_none_or(|used| now.saturating_duration_since(used).as_secs() > 120);
        is_unused && self.kept.is_none() && self.under_way == 0 && self.corrections.is_empty()
    }
}

pub(super) fn signed(amount: u64) -> i64 {
    i64::try_from(amount.min(MOST)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        requests_per_minute: Some(1000),
        tokens_per_minute: Some(60_000),
        parallel_requests: Some(4),
    };

    fn amounts(requests: u64, tokens: u64, places: u64) -> Amounts {
        Amounts { requests, tokens, places }
    }

    #[test]
    fn what_was_given_serves_the_next_requests_until_it_is_old() {
        let (mut part, now) = (Part::default(), Instant::now());
        let needed = Amounts::wanted(Want { tokens: 100, is_request: true }, LIMITS);
        assert_eq!((needed, part.take(needed, now)), (amounts(1, 100, 1), Look::Ask));
        let [requests, tokens, places] = part.ask(needed, LIMITS);
        assert_eq!((requests.needed, requests.spare, tokens.spare, places.spare), (1, 19, 1199, 0));

        assert_eq!(part.hold(needed), amounts(0, 0, 0));
        part.give((amounts(20, 1300, 1), needed), 77, [Some(980), Some(58_700)], now);
        assert_eq!((part.places(), part.left()), (1, [Some(999), Some(59_900)]));
        assert_eq!(part.take(needed, now), Look::Ask, "there is no place");
        let held = part.hold(needed);
        assert_eq!(held, amounts(1, 100, 0), "which nobody else gets meanwhile");
        let [requests, .., places] = part.ask(needed.without(held), LIMITS);
        assert_eq!((requests.needed, requests.spare, places.needed), (0, 0, 1));
        part.put_back(held);

        assert!(!part.tidy(false, now));
        let later = now + KEPT;
        assert!(part.tidy(false, later));
        part.correct(77, 0, -60);
        let report = part.report(later);
        assert_eq!(report, Report { places: 1, corrections: vec![(77, -19, -1260)] });
        part.take_back(report.clone());
        assert!(part.tidy(false, later) && part.report(later) == report);
    }

    #[test]
    fn a_place_is_kept_for_the_next_request_a_moment_and_told_while_it_is_taken() {
        let (mut part, now) = (Part::default(), Instant::now());
        let place = amounts(0, 0, 1);
        part.give((place, place), 5, [None, None], now);
        assert!(!part.tidy(false, now) && part.tidy(false, now + BEAT), "it still is");
        part.report(now + BEAT);
        part.leave(1, true, now + BEAT);
        assert!(!part.tidy(false, now + BEAT));
        assert_eq!(part.take(place, now + BEAT), Look::Taken(5));
        part.leave(1, true, now + BEAT);
        let later = now + BEAT + PLACES_KEPT;
        assert!(part.tidy(false, later));
        assert_eq!((part.report(later).places, part.tidy(false, later)), (0, false));
        assert!(!part.is_forgettable(later) && part.is_forgettable(later + Duration::from_secs(121)));
    }

    #[test]
    fn a_refusal_holds_for_a_moment_for_those_who_need_as_much() {
        let (mut part, now) = (Part::default(), Instant::now());
        let short = Short {
            dimension: Dimension::Tokens,
            limit: 60_000,
            asked: 500,
            left: 3,
            retry_after: Some(Duration::from_secs(9)),
        };
        part.refuse(short, amounts(1, 500, 0), now);
        assert_eq!(part.take(amounts(1, 600, 0), now), Look::Dry(Short { asked: 600, ..short }));
        assert_eq!(part.take(amounts(1, 400, 0), now), Look::Ask);
        assert_eq!(part.take(amounts(1, 600, 0), now + DRY), Look::Ask);
    }

    #[test]
    fn small_limits_are_asked_for_one_by_one_and_absent_ones_not_at_all() {
        for (limit, spare) in [(1, 0), (20, 0), (99, 0), (100, 1), (60_000, 1199)] {
            assert_eq!(Asked::of(Some(limit), 1, 3).spare, spare, "{limit}");
        }
        assert_eq!(Asked::of(None, 0, 3), Asked { limit: -1, needed: 0, waiting: 0, spare: 0 });
        assert_eq!(Asked::of(Some(u64::MAX), 1, 0).limit, 1 << 50);
    }

    #[test]
    fn what_was_let_through_unasked_is_told_later_as_long_as_it_counts() {
        let (mut part, now) = (Part::default(), Instant::now());
        part.take_unasked(amounts(1, 10, 1), 0, now);
        assert!(part.report(now).corrections.is_empty(), "nobody knows when that was");
        part.take_unasked(amounts(1, 10, 0), 100, now);
        part.take_unasked(amounts(1, 10, 0), 170, now);
        assert_eq!(part.report(now), Report { places: 1, corrections: vec![(170, 1, 10)] });
    }
}
