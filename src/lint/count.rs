//! Counts of which none is no count: what is limited to 0 is not limited but closed.

use std::fmt;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// Reads a count, or nothing. That 0 is none is left to whoever knows what to do instead; here only the words for
/// everything else do not offer it.
///
/// # Errors
/// It is no whole number.
pub fn count_from_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserializer.deserialize_option(Count)
}

struct Count;

impl<'de> Visitor<'de> for Count {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 1")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_u64<E: Error>(self, count: u64) -> Result<Self::Value, E> {
        Ok(Some(count))
    }

    fn visit_i64<E: Error>(self, count: i64) -> Result<Self::Value, E> {
        u64::try_from(count).map(Some).map_err(|_| E::invalid_value(Unexpected::Signed(count), &self))
    }
}
