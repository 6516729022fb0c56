//! Counts a prompt by the vocabulary and the template within the model's own file. Runs in a confined child (`counter`).
//!
//! Only for models whose way of splitting text is [proven](PROVEN) to be counted right. A template may come from
//! anywhere: it is run within bounds of steps, depth and length, and one that fails counts nothing. What it takes beyond those
//! bounds, the child's limits end.

use std::fs::File;
use std::io::{BufReader, Error as IoError, Write};
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use serde_json::{Map, Value, json};
use shimmytok::{EncodeOptions, SpecialTokenOverride, TokenType, Tokenizer};

use super::model_head;
use crate::llm::{RawObject, RequestKind};

/// Ways of splitting a text, by their names in model files, of which the counts were seen to equal llama.cpp's on its own
/// test vectors. Of others only the engine, or a program, knows.
const PROVEN: &[&str] = &[
    "llama-bpe",
    "llama3",
    "llama-v3",
    "qwen2",
    "deepseek-llm",
    "deepseek-coder",
    "command-r",
    "refact",
    "starcoder",
];
/// Longer prompts are not counted here: a text without spaces takes long.
const MOST_BYTES: usize = 512 * 1024;
/// What a template may do, in steps of its machine.
const FUEL: u64 = 20_000_000;
/// How deep its macros may call each other.
const DEPTH: usize = 100;

/// What a model's file says of its tokens.
pub(super) struct Vocabulary {
    tokenizer: Tokenizer,
    /// Texts that are one token wherever they stand.
    whole: Vec<SpecialTokenOverride>,
    /// Added before every prompt, if any is.
    begin: Option<String>,
    end: String,
}

impl Vocabulary {
    /// Reads the head of a model's file, which takes from some milliseconds to more than a second; `None` if prompts cannot
    /// be counted by it.
    pub(super) fn read(file: &Path) -> Option<Self> {
        let head = model_head::of_tokens(BufReader::new(File::open(file).ok()?), PROVEN).ok()?;
        let tokenizer = Tokenizer::from_bytes(&head).ok()?;
        let text = |token| tokenizer.token_to_piece(token).unwrap_or_default();
        let adds_begin = !tokenizer.encode("", true).ok()?.is_empty();
        let begin = adds_begin.then(|| text(tokenizer.bos_token()));
        let end = text(tokenizer.eos_token());
        let ids = (0..).take(tokenizer.vocab_size());
        let whole = ids.filter(|token| tokenizer.token_type(*token) == TokenType::UserDefined);
        let whole = whole.map(|token| SpecialTokenOverride::new(text(token), token)).collect();
        Some(Self { tokenizer, whole, begin, end })
    }

    /// How many tokens a prompt has, without its pictures; `None` if it cannot be said.
    pub(super) fn count(&self, kind: RequestKind, body: &RawObject) -> Option<u64> {
        let member = |name: &str| serde_json::from_slice::<Value>(body.get(name)?).ok();
        let prompt = match kind {
            RequestKind::Completion => member("prompt")?.as_str()?.to_owned(),
            RequestKind::Chat => {
                let mut prompt = self.rendered(&member)?;
                // What the template writes itself is not added again.
                if let Some(begin) = self.begin.as_ref().filter(|begin| !begin.is_empty()) {
                    prompt = prompt.strip_prefix(begin.as_str()).map(str::to_owned).unwrap_or(prompt);
                }
                prompt
            }
        };
        if prompt.len() > MOST_BYTES {
            return None;
        }
        let options = EncodeOptions::with_parse_special(false, true);
        let tokens = self.tokenizer.encode_with_external_special_tokens(&prompt, &options, &self.whole);
        Some(tokens.ok()?.len() as u64 + u64::from(self.begin.is_some()))
    }

    /// What the template makes of a conversation.
    fn rendered(&self, member: &impl Fn(&str) -> Option<Value>) -> Option<String> {
        let template = self.tokenizer.chat_template()?;
        let messages = member("messages")?.as_array()?.iter().map(flat).collect::<Vec<_>>();
        let mut context = json!({
            "messages": messages,
            "add_generation_prompt": true,
            "bos_token": self.begin.as_deref().unwrap_or_default(),
            "eos_token": self.end,
        });
        let named = context.as_object_mut()?;
        named.extend(member("tools").map(|tools| ("tools".to_owned(), tools)));
        if let Some(Value::Object(more)) = member("chat_template_kwargs") {
            named.extend(more);
        }
        let environment = environment().ok()?;
        let mut rendered = Bounded(Vec::new());
        let template = environment.template_from_str(template).ok()?;
        template.render_captured_to(minijinja::Value::from(Serde(context)), &mut rendered).ok()?;
        String::from_utf8(rendered.0).ok()
    }
}

/// A text that ends a template which writes more than can be counted.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_BYTES {
            return Err(IoError::other("it is too long"));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A message as templates expect it: its texts are one text.
fn flat(message: &Value) -> Value {
    let mut message = message.as_object().cloned().unwrap_or_default();
    let texts = message.get("content").and_then(Value::as_array).map(|parts| {
        parts.iter().filter_map(|part| part.get("text")?.as_str()).collect::<Vec<_>>().join("\n")
    });
    message.extend(texts.map(|text| ("content".to_owned(), Value::String(text))));
    // Arguments of calls are JSON in a string; templates write them out as an object.
    for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(arguments) = call.pointer_mut("/function/arguments")
            && let Some(Ok(object)) = arguments.as_str().map(serde_json::from_str::<Map<_, _>>)
        {
            *arguments = Value::Object(object);
        }
    }
    Value::Object(message)
}

/// What templates of models expect of those who run them.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_filter("tojson", |value: minijinja::Value, options: Kwargs| {
        let indent: Option<usize> = options.get("indent")?;
        // Others say how to write letters or in which order; the length is about the same.
        let _: Option<bool> = options.get("ensure_ascii")?;
        let _: Option<bool> = options.get("sort_keys")?;
        options.assert_all_used()?;
        let written = match indent {
            Some(indent) => {
                written(&value, PrettyFormatter::with_indent(" ".repeat(indent.min(16)).as_bytes()))
            }
            None => written(&value, Spaced),
        };
        written.ok_or_else(|| Error::new(ErrorKind::BadSerialization, "it cannot be written as JSON"))
    });
    environment.add_function("raise_exception", |words: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, words))
    });
    // A date is as long as any other.
    environment.add_function("strftime_now", |_: String| "26 Jul 2024");
    Ok(environment)
}

fn written(value: &minijinja::Value, formatter: impl Formatter) -> Option<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter)).ok()?;
    String::from_utf8(bytes).ok()
}

/// JSON as Python writes it, for which templates are written.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        to: &mut W,
        is_first: bool,
    ) -> std::io::Result<()> {
        if is_first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        to: &mut W,
        is_first: bool,
    ) -> std::io::Result<()> {
        if is_first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, to: &mut W) -> std::io::Result<()> {
        to.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, context: &Value) -> Result<String, Error> {
        environment().unwrap().render_str(template, minijinja::Value::from(Serde(context)))
    }

    #[test]
    fn templates_find_what_they_expect() {
        let context = json!({"tools": [{"name": "f", "parameters": {"type": "object", "x": ["<a>", 1]}}], "text": " hi "});
        for (template, rendered) in [
            (
                "{{ tools[0] | tojson }}",
                r#"{"name": "f", "parameters": {"type": "object", "x": ["<a>", 1]}}"#,
            ),
            ("{{ {'a': []} | tojson(indent=2) }}", "{\n  \"a\": []\n}"),
            ("{{ text.strip().upper() }}{% if text.startswith(' ') %}\nyes{% endif %}", "HIyes"),
            (
                "{% set ns = namespace(n=0) %}{% for i in [1, 2, 3] %}{% if i == 3 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
                "3",
            ),
            ("  {% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),
            ("{{ strftime_now('%d %b %Y') | length }}", "11"),
        ] {
            assert_eq!(render(template, &context).unwrap(), rendered, "{template}");
        }
        assert!(render("{{ raise_exception('no') }}", &context).is_err());
    }

    #[test]
    fn a_template_without_end_is_stopped() {
        let endless = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
        assert!(render(endless, &json!({})).is_err());
        assert!(render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", &json!({})).is_err());
    }

    #[test]
    fn messages_are_made_flat() {
        let message = json!({"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}],
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]});
        let flat = flat(&message);
        assert_eq!(
            (&flat["content"], &flat["tool_calls"][0]["function"]["arguments"]),
            (&json!("a\nb"), &json!({"x": 1}))
        );
    }

    #[test]
    fn what_is_no_model_counts_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"GGUF and then nothing").unwrap();
        assert!(Vocabulary::read(file.path()).is_none() && Vocabulary::read(Path::new("/nowhere")).is_none());
    }
}
