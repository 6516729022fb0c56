//! A sliding minute: how much there was in any sixty seconds, so that no edge lets twice as much through.

use tokio::time::Instant;

/// The minute is counted in parts of a second each; the oldest part counts whole until all of it is over.
const PARTS: usize = 61;
/// A minute, in seconds.
const MINUTE: u64 = 60;

/// What there was in the last minute.
#[derive(Clone, Debug)]
pub(super) struct Window {
    began: Instant,
    /// By second, modulo their number.
    parts: [u64; PARTS],
    /// The last second that was looked at, since the beginning.
    second: u64,
    sum: u64,
}

/// When something was counted, so that it can be put right later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(u64);

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, parts: [0; PARTS], second: 0, sum: 0 }
    }

    /// What was counted in the minute before `now`.
    pub(super) fn sum(&mut self, now: Instant) -> u64 {
        let second = now.saturating_duration_since(self.began).as_secs();
        let passed = second.saturating_sub(self.second).min(PARTS as u64);
        for step in 1..=passed {
            if let Some(part) = self.parts.get_mut(index(self.second + step)) {
                self.sum -= *part;
                *part = 0;
            }
        }
        self.second = self.second.max(second);
        self.sum
    }

    /// Counts.
    pub(super) fn add(&mut self, amount: u64, now: Instant) -> Mark {
        self.sum(now);
        if let Some(part) = self.parts.get_mut(index(self.second)) {
            let amount = amount.min(u64::MAX - self.sum);
            *part += amount;
            self.sum += amount;
        }
        Mark(self.second)
    }

    /// What was counted as `before` is in truth `after`: where it still counts, that is put right. If it counts no more,
    /// what was too little counts now, so that what takes long is not for nothing.
    pub(super) fn correct(&mut self, mark: Mark, before: u64, after: u64, now: Instant) {
        self.sum(now);
        if self.second - mark.0 >= PARTS as u64 {
            self.add(after.saturating_sub(before), now);
            return;
        }
        if let Some(part) = self.parts.get_mut(index(mark.0)) {
            let others = self.sum - *part;
            let corrected = part.saturating_sub(before).saturating_add(after).min(u64::MAX - others);
            (*part, self.sum) = (corrected, others + corrected);
        }
    }

    /// Seconds until no more than `most` is left of what was counted; 0 if that is so now.
    pub(super) fn seconds_until(&mut self, most: u64, now: Instant) -> u64 {
        if self.sum(now) <= most {
            return 0;
        }
        let oldest = self.second.saturating_sub(MINUTE);
        // The newest first: mostly it is asked when all is over, and that is soon found.
        let mut newer: u64 = 0;
        for second in (oldest..=self.second).rev() {
            newer += self.parts.get(index(second)).copied().unwrap_or(0);
            if newer > most {
                return second + MINUTE + 1 - self.second;
            }
        }
        0
    }
}

fn index(second: u64) -> usize {
    usize::try_from(second % PARTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(began: Instant, millis: u64) -> Instant {
        began + Duration::from_millis(millis)
    }

    #[test]
    fn what_is_older_than_a_minute_counts_no_more() {
        let began = Instant::now();
        let mut window = Window::new(began);
        window.add(5, at(began, 500));
        window.add(7, at(began, 30_000));
        for (millis, sum) in
            [(30_000, 12), (60_400, 12), (60_999, 12), (61_000, 7), (90_999, 7), (91_000, 0), (900_000, 0)]
        {
            assert_eq!(window.clone().sum(at(began, millis)), sum, "{millis}");
        }
    }

    #[test]
    fn no_minute_has_more_than_was_counted_in_it() {
        let began = Instant::now();
        let mut window = Window::new(began);
        let mut log: Vec<(u64, u64)> = Vec::new();
        let mut chance = 1_u64;
        for _ in 0..5000 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let millis = log.last().map_or(0, |(millis, _)| *millis) + (chance >> 33) % 700;
            let now = at(began, millis);
            if window.sum(now) < 20 {
                window.add(1, now);
                log.push((millis, 1));
            } else {
                log.push((millis, 0));
            }
        }
        for (from, _) in &log {
            let minute = log.iter().filter(|(millis, _)| (*from..from + 60_000).contains(millis));
            assert!(minute.map(|(_, amount)| amount).sum::<u64>() <= 20, "{from}");
        }
        assert!(log.iter().map(|(_, amount)| amount).sum::<u64>() > 400, "and it lets through what it may");
    }

    #[test]
    fn what_was_counted_can_be_put_right() {
        let began = Instant::now();
        let mut window = Window::new(began);
        let mark = window.add(100, at(began, 0));
        window.add(10, at(began, 5000));
        window.correct(mark, 100, 40, at(began, 20_000));
        assert_eq!(window.sum(at(began, 20_000)), 50);
        assert_eq!(window.sum(at(began, 61_000)), 10);
        window.correct(mark, 40, 400, at(began, 62_000));
        assert_eq!(window.sum(at(began, 62_000)), 370, "what was too little counts now");
        window.correct(mark, 400, 40, at(began, 62_000));
        assert_eq!(window.sum(at(began, 62_000)), 370, "what was too much has been over for long");
        window.add(u64::MAX, at(began, 62_000));
        window.correct(mark, 0, u64::MAX, at(began, 62_000));
        assert_eq!(window.sum(at(began, 62_000)), u64::MAX);
        assert_eq!(window.sum(at(began, 200_000)), 0);
    }

    #[test]
    fn it_tells_when_there_is_room_again() {
        let began = Instant::now();
        let mut window = Window::new(began);
        window.add(10, at(began, 0));
        window.add(5, at(began, 10_000));
        for (most, seconds) in [(15, 0), (14, 41), (5, 41), (4, 51), (0, 51)] {
            assert_eq!(window.seconds_until(most, at(began, 20_000)), seconds, "{most}");
        }
    }
}
