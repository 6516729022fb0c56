//! Which language: BCP-47 tags and the choice among those that a prompt has.

use std::fmt;

use crate::lint::is_language_tag;

/// A language tag in a form that can be compared: subtags joined by `-`, in their usual case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Language(String);

impl Language {
    /// Reads a tag such as `pl`, `pt-BR` or `zh_Hant`; `None` when it is none.
    pub fn parse(tag: &str) -> Option<Self> {
        if !is_language_tag(tag) {
            return None;
        }
        let mut normal = String::with_capacity(tag.len());
        for (index, subtag) in tag.trim().split(['-', '_']).enumerate() {
            if index > 0 {
                normal.push('-');
            }
            normal.push_str(&usual_case(index, subtag));
        }
        Some(Self(normal))
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag itself, then ever more general ones: `zh-Hant-TW`, `zh-Hant`, `zh`.
    pub fn fallbacks(&self) -> impl Iterator<Item = &str> {
        let mut next = Some(self.0.as_str());
        std::iter::from_fn(move || {
            let tag = next?;
            next = tag.rsplit_once('-').map(|(shorter, _)| {
                // A single letter opens an extension and means nothing at the end (RFC 4647, 3.4).
                match shorter.rsplit_once('-') {
                    Some((before, last)) if last.len() == 1 => before,
                    _ => shorter,
                }
            });
            Some(tag)
        })
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Languages in small letters, regions in capitals, scripts with a capital.
fn usual_case(index: usize, subtag: &str) -> String {
    match (index, subtag.len()) {
        (0, _) => subtag.to_ascii_lowercase(),
        (_, 2) => subtag.to_ascii_uppercase(),
        (_, 4) if subtag.bytes().all(|b| b.is_ascii_alphabetic()) => {
            let (first, rest) = subtag.split_at(1);
            first.to_ascii_uppercase() + &rest.to_ascii_lowercase()
        }
        _ => subtag.to_ascii_lowercase(),
    }
}

/// The languages that would do, the best first.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What the request itself says.
    pub requested: Option<Language>,
    /// What the caller's software says (`Accept-Language`), the best first.
    pub accepted: Vec<Language>,
    /// Whether nothing but `requested` (or else the first of `accepted`) will do.
    pub strict: bool,
}

impl Wanted {
    /// The language named first, if any is named.
    pub fn first(&self) -> Option<&Language> {
        self.requested.as_ref().or(self.accepted.first())
    }

    /// The best of `available`: each wanted language with its fall-backs, then `default` with its
    /// own, then any. `None` when there is nothing, or nothing that is strictly wanted.
    pub fn choose<'a>(&self, default: &Language, available: &[&'a Language]) -> Option<&'a Language> {
        let find = |wanted: &Language| {
            wanted.fallbacks().find_map(|tag| available.iter().copied().find(|language| language.0 == tag))
        };
        if self.strict
            && let Some(first) = self.first()
        {
            return find(first);
        }
        let wanted = self.requested.iter().chain(&self.accepted);
        wanted.chain([default]).find_map(find).or_else(|| available.first().copied())
    }
}

/// The languages of an `Accept-Language` header, the most wanted first. Those with `q=0` are not wanted,
/// `*` and what cannot be read count for nothing.
pub fn accepted_languages(header: &str) -> Vec<Language> {
    let mut weighted: Vec<(u32, Language)> = Vec::new();
    // Browsers send fewer than ten; a long list is no wish.
    for part in header.split(',').take(32) {
        let mut pieces = part.split(';');
        let Some(language) = pieces.next().and_then(Language::parse) else { continue };
        let quality = pieces.find_map(quality);
        match quality.map_or(Some(1000), thousandths) {
            Some(0) | None => {}
            Some(quality) => weighted.push((quality, language)),
        }
    }
    // Stable, so equals stay in the order in which they were written.
    weighted.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    weighted.into_iter().map(|(_, language)| language).collect()
}

/// The value of a parameter that states the quality: `q` or `Q` (RFC 9110, 5.6.6).
fn quality(parameter: &str) -> Option<&str> {
    let (name, value) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("q").then_some(value)
}

/// A quality of 0 to 1 in thousandths.
fn thousandths(quality: &str) -> Option<u32> {
    let value = quality.trim().parse::<f64>().ok().filter(|value| (0.0..=1.0).contains(value))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
    Some((value * 1000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn language(tag: &str) -> Language {
        Language::parse(tag).unwrap()
    }

    fn languages(tags: &[&str]) -> Vec<Language> {
        tags.iter().map(|tag| language(tag)).collect()
    }

    #[test]
    fn tags_are_normalised() {
        for (given, kept) in
            [("PL", "pl"), ("pt_br", "pt-BR"), ("ZH-hant-tw", "zh-Hant-TW"), ("es-419", "es-419")]
        {
            assert_eq!(language(given).as_str(), kept);
        }
        for bad in ["", "p", "p l", "-", "pl-", "toolonglanguage", "12", "../etc", "pl/en", "ż"] {
            assert_eq!(Language::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn tags_fall_back_to_more_general_ones() {
        assert_eq!(language("zh-Hant-TW").fallbacks().collect::<Vec<_>>(), ["zh-Hant-TW", "zh-Hant", "zh"]);
        assert_eq!(language("en-x-pirate").fallbacks().collect::<Vec<_>>(), ["en-x-pirate", "en"]);
    }

    #[test]
    fn accept_language_is_sorted_by_quality() {
        assert_eq!(
            accepted_languages("da, en-gb;q=0.8, en;q=0.7, *;q=0.1, fr;q=0, pl;q=0.85, x;;, de;q=9"),
            languages(&["da", "pl", "en-GB", "en"])
        );
        assert_eq!(
            accepted_languages("en;Q=0.1, de; Q=0.9, fr;level=1;Q=0, pl;Q=.5"),
            languages(&["de", "pl", "en"])
        );
        assert!(accepted_languages("").is_empty());
    }

    #[test]
    fn the_choice_follows_the_chain() {
        let available = languages(&["de", "en", "pl"]);
        let available: Vec<&Language> = available.iter().collect();
        let english = language("en");
        let choose = |requested: Option<&str>, accepted: &[&str], strict| {
            let wanted = Wanted { requested: requested.map(language), accepted: languages(accepted), strict };
            wanted.choose(&english, &available).map(Language::as_str)
        };

        assert_eq!(choose(Some("pl-PL"), &["de"], false), Some("pl"));
        assert_eq!(choose(Some("fr"), &["de-AT"], false), Some("de"));
        assert_eq!(choose(Some("fr"), &["it"], false), Some("en"));
        assert_eq!(choose(None, &[], false), Some("en"));
        assert_eq!(choose(Some("fr"), &["de"], true), None);
        assert_eq!(choose(Some("de-CH"), &[], true), Some("de"));
        assert_eq!(choose(None, &[], true), Some("en"));

        let only_german = language("de");
        let wanted = Wanted { requested: Some(language("fr")), ..Wanted::default() };
        assert_eq!(wanted.choose(&english, &[&only_german]), Some(&only_german));
        assert_eq!(wanted.choose(&english, &[]), None);
    }
}
