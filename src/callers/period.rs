//! Days, weeks and months of a time zone's calendar: the periods of budgets.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// How long a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first to the first.
    Month,
}

/// A moment in milliseconds since 1970, from `2026-11-21T10:00:00Z` or, for its midnight in UTC, from `2026-11-21`.
pub fn moment(text: &str) -> Option<i64> {
    let moment = text.parse::<Timestamp>().ok();
    let midnight = || Some(date(text)?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    Some(moment.or_else(midnight)?.as_millisecond())
}

/// A date alone. What has an hour but no zone would be read as one, too, and its hour be forgotten.
fn date(text: &str) -> Option<Date> {
    text.parse().ok().filter(|_| text.len() == 10)
}

/// A moment as text, such as `2026-11-21T10:00:00Z`.
pub fn moment_as_text(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// A time zone, in which days begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl Zone {
    /// By its name, such as `Europe/Warsaw` or `UTC`; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().map(Self)
    }

    /// A moment in milliseconds since 1970, from `2026-11-21T10:00:00Z`; or the whole day from `2026-11-21`, as the first
    /// moment of it and the first of the next one.
    pub fn moment_or_day(&self, text: &str) -> Option<(i64, i64)> {
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Some((moment.as_millisecond(), moment.as_millisecond()));
        }
        let day = date(text)?;
        Some((self.begin_of(day), self.begin_of(day.saturating_add(1.day()))))
    }

    /// When the period began that this moment is in, and when it ends. In milliseconds since 1970.
    pub fn around(&self, period: Period, now_ms: i64) -> (i64, i64) {
        let now = Timestamp::from_millisecond(now_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let today = now.to_zoned(self.0.clone()).date();
        let (first, next) = match period {
            Period::Day => (today, today.saturating_add(1.day())),
            Period::Week => {
                let since = today.weekday().since(Weekday::Monday);
                let monday = today.saturating_sub(i64::from(since).days());
                (monday, monday.saturating_add(1.week()))
            }
            Period::Month => (today.first_of_month(), today.first_of_month().saturating_add(1.month())),
        };
        (self.begin_of(first), self.begin_of(next))
    }

    /// How far clocks are ahead of UTC, in milliseconds, and from when on: at the beginning of a time, and at each change
    /// until its end.
    pub fn offsets(&self, from_ms: i64, to_ms: i64) -> Vec<(i64, i64)> {
        let from = Timestamp::from_millisecond(from_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let ahead = |offset: jiff::tz::Offset| i64::from(offset.seconds()) * 1000;
        let changes = self
            .0
            .following(from)
            .map(|change| (change.timestamp().as_millisecond(), ahead(change.offset())));
        let first = (from_ms, ahead(self.0.to_offset(from)));
        std::iter::once(first).chain(changes.take_while(|(at_ms, _)| *at_ms < to_ms)).collect()
    }

    /// The first moment of a day. Where a change of the clock takes midnight away, the first that there is.
    fn begin_of(&self, day: Date) -> i64 {
        let begin = day.to_zoned(self.0.clone()).map(|begin| begin.timestamp());
        begin.unwrap_or(Timestamp::UNIX_EPOCH).as_millisecond()
    }
}

/// The date of a day, by its number since 1970, such as `2026-11-21`.
pub fn date_of_day(day: i64) -> String {
    let days = i32::try_from(day).unwrap_or_default().days();
    jiff::civil::date(1970, 1, 1).saturating_add(days).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn periods_are_those_of_the_calendar() {
        let utc = Zone::default();
        let now = ms("2026-11-21T13:14:15Z");
        for (period, from, to) in [
            (Period::Day, "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
            (Period::Week, "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
            (Period::Month, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ] {
            assert_eq!(utc.around(period, now), (ms(from), ms(to)), "{period:?}");
        }
    }

    #[test]
    fn a_date_is_a_whole_day_of_the_zone() {
        let warsaw = Zone::named("Europe/Warsaw").unwrap();
        let day = (ms("2026-03-28T23:00:00Z"), ms("2026-03-29T22:00:00Z"));
        assert_eq!(warsaw.moment_or_day("2026-03-29"), Some(day));
        let moment = ms("2026-03-29T10:00:00Z");
        assert_eq!(warsaw.moment_or_day("2026-03-29T12:00:00+02:00"), Some((moment, moment)));
        for bad in ["", "yesterday", "2026-13-01", "2026-03-29T10:00:00", "20260329"] {
            assert_eq!(warsaw.moment_or_day(bad), None, "{bad}");
            assert_eq!(super::moment(bad), None, "{bad}");
        }
    }

    #[test]
    fn days_are_longer_and_shorter_when_clocks_change() {
        let warsaw = Zone::named("Europe/Warsaw").unwrap();
        for (now, from, to, hours) in [
            ("2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", 23),
            ("2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", 25),
            ("2026-06-01T12:00:00Z", "2026-05-31T22:00:00Z", "2026-06-01T22:00:00Z", 24),
        ] {
            let (begin, end) = warsaw.around(Period::Day, ms(now));
            assert_eq!((begin, end), (ms(from), ms(to)), "{now}");
            assert_eq!(end - begin, hours * 3_600_000);
            assert_eq!(warsaw.around(Period::Day, end - 1).0, begin);
            assert_eq!(warsaw.around(Period::Day, end).0, end);
        }
        // In Beirut clocks go from 23:59:59 to 01:00:00: that day has no midnight.
        let beirut = Zone::named("Asia/Beirut").unwrap();
        let (begin, _) = beirut.around(Period::Day, ms("2026-03-29T09:00:00Z"));
        assert_eq!(begin, ms("2026-03-28T22:00:00Z"));
        assert!(Zone::named("Mars/Olympus").is_none());
    }

    #[test]
    fn a_zone_tells_its_offsets_and_their_changes() {
        let (from, to) = (ms("2026-01-01T00:00:00Z"), ms("2027-01-01T00:00:00Z"));
        let minutes = |name: &str| {
            let offsets = Zone::named(name).unwrap().offsets(from, to);
            offsets.into_iter().map(|(at, ahead)| (at, ahead / 60_000)).collect::<Vec<_>>()
        };
        assert_eq!(minutes("UTC"), [(from, 0)]);
        assert_eq!(minutes("Asia/Kolkata"), [(from, 330)]);
        let changes = [(ms("2026-03-29T01:00:00Z"), 120), (ms("2026-10-25T01:00:00Z"), 60)];
        assert_eq!(minutes("Europe/Warsaw"), [(from, 60), changes[0], changes[1]]);
        assert_eq!(Zone::named("Europe/Warsaw").unwrap().offsets(changes[0].0, changes[1].0).len(), 1);
    }

    #[test]
    fn days_have_dates() {
        for (day, date) in [(0, "1970-01-01"), (20_541, "2026-03-29"), (11_016, "2000-02-29")] {
            assert_eq!(date_of_day(day), date);
        }
    }
}
