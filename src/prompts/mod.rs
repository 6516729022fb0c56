//! The prompt library: templates by name and language.
//!
//! A folder of text files becomes one immutable [`PromptLibrary`], checked as a whole: templates
//! compile, partials exist, and every language of a prompt asks for the same variables. Whoever renders
//! names a prompt and the languages that would do; a missing translation is never an error, unless asked.

mod coverage;
mod document;
mod fault;
mod folder;
mod front;
mod language;
mod library;
mod nesting;
mod pace;
mod parts;
mod schema;
mod shipped;
mod syntax;
mod template;

pub use coverage::{Coverage, Row, State};
pub use fault::{LibraryError, PromptFault};
pub use folder::Fingerprint;
pub use language::{Language, Wanted, accepted_languages};
pub use library::{PromptLibrary, PromptSummary, Rendered, Translation};
pub use parts::PromptPart;
pub use schema::Schema;

use crate::llm::shortened;

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Why a prompt cannot be rendered. All of them are the caller's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// No prompt has that name.
    #[error("the prompt `{}` does not exist{}", shortened(name), suggestion(nearest.as_deref()))]
    Unknown {
        /// What was asked for.
        name: String,
        /// One that was perhaps meant.
        nearest: Option<String>,
    },
    /// The prompt has no variant or version with that label.
    #[error("the prompt `{}` has no variant `{}`", shortened(name), shortened(label))]
    UnknownLabel {
        /// The prompt.
        name: String,
        /// What was asked for.
        label: String,
    },
    /// Asked for strictly, and not there.
    #[error("the prompt `{}` is not translated to `{}`", shortened(name), shortened(language))]
    NotTranslated {
        /// The prompt.
        name: String,
        /// What was asked for.
        language: String,
    },
    /// A variable that the template needs.
    #[error(
        "the prompt `{}` needs the variable `{}`{}",
        shortened(name),
        shortened(variable),
        unknown_instead(unknown)
    )]
    MissingVariable {
        /// The prompt.
        name: String,
        /// What it needs, as a path.
        variable: String,
        /// The variables that were given and that the prompt does not have.
        unknown: Vec<String>,
    },
    /// A variable that is not what the schema says.
    #[error("the variable `{}` {problem}", shortened(variable))]
    InvalidVariable {
        /// Where in the variables.
        variable: String,
        /// What is wrong, as the end of a sentence.
        problem: String,
    },
    /// It becomes too long with these variables, or takes too long.
    #[error(
        "the prompt `{0}` is too much work with these variables: it becomes too long, or repeats too often"
    )]
    TooLarge(String),
    /// The template failed for another reason.
    #[error("the prompt `{}` cannot be rendered: {problem}", shortened(name))]
    Failed {
        /// The prompt.
        name: String,
        /// The engine's words.
        problem: String,
    },
}

/// More names would not help to find the slip.
const MOST_NAMES: usize = 3;

/// What was given in the place of a variable, as the end of a sentence.
fn unknown_instead(unknown: &[String]) -> String {
    let names: Vec<String> =
        unknown.iter().take(MOST_NAMES).map(|name| format!("`{}`", shortened(name))).collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!("; {} was given, which it does not have", names.join(", ")),
    }
}
