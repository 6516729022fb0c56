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
    let mut id = String::with_capacity(prefix.len() + 24);
    id.push_str(prefix);
    push_hex(&mut id, *PROCESS, 16);
    push_hex(&mut id, COUNT.fetch_add(1, Ordering::Relaxed), 8);
    id
}

/// At least so many digits. By hand: every request has an id, and formatting takes longer.
fn push_hex(text: &mut String, number: u64, digits: u32) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let significant = 16 - number.leading_zeros() / 4;
    for place in (0..digits.max(significant)).rev() {
        let digit = DIGITS.get((number >> (4 * place) & 0xf) as usize);
        text.push(char::from(digit.copied().unwrap_or_default()));
    }
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

    #[test]
    fn digits_are_hexadecimal() {
        for number in [0, 1, 0xf, 0x10, 0xabc_def0, 0xffff_ffff, 0x1_0000_0000, u64::MAX] {
            let mut text = String::new();
            push_hex(&mut text, number, 8);
            assert_eq!(text, format!("{number:08x}"));
        }
    }
}
