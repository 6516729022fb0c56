//! Percentiles and medians, and the clock that all parts share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the clock that is the same in all processes of a machine.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The least value that is not below `percent` of all; not a number if there is none.
pub fn percentile(sorted: &[u64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(f64::NAN, |value| *value as f64)
}

/// The middle value, or the mean of the two; not a number if one of them is missing or there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        Some(upper) if sorted.len() % 2 == 1 => *upper,
        Some(upper) => f64::midpoint(sorted.get(middle - 1).copied().unwrap_or(f64::NAN), *upper),
        None => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<u64> = (1..=200).collect();
        let seen = [0, 50, 90, 99, 100].map(|percent| percentile(&values, percent));
        assert_eq!(seen, [1.0, 100.0, 180.0, 198.0, 200.0]);
        assert_eq!(percentile(&[7], 99), 7.0);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn the_median_does_not_heed_outliers() {
        assert_eq!(median(&[3.0, 1000.0, 1.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 1000.0]), 3.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_clock_goes_on() {
        let earlier = now_ns();
        assert!(now_ns() >= earlier && earlier > 0);
    }
}
