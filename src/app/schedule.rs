//! When each provider is asked again what models it has.
//!
//! Pure. One that has told its models is asked at its own interval; one that keeps silent soon, and then less and less
//! often, for it may be loading, or gone for days.

use std::time::Duration;

use tokio::time::Instant;

/// How soon a silent provider is asked for the first time.
const SOON: Duration = Duration::from_secs(5);
/// How often a silent one is asked at least.
const SELDOM: Duration = Duration::from_secs(600);

/// All providers that are asked.
#[derive(Debug, Default)]
pub(super) struct Schedule(Vec<Turn>);

#[derive(Debug)]
struct Turn {
    provider: String,
    every: Duration,
    /// None while it is being asked.
    due: Option<Instant>,
    /// How often it has been asked in vain since it last told anything.
    silences: u32,
}

impl Turn {
    fn told(&mut self, has_models: bool, now: Instant) {
        self.silences = if has_models { 0 } else { self.silences.saturating_add(1) };
        let wait = match self.silences {
            0 => self.every,
            // The exponent is small enough for any duration.
            silences => SOON.saturating_mul(1 << (silences - 1).min(10)).min(self.every).min(SELDOM),
        };
        self.due = Some(now + wait);
    }
}

impl Schedule {
    /// Adds a provider that has just been asked.
    pub(super) fn add(&mut self, provider: &str, every: Duration, has_models: bool, now: Instant) {
        let mut turn = Turn { provider: provider.to_owned(), every, due: None, silences: 0 };
        turn.told(has_models, now);
        self.0.push(turn);
    }

    /// A provider is being asked: it has no time until what it tells is [`Schedule::told`].
    pub(super) fn is_asked(&mut self, provider: &str) {
        if let Some(turn) = self.0.iter_mut().find(|turn| turn.provider == provider) {
            turn.due = None;
        }
    }

    /// When somebody is to be asked next; `None` if nobody is.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().filter_map(|turn| turn.due).min()
    }

    /// Who is to be asked now. Each of them once, until what it told is [`Schedule::told`].
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<String> {
        let due = self.0.iter_mut().filter(|turn| turn.due.is_some_and(|due| due <= now));
        due.map(|turn| {
            turn.due = None;
            turn.provider.clone()
        })
        .collect()
    }

    /// A provider that was asked has told its models, or has none to tell.
    pub(super) fn told(&mut self, provider: &str, has_models: bool, now: Instant) {
        if let Some(turn) = self.0.iter_mut().find(|turn| turn.provider == provider) {
            turn.told(has_models, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_A_MINUTE: Duration = Duration::from_secs(30);
    const A_DAY: Duration = Duration::from_secs(86_400);

    /// The seconds between the times at which a provider is asked that answers like this.
    fn waits(every: Duration, answers: &[bool]) -> Vec<u64> {
        let mut now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.add("p", every, answers[0], now);
        let mut waits = Vec::new();
        for has_models in answers.iter().skip(1).chain([&true]) {
            let next = schedule.next().unwrap();
            assert!(schedule.take_due(next - Duration::from_millis(1)).is_empty());
            assert_eq!(schedule.take_due(next), ["p"]);
            assert!(schedule.next().is_none() && schedule.take_due(next + A_DAY).is_empty(), "asked once");
            waits.push(next.duration_since(now).as_secs());
            schedule.told("p", *has_models, next);
            now = next;
        }
        waits
    }

    #[test]
    fn who_tells_is_asked_at_its_interval_and_who_is_silent_soon_and_less_and_less() {
        let (yes, no) = (true, false);
        assert_eq!(waits(HALF_A_MINUTE, &[yes, yes]), [30, 30]);
        assert_eq!(waits(HALF_A_MINUTE, &[no, no, no, no, no, yes]), [5, 10, 20, 30, 30, 30]);
        assert_eq!(waits(A_DAY, &[yes, yes, no, no, yes]), [86_400, 86_400, 5, 10, 86_400]);
        let silent = waits(A_DAY, &[no; 80]);
        assert_eq!(silent[..9], [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(silent[79], 600);
        assert_eq!(waits(Duration::from_secs(1), &[no, no]), [1, 1]);
    }

    #[test]
    fn everyone_has_a_time_of_their_own() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        assert_eq!(schedule.next(), None);
        schedule.add("often", HALF_A_MINUTE, true, now);
        schedule.add("daily", A_DAY, true, now);
        assert_eq!(schedule.take_due(now + HALF_A_MINUTE), ["often"]);
        assert_eq!(schedule.next(), Some(now + A_DAY));
        schedule.is_asked("daily");
        assert_eq!(schedule.next(), None);
        schedule.told("daily", true, now);
        assert_eq!(schedule.next(), Some(now + A_DAY));
        schedule.told("gone", true, now);
        schedule.told("often", true, now + HALF_A_MINUTE);
        assert_eq!(schedule.next(), Some(now + 2 * HALF_A_MINUTE));
    }
}
