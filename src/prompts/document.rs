//! One prompt file: where its path puts it, its front matter, its template.

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::fault::DocumentFault;
use super::folder::SourceFile;
use super::language::Language;
use super::schema::Schema;
use super::template::Template;

/// A prompt in one language.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) place: Place,
    /// The file's path in the library, for messages.
    pub(super) path: String,
    pub(super) front: FrontMatter,
    pub(super) schema: Option<Schema>,
    pub(super) template: Template,
    /// The template's own text.
    pub(super) body: String,
}

/// What a path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) language: Language,
    pub(super) name: String,
    /// The part between name and ending: `name.label.prompt`.
    pub(super) label: Option<String>,
    /// Files whose name begins with `_` are there for other prompts only.
    pub(super) is_partial: bool,
    /// In the tree of older systems, `##NAME##` marks a variable and braces mean nothing.
    is_old: bool,
}

/// What stands above the template. The keys are Dotprompt's, and two of our own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FrontMatter {
    pub(super) description: Option<String>,
    pub(super) input: Input,
    pub(super) model: Option<String>,
    pub(super) config: Map<String, Value>,
    /// Kept as text: `1.10` is not `1.1`.
    #[serde(deserialize_with = "text_or_number")]
    pub(super) version: Option<String>,
    pub(super) source_hash: Option<String>,
    // Known to Dotprompt, without meaning here.
    #[serde(rename = "name")]
    _name: Option<Value>,
    #[serde(rename = "variant")]
    _variant: Option<Value>,
    #[serde(rename = "tools")]
    _tools: Option<Value>,
    #[serde(rename = "output")]
    _output: Option<Value>,
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Input {
    pub(super) schema: Option<Value>,
    pub(super) default: Map<String, Value>,
}

impl Document {
    pub(super) fn parse(file: &SourceFile) -> Result<Self, DocumentFault> {
        let place = Place::parse(&file.path)?;
        let (front, body, lines_above) = split(&file.text)?;
        let front = front.map_or_else(|| Ok(FrontMatter::default()), read_front_matter)?;
        let schema = front.input.schema.as_ref().map(Schema::parse).transpose();
        let schema =
            schema.map_err(|problem| DocumentFault::new(None, format!("input.schema: {problem}")))?;
        let body = body.trim().to_owned();
        let template = if place.is_old { from_markers(&body) } else { body.clone() };
        let template = Template::compile(&template).map_err(|fault| DocumentFault {
            line: fault.line.map(|line| line + lines_above + blank_lines_above(&file.text, lines_above)),
            ..fault
        })?;
        Ok(Self { place, path: file.path.clone(), front, schema, template, body })
    }

    /// The hash of the text that translations of this document translate.
    pub(super) fn hash(&self) -> String {
        let digest = Sha256::digest(self.body.as_bytes());
        let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        // The word in front keeps YAML from reading digits as a number.
        format!("sha256-{hex}")
    }
}

impl Place {
    fn parse(path: &str) -> Result<Self, DocumentFault> {
        let (inner, is_old) = match path.strip_prefix("builtin/system/") {
            Some(inner) => (inner, true),
            None => (path, false),
        };
        let (folder, rest) = inner.split_once('/').ok_or_else(|| {
            DocumentFault::new(None, "the file is in no language's folder; move it to one such as en/")
        })?;
        let language = Language::parse(folder)
            .ok_or_else(|| DocumentFault::new(None, format!("the folder `{folder}` is no language tag")))?;
        let stem = rest.strip_suffix(".prompt").unwrap_or(rest);
        let (folders, file) = stem.rsplit_once('/').map_or(("", stem), |(folders, file)| (folders, file));
        let (file, label) = match file.split_once('.') {
            Some((file, label)) => (file, Some(label.to_owned())),
            None => (file, None),
        };
        let is_partial = file.starts_with('_');
        let file = file.strip_prefix('_').unwrap_or(file);
        let name = if folders.is_empty() { file.to_owned() } else { format!("{folders}/{file}") };
        let sane = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/');
        if file.is_empty() || !name.bytes().all(sane) {
            let problem = format!("`{name}` is no prompt name; use letters, digits, `-` and `_`");
            return Err(DocumentFault::new(None, problem));
        }
        Ok(Self { language, name, label, is_partial, is_old })
    }
}

/// Splits the front matter from the template: text, template, and how many lines stand above it.
fn split(text: &str) -> Result<(Option<&str>, &str, usize), DocumentFault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let after_opening = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n"));
    let Some(rest) = after_opening else { return Ok((None, text, 0)) };
    let mut at = 0;
    for (index, line) in rest.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" {
            let (front, body) = (rest.get(..at), rest.get(at + line.len()..));
            return Ok((front, body.unwrap_or_default(), index + 2));
        }
        at += line.len();
    }
    Err(DocumentFault::new(Some(1), "the front matter is not closed with a line `---`"))
}

/// Blank lines at the top of a template are cut, but count for the reader of a message.
fn blank_lines_above(text: &str, lines_above: usize) -> usize {
    text.lines().skip(lines_above).take_while(|line| line.trim().is_empty()).count()
}

fn read_front_matter(yaml: &str) -> Result<FrontMatter, DocumentFault> {
    if yaml.trim().is_empty() {
        return Ok(FrontMatter::default());
    }
    serde_saphyr::from_str(yaml).map_err(|error| {
        let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
        let whole = error.to_string();
        // The line `---` stands above what the parser saw.
        DocumentFault::new(line.map(|line| line + 1), whole.lines().next().unwrap_or_default())
    })
}

/// The template of an older file: `##NAME##` becomes `{{name}}`, and braces are text.
fn from_markers(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some((before, after)) = rest.split_once("##") {
        let marker = after.split_once("##").filter(|(name, _)| is_marker(name));
        out.push_str(&before.replace("{{", "\\{{"));
        match marker {
            Some((name, behind)) => {
                out.push_str("{{");
                out.push_str(&name.to_ascii_lowercase());
                out.push_str("}}");
                rest = behind;
            }
            None => {
                out.push_str("##");
                rest = after;
            }
        }
    }
    out.push_str(&rest.replace("{{", "\\{{"));
    out
}

fn is_marker(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn text_or_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(_) => return Err(serde::de::Error::custom("`version` must be a text or a number")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str, text: &str) -> Result<Document, DocumentFault> {
        Document::parse(&SourceFile { path: path.to_owned(), text: text.to_owned() })
    }

    #[test]
    fn paths_say_language_name_and_label() {
        let place = |path: &str| parse(path, "x").unwrap().place;

        assert_eq!(place("en/a.prompt").name, "a");
        let nested = place("pt_br/mail/reply.short.prompt");
        assert_eq!(nested.language.as_str(), "pt-BR");
        assert_eq!((nested.name.as_str(), nested.label.as_deref()), ("mail/reply", Some("short")));
        assert!(place("en/_signature.prompt").is_partial);
        let old = place("builtin/system/pl/chat.prompt");
        assert_eq!((old.language.as_str(), old.name.as_str()), ("pl", "chat"));

        for (path, hint) in [
            ("a.prompt", "folder"),
            ("x y/a.prompt", "`x y`"),
            ("en/ż.prompt", "name"),
            ("en/.prompt", "name"),
        ] {
            assert!(parse(path, "x").unwrap_err().problem.contains(hint), "{path}");
        }
    }

    #[test]
    fn front_matter_is_read_and_the_template_trimmed() {
        let document = parse(
            "en/a.prompt",
            "---\ndescription: An answer\nversion: 1.10\ninput:\n  schema:\n    who: string\n  default:\n    who: you\nconfig:\n  temperature: 0.2\n---\n\nHello {{who}}\n",
        )
        .unwrap();

        assert_eq!(document.front.description.as_deref(), Some("An answer"));
        assert_eq!(document.body, "Hello {{who}}");
        assert!(document.schema.is_some());
        assert_eq!(document.front.config["temperature"], 0.2);
    }

    #[test]
    fn faults_say_their_line_in_the_file() {
        let line = |text: &str| parse("en/a.prompt", text).unwrap_err().line;

        assert_eq!(line("---\nx: 1\n"), Some(1));
        assert_eq!(line("one\n\n{{#if a}}\n{{b}\n"), Some(4));
        assert_eq!(line("---\nversion: 1\n---\n\n\n{{b\n"), Some(6));
        assert_eq!(line("---\nversion: 1\nsurprise: 2\n---\nx"), Some(3));
    }

    #[test]
    fn unknown_keys_and_bad_schemas_are_faults() {
        let problem = |text: &str| parse("en/a.prompt", text).unwrap_err().problem;
        assert!(problem("---\nsurprise: 2\n---\nx").contains("surprise"));
        assert!(problem("---\ninput:\n  schema:\n    a: texxt\n---\nx").contains("input.schema"));
    }

    #[test]
    fn markers_of_older_systems_become_variables() {
        assert_eq!(
            from_markers("A ##USER_Q_STR## {{b}} ## C ##x## ##D1##"),
            "A {{user_q_str}} \\{{b}} ## C ##x## {{d1}}"
        );
        let document = parse("builtin/system/en/q.prompt", "Ask ##QUESTION_NUM_STR##.").unwrap();
        assert_eq!(document.template.variables.iter().collect::<Vec<_>>(), ["question_num_str"]);
    }

    #[test]
    fn the_hash_is_of_the_template_alone() {
        let one = parse("en/a.prompt", "---\nversion: 1\n---\nText\n").unwrap();
        let two = parse("en/a.prompt", "Text").unwrap();
        assert_eq!(one.hash(), two.hash());
        assert!(one.hash().starts_with("sha256-"));
    }
}
