//! Reads what a Lua configuration has set: `server` and `models`, with the words that its users know for each fault.

mod typed;

use std::collections::BTreeMap;

use mlua::{Table, Value};

use self::typed::{At, BOOLEAN, Checked, TABLE, TEXT};
use crate::config::catalog::raw::{
    Pairs, RawCatalog, RawModel, RawModels, RawProvider, RawTokenization, RawVariant,
};
use crate::config::{ConfigError, ListenAddress, parse};
use crate::lint::Object;

/// The only provider of such a file.
const PROVIDER: &str = "local";

/// What a model or a variant takes by itself, about.
const ITEM_BYTES: usize = 1024;

const SERVER: &[&str] = &[
    "listen_v4",
    "listen_v6",
    "health_check_timeout",
    "engine_startup_timeout",
    "engine_idle_timeout",
    "dumps_dir",
    "clear_dumps_on_start",
];
const MODEL: &[&str] = &[
    "name",
    "engine",
    "connect",
    "health_check_timeout",
    "engine_startup_timeout",
    "engine_idle_timeout",
    "tokenization",
    "variants",
];
const VARIANT: &[&str] = &[
    "binary",
    "args",
    "context",
    "connect",
    "health_check_timeout",
    "engine_startup_timeout",
    "engine_idle_timeout",
];
const TOKENIZATION: &[&str] =
    &["binary", "base_args", "extra_args", "extra_tokens_per_message", "extra_tokens"];

/// Reads the globals that a configuration leaves.
pub(super) fn read(globals: &Table, file: &str) -> Result<RawCatalog, ConfigError> {
    let mut shape = Shape { globals, checked: Checked::new(file) };
    let top = At { table: globals.clone(), path: String::new() };
    let (mut provider, listen) = shape.server(&top);
    provider.models = Some(RawModels::Listed(Pairs(shape.models(&top))));
    let warnings = shape.checked.finish()?;
    let providers = Pairs(vec![(PROVIDER.to_owned(), Object(provider))]);
    Ok(RawCatalog { providers, listen: Some(listen), warnings, ..RawCatalog::default() })
}

struct Shape<'a> {
    globals: &'a Table,
    checked: Checked<'a>,
}

impl Shape<'_> {
    fn server(&mut self, top: &At) -> (RawProvider, Vec<ListenAddress>) {
        let Some(table) = self.checked.required(top, "server", &TABLE) else {
            return (RawProvider::default(), Vec::new());
        };
        let at = At { table, path: "server".to_owned() };
        self.checked.unknown_keys(&at, SERVER);
        let faults = self.checked.faults();
        let mut listen = self.listen(&at, "listen_v4");
        listen.extend(self.listen(&at, "listen_v6"));
        if listen.is_empty() && self.checked.faults() == faults {
            let cure = "give an address such as \"127.0.0.1:7777\" for one of the two";
            let words = "Configuration error: 'server.listen_v4' and 'server.listen_v6' are both \"none\"";
            self.checked.fault(words.to_owned(), cure);
        }
        for (index, address) in listen.iter().enumerate() {
            if listen.iter().take(index).any(|other| parse::are_the_same(address, other)) {
                let words = format!(
                    "Configuration error at 'server.listen_v4': the address `{address}` is taken already"
                );
                self.checked.fault(words, "name each address once");
            }
        }
        if self.checked.optional(&at, "dumps_dir", &TEXT).is_some() {
            self.checked
                .warn("`server.dumps_dir` has no effect: requests and answers are never written to files");
        }
        if self.checked.optional(&at, "clear_dumps_on_start", &BOOLEAN) == Some(true) {
            self.checked.warn("`server.clear_dumps_on_start` has no effect: there are no dumps");
        }
        let provider = RawProvider {
            kind: Some("llamacpp".to_owned()),
            health_check_timeout: self.checked.required_seconds(&at, "health_check_timeout"),
            engine_startup_timeout: self.checked.required_seconds(&at, "engine_startup_timeout"),
            engine_idle_timeout: self.checked.required_seconds(&at, "engine_idle_timeout"),
            ..RawProvider::default()
        };
        (provider, listen)
    }

    /// One address or a list of them; `"none"` stands for no address.
    fn listen(&mut self, at: &At, key: &str) -> Vec<ListenAddress> {
        let path = at.path_of(key);
        let texts = match at.get(key) {
            Value::Nil => {
                self.checked.missing(&path);
                return Vec::new();
            }
            Value::Table(_) => self.checked.texts(at, key),
            Value::String(text) => vec![text.to_string_lossy()],
            other => {
                self.checked.wrong_type(&path, "string or table of strings", &other);
                return Vec::new();
            }
        };
        let mut addresses = Vec::new();
        for text in texts.iter().map(|text| text.trim()).filter(|text| !text.eq_ignore_ascii_case("none")) {
            let address = parse::listen_address(text).filter(|address| {
                let is_v6 = text.starts_with('[');
                matches!(address, ListenAddress::Tcp(_))
                    && !text.ends_with(":0")
                    && is_v6 == (key == "listen_v6")
            });
            if address.is_none() {
                let example = if key == "listen_v6" { "[::1]:7777" } else { "127.0.0.1:7777" };
                let words = format!("Configuration error at '{path}': `{text}` is no address to listen on");
                self.checked.fault(words, &format!("write \"{example}\", or \"none\""));
            }
            addresses.extend(address);
        }
        addresses
    }

    fn models(&mut self, top: &At) -> Vec<(String, Option<Object<RawModel>>)> {
        let Some(models) = self.checked.required(top, "models", &TABLE) else { return Vec::new() };
        if models.raw_len() == 0 {
            let words = "Configuration error: 'models' table must contain at least one model";
            self.checked.fault(words.to_owned(), "write models = { … } at the end of the file");
        }
        let labels = self.labels();
        let mut read: Vec<(String, Option<Object<RawModel>>)> = Vec::new();
        for (index, value) in models.sequence_values::<Value>().enumerate() {
            // A list may name one table a million times.
            if !self.checked.has_room_for(ITEM_BYTES) {
                break;
            }
            let path = format!("models[{}]", index + 1);
            let table = match value {
                Ok(Value::Table(table)) => table,
                other => {
                    self.checked.wrong_type(&path, "table", &other.unwrap_or(Value::Nil));
                    continue;
                }
            };
            let label = labels.get(&Value::Table(table.clone()).to_pointer().addr());
            let label = label.cloned().unwrap_or_else(|| format!("model_{}", index + 1));
            let named = At { table: table.clone(), path };
            let name = self.checked.required(&named, "name", &TEXT);
            let model = self.model(&At { table, path: format!("models.{label}") });
            let Some(name) = name else { continue };
            if read.iter().any(|(other, _)| *other == name) {
                let words = format!(
                    "Configuration error: duplicate model name '{name}' found. Model names must be unique."
                );
                self.checked.fault(words, "rename one of the two");
                continue;
            }
            read.push((name, Some(Object(model))));
        }
        read
    }

    /// The names of global variables by the tables that they hold: what the author calls a model.
    fn labels(&self) -> BTreeMap<usize, String> {
        let pairs = self.globals.pairs::<Value, Value>().filter_map(Result::ok);
        let mut names: Vec<(String, usize)> = pairs
            .filter_map(|(name, value)| match (name, &value) {
                (Value::String(name), Value::Table(_)) => {
                    Some((name.to_string_lossy(), value.to_pointer().addr()))
                }
                _ => None,
            })
            .collect();
        // Of several names the first by the alphabet, always.
        names.sort_by(|one, other| other.cmp(one));
        names.into_iter().map(|(name, table)| (table, name)).collect()
    }

    fn model(&mut self, at: &At) -> RawModel {
        self.checked.unknown_keys(at, MODEL);
        let engine = self.checked.required(at, "engine", &TEXT);
        let secondary = match engine.as_deref() {
            Some("llama.cpp.secondary") => Some(true),
            Some("llama.cpp") | None => None,
            Some(other) => {
                let path = at.path_of("engine");
                let words = format!("Configuration error at '{path}': unknown engine type '{other}'");
                let cure = "write presets.engines.llamacpp or presets.engines.llamacpp_secondary";
                self.checked.fault(words, cure);
                None
            }
        };
        let connect = self.checked.optional(at, "connect", &TEXT);
        let has_connect = !at.get("connect").is_nil();
        RawModel {
            place: Some(at.path.clone()),
            secondary,
            connect: connect.as_deref().map(plain),
            health_check_timeout: self.checked.seconds(at, "health_check_timeout"),
            engine_startup_timeout: self.checked.seconds(at, "engine_startup_timeout"),
            engine_idle_timeout: self.checked.seconds(at, "engine_idle_timeout"),
            tokenization: self.tokenization(at),
            variants: Some(self.variants(at, has_connect)),
            ..RawModel::default()
        }
    }

    fn tokenization(&mut self, model: &At) -> Option<Object<RawTokenization>> {
        let table = self.checked.optional(model, "tokenization", &TABLE)?;
        let at = At { table, path: model.path_of("tokenization") };
        self.checked.unknown_keys(&at, TOKENIZATION);
        let binary = self.checked.required(&at, "binary", &TEXT);
        let base_args = (!at.get("base_args").is_nil()).then(|| self.checked.texts(&at, "base_args"));
        Some(Object(RawTokenization {
            binary: binary.as_deref().map(plain),
            base_args: base_args.as_deref().map(all_plain),
            extra_args: all_plain(&self.checked.required_texts(&at, "extra_args")),
            extra_tokens_per_message: self
                .checked
                .required_count(&at, "extra_tokens_per_message", 0)
                .unwrap_or_default(),
            extra_tokens: self.checked.count(&at, "extra_tokens", 0).unwrap_or_default(),
            ..RawTokenization::default()
        }))
    }

    fn variants(&mut self, model: &At, has_connect: bool) -> Vec<Object<RawVariant>> {
        let Some(variants) = self.checked.required(model, "variants", &TABLE) else { return Vec::new() };
        let path = model.path_of("variants");
        if variants.raw_len() == 0 {
            let words = format!("Configuration error at '{path}': must contain at least one variant");
            self.checked.fault(words, "list one, with `binary`, `args` and `context`");
        }
        let mut read = Vec::new();
        for (index, value) in variants.sequence_values::<Value>().enumerate() {
            if !self.checked.has_room_for(ITEM_BYTES) {
                break;
            }
            let path = format!("{path}[{}]", index + 1);
            match value {
                Ok(Value::Table(table)) => {
                    read.push(Object(self.variant(&At { table, path }, has_connect)));
                }
                other => self.checked.wrong_type(&path, "table", &other.unwrap_or(Value::Nil)),
            }
        }
        read
    }

    fn variant(&mut self, at: &At, has_connect: bool) -> RawVariant {
        self.checked.unknown_keys(at, VARIANT);
        let connect = if has_connect {
            self.checked.optional(at, "connect", &TEXT)
        } else {
            self.checked.required(at, "connect", &TEXT)
        };
        RawVariant {
            place: Some(at.path.clone()),
            binary: self.checked.required(at, "binary", &TEXT).as_deref().map(plain),
            args: all_plain(&self.checked.required_texts(at, "args")),
            context: self.checked.required_count(at, "context", 1),
            connect: connect.as_deref().map(plain),
            health_check_timeout: self.checked.seconds(at, "health_check_timeout"),
            engine_startup_timeout: self.checked.seconds(at, "engine_startup_timeout"),
            engine_idle_timeout: self.checked.seconds(at, "engine_idle_timeout"),
            ..RawVariant::default()
        }
    }
}

/// In Lua, `${` is text like any other.
fn plain(text: &str) -> String {
    text.replace("${", "$${")
}

fn all_plain(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| plain(text)).collect()
}
