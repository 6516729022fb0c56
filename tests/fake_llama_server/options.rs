//! How the server is started: the arguments that llama-server has, and those that make it misbehave.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

pub(crate) struct Options {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) alias: String,
    pub(crate) api_key: Option<String>,
    /// `-c`.
    pub(crate) context: usize,
    pub(crate) slots: usize,
    /// Whether all slots share the context.
    pub(crate) is_shared: bool,
    /// `--fake-NAME VALUE`, or `FAKE_NAME=VALUE` in the environment.
    fakes: BTreeMap<String, String>,
}

impl Options {
    pub(crate) fn read() -> Self {
        let mut fakes: BTreeMap<String, String> = std::env::vars()
            .filter_map(|(name, value)| Some((name.strip_prefix("FAKE_")?.to_owned(), value)))
            .map(|(name, value)| (name.to_lowercase().replace('_', "-"), value))
            .collect();
        let mut values = BTreeMap::new();
        let mut args = std::env::args().skip(1).peekable();
        while let Some(flag) = args.next() {
            let value = args.next_if(|next| !is_flag(next)).unwrap_or_default();
            match flag.strip_prefix("--fake-") {
                Some(name) => fakes.insert(name.to_owned(), value),
                None => values.insert(flag, value),
            };
        }
        let of = |flags: &[&str]| flags.iter().find_map(|flag| values.get(*flag)).cloned();
        let number = |flags: &[&str]| {
            of(flags).filter(|value| value != "-1").map(|value| value.parse::<usize>().expect("a number"))
        };
        let slots = number(&["-np", "--parallel"]);
        let is_shared = slots.is_none() || of(&["-kvu", "--kv-unified"]).is_some();
        let model = of(&["-m", "--model"]).unwrap_or_else(|| "model.gguf".to_owned());
        let mut options = Self {
            host: of(&["--host"]).unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: number(&["--port"]).map_or(8080, |port| u16::try_from(port).expect("a port")),
            alias: of(&["-a", "--alias"]).unwrap_or(model),
            api_key: of(&["--api-key"])
                .or_else(|| std::env::vars().find(|(name, _)| name == "LLAMA_API_KEY").map(|(_, key)| key)),
            context: number(&["-c", "--ctx-size"]).unwrap_or(4096),
            slots: slots.unwrap_or(4),
            is_shared,
            fakes,
        };
        options.context = options.number("context").unwrap_or(options.context);
        options.forget_what_was_for_once();
        options
    }

    /// `--fake-once FILE`: all that is bad happens only while the file is not there.
    fn forget_what_was_for_once(&mut self) {
        let Some(file) = self.fakes.get("once").cloned() else { return };
        if std::fs::File::create_new(file).is_err() {
            self.fakes.retain(|name, _| matches!(name.as_str(), "journal" | "token-ms" | "answer-tokens"));
        }
    }

    pub(crate) fn text(&self, fake: &str) -> Option<&str> {
        self.fakes.get(fake).map(String::as_str)
    }

    pub(crate) fn is_on(&self, fake: &str) -> bool {
        self.fakes.contains_key(fake)
    }

    pub(crate) fn number(&self, fake: &str) -> Option<usize> {
        self.text(fake).map(|value| value.parse().expect("a number"))
    }

    pub(crate) fn time(&self, fake: &str) -> Option<Duration> {
        self.number(fake).map(|milliseconds| Duration::from_millis(milliseconds as u64))
    }

    /// What fits into one slot.
    pub(crate) fn slot_context(&self) -> usize {
        if self.is_shared { self.context } else { self.context / self.slots }
    }

    /// Appends to the file that tells a test what happened, in order, over all starts.
    pub(crate) fn note(&self, what: &str) {
        if let Some(file) = self.text("journal") {
            let line = format!("{} {} {what}\n", std::process::id(), self.context);
            let mut file =
                std::fs::File::options().create(true).append(true).open(file).expect("the journal");
            file.write_all(line.as_bytes()).expect("the journal");
        }
    }
}

/// `-1` is a value.
fn is_flag(arg: &str) -> bool {
    arg.strip_prefix('-').is_some_and(|rest| rest.parse::<f64>().is_err())
}
