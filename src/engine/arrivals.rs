//! The requests that an engine works on and has answered nothing of yet, in the order of their arrival.
//!
//! When an engine crashes, the cause is, as far as can be told from outside, the request that came last: the ones before
//! it did no harm while they were alone. That one is not sent to another engine, which it would end as well; the others
//! are. Which one it was is settled once, by the first who asks after the crash: until then all others are still here.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Those of one engine.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    // A std mutex: held to add or remove a number.
    open: Mutex<Open>,
    culprit: OnceLock<Option<u64>>,
}

#[derive(Debug, Default)]
struct Open {
    so_far: u64,
    /// In their order.
    numbers: Vec<u64>,
}

/// A request that an engine works on. Dropped when the engine has answered the first of it, or has refused it.
#[derive(Debug)]
pub struct Arrival {
    number: u64,
    arrivals: Arc<Arrivals>,
}

impl Arrivals {
    /// A request arrives.
    pub(super) fn arrive(self: &Arc<Self>) -> Arrival {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.so_far += 1;
        let number = open.so_far;
        open.numbers.push(number);
        Arrival { number, arrivals: self.clone() }
    }

    fn last(&self) -> Option<u64> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).numbers.last().copied()
    }
}

impl Arrival {
    /// Whether it was the last one that arrived before the engine crashed. To be asked after the crash only.
    pub fn has_ended_the_engine(&self) -> bool {
        *self.arrivals.culprit.get_or_init(|| self.arrivals.last()) == Some(self.number)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut open = self.arrivals.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.numbers.retain(|number| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_alone_has_ended_the_engine() {
        let arrivals = Arc::new(Arrivals::default());
        drop(arrivals.arrive());
        assert!(arrivals.arrive().has_ended_the_engine());
    }

    #[test]
    fn of_several_it_is_the_last_whoever_asks_first() {
        for asked_first in 0..3 {
            let arrivals = Arc::new(Arrivals::default());
            let mut all: Vec<Arrival> = (0..3).map(|_| arrivals.arrive()).collect();
            // One that has its answer already, and one that was turned away.
            drop((arrivals.arrive(), arrivals.arrive()));
            let first = all.remove(asked_first);
            assert_eq!(first.has_ended_the_engine(), asked_first == 2);
            drop(first);
            let rest: Vec<bool> = all.into_iter().map(|arrival| arrival.has_ended_the_engine()).collect();
            assert_eq!(rest.iter().filter(|guilty| **guilty).count(), usize::from(asked_first != 2));
        }
    }
}
