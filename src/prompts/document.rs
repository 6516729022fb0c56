//! One prompt file: where its path puts it, its front matter, its template.

use sha2::{Digest, Sha256};

use super::fault::{DocumentFault, PromptFault};
use super::folder::SourceFile;
use super::front::{self, FrontMatter};
use super::language::Language;
use super::schema::Schema;
use super::template::Template;

/// A prompt in one language.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) place: Place,
    /// The file, for messages.
    pub(super) path: String,
    pub(super) front: FrontMatter,
    /// The front matter as it stands, for the lines of messages.
    front_text: String,
    pub(super) schema: Option<Schema>,
    pub(super) template: Template,
    /// The template's own text.
    pub(super) body: String,
    /// The line of the file in which `body` begins, counted from 0.
    first_line: usize,
    /// Whether it comes with the program.
    pub(super) is_shipped: bool,
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
    pub(super) is_old: bool,
}

impl Document {
    /// Reads a file, to be called `shown` in messages.
    ///
    /// # Errors
    /// All that is wrong with the file as such.
    pub(super) fn parse(file: &SourceFile, shown: String) -> Result<Self, Vec<DocumentFault>> {
        let place = Place::parse(&file.path).map_err(|fault| vec![fault])?;
        let parts = front::split(&file.text).map_err(|fault| vec![fault])?;
        let (front, mut faults) = FrontMatter::read(&parts.front);
        faults.extend(front.faults(&parts.front));
        let schema = front.input.schema.as_ref().map(Schema::parse).transpose().unwrap_or_else(|slip| {
            let keys: Vec<&str> =
                ["input", "schema"].into_iter().chain(slip.path.iter().map(String::as_str)).collect();
            let line = front::line_of(&parts.front, &keys);
            let problem = format!("{}: {}", keys.join("."), slip.problem);
            faults.push(DocumentFault::new(line, problem, slip.cure));
            None
        });
        let body = parts.body.trim().to_owned();
        let first_line =
            parts.lines_above + parts.body.lines().take_while(|line| line.trim().is_empty()).count();
        let template = if place.is_old { from_markers(&body) } else { body.clone() };
        let template = Template::compile(&template).map_err(|mut more| {
            for fault in &mut more {
                fault.line = fault.line.map(|line| line + first_line);
            }
            faults.append(&mut more);
        });
        let Ok(template) = template else { return Err(faults) };
        if !faults.is_empty() {
            return Err(faults);
        }
        let front_text = parts.front.into_owned();
        Ok(Self {
            place,
            path: shown,
            front,
            front_text,
            schema,
            template,
            body,
            first_line,
            is_shipped: false,
        })
    }

    /// The line of the file in which a variable of the template stands first.
    pub(super) fn line_of_variable(&self, name: &str) -> Option<usize> {
        self.template.variables.get(name).map(|line| line + self.first_line)
    }

    /// The line of the file in which another prompt is included first.
    pub(super) fn line_of_partial(&self, name: &str) -> Option<usize> {
        self.template.partials.get(name).map(|line| line + self.first_line)
    }

    /// The line of the file in which a key of the front matter stands.
    pub(super) fn line_of_key(&self, keys: &[&str]) -> Option<usize> {
        front::line_of(&self.front_text, keys)
    }

    /// A fault of this document.
    pub(super) fn fault(
        &self,
        line: Option<usize>,
        problem: impl Into<String>,
        cure: impl Into<String>,
    ) -> PromptFault {
        DocumentFault::new(line, problem, cure).in_file(&self.path)
    }

    /// The variable that a caller means. In the old tree, `##NAME##` may be given as `NAME`, too.
    pub(super) fn variable_named(&self, given: &str) -> String {
        let small = given.to_ascii_lowercase();
        let is_marker = self.place.is_old && !self.template.variables.contains_key(given);
        if is_marker && self.template.variables.contains_key(&small) { small } else { given.to_owned() }
    }

    /// The first `##NAME##` that stands in a template of the new tree, where it is only text, and its line.
    pub(super) fn literal_marker(&self) -> Option<(&str, usize)> {
        if self.place.is_old {
            return None;
        }
        let mut lines = self.body.lines().enumerate();
        lines.find_map(|(index, line)| Some((first_marker(line)?, self.first_line + index + 1)))
    }

    /// The front matter as it stands.
    pub(super) fn front_text(&self) -> &str {
        &self.front_text
    }

    /// The hash of the text that translations of this document translate.
    pub(super) fn hash(&self) -> String {
        // A checkout on another system may end lines in another way, which is no other text.
        let digest = Sha256::digest(self.body.replace("\r\n", "\n"));
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
            DocumentFault::new(None, "the file is in no language's folder", "move it to one such as en/")
        })?;
        let language = Language::parse(folder).ok_or_else(|| {
            let problem = format!("the folder `{folder}` is no language tag");
            DocumentFault::new(None, problem, "name it by one such as en or pt-BR")
        })?;
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
            let problem = format!("`{name}` is no prompt name");
            return Err(DocumentFault::new(None, problem, "use letters, digits, `-` and `_`"));
        }
        Ok(Self { language, name, label, is_partial, is_old })
    }
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

fn first_marker(line: &str) -> Option<&str> {
    let mut rest = line;
    while let Some((_, after)) = rest.split_once("##") {
        match after.split_once("##") {
            Some((name, _)) if is_marker(name) => return Some(name),
            _ => rest = after,
        }
    }
    None
}

fn is_marker(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str, text: &str) -> Result<Document, DocumentFault> {
        let file = SourceFile { path: path.to_owned(), text: text.to_owned() };
        Document::parse(&file, path.to_owned()).map_err(|mut faults| faults.remove(0))
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
        assert_eq!(document.front.config.unwrap()["temperature"], 0.2);
    }

    #[test]
    fn front_matter_may_have_blanks_behind_its_dashes_and_comments_above_them() {
        for text in [
            "--- \ndescription: d\n---\nHello",
            "---\t\r\ndescription: d\r\n--- \r\nHello",
            "# licence\n---\ndescription: d\n---\nHello",
            "\n \t\n#\n\n---\ndescription: d\n---\nHello",
            "\u{feff}\n---  \ndescription: d\n---\t\nHello",
        ] {
            let document = parse("en/a.prompt", text).unwrap();
            assert_eq!(document.front.description.as_deref(), Some("d"), "{text:?}");
            assert_eq!(document.body, "Hello", "{text:?}");
        }
        for text in ["# Role\n---\nYou help.", "One\n---\na: b\n---", "#One\n\ntwo", "----\na\n---\nb"] {
            assert_eq!(parse("en/a.prompt", text).unwrap().body, text);
        }
    }

    #[test]
    fn faults_say_their_line_in_the_file() {
        let line = |text: &str| parse("en/a.prompt", text).unwrap_err().line;

        assert_eq!(line("---\nx: 1\n"), Some(1));
        assert_eq!(line("one\n\n{{#if a}}\n{{b}\n"), Some(4));
        assert_eq!(line("---\nversion: 1\n---\n\n\n{{b\n"), Some(6));
        assert_eq!(line("---\nversion: 1\nsurprise: 2\n---\nx"), Some(3));
        assert_eq!(line("# licence\n\n--- \nversion: 1\nsurprise: 2\n---\nx"), Some(5));
        assert_eq!(line("\n---\nconfig:\n  temperature: 9\n---\nx"), Some(4));
        assert_eq!(line("\n---\nversion: 1\n---\n\n{{b\n"), Some(6));
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
        assert_eq!(document.template.variables.keys().collect::<Vec<_>>(), ["question_num_str"]);
    }

    #[test]
    fn the_hash_is_of_the_template_alone() {
        let one = parse("en/a.prompt", "---\nversion: 1\n---\nText\n").unwrap();
        let two = parse("en/a.prompt", "Text").unwrap();
        assert_eq!(one.hash(), two.hash());
        assert!(one.hash().starts_with("sha256-"));
        let (lf, crlf) = (
            parse("en/a.prompt", "One\n\ntwo").unwrap(),
            parse("en/a.prompt", "One\r\n\r\ntwo\r\n").unwrap(),
        );
        assert_eq!(lf.hash(), crlf.hash());
        assert_ne!(lf.hash(), parse("en/a.prompt", "One\ntwo").unwrap().hash());
    }
}
