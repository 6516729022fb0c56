//! Names for requests and answers that are different from each other.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Different in every process, so that ids of two replicas do not meet.
static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A name, the prefix and 24 hexadecimal digits, that no other call of any process gives. It is no secret: it can be
/// guessed from its neighbours.
pub fn unique_id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A number that no other call gets, here or in another process.
pub fn unique_number() -> u64 {
    // Processes begin anywhere, so that what they count does not meet.
    PROCESS.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ() {
        assert_ne!(unique_number(), unique_number());
    }

    #[test]
    fn ids_differ() {
        let (one, two) = (unique_id("req_"), unique_id("req_"));
        assert_ne!(one, two);
        assert_eq!(one.len(), 28);
    }
}
