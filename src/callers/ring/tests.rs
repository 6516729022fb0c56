//! How long it takes to find a key among few and among many. Only release says something: see `benches/README.md`.

use std::hint::black_box;
use std::time::Instant as Clock;

use serde_json::json;

use super::*;

/// Look-ups in one round, and rounds of each ring, in turn.
const LOOK_UPS: u32 = 50_000;
const ROUNDS: usize = 21;

/// A ring with so many keys, and their secrets.
fn ring_of(count: usize) -> (KeyRing, Vec<Secret>) {
    let (mut keys, mut secrets) = (Vec::new(), Vec::new());
    for number in 0..count {
        let secret = Secret::generate().unwrap();
        let key = json!({"id": format!("key_{number}"), "name": "k", "prefix": secret.prefix(), "created_ms": 0,
            "digest": serde_json::to_value(secret.digest()).unwrap()});
        keys.push(serde_json::from_value(key).unwrap());
        secrets.push(secret);
    }
    let ring = KeyRing::default();
    ring.replace(keys);
    (ring, secrets)
}

/// Nanoseconds of one look-up. Each is of another key than the one before, in no order that a processor could learn.
fn round(ring: &KeyRing, secrets: &[Secret], is_there: bool) -> f64 {
    let began = Clock::now();
    let mut at = 1;
    for _ in 0..LOOK_UPS {
        at = (at * 7919 + 13) % secrets.len();
        assert_eq!(ring.find(black_box(&secrets[at]), 1).is_ok(), is_there);
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(LOOK_UPS)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn every_key_of_many_is_found_and_no_other() {
    let (ring, secrets) = ring_of(2000);
    for (number, secret) in secrets.iter().enumerate() {
        assert_eq!(ring.find(secret, 1).unwrap().key.id, format!("key_{number}"));
    }
    assert_eq!(ring.find(&Secret::generate().unwrap(), 1).unwrap_err(), Unknown::NoKey);
}

#[test]
#[ignore = "only release says something"]
fn a_key_is_found_among_ten_thousand_as_among_ten() {
    let rings = [ring_of(10), ring_of(10_000)];
    let strangers: Vec<Secret> = (0..1000).map(|_| Secret::generate().unwrap()).collect();
    let mut seen: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..ROUNDS {
        for ((ring, secrets), seen) in rings.iter().zip(&mut seen) {
            seen[0].push(round(ring, secrets, true));
            seen[1].push(round(ring, &strangers, false));
        }
    }
    let [[few, few_wrong], [many, many_wrong]] = seen.map(|kinds| kinds.map(median));
    println!("a look-up among 10 keys: {few:.0} ns, of a wrong key {few_wrong:.0} ns");
    println!("a look-up among 10,000 keys: {many:.0} ns, of a wrong key {many_wrong:.0} ns");
    // A request costs some thirty microseconds.
    assert!(many - few < 1000.0 && many_wrong - few_wrong < 1000.0, "it is to be seen in a request");
}
