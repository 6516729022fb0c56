//! Where a provider is, where it is asked what models it has, and how often.

use std::time::Duration;

use super::expand::Expansion;
use super::raw::{RawModels, RawProvider};
use super::{ProviderConfig, Reader, checks};

impl Reader<'_> {
    pub(super) fn url(
        &mut self,
        place: &str,
        (key, text): (&str, &str),
        expansion: &mut Expansion<'_>,
    ) -> String {
        let url = expansion.expand(text);
        if let Some(ending) = checks::endpoint_at_the_end(key, &url) {
            let problem = format!("`{key}` ends in `{ending}`, which is one endpoint of the server");
            self.fault(place, &problem, &format!("leave `{ending}` off"));
        }
        url
    }

    pub(super) fn discover_every(&mut self, place: &str, raw: &RawProvider) -> Duration {
        if let Some(RawModels::Listed(_)) = raw.models {
            let stated =
                [("models_url", raw.models_url.is_some()), ("discover_every", raw.discover_every.is_some())];
            for (key, _) in stated.iter().filter(|(_, is_stated)| *is_stated) {
                self.warn(place, &format!("`{key}` has no effect, for the models are listed"));
            }
        }
        if let Some(seconds) = raw.discover_every.filter(|seconds| *seconds < 1.0) {
            self.fault(place, &format!("`discover_every` is {seconds}"), "give seconds, 1 or more");
            return ProviderConfig::DISCOVER_EVERY;
        }
        self.seconds(place, "discover_every", raw.discover_every, ProviderConfig::DISCOVER_EVERY)
    }
}
