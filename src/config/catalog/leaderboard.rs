//! What a models file says of leaderboards, checked.

use super::Reader;
use super::raw::{RawLeaderboard, RawLeaderboardSource};
use crate::config::{LeaderboardConfig, LeaderboardFormat, LeaderboardSource};
use crate::lint::did_you_mean;

/// More than these nobody would wait for.
const MOST_SOURCES: usize = 50;

impl Reader<'_> {
    pub(super) fn leaderboard(&mut self, raw: RawLeaderboard) {
        if raw.file.as_deref().is_some_and(|file| file.trim().is_empty()) {
            let cure = "name a file, or leave it out for data/leaderboard.json";
            self.fault("leaderboard.file", "names no file", cure);
        }
        if raw.sources.len() > MOST_SOURCES {
            self.fault("leaderboard.sources", "there are more than 50", "leave some out");
        }
        let mut sources: Vec<LeaderboardSource> = Vec::new();
        for (at, source) in raw.sources.into_iter().enumerate() {
            let place = format!("leaderboard.sources[{at}]");
            let name = source.0.name.clone().unwrap_or_default();
            if sources.iter().any(|other| other.name == name) {
                self.fault(
                    &place,
                    &format!("the name `{name}` stands twice"),
                    "give each source a name of its own",
                );
            }
            sources.extend(self.leaderboard_source(&place, source.0));
        }
        self.catalog.leaderboard = LeaderboardConfig { file: raw.file.map(Into::into), sources };
    }

    fn leaderboard_source(&mut self, place: &str, raw: RawLeaderboardSource) -> Option<LeaderboardSource> {
        let name = raw.name.unwrap_or_default();
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
            let cure = "give a `name` of up to 64 letters, digits, `-`, `_` and `.`";
            self.fault(place, "a source needs a short name", cure);
        }
        let url = raw.url.unwrap_or_default();
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).map(|rest| {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            rest.get(..end).unwrap_or_default()
        });
        if host.is_none_or(|host| host.is_empty() || host.contains('@')) || url.contains(char::is_whitespace)
        {
            self.fault(
                place,
                "`url` is no address of a page",
                "give one such as https://host.example/results.json",
            );
        } else if url.contains("${") {
            self.fault(place, "${…} is not replaced in `url`", "write the address itself");
        }
        let names = || LeaderboardFormat::NAMES.iter().map(|(known, _)| *known);
        let Some(format) = raw.format.as_deref() else {
            let known = names().collect::<Vec<_>>().join(", ");
            self.lack(place, "`format` is missing", &format!("give one of {known}"));
            return None;
        };
        let known = LeaderboardFormat::of(format);
        if known.is_none() {
            self.fault(place, &format!("the format `{format}` is unknown"), &did_you_mean(format, names()));
        }
        let (licence, notes) = (stated(raw.licence), stated(raw.notes));
        Some(LeaderboardSource { name, url, format: known?, licence, notes })
    }
}

/// What says nothing is not said.
fn stated(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use crate::config::{Catalog, Environment, LeaderboardFormat, Timeouts};

    fn load(leaderboard: &str) -> Result<Catalog, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("models.json");
        let text = format!(
            r#"{{"providers": {{"e": {{"type": "echo", "models": {{"m": {{}}}}}}}}, "leaderboard": {leaderboard}}}"#
        );
        std::fs::write(&path, text).unwrap();
        Catalog::load(&path, &Environment::default(), Timeouts::default(), false)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn file_and_sources_are_read() {
        let leaderboard = r#"{"comment": "c", "file": "boards/own.json", "sources": [
            {"name": "one", "url": "https://one.example/a.yml?b=1", "format": "aider", "licence": "MIT"},
            {"name": "two", "url": "http://127.0.0.1:1", "format": "scores", "licence": " ", "notes": "ours"}]}"#;
        let config = load(leaderboard).unwrap().leaderboard;
        assert_eq!(config.file.as_deref(), Some(std::path::Path::new("boards/own.json")));
        let formats: Vec<_> = config.sources.iter().map(|source| source.format).collect();
        assert_eq!(formats, [LeaderboardFormat::Aider, LeaderboardFormat::Scores]);
        let told = |at: usize| (config.sources[at].licence.as_deref(), config.sources[at].notes.as_deref());
        assert_eq!([told(0), told(1)], [(Some("MIT"), None), (None, Some("ours"))]);
        assert_eq!(load("{}").unwrap().leaderboard, crate::config::LeaderboardConfig::default());
    }

    #[test]
    fn faults_name_the_place_and_the_cure() {
        let source = |members: &str| format!(r#"{{"sources": [{{{members}}}]}}"#);
        let good = r#""name": "a", "url": "https://a.example", "format": "scores""#;
        for (leaderboard, words) in [
            (r#"{"fiel": "x"}"#.to_owned(), &["leaderboard.fiel", "did you mean `file`?"][..]),
            (r#"{"file": ""}"#.to_owned(), &["leaderboard.file", "data/leaderboard.json"]),
            ("[]".to_owned(), &["leaderboard", "an object"]),
            (source(r#""nmae": "a""#), &["leaderboard.sources[0]", "did you mean `name`?"]),
            (
                source(&good.replace("scores", "aidre")),
                &["leaderboard.sources[0]", "`aidre`", "did you mean `aider`?"],
            ),
            (
                source(&good.replace("\"format\": \"scores\"", "\"licence\": \"x\"")),
                &["`format` is missing", "aider, bigcodebench, scores"],
            ),
            (source(&good.replace("\"a\"", "\"a b\"")), &["leaderboard.sources[0]", "short name"]),
            (source(&good.replace("https:", "ftp:")), &["leaderboard.sources[0]", "`url`"]),
            (source(&good.replace("a.example", "me:secret@a.example")), &["leaderboard.sources[0]", "`url`"]),
            (source(&good.replace("a.example", "${HOST}/x")), &["leaderboard.sources[0]", "${…}"]),
            (
                format!(r#"{{"sources": [{{{good}}}, {{{good}}}]}}"#),
                &["leaderboard.sources[1]", "stands twice"],
            ),
        ] {
            let error = load(&leaderboard).unwrap_err();
            for word in words {
                assert!(error.contains(word), "`{word}` is missing for {leaderboard}: {error}");
            }
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
