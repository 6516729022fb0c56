//! What the readers of operators' files share: JSON and YAML whose faults have a place, a line and a cure in words,
//! the ranges of request members, paths that lead nowhere else, and the word that was probably meant.
//!
//! Serves the models file, the front matter of prompts, the figures of leaderboards and raw requests. Knows none of them.

mod all;
mod count;
mod paths;
mod ranges;
mod read;
mod text;

pub use all::{Readable, read_all};
pub use count::count_from_one;
pub use paths::{path_fault, percent_decoded};
pub use ranges::out_of_range;
pub use read::{Misread, Object, Syntax, expected_in_words, read};
pub use text::{read_text, without_byte_order_mark};

/// Nothing of a longer name is looked for.
const LONGEST_NAME: usize = 512;

/// The one of `known` that was most likely meant by `name`, if any comes near.
pub fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // No name that is known anywhere is longer, and looking costs the product of the lengths.
    if name.len() > LONGEST_NAME {
        return None;
    }
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&name, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The one of `known` from which `name` differs by a slip of the finger or two. Stricter than [`nearest`]: for names that
/// may as well be right.
pub fn misspelt<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if name.len() > LONGEST_NAME {
        return None;
    }
    let slips = if name.len() < 6 { 1 } else { 2 };
    let distances = known.into_iter().map(|known| (strsim::osa_distance(name, known), known));
    distances.filter(|(distance, _)| (1..=slips).contains(distance)).min().map(|(_, known)| known)
}

/// Whether a text has the form of a language tag (BCP-47), such as `pl`, `pt-BR` or `zh_Hant`.
pub fn is_language_tag(tag: &str) -> bool {
    let subtags: Vec<&str> = tag.trim().split(['-', '_']).collect();
    let sane =
        |subtag: &&str| (1..=8).contains(&subtag.len()) && subtag.bytes().all(|b| b.is_ascii_alphanumeric());
    let is_language = |primary: &&str| primary.len() >= 2 && primary.bytes().all(|b| b.is_ascii_alphabetic());
    subtags.len() <= 9 && subtags.iter().all(sane) && subtags.first().is_some_and(is_language)
}

/// A cure for an unknown name: the one that was probably meant, or else all that there are.
pub fn did_you_mean<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "take it out".to_owned(),
        None => format!("known here are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_known_by_their_form() {
        for tag in ["en", "pt-BR", "zh_Hant-TW", "sr-Latn", "english", " pl "] {
            assert!(is_language_tag(tag), "{tag}");
        }
        for tag in ["", "e", "e n", "en_US.UTF-8", "12", "en-", "en--US", "abcdefghi"] {
            assert!(!is_language_tag(tag), "{tag}");
        }
    }

    #[test]
    fn only_slips_of_the_finger_are_misspelt() {
        let known = ["temperature", "max_tokens", "top_k", "top_p", "seed"];
        for (name, meant) in [
            ("temprature", Some("temperature")),
            ("max_token", Some("max_tokens")),
            ("topk", Some("top_k")),
            ("sede", Some("seed")),
            ("guided_json", None),
            ("seed", None),
            ("min_tokens", Some("max_tokens")),
            ("speed_up", None),
        ] {
            assert_eq!(misspelt(name, known), meant, "{name}");
        }
    }

    #[test]
    fn a_slip_finds_its_word() {
        assert_eq!(nearest("contxt", ["context", "upstream"]), Some("context"));
        assert_eq!(nearest("LISTN", ["LISTEN", "TIMEOUT"]), Some("LISTEN"));
        assert_eq!(nearest("zzz", ["context", "upstream"]), None);
        assert_eq!(did_you_mean("zzz", ["context", "upstream"]), "known here are context, upstream");
        assert_eq!(did_you_mean("zzz", []), "take it out");
        assert_eq!(nearest(&"a".repeat(5_000_000), ["aaaa"]), None);
    }
}
