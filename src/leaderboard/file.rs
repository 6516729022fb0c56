//! The data file: sources, and each model's figures in the sources' own units.
//!
//! Reading checks everything; writing gives one model a line, so that a change can be looked at.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::formats::{MOST_NAME_BYTES, MOST_ROWS, is_date, is_name};
use crate::config::{Fault, LeaderboardFormat, LeaderboardSource};
use crate::lint::{self, Object, Syntax};

/// Longer files are no leaderboard.
const MOST_BYTES: u64 = 8 * 1024 * 1024;
const MOST_SOURCES: usize = 50;

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// When it was put together: `2025-10-03`.
    pub date: String,
    /// For whoever reads it.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Where the figures come from.
    #[serde(deserialize_with = "members")]
    pub sources: Vec<Source>,
    /// Each model's figures, by the names that sources use, and then by source.
    pub models: BTreeMap<String, BTreeMap<String, f64>>,
}

/// Where figures come from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A short name, by which its figures stand with the models.
    pub name: String,
    /// Where to fetch them.
    pub url: String,
    /// In which form they are there.
    pub format: String,
    /// On what terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// How old they are: the day or month of the newest row, or when they were fetched.
    pub date: String,
    /// What is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<String>,
    /// In which unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<String>,
    /// What else there is to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}

/// A list of objects, each of which has to be written as one.
fn members<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Source>, D::Error> {
    Vec::<Object<Source>>::deserialize(deserializer)
        .map(|list| list.into_iter().map(|object| object.0).collect())
}

impl Source {
    /// What stands for a licence that nobody has stated.
    pub const UNKNOWN_LICENCE: &str = "unknown";

    /// Whether figures of this source and of that one come from the same place.
    pub fn is_same(&self, other: &LeaderboardSource) -> bool {
        self.name == other.name && self.url == other.url && self.format == other.format.name()
    }

    /// The source as the configuration of an update has it, if its format is known.
    pub fn config(&self) -> Option<LeaderboardSource> {
        Some(LeaderboardSource {
            name: self.name.clone(),
            url: self.url.clone(),
            format: LeaderboardFormat::of(&self.format)?,
            licence: self.licence.clone(),
            // They tell where the figures of this file came from, not where fresh ones do.
            notes: None,
        })
    }
}

impl Figures {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let place = path.display().to_string();
        let unreadable = |problem: String| {
            Fault::new(
                &place,
                problem,
                "make it readable, or move it away for the figures that come with the program",
            )
        };
        let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let mut text = String::new();
        let read = file.take(MOST_BYTES + 1).read_to_string(&mut text);
        match read {
            Ok(bytes) if bytes as u64 > MOST_BYTES => Err(unreadable("is longer than 8 MiB".to_owned())),
            Ok(_) => Self::parse(&place, &text),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// Something in it is wrong.
    pub fn parse(place: &str, text: &str) -> Result<Self, Fault> {
        let figures = lint::read::<Object<Self>>(Syntax::Json, lint::without_byte_order_mark(text)).map_err(
            |misread| {
                let line = misread.line.map(|line| format!(": line {line}")).unwrap_or_default();
                let path =
                    if misread.path.is_empty() { String::new() } else { format!(": {}", misread.path) };
                Fault::new(format!("{place}{line}{path}"), misread.problem, misread.cure)
            },
        )?;
        figures.0.checked(place)
    }

    fn checked(self, place: &str) -> Result<Self, Fault> {
        let fault = |path: String, problem: &str, cure: &str| {
            Err(Fault::new(format!("{place}: {path}"), problem.to_owned(), cure.to_owned()))
        };
        let a_date = "give a day such as 2025-10-03, or a month such as 2025-10";
        if !is_date(&self.date) {
            return fault("date".to_owned(), &format!("`{}` is no date", self.date), a_date);
        }
        if self.sources.len() > MOST_SOURCES {
            return fault("sources".to_owned(), "there are more than 50", "leave some out");
        }
        for (at, source) in self.sources.iter().enumerate() {
            let path = |key: &str| format!("sources[{at}].{key}");
            if !is_name(&source.name) || self.sources.iter().take(at).any(|other| other.name == source.name) {
                return fault(
                    path("name"),
                    "is empty, too long, or stands twice",
                    "give each source a name of its own",
                );
            }
            if !is_date(&source.date) {
                return fault(path("date"), &format!("`{}` is no date", source.date), a_date);
            }
        }
        if self.models.len() > MOST_ROWS * MOST_SOURCES {
            return fault("models".to_owned(), "there are too many", "leave some out");
        }
        for (model, figures) in &self.models {
            if !is_name(model) {
                let problem = format!("a model has a name of no or more than {MOST_NAME_BYTES} characters");
                return fault("models".to_owned(), &problem, "leave it out");
            }
            if let Some(unknown) =
                figures.keys().find(|name| !self.sources.iter().any(|it| it.name == **name))
            {
                let cure =
                    lint::did_you_mean(unknown, self.sources.iter().map(|source| source.name.as_str()));
                return fault(
                    format!("models.{model}"),
                    &format!("`{unknown}` is none of the sources"),
                    &cure,
                );
            }
        }
        Ok(self)
    }

    /// The rows of one source.
    pub fn rows_of<'a>(&'a self, source: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let rows = self.models.iter();
        rows.filter_map(move |(model, figures)| Some((model.as_str(), *figures.get(source)?)))
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let indented = |value: String| value.replace('\n', "\n  ");
        let pretty = |value: serde_json::Result<String>| indented(value.unwrap_or_default());
        let date = serde_json::Value::from(self.date.as_str());
        let notes = pretty(serde_json::to_string_pretty(&self.notes));
        let sources = pretty(serde_json::to_string_pretty(&self.sources));
        let models = self.models.iter().map(|(model, figures)| {
            let figures = figures.iter().map(|(source, figure)| {
                format!("{}: {}", serde_json::Value::from(source.as_str()), serde_json::Value::from(*figure))
            });
            let figures = figures.collect::<Vec<_>>().join(", ");
            format!("\n    {}: {{{figures}}}", serde_json::Value::from(model.as_str()))
        });
        let models = models.collect::<Vec<_>>().join(",");
        format!(
            "{{\n  \"date\": {date},\n  \"notes\": {notes},\n  \"sources\": {sources},\n  \"models\": {{{models}\n  }}\n}}\n"
        )
    }

    /// Writes the file: whole, or not at all. Who reads it meanwhile reads the one before.
    ///
    /// # Errors
    /// The folder cannot be made, or the file not be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        // A link stays one.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.map_or_else(|| PathBuf::from("."), Path::to_owned);
        fs::create_dir_all(&folder)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let beside = folder.join(format!(".{name}.{}.new", std::process::id()));
        let written = write_new(&beside, &self.text()).and_then(|()| fs::rename(&beside, &path));
        if written.is_err() {
            // What is left of it is of no use to anybody.
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // Left by a process of the same number that was killed.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{
        "date": "2025-10-03",
        "sources": [{"name": "one", "url": "https://one.example", "format": "scores", "date": "2025-10"}],
        "models": {"a \"quoted\" name": {"one": 12.5}, "b": {"one": -3}}}"#;

    #[test]
    fn what_is_written_is_read_again() {
        let figures = Figures::parse("f", SMALL).unwrap();
        let text = figures.text();
        assert!(text.contains("\n    \"b\": {\"one\": -3.0}\n"), "one model a line:\n{text}");
        assert_eq!(Figures::parse("f", &text).unwrap(), figures);
    }

    #[test]
    fn faults_name_file_place_and_cure() {
        for (from, to, words) in [
            ("\"date\": \"2025-10-03\"", "\"date\": \"soon\"", &["f.json: date", "`soon`", "2025-10"][..]),
            (
                "\"one\": 12.5",
                "\"oen\": 12.5",
                &["f.json: models.a \"quoted\" name", "`oen`", "known here are one"],
            ),
            ("\"one\": 12.5", "\"one\": \"much\"", &["f.json: line 4", "a number"]),
            ("\"format\"", "\"fromat\"", &["sources[0]", "fromat", "did you mean `format`"]),
            ("\"models\"", "\"modles\"", &["modles", "did you mean `models`"]),
            ("\"date\": \"2025-10\"}", "\"date\": \"\"}", &["sources[0].date"]),
            ("\"name\": \"one\"", "\"name\": \"\"", &["sources[0].name"]),
            ("{\"one\": 12.5}", "[]", &["f.json: line 4"]),
            ("-3}}}", "", &["f.json: line 4", "JSON"]),
        ] {
            let text = SMALL.replacen(from, to, 1);
            let fault = Figures::parse("f.json", &text).unwrap_err().to_string();
            for word in words {
                assert!(fault.contains(word), "{word} is missing in {fault}");
            }
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/deep/board.json");
        let figures = Figures::parse("f", SMALL).unwrap();
        figures.write(&path).unwrap();
        figures.write(&path).unwrap();
        assert_eq!(Figures::read(&path).unwrap(), figures);
        let names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["board.json"], "nothing is left beside it");

        let link = folder.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Figures { date: "2026-01-01".to_owned(), ..figures }.write(&link).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(Figures::read(&path).unwrap().date, "2026-01-01");
    }

    #[test]
    fn what_cannot_be_written_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("board.json");
        fs::create_dir(&path).unwrap();
        let figures = Figures::parse("f", SMALL).unwrap();
        assert!(figures.write(&path).is_err(), "a folder is no file");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(Figures::read(&path).is_err() && Figures::read(&folder.path().join("none")).is_err());
    }
}
