//! The direction rule: every room uses only rooms of a lower rank, and third parties are kept where they belong.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Rooms and their ranks.
const RANKS: &[(&str, u8)] = &[
    ("confined", 0),
    ("fairness", 0),
    ("lint", 0),
    ("llm", 0),
    ("callers", 1),
    ("config", 2),
    ("prompts", 2),
    ("wire", 2),
    ("fetch", 3),
    ("local", 3),
    ("leaderboard", 3),
    ("telemetry", 3),
    ("engine", 4),
    ("shared", 4),
    ("store", 4),
    ("providers", 5),
    ("router", 6),
    ("accounts", 7),
    ("gateway", 7),
    ("reload", 7),
    ("api", 8),
    ("app", 9),
    ("cli", 10),
];

/// Who may use a third party.
const CONFINED: &[(&str, &[&str])] = &[
    ("poem", &["api"]),
    ("poem_openapi", &["api"]),
    ("validator", &["api"]),
    ("tokio_rustls", &["api"]),
    ("hyper", &["api", "engine", "providers"]),
    ("hyper_util", &["api", "engine", "providers"]),
    // Documents from the web are no answers of providers: they take no key, and are wanted whole or not at all.
    ("reqwest", &["fetch", "providers"]),
    ("ollama_rs", &["providers"]),
    ("flate2", &["providers"]),
    ("redis", &["shared"]),
    ("handlebars", &["prompts"]),
    ("sqlx", &["store"]),
    ("minijinja", &["engine"]),
    ("minijinja_contrib", &["engine"]),
    ("shimmytok", &["engine"]),
    ("envy", &["config"]),
    ("mlua", &["config"]),
    ("regex", &["config"]),
    ("std::env", &["config"]),
    ("clap", &["cli", "main"]),
    ("jiff", &["callers"]),
    ("getrandom", &["callers"]),
    ("subtle", &["callers"]),
    ("prometheus_client", &["telemetry", "router"]),
    ("tracing_subscriber", &["telemetry"]),
    ("tracing_appender", &["telemetry"]),
    ("rustix", &["app", "confined", "engine", "local", "prompts", "telemetry"]),
];

/// Exceptions, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    // Where the program was started, which is where `.env` is looked for: asked once, by the command.
    ("cli.rs", "std::env::current_dir"),
    // What an engine inherits is what this process really has, not what a `.env` file says.
    ("engine/inherited.rs", "std::env::vars_os"),
];

const MOST_LINES: usize = 500;

struct Source {
    path: PathBuf,
    room: String,
    /// Without comments, strings and what stands behind `#[cfg(test)]`.
    lines: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                sources.push(source(&root, &path));
            }
        }
    }
    sources
}

fn source(root: &Path, path: &Path) -> Source {
    let path_in_src = path.strip_prefix(root).unwrap().to_path_buf();
    let first = path_in_src.iter().next().unwrap().to_str().unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    // Whole files of tests are named by `#[cfg(test)] mod tests;`.
    let is_test = path_in_src.file_stem().is_some_and(|stem| stem == "tests");
    let production = text.lines().take_while(|line| *line != "#[cfg(test)]" && !is_test);
    Source {
        room: first.trim_end_matches(".rs").to_owned(),
        lines: production.map(without_comments_and_strings).collect(),
        path: path_in_src,
    }
}

fn without_comments_and_strings(line: &str) -> String {
    let line = line.replace("\\\"", "");
    let code = line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    code.split("//").next().unwrap_or_default().to_owned()
}

fn rank(room: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank)
}

/// Whether the code leads to `party`: by a path, or by an import of the whole of it.
fn uses(code: &str, party: &str) -> bool {
    code.match_indices(party).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let behind = &code[at + party.len()..];
        let is_whole = before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':'));
        is_whole
            && (behind.starts_with("::")
                || code.starts_with("use ") && behind.starts_with([';', ' ', '}', ',']))
    })
}

/// The rooms that a line names: `crate::room::…`, also several in braces.
fn rooms_named(code: &str) -> Vec<&str> {
    let Some((_, behind)) = code.split_once("crate::") else { return Vec::new() };
    let words = behind.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    if behind.starts_with('{') {
        words.filter(|word| rank(word).is_some()).collect()
    } else {
        words.take(1).collect()
    }
}

fn fail_with(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_room_uses_only_rooms_of_lower_rank() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| rank(&source.room).is_some()) {
        for (number, line) in source.lines.iter().enumerate() {
            for used in rooms_named(line).into_iter().filter(|used| *used != source.room) {
                if rank(used).is_none_or(|used| used >= rank(&source.room).unwrap()) {
                    faults.push(format!(
                        "src/{}:{}: `{}` uses `{used}`",
                        source.path.display(),
                        number + 1,
                        source.room
                    ));
                }
            }
        }
    }
    fail_with(&faults);
}

#[test]
fn every_file_belongs_to_a_room() {
    let known = |room: &str| rank(room).is_some() || matches!(room, "lib" | "main");
    let strangers = sources().into_iter().filter(|source| !known(&source.room));
    fail_with(&strangers.map(|source| source.path.display().to_string()).collect::<Vec<_>>());
}

#[test]
fn third_parties_stay_where_they_belong() {
    let mut faults = Vec::new();
    for source in sources() {
        for (party, rooms) in CONFINED.iter().filter(|(_, rooms)| !rooms.contains(&source.room.as_str())) {
            for line in source.lines.iter().filter(|line| uses(line, party)) {
                let excepted = EXCEPTIONS
                    .iter()
                    .any(|(file, words)| source.path.ends_with(file) && line.contains(words));
                if !excepted {
                    faults.push(format!(
                        "src/{}: `{party}` is for {rooms:?}: {}",
                        source.path.display(),
                        line.trim()
                    ));
                }
            }
        }
    }
    fail_with(&faults);
}

#[test]
fn every_file_says_what_it_is_for_and_is_short() {
    let mut faults = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for source in sources() {
        let text = std::fs::read_to_string(root.join(&source.path)).unwrap();
        if !text.starts_with("//! ") {
            faults.push(format!("src/{} does not begin with `//!`", source.path.display()));
        }
        if source.lines.len() > MOST_LINES {
            faults.push(format!("src/{} has {} lines", source.path.display(), source.lines.len()));
        }
    }
    fail_with(&faults);
}

#[test]
fn no_lint_is_silenced_without_a_reason() {
    let mut faults = String::new();
    for source in sources() {
        for line in source.lines.iter().filter(|line| line.contains("#[allow(") || line.contains("#![allow("))
        {
            writeln!(faults, "src/{}: {line}", source.path.display()).unwrap();
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn the_rule_finds_what_breaks_it() {
    assert_eq!(rooms_named("use crate::router::Route;"), ["router"]);
    assert_eq!(rooms_named("use crate::{api, llm::Usage};"), ["api", "llm"]);
    assert!(uses("fn f(request: poem::Request)", "poem") && uses("use reqwest;", "reqwest"));
    assert!(!uses("super::poem::Request", "poem") && !uses("let hyperbole = 1;", "hyper"));
    assert!(uses("let a = std::env::var(b);", "std::env"));
    assert_eq!(without_comments_and_strings(r#"let a = "crate::api"; // crate::api"#), "let a = \"\"; ");
}
