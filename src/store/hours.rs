//! Which sums of hours, and which single records, make up the usage of a time. Pure.
//!
//! Sums are kept by whole hours of UTC. Where a time begins or ends within an hour, or a day of the zone does, the
//! records of that hour are read themselves. Records do not stay for ever; an hour whose records are gone counts whole,
//! for the time in which it begins.

use std::fmt::Write as _;
use std::ops::Range;

use crate::callers::Zone;

pub(super) const HOUR_MS: i64 = 3_600_000;
pub(super) const DAY_MS: i64 = 86_400_000;

/// What to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cover {
    /// The hours of which the sums are read.
    pub(super) whole: Range<i64>,
    /// But not these.
    pub(super) split: Vec<i64>,
    /// The times of which the records are read.
    pub(super) edges: Vec<Range<i64>>,
}

/// How far a zone's clocks are ahead of UTC, from when on. Never empty.
#[derive(Debug)]
pub(super) struct Clock(Vec<(i64, i64)>);

/// When the hour began.
pub(super) fn hour_of(time_ms: i64) -> i64 {
    time_ms - time_ms.rem_euclid(HOUR_MS)
}

impl Clock {
    pub(super) fn new(zone: &Zone, time: &Range<i64>) -> Self {
        Self(zone.offsets(time.start, time.end))
    }

    /// The number of the day that a moment is in, since 1970.
    fn day(&self, time_ms: i64) -> i64 {
        let offset = self.0.iter().rev().find(|(from_ms, _)| *from_ms <= time_ms).or(self.0.first());
        (time_ms + offset.map_or(0, |(_, ahead_ms)| *ahead_ms)).div_euclid(DAY_MS)
    }

    /// The same, in SQL.
    pub(super) fn day_in_sql(&self, column: &str) -> String {
        let (mut ahead, mut cases) = (0, String::new());
        for (index, (from_ms, ahead_ms)) in self.0.iter().enumerate() {
            if index > 0 {
                // Writing to a string cannot fail.
                let _ = write!(cases, " when {column} < {from_ms} then {ahead}");
            }
            ahead = *ahead_ms;
        }
        let ahead =
            if cases.is_empty() { ahead.to_string() } else { format!("case{cases} else {ahead} end") };
        format!("({column} + {ahead}) / {DAY_MS}")
    }

    /// Where a day may begin within an hour.
    fn odd_beginnings(&self, time: &Range<i64>) -> Vec<i64> {
        let ends = self.0.iter().skip(1).map(|(from_ms, _)| *from_ms).chain([time.end]);
        let mut beginnings = Vec::new();
        for ((from_ms, ahead_ms), end) in self.0.iter().zip(ends) {
            let (from, end) = ((*from_ms).max(time.start), end.min(time.end));
            // Where clocks change, the day may change with them.
            beginnings.push(from);
            let midnight = (from + ahead_ms + DAY_MS - 1).div_euclid(DAY_MS) * DAY_MS - ahead_ms;
            if midnight % HOUR_MS != 0 {
                beginnings.extend((0..).map(|days| midnight + days * DAY_MS).take_while(|at| *at < end));
            }
        }
        beginnings
    }
}

impl Cover {
    /// What makes up a time, of which there are records since `kept_from`. With a clock, days are told apart.
    pub(super) fn of(time: &Range<i64>, kept_from: i64, clock: Option<&Clock>) -> Self {
        let mut cover = Self {
            whole: hour_of(time.start + HOUR_MS - 1)..hour_of(time.end),
            split: Vec::new(),
            edges: Vec::new(),
        };
        if time.is_empty() {
            cover.whole = time.start..time.start;
            return cover;
        }
        if time.start < cover.whole.start && hour_of(time.start) >= kept_from {
            cover.edges.push(time.start..cover.whole.start.min(time.end));
        }
        let last = cover.whole.end;
        if last < time.end && last >= cover.whole.start {
            if last >= kept_from {
                cover.edges.push(last..time.end);
            } else {
                cover.whole.end = last + HOUR_MS;
            }
        }
        if let Some(clock) = clock.filter(|_| !cover.whole.is_empty()) {
            cover.split_at_days(kept_from, clock);
        }
        cover
    }

    fn split_at_days(&mut self, kept_from: i64, clock: &Clock) {
        let hours = clock.odd_beginnings(&self.whole).into_iter().map(hour_of);
        let mut split: Vec<i64> = hours
            .filter(|hour| *hour >= kept_from && self.whole.contains(hour))
            .filter(|hour| clock.day(*hour) != clock.day(*hour + HOUR_MS - 1))
            .collect();
        split.sort_unstable();
        split.dedup();
        self.edges.extend(split.iter().map(|hour| *hour..*hour + HOUR_MS));
        self.split = split;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: i64 = HOUR_MS;

    type Span = (i64, i64);

    /// The whole hours, if there are any, and the rest.
    fn cover((from, to): Span, kept_from: i64) -> (Option<Span>, Vec<Span>) {
        let cover = Cover::of(&(from..to), kept_from, None);
        let whole = Some((cover.whole.start, cover.whole.end)).filter(|_| !cover.whole.is_empty());
        (whole, cover.edges.into_iter().map(|edge| (edge.start, edge.end)).collect())
    }

    #[test]
    fn hours_that_are_not_whole_are_read_from_their_records() {
        for (time, whole, edges) in [
            ((H, 3 * H), Some((H, 3 * H)), vec![]),
            ((H + 1, 3 * H), Some((2 * H, 3 * H)), vec![(H + 1, 2 * H)]),
            ((H, 3 * H + 5), Some((H, 3 * H)), vec![(3 * H, 3 * H + 5)]),
            ((H - 1, H + 1), None, vec![(H - 1, H), (H, H + 1)]),
            ((H + 1, H + 9), None, vec![(H + 1, H + 9)]),
            ((H, H + 9), None, vec![(H, H + 9)]),
            ((5, 5), None, vec![]),
            ((9 * H, 2 * H), None, vec![]),
        ] {
            assert_eq!(cover(time, 0), (whole, edges), "{time:?}");
        }
    }

    #[test]
    fn an_hour_without_records_counts_for_the_time_in_which_it_begins() {
        assert_eq!(cover((H + 1, 3 * H + 5), 9 * H), (Some((2 * H, 4 * H)), vec![]));
        assert_eq!(cover((H + 1, 3 * H + 5), 3 * H), (Some((2 * H, 3 * H)), vec![(3 * H, 3 * H + 5)]));
        assert_eq!(cover((H + 1, H + 9), 9 * H), (None, vec![]));
    }

    fn days(zone: &str, time: Range<i64>, kept_from: i64) -> Vec<i64> {
        let clock = Clock::new(&Zone::named(zone).unwrap(), &time);
        Cover::of(&time, kept_from, Some(&clock)).split
    }

    #[test]
    fn days_that_begin_within_an_hour_split_it() {
        let day = 20_000 * DAY_MS;
        let month = day..day + 30 * DAY_MS;
        assert!(days("UTC", month.clone(), 0).is_empty());
        assert!(days("Europe/Warsaw", month.clone(), 0).is_empty());
        // Midnight in Kolkata is 18:30 UTC.
        let split = days("Asia/Kolkata", month.clone(), 0);
        assert_eq!(split.len(), 30);
        assert!(split.iter().all(|hour| hour.rem_euclid(DAY_MS) == 18 * H), "{split:?}");
        assert_eq!(days("Asia/Kolkata", month, day + 20 * DAY_MS).len(), 10, "as far as there are records");
    }

    #[test]
    fn the_day_in_sql_follows_the_changes_of_clocks() {
        let clock = Clock(vec![(0, H), (50, 2 * H), (90, H)]);
        assert_eq!(
            clock.day_in_sql("t"),
            "(t + case when t < 50 then 3600000 when t < 90 then 7200000 else 3600000 end) / 86400000"
        );
        assert_eq!(Clock(vec![(0, -H)]).day_in_sql("t"), "(t + -3600000) / 86400000");
    }
}
