//! What a provider says of its probe: `true`, `false`, or how it is to be done.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::Reader;
use crate::config::ProbeConfig;
use crate::lint::path_fault;

/// More often than this would be work for the server, and news to nobody.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// As it stands in the file.
pub(super) enum RawProbe {
    Word(bool),
    Settings(RawProbeSettings),
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawProbeSettings {
    path: Option<String>,
    interval: Option<f64>,
    timeout: Option<f64>,
    #[serde(rename = "comment")]
    _comment: Option<IgnoredAny>,
}

impl<'de> Deserialize<'de> for RawProbe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrSettings;

        // An untagged enum would lose the place of a fault inside.
        impl<'de> Visitor<'de> for WordOrSettings {
            type Value = RawProbe;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or an object such as {\"interval\": 10}")
            }

            fn visit_bool<E: Error>(self, word: bool) -> Result<RawProbe, E> {
                Ok(RawProbe::Word(word))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawProbe, A::Error> {
                RawProbeSettings::deserialize(MapAccessDeserializer::new(map)).map(RawProbe::Settings)
            }
        }

        deserializer.deserialize_any(WordOrSettings)
    }
}

impl Reader<'_> {
    pub(super) fn probe(&mut self, place: &str, raw: Option<RawProbe>) -> Option<ProbeConfig> {
        let default = ProbeConfig::default();
        let raw = match raw {
            None | Some(RawProbe::Word(false)) => return None,
            Some(RawProbe::Word(true)) => return Some(default),
            Some(RawProbe::Settings(raw)) => raw,
        };
        let place = format!("{place}.probe");
        if let Some(why) = raw.path.as_deref().and_then(path_fault) {
            self.fault(
                &place,
                &format!("`path` {why}"),
                "give a path below the server's root, such as /health",
            );
        }
        let interval = self.seconds(&place, "interval", raw.interval, default.interval);
        if interval < LEAST_INTERVAL {
            let problem = format!("`interval` is {}", interval.as_secs_f64());
            self.fault(&place, &problem, "give seconds, 0.1 or more");
        }
        let timeout = self.seconds(&place, "timeout", raw.timeout, default.timeout);
        Some(ProbeConfig { path: raw.path, interval, timeout })
    }
}
