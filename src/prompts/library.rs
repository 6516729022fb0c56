//! The library: all prompts in all languages, checked against each other, ready to render.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use handlebars::{Handlebars, RenderErrorReason, no_escape};
use serde_json::{Map, Value};

use super::document::Document;
use super::fault::DocumentFault;
use super::folder::{self, SourceFile};
use super::language::{Language, Wanted};
use super::schema::Schema;
use super::{PromptError, shipped};

/// An immutable set of prompts. A reload makes a new one; who holds this one keeps it.
#[derive(Debug)]
pub struct PromptLibrary {
    default_language: Language,
    prompts: BTreeMap<Key, BTreeMap<Language, Document>>,
    engines: BTreeMap<Language, Handlebars<'static>>,
}

/// Name and label.
pub(super) type Key = (String, Option<String>);

/// Files that do not make a library, with all that is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LibraryError {
    /// At least one.
    pub faults: Vec<PromptFault>,
}

/// What is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptFault {
    /// The file.
    pub file: String,
    /// Its line, where one can be named.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
}

impl std::fmt::Display for PromptFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}: line {line}: {}", self.file, self.problem),
            None => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}

impl std::fmt::Display for LibraryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        f.write_str(&faults.join("\n"))
    }
}

/// A prompt with its variables put in.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The prompt's name.
    pub name: String,
    /// Its language.
    pub language: Language,
    /// The language that was wanted most.
    pub requested_language: Language,
    /// Whether another language than the wanted one had to do.
    pub fallback: bool,
    /// The version that the file states.
    pub version: Option<String>,
    /// Request members that the prompt suggests.
    pub config: Map<String, Value>,
}

/// One prompt, for a list.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptSummary {
    /// The name; a label follows behind `@`.
    pub name: String,
    /// In the default language, where it has one.
    pub description: Option<String>,
    /// What variables it takes.
    pub schema: Option<Value>,
    /// What it is in each language.
    pub translations: Vec<Translation>,
}

/// One prompt in one language.
#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    /// The language.
    pub language: Language,
    /// The template's text.
    pub template: String,
    /// The version that the file states.
    pub version: Option<String>,
    /// The model it was written for.
    pub model: Option<String>,
    /// Request members that the prompt suggests.
    pub config: Map<String, Value>,
    /// The hash of its text, which translations of it name as their source.
    pub hash: String,
}

impl PromptLibrary {
    /// Reads a folder.
    ///
    /// # Errors
    /// All that is wrong with its files.
    pub fn load(folder: &Path, default_language: &Language) -> Result<Self, LibraryError> {
        let files = folder::read(folder).map_err(|(path, error)| LibraryError {
            faults: vec![PromptFault {
                file: path.display().to_string(),
                line: None,
                problem: error.to_string(),
            }],
        })?;
        Self::of_files(&files, default_language).map_err(|mut error| {
            for fault in &mut error.faults {
                fault.file = folder.join(&fault.file).display().to_string();
            }
            error
        })
    }

    /// The prompts that come with the program.
    ///
    /// # Errors
    /// Never, as a test sees to.
    pub fn shipped(default_language: &Language) -> Result<Self, LibraryError> {
        Self::of_files(&shipped::files(), default_language)
    }

    /// Makes a library of these files.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn of_files(files: &[SourceFile], default_language: &Language) -> Result<Self, LibraryError> {
        let mut prompts: BTreeMap<Key, BTreeMap<Language, Document>> = BTreeMap::new();
        let mut faults = Vec::new();
        for file in files {
            let fault = |fault: DocumentFault| PromptFault {
                file: file.path.clone(),
                line: fault.line,
                problem: fault.problem,
            };
            match Document::parse(file) {
                Err(problem) => faults.push(fault(problem)),
                Ok(document) => {
                    let key = (document.place.name.clone(), document.place.label.clone());
                    let of_prompt = prompts.entry(key).or_default();
                    let twice = of_prompt.insert(document.place.language.clone(), document);
                    let problem = |other: Document| format!("the same prompt stands in {}", other.path);
                    faults.extend(twice.map(|other| fault(DocumentFault::new(None, problem(other)))));
                }
            }
        }
        for translations in prompts.values() {
            faults.extend(disagreements(translations, default_language));
        }
        faults.extend(unknown_partials(&prompts));
        faults.extend(circles(&prompts));
        if !faults.is_empty() {
            return Err(LibraryError { faults });
        }
        let engines = engines(&prompts, default_language);
        Ok(Self { default_language: default_language.clone(), prompts, engines })
    }

    /// Renders a prompt, named `name` or `name@label`, in the best of the wanted languages.
    ///
    /// # Errors
    /// There is no such prompt, or the variables are not what it needs.
    pub fn render(
        &self,
        name: &str,
        wanted: &Wanted,
        variables: &Map<String, Value>,
    ) -> Result<Rendered, PromptError> {
        let translations = self.find(name)?;
        let available: Vec<&Language> = translations.keys().collect();
        let requested = wanted.first().unwrap_or(&self.default_language);
        let language = wanted.choose(&self.default_language, &available).ok_or_else(|| {
            PromptError::NotTranslated { name: name.to_owned(), language: requested.to_string() }
        })?;
        let document = translations.get(language).ok_or_else(|| PromptError::Unknown(name.to_owned()))?;
        let values = settled(document, schema_of(translations), name, variables)?;
        Ok(Rendered {
            text: self.render_document(document, name, &values)?,
            name: document.place.name.clone(),
            fallback: requested != language,
            language: language.clone(),
            requested_language: requested.clone(),
            version: document.front.version.clone(),
            config: document.front.config.clone(),
        })
    }

    /// All prompts but partials, in the order of their names.
    pub fn list(&self) -> Vec<PromptSummary> {
        self.listed().map(|(key, translations)| self.summary(key, translations)).collect()
    }

    /// One prompt, named `name` or `name@label`.
    ///
    /// # Errors
    /// There is no such prompt.
    pub fn get(&self, name: &str) -> Result<PromptSummary, PromptError> {
        let translations = self.find(name)?;
        let found = self.listed().find(|(_, others)| std::ptr::eq(*others, translations));
        let (key, _) = found.ok_or_else(|| PromptError::Unknown(name.to_owned()))?;
        Ok(self.summary(key, translations))
    }

    /// All languages in which there is any prompt.
    pub fn languages(&self) -> Vec<Language> {
        let all: BTreeSet<&Language> =
            self.listed().flat_map(|(_, translations)| translations.keys()).collect();
        all.into_iter().cloned().collect()
    }

    /// The language that does when no other is wanted.
    pub fn default_language(&self) -> &Language {
        &self.default_language
    }

    /// What can be asked for by name.
    pub(super) fn listed(&self) -> impl Iterator<Item = (&Key, &BTreeMap<Language, Document>)> {
        self.prompts.iter().filter(|(_, translations)| !translations.values().any(|d| d.place.is_partial))
    }

    fn find(&self, name: &str) -> Result<&BTreeMap<Language, Document>, PromptError> {
        let (base, label) = match name.split_once('@') {
            Some((base, label)) => (base, Some(label)),
            None => (name, None),
        };
        let same_name = || self.listed().filter(|((listed, _), _)| listed == base);
        let with_label =
            |wanted: Option<&str>| same_name().find(|((_, label), _)| label.as_deref() == wanted);
        let states_version = |translations: &BTreeMap<Language, Document>| {
            translations.values().any(|document| document.front.version.as_deref() == label)
        };
        let found = with_label(label).or_else(|| {
            // A label may also name the version that the plain file states.
            with_label(None).filter(|(_, translations)| label.is_some() && states_version(translations))
        });
        match (found, label) {
            (Some((_, translations)), _) => Ok(translations),
            (None, Some(label)) if same_name().next().is_some() => {
                Err(PromptError::UnknownLabel { name: base.to_owned(), label: label.to_owned() })
            }
            _ => Err(PromptError::Unknown(base.to_owned())),
        }
    }

    fn summary(&self, (name, label): &Key, translations: &BTreeMap<Language, Document>) -> PromptSummary {
        let in_default = translations.get(&self.default_language).or_else(|| translations.values().next());
        let label = label.as_ref().map_or_else(String::new, |label| format!("@{label}"));
        PromptSummary {
            name: format!("{name}{label}"),
            description: in_default.and_then(|document| document.front.description.clone()),
            schema: schema_of(translations).map(Schema::to_json_schema),
            translations: translations.values().map(Translation::of).collect(),
        }
    }

    fn render_document(
        &self,
        document: &Document,
        name: &str,
        values: &Map<String, Value>,
    ) -> Result<String, PromptError> {
        let failed = |problem: String| PromptError::Failed { name: name.to_owned(), problem };
        let engine = self.engines.get(&document.place.language);
        let engine = engine.ok_or_else(|| failed("its language has no engine".to_owned()))?;
        let text = engine.render(&template_name(document), values).map_err(|error| match error.reason() {
            RenderErrorReason::MissingVariable(Some(path)) => {
                PromptError::MissingVariable { name: name.to_owned(), variable: path.clone() }
            }
            // The engine's reason names what the template says, not what the caller said.
            reason => failed(reason.to_string()),
        })?;
        Ok(text.trim().to_owned())
    }
}

impl Translation {
    fn of(document: &Document) -> Self {
        Self {
            language: document.place.language.clone(),
            template: document.body.clone(),
            version: document.front.version.clone(),
            model: document.front.model.clone(),
            config: document.front.config.clone(),
            hash: document.hash(),
        }
    }
}

/// The variables of a call with the prompt's defaults, checked.
fn settled(
    document: &Document,
    schema: Option<&Schema>,
    name: &str,
    variables: &Map<String, Value>,
) -> Result<Map<String, Value>, PromptError> {
    let mut values = document.front.input.default.clone();
    values.extend(variables.clone());
    if let Some(schema) = schema {
        schema.check(name, &values)?;
        // In strict mode a template may ask only for what is there.
        for optional in schema.optional() {
            values.entry(optional).or_insert(Value::Null);
        }
    }
    Ok(values)
}

/// The rules for a prompt's variables: the first that any of its languages states. Two that differ
/// do not load.
fn schema_of(translations: &BTreeMap<Language, Document>) -> Option<&Schema> {
    translations.values().find_map(|document| document.schema.as_ref())
}

/// Where the languages of one prompt ask for different variables.
fn disagreements(translations: &BTreeMap<Language, Document>, default: &Language) -> Vec<PromptFault> {
    let Some(source) = translations.get(default).or_else(|| translations.values().next()) else {
        return Vec::new();
    };
    let schema = schema_of(translations);
    let mut faults = Vec::new();
    for document in translations.values() {
        let mut fault =
            |problem| faults.push(PromptFault { file: document.path.clone(), line: None, problem });
        if document.schema.is_some() && document.schema.as_ref() != schema {
            fault(format!("its input.schema differs from that of {}", source.path));
        }
        for name in document.template.variables.iter().filter(|name| schema.is_some_and(|s| !s.allows(name)))
        {
            fault(format!("the variable `{name}` is not in the prompt's input.schema"));
        }
        let (own, others) = (&document.template.variables, &source.template.variables);
        for name in own.symmetric_difference(others) {
            let (verb, other) =
                if own.contains(name) { ("uses", "does not") } else { ("does not use", "does") };
            fault(format!("it {verb} the variable `{name}`, and {} {other}", source.path));
        }
        if let Some(schema) = schema {
            let mut defaults = document.front.input.default.clone();
            defaults.retain(|name, _| !schema.allows(name));
            for name in defaults.keys() {
                fault(format!("input.default sets `{name}`, which is not in the prompt's input.schema"));
            }
        }
    }
    faults
}

fn unknown_partials(prompts: &BTreeMap<Key, BTreeMap<Language, Document>>) -> Vec<PromptFault> {
    let documents = prompts.values().flat_map(BTreeMap::values);
    let unknown = documents.flat_map(|document| {
        let missing = document.template.partials.iter().filter(|name| {
            !prompts.values().flat_map(BTreeMap::values).any(|other| template_name(other) == **name)
        });
        missing.map(|name| PromptFault {
            file: document.path.clone(),
            line: None,
            problem: format!("it includes `{name}`, which does not exist"),
        })
    });
    unknown.collect()
}

/// Prompts that include themselves by way of others, which would render for ever.
fn circles(prompts: &BTreeMap<Key, BTreeMap<Language, Document>>) -> Vec<PromptFault> {
    let mut includes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for document in prompts.values().flat_map(BTreeMap::values) {
        includes.entry(template_name(document)).or_default().extend(document.template.partials.clone());
    }
    let reaches_itself = |start: &str| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = includes.get(start).into_iter().flatten().map(String::as_str).collect();
        while let Some(name) = next.pop() {
            if seen.insert(name) {
                next.extend(includes.get(name).into_iter().flatten().map(String::as_str));
            }
        }
        seen.contains(start)
    };
    let documents = prompts.values().flat_map(BTreeMap::values);
    let in_circle = documents.filter(|document| reaches_itself(&template_name(document)));
    let fault = |document: &Document| PromptFault {
        file: document.path.clone(),
        line: None,
        problem: "it includes itself, directly or by way of another prompt".to_owned(),
    };
    in_circle.map(fault).collect()
}

/// One engine a language, in which partials of other languages stand in for missing ones.
fn engines(
    prompts: &BTreeMap<Key, BTreeMap<Language, Document>>,
    default: &Language,
) -> BTreeMap<Language, Handlebars<'static>> {
    let languages: BTreeSet<&Language> = prompts.values().flat_map(BTreeMap::keys).collect();
    let engine_for = |language: &Language| {
        let mut engine = Handlebars::new();
        engine.set_strict_mode(true);
        engine.register_escape_fn(no_escape);
        let wanted = Wanted { requested: Some(language.clone()), ..Wanted::default() };
        for translations in prompts.values() {
            let available: Vec<&Language> = translations.keys().collect();
            let chosen = wanted.choose(default, &available).and_then(|language| translations.get(language));
            if let Some(document) = chosen {
                engine.register_template(&template_name(document), document.template.compiled.clone());
            }
        }
        engine
    };
    languages.into_iter().map(|language| (language.clone(), engine_for(language))).collect()
}

fn template_name(document: &Document) -> String {
    match &document.place.label {
        Some(label) => format!("{}.{label}", document.place.name),
        None => document.place.name.clone(),
    }
}

#[cfg(test)]
mod tests;
