//! What arguments of llama-server say that the gateway has to know: context, address, files.
//!
//! The engine gets its arguments as they stand, and behind them what they lack.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::{EngineAddress, EngineVariant};

/// What a list of arguments says. Of a flag that stands twice, the last one holds, as it does for llama-server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whether `-c` stands there at all.
    has_context: bool,
    /// `-c`, unless it is 0, which means the model's own.
    pub(super) context: Option<u64>,
    /// `-np`
    slots: Option<u64>,
    /// `--host`
    pub(super) host: Option<String>,
    /// `--port`
    pub(super) port: Option<u16>,
    /// Flags and the files that they name.
    pub(super) files: Vec<(String, String)>,
    /// Problem and cure.
    pub(super) faults: Vec<(String, String)>,
}

/// Flags that an engine cannot have here, and why.
const REFUSED: &[(&str, &str)] = &[
    ("--api-key", "each engine gets a key of its own from the gateway"),
    ("--api-key-file", "each engine gets a key of its own from the gateway"),
    ("--ssl-key-file", "the gateway speaks plain HTTP to its engines"),
    ("--ssl-cert-file", "the gateway speaks plain HTTP to its engines"),
    ("--api-prefix", "the gateway expects the engine's own paths"),
];

/// Flags that name a file to be read.
const FILES: &[&str] =
    &["-m", "--model", "-mm", "--mmproj", "-md", "--model-draft", "--spec-draft-model", "--lora"];

/// Flags with a value that change nothing in what a model makes of a text. What they change in the form of its cache, the
/// engine sees itself.
const RUNNING: &[&str] = &[
    "-c",
    "--ctx-size",
    "-np",
    "--parallel",
    "-t",
    "--threads",
    "-tb",
    "--threads-batch",
    "--threads-http",
    "-b",
    "--batch-size",
    "-ub",
    "--ubatch-size",
    "-ngl",
    "--gpu-layers",
    "--n-gpu-layers",
    "-ctk",
    "--cache-type-k",
    "-ctv",
    "--cache-type-v",
    "-ot",
    "--override-tensor",
    "-ncmoe",
    "--n-cpu-moe",
    "-ts",
    "--tensor-split",
    "-sm",
    "--split-mode",
    "-mg",
    "--main-gpu",
    "-dev",
    "--device",
    "--host",
    "--port",
    "-a",
    "--alias",
    "--cache-ram",
    "-cram",
    "-to",
    "--timeout",
    "-lv",
    "--verbosity",
];

/// With one of these, `-m` may name a file that is yet to be fetched.
const FETCHED: &[&str] = &["-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-dr", "--docker-repo"];

pub(super) fn read(args: &[String]) -> Facts {
    let mut facts = Facts::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        // Values that look like flags do not matter here: those of interest never do.
        let (flag, joined) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with('-') => (flag, Some(value)),
            _ => (arg.as_str(), None),
        };
        if !is_of_interest(flag) {
            continue;
        }
        let value = joined.or_else(|| rest.next().map(String::as_str));
        facts.take(flag, value);
    }
    if args.iter().any(|arg| FETCHED.contains(&arg.as_str())) {
        facts.files.clear();
    }
    facts
}

/// Flags that take something from the gateway, and what.
pub(super) fn pointless(args: &[String]) -> impl Iterator<Item = (&'static str, &'static str)> {
    const FLAGS: &[(&str, &str)] = &[
        ("--slot-save-path", "the prompt cache is not kept over a switch"),
        ("--no-slots", "the prompt cache is not kept over a switch"),
        ("--models-dir", "this engine is a router of its own, and no variant of a model"),
        ("--models-preset", "this engine is a router of its own, and no variant of a model"),
    ];
    let stands = |flag: &str| args.iter().any(|arg| arg.split('=').next() == Some(flag));
    FLAGS.iter().copied().filter(move |(flag, _)| stands(flag))
}

fn is_context_flag(flag: &str) -> bool {
    matches!(flag, "-c" | "--ctx-size")
}

fn is_of_interest(flag: &str) -> bool {
    const OTHERS: &[&str] = &["-np", "--parallel", "--host", "--port"];
    is_context_flag(flag)
        || OTHERS.contains(&flag)
        || FILES.contains(&flag)
        || REFUSED.iter().any(|(refused, _)| *refused == flag)
}

impl Facts {
    fn take(&mut self, flag: &str, value: Option<&str>) {
        if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == flag) {
            let problem = format!("`{flag}` stands in the arguments");
            return self.faults.push((problem, format!("take it out: {reason}")));
        }
        let Some(value) = value else {
            let problem = format!("`{flag}` stands in the arguments without a value");
            return self.faults.push((problem, "give its value behind it".to_owned()));
        };
        self.has_context |= is_context_flag(flag);
        match flag {
            _ if is_context_flag(flag) => match value.parse() {
                Ok(context) => self.context = Some(context).filter(|context| *context > 0),
                Err(_) => self.bad_value(flag, value, "the context size in tokens"),
            },
            "-np" | "--parallel" => self.slots = value.parse().ok(),
            "--host" => match loopback(value) {
                Ok(host) => self.host = Some(host),
                Err(fault) => self.faults.push(fault),
            },
            "--port" => match value.parse().ok().filter(|port| *port > 0) {
                Some(port) => self.port = Some(port),
                None => self.bad_value(flag, value, "a port from 1 to 65535"),
            },
            _ => self.files.push((flag.to_owned(), value.to_owned())),
        }
    }

    fn bad_value(&mut self, flag: &str, value: &str, allowed: &str) {
        self.faults.push((format!("`{flag} {value}` stands in the arguments"), format!("give {allowed}")));
    }

    /// Whether a stated context is what the arguments say: of the engine, or of each of its slots.
    pub(super) fn is_context(&self, context: u64) -> bool {
        let of_each_slot = self.slots.filter(|slots| *slots > 0).map(|slots| context.saturating_mul(slots));
        self.context.is_none_or(|said| said == context || Some(said) == of_each_slot)
    }

    /// Where the arguments want the engine to listen.
    pub(super) fn address(&self) -> Option<EngineAddress> {
        let host = self.host.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
        self.port.map(|port| EngineAddress { host, port })
    }

    /// Whether another statement of the address does not contradict the arguments.
    pub(super) fn agrees_with(&self, other: &EngineAddress) -> bool {
        let same_host = self.host.as_deref().is_none_or(|host| number_of(host) == number_of(&other.host));
        same_host && self.port.is_none_or(|port| port == other.port)
    }

    /// The address as it stands in the arguments.
    pub(super) fn address_words(&self) -> String {
        let host = self.host.as_ref().map(|host| format!("--host {host}"));
        let port = self.port.map(|port| format!("--port {port}"));
        format!("`{}`", host.into_iter().chain(port).collect::<Vec<_>>().join(" "))
    }
}

impl EngineVariant {
    /// The arguments with which the engine is started to listen there. A unix socket, by its path, has no port.
    #[must_use]
    pub fn full_args(&self, host: &str, port: Option<u16>) -> Vec<String> {
        let facts = read(&self.args);
        let context = (!facts.has_context).then(|| ("-c", self.context_tokens.to_string()));
        let host = facts.host.is_none().then(|| ("--host", host.to_owned()));
        let port = port.filter(|_| facts.port.is_none()).map(|port| ("--port", port.to_string()));
        let added = [context, host, port].into_iter().flatten();
        self.args.iter().cloned().chain(added.flat_map(|(flag, value)| [flag.to_owned(), value])).collect()
    }

    /// What the engine is told to take, all requests together, in tokens.
    #[must_use]
    pub fn whole_context_tokens(&self) -> u64 {
        read(&self.args).context.unwrap_or(self.context_tokens)
    }

    /// The arguments without those that only say where and how fast the engine runs, and how much it holds. Engines
    /// whose model arguments are the same understand what the other has read.
    #[must_use]
    pub fn args_of_the_model(&self) -> Vec<&str> {
        let mut left = Vec::new();
        let mut rest = self.args.iter().map(String::as_str);
        while let Some(arg) = rest.next() {
            match arg.split_once('=') {
                Some((flag, _)) if RUNNING.contains(&flag) => {}
                None if RUNNING.contains(&arg) => drop(rest.next()),
                _ => left.push(arg),
            }
        }
        left
    }

    /// All files that the arguments name.
    #[must_use]
    pub fn files_read(&self) -> Vec<PathBuf> {
        read(&self.args).files.into_iter().map(|(_, file)| file.into()).collect()
    }

    /// Whether the model is fetched from somewhere, so that nobody knows when it is another one.
    #[must_use]
    pub fn is_fetched(&self) -> bool {
        self.args.iter().any(|arg| FETCHED.contains(&arg.as_str()))
    }

    /// Whether the arguments say themselves where slots are saved.
    #[must_use]
    pub fn saves_slots_itself(&self) -> bool {
        self.args.iter().any(|arg| arg.starts_with("--slot-save-path"))
    }

    /// The file of the model, if the arguments name one that is not yet to be fetched.
    #[must_use]
    pub fn model_file(&self) -> Option<PathBuf> {
        let files = read(&self.args).files;
        let model = files.into_iter().rev().find(|(flag, _)| matches!(flag.as_str(), "-m" | "--model"));
        model.map(|(_, file)| file.into())
    }
}

/// The name of this machine is one of its numbers.
fn number_of(host: &str) -> &str {
    if host.eq_ignore_ascii_case("localhost") { "127.0.0.1" } else { host }
}

/// The host, without brackets, if only this machine can reach it.
fn loopback(host: &str) -> Result<String, (String, String)> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_loopback = bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    if is_loopback {
        return Ok(bare.to_owned());
    }
    let problem = format!("an engine would listen on `{host}`, which is not this machine alone");
    Err((problem, "use 127.0.0.1: callers reach the engine through the gateway".to_owned()))
}

/// Reads `connect`.
pub(super) fn connect(text: &str) -> Result<EngineAddress, (String, String)> {
    let unusable = || {
        let cure = "write \"http://127.0.0.1:8081\", with a port from 1 to 65535 and no path";
        (format!("`connect` is `{text}`"), cure.to_owned())
    };
    let address = text.trim().strip_prefix("http://").ok_or_else(unusable)?.trim_end_matches('/');
    let (host, port) = address.rsplit_once(':').ok_or_else(unusable)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(unusable)?;
    Ok(EngineAddress { host: loopback(host)?, port })
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "http://[{host}]:{port}")
        } else {
            write!(f, "http://{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(line: &str) -> Facts {
        read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn variant(line: &str) -> EngineVariant {
        EngineVariant {
            context_tokens: 4096,
            binary: "llama-server".into(),
            args: line.split_whitespace().map(str::to_owned).collect(),
            address: None,
            memory_mib: None,
            timeouts: crate::config::EngineTimeouts::default(),
            environment: crate::config::EngineEnvironment::default(),
        }
    }

    #[test]
    fn context_address_and_files_are_read_in_every_form() {
        let read = facts(
            "-ngl 999 -c 4096 --port=8081 -m /m.gguf --host [::1] --ctx-size 8192 --mmproj=/p.gguf -fa on",
        );
        assert_eq!(read.context, Some(8192), "the last one holds");
        assert_eq!(read.address(), Some(EngineAddress { host: "::1".to_owned(), port: 8081 }));
        let files = [("-m", "/m.gguf"), ("--mmproj", "/p.gguf")];
        assert_eq!(read.files, files.map(|(flag, file)| (flag.to_owned(), file.to_owned())));
        assert!(read.faults.is_empty(), "{:?}", read.faults);

        assert_eq!(facts("-c 0").context, None, "0 is the model's own");
        assert!(facts("-m /m.gguf -hf some/repository").files.is_empty(), "it may be yet to come");
        assert_eq!(facts("--port 81").address().unwrap().host, "127.0.0.1");
    }

    #[test]
    fn what_an_engine_cannot_have_is_refused() {
        for (line, told) in [
            ("--api-key k", "`--api-key`"),
            ("--api-key=k", "`--api-key`"),
            ("--api-key-file f", "a key of its own"),
            ("--ssl-cert-file f", "plain HTTP"),
            ("--host 0.0.0.0", "`0.0.0.0`"),
            ("--host=example.org", "127.0.0.1"),
            ("--host /run/engine.sock", "`/run/engine.sock`"),
            ("--port 0", "1 to 65535"),
            ("--port", "without a value"),
            ("-c many", "tokens"),
        ] {
            let read = facts(line);
            let [(problem, cure)] = read.faults.as_slice() else { panic!("{line}: {:?}", read.faults) };
            assert!(problem.contains(told) || cure.contains(told), "{line}: {problem}; {cure}");
        }
    }

    #[test]
    fn what_arguments_lack_is_added_behind_them() {
        let full = |line: &str| {
            let variant = variant(line);
            (
                variant.full_args("127.0.0.1", Some(81)).join(" "),
                variant.whole_context_tokens(),
                variant.model_file(),
            )
        };
        let (args, whole, file) = full("-m /m.gguf");
        assert_eq!(args, "-m /m.gguf -c 4096 --host 127.0.0.1 --port 81");
        assert_eq!((whole, file), (4096, Some("/m.gguf".into())));
        let (args, whole, file) = full("--ctx-size=16384 -np 4 --host ::1 --port 82");
        assert_eq!(args, "--ctx-size=16384 -np 4 --host ::1 --port 82");
        assert_eq!((whole, file), (16_384, None));
        assert_eq!(full("-c 0").0, "-c 0 --host 127.0.0.1 --port 81");
        let of_socket = variant("-m /m.gguf").full_args("/run/x.sock", None).join(" ");
        assert_eq!(of_socket, "-m /m.gguf -c 4096 --host /run/x.sock");
    }

    #[test]
    fn what_makes_the_model_is_told_from_how_it_runs() {
        let of = |line: &str| {
            let variant = variant(line);
            (variant.args_of_the_model().join(" "), variant.saves_slots_itself())
        };
        let small = of("-m /m.gguf -c 4096 -ngl 99 -np=4 --jinja");
        assert_eq!(small, of("-m /m.gguf -c 32768 -ngl 40 -ctk q8_0 --jinja --port=81"));
        assert_eq!(small, ("-m /m.gguf --jinja".to_owned(), false));
        assert_ne!(small, of("-m /m.gguf -c 4096 -ngl 99 --jinja --rope-scaling yarn"));
        assert!(of("--slot-save-path /x").1 && of("--slot-save-path=/x").1);
    }

    #[test]
    fn a_context_may_be_said_of_each_slot() {
        assert!(facts("-c 32768 -np 4").is_context(8192) && facts("-c 32768 -np 4").is_context(32768));
        assert!(!facts("-c 32768 -np 4").is_context(16384) && !facts("-c 8192").is_context(8191));
        assert!(facts("-np 4").is_context(1));
    }

    #[test]
    fn connect_is_an_address_of_this_machine() {
        for (text, shown) in [
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("http://localhost:81/", "http://localhost:81"),
            ("http://[::1]:81", "http://[::1]:81"),
        ] {
            assert_eq!(connect(text).unwrap().to_string(), shown);
        }
        for text in [
            "127.0.0.1:1",
            "https://127.0.0.1:1",
            "http://127.0.0.1",
            "http://10.0.0.1:1",
            "http://localhost:1/v1",
        ] {
            assert!(connect(text).is_err(), "{text}");
        }
    }

    #[test]
    fn two_statements_of_one_address_may_differ_in_words_only() {
        let local = connect("http://localhost:81").unwrap();
        assert!(facts("--host 127.0.0.1 --port 81").agrees_with(&local));
        assert!(facts("--port 81").agrees_with(&local) && facts("").agrees_with(&local));
        assert!(!facts("--port 82").agrees_with(&local) && !facts("--host ::1").agrees_with(&local));
    }
}
