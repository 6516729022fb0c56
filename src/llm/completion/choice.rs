//! A choice of a whole answer, as far as the gateway must know it: that it is one, and that it has ended.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::super::frame::is_reason;

/// A choice.
#[derive(Debug)]
pub(super) struct Choice {
    /// Whether it says why it ended.
    pub(super) has_ended: bool,
}

#[derive(Deserialize)]
struct Members {
    #[serde(default)]
    finish_reason: Reason,
}

/// Whether there is a reason, which is not kept.
#[derive(Default)]
struct Reason(bool);

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject;

        impl<'de> Visitor<'de> for OfObject {
            type Value = Choice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a choice")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Choice, A::Error> {
                let members = Members::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Choice { has_ended: members.finish_reason.0 })
            }
        }

        // A list is no choice, though a list of members would be read as an object.
        deserializer.deserialize_map(OfObject)
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfText;

        impl Visitor<'_> for OfText {
            type Value = Reason;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a finish reason")
            }

            fn visit_str<E>(self, reason: &str) -> Result<Reason, E> {
                Ok(Reason(is_reason(reason)))
            }

            fn visit_unit<E>(self) -> Result<Reason, E> {
                Ok(Reason(false))
            }
        }

        deserializer.deserialize_any(OfText)
    }
}
