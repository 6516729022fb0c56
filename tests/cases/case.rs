//! The form of a `case.json`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// The kind of fault, for readers.
    #[serde(rename = "kind")]
    _kind: String,
    /// Variables of the gateway's environment.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// The upstream gives the first answer that fits; 404 if there is none.
    #[serde(default)]
    pub(crate) answers: Vec<Answer>,
    /// Seconds since 1970: when all files say that they were changed.
    pub(crate) mtime: Option<u64>,
    /// Where the gateway's standard error goes instead of a file that is read.
    pub(crate) stderr: Option<String>,
    /// What happens before the start.
    #[serde(default)]
    pub(crate) before: Vec<Step>,
    #[serde(default)]
    pub(crate) start: Start,
    /// What standard error must hold after the start.
    #[serde(default)]
    pub(crate) said: Expected,
    #[serde(default)]
    pub(crate) steps: Vec<Step>,
}

/// Whether the gateway must start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Start {
    #[default]
    Yes,
    /// It must refuse to.
    No,
    /// It is not started: only commands are run.
    None,
}

/// An answer of the upstream.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    /// Its bytes.
    pub(crate) file: String,
    /// The path that is asked.
    pub(crate) path: Option<String>,
    /// The `model` of the body that is sent.
    pub(crate) model: Option<String>,
    /// Words in that body.
    #[serde(rename = "if")]
    pub(crate) words: Option<String>,
}

/// What a text must hold, and a status must be.
#[derive(Clone, Default, Deserialize)]
pub(crate) struct Expected {
    pub(crate) status: Option<Vec<u16>>,
    #[serde(default)]
    pub(crate) has: Vec<String>,
    #[serde(default)]
    pub(crate) lacks: Vec<String>,
}

/// A step, told apart by its first member.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Step {
    /// Waits for so many seconds.
    Sleep {
        sleep: f64,
    },
    /// Sends a signal, such as `HUP`.
    Signal {
        signal: String,
    },
    /// Runs a command of the program; `status` is its exit code.
    Run {
        run: Vec<String>,
        #[serde(default)]
        env: BTreeMap<String, String>,
        #[serde(flatten)]
        expected: Expected,
    },
    /// Puts a symbolic link in place, at once.
    Link {
        link: String,
        to: String,
    },
    /// Moves a file; `*` stands for anything.
    Move {
        r#move: String,
        to: String,
    },
    Copy {
        copy: String,
        to: String,
    },
    /// Whether a file is there; `*` stands for anything.
    There {
        there: String,
        is: bool,
    },
    /// Headers of the last request that the upstream got, and words of its path and body.
    Asked {
        asked: BTreeMap<String, String>,
        #[serde(flatten)]
        expected: Expected,
    },
    /// Figures of a model in the usage: a number, or the least and the most.
    Usage {
        usage: String,
        is: BTreeMap<String, Bounds>,
    },
    /// Sends a request.
    Send(Box<Send>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(crate) enum Bounds {
    Exactly(f64),
    Between(f64, f64),
}

/// A request, and what comes of it.
#[derive(Default, Deserialize)]
pub(crate) struct Send {
    /// A file with all the bytes of a request.
    pub(crate) raw: Option<String>,
    /// POST if nothing is said.
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    /// A file with the body.
    pub(crate) body: Option<String>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// With the admin key.
    #[serde(default)]
    pub(crate) admin: bool,
    /// Whether `has` and `lacks` look at the answer's head, too, in lower case.
    #[serde(default)]
    pub(crate) heads: bool,
    /// Whether a stream ends with `[DONE]`.
    pub(crate) done: Option<bool>,
    #[serde(flatten)]
    pub(crate) expected: Expected,
}

impl Expected {
    /// Holds `text` and `status` against what is expected.
    pub(crate) fn judge(&self, what: &str, status: Option<u16>, text: &str) -> Result<(), String> {
        let begin: String = text.chars().take(300).collect();
        if let (Some(known), Some(status)) = (&self.status, status)
            && !known.contains(&status)
        {
            return Err(format!("{what}: status {status}, not one of {known:?}: {begin}"));
        }
        if let Some(word) = self.has.iter().find(|word| !text.contains(word.as_str())) {
            return Err(format!("{what}: without {word:?}: {begin}"));
        }
        self.lacks
            .iter()
            .find(|word| text.contains(word.as_str()))
            .map_or(Ok(()), |word| Err(format!("{what}: with {word:?}: {begin}")))
    }
}

impl Bounds {
    pub(crate) fn hold(self, value: f64) -> bool {
        let (least, most) = match self {
            Self::Exactly(value) => (value, value),
            Self::Between(least, most) => (least, most),
        };
        (least..=most).contains(&value)
    }
}
