//! The library: all prompts in all languages, checked against each other, ready to render.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use handlebars::{Handlebars, RenderErrorReason, no_escape};
use serde_json::{Map, Value};

use super::document::Document;
use super::fault::{DocumentFault, LibraryError, PromptFault};
use super::folder::{self, SourceFile};
use super::front::FrontMatter;
use super::language::{Language, Wanted};
use super::pace::Bounded;
use super::schema::Schema;
use super::{PromptError, pace, shipped};
use crate::lint::nearest;

/// An immutable set of prompts. A reload makes a new one; who holds this one keeps it.
#[derive(Debug)]
pub struct PromptLibrary {
    default_language: Language,
    prompts: Prompts,
    engines: BTreeMap<Language, Handlebars<'static>>,
    warnings: Vec<String>,
}

/// All prompts, in all their languages.
pub(super) type Prompts = BTreeMap<Key, BTreeMap<Language, Document>>;

/// Name and label.
pub(super) type Key = (String, Option<String>);

/// A prompt with its variables put in.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The prompt's name.
    pub name: String,
    /// The label of its file, if it has one.
    pub label: Option<String>,
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
    /// Reads a folder. The prompts that come with the program serve beneath it: a name that stands in the folder in
    /// any language takes the place of the shipped prompt of that name, in all its languages.
    ///
    /// # Errors
    /// All that is wrong with its files.
    pub fn load(folder: &Path, default_language: &Language) -> Result<Self, LibraryError> {
        let files = folder::read(folder).map_err(|(path, error)| {
            let fault =
                DocumentFault::new(None, error.to_string(), "make it readable for this user, or take it out");
            LibraryError { faults: vec![fault.in_file(&path.display().to_string())] }
        })?;
        let shown = |path: &str| folder.join(path).display().to_string();
        let mut library = Self::of_files(&files, &shipped::files(), shown, default_language)?;
        if files.is_empty() {
            let warning = format!("{}: there is not one prompt in this folder", folder.display());
            library.warnings.push(format!("{warning}; those that come with the program serve"));
        }
        Ok(library)
    }

    /// The prompts that come with the program.
    ///
    /// # Errors
    /// Never, as a test sees to.
    pub fn shipped(default_language: &Language) -> Result<Self, LibraryError> {
        Self::of_files(&[], &shipped::files(), str::to_owned, default_language)
    }

    /// Makes a library of texts, by what their paths would be in a folder. The prompts that come with the program are not in
    /// it.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn of_texts(texts: &[(&str, &str)], default_language: &Language) -> Result<Self, LibraryError> {
        let file =
            |(path, text): &(&str, &str)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() };
        let files: Vec<SourceFile> = texts.iter().map(file).collect();
        Self::of_files(&files, &[], str::to_owned, default_language)
    }

    /// Makes a library of these files; `shown` is what messages call one.
    fn of_files(
        own: &[SourceFile],
        shipped: &[SourceFile],
        shown: impl Fn(&str) -> String,
        default_language: &Language,
    ) -> Result<Self, LibraryError> {
        let mut prompts = Prompts::new();
        let mut faults = Vec::new();
        for file in own {
            match Document::parse(file, shown(&file.path)) {
                Ok(document) => faults.extend(insert(&mut prompts, document)),
                Err(of_file) => {
                    faults.extend(of_file.into_iter().map(|fault| fault.in_file(&shown(&file.path))));
                }
            }
        }
        let names: BTreeSet<Key> = prompts.keys().cloned().collect();
        for file in shipped {
            match Document::parse(file, format!("{} (shipped)", file.path)) {
                Ok(document) if names.contains(&key_of(&document)) => {}
                Ok(mut document) => {
                    document.is_shipped = true;
                    faults.extend(insert(&mut prompts, document));
                }

                Err(of_file) => faults.extend(of_file.into_iter().map(|fault| fault.in_file(&file.path))),
            }
        }
        faults.extend(checks::faults(&prompts, default_language));
        if !faults.is_empty() {
            return Err(LibraryError { faults });
        }
        let warnings = checks::warnings(&prompts);
        for translations in prompts.values_mut() {
            share_defaults(translations, default_language);
            inherit(translations, default_language);
        }
        let engines = engines(&prompts, default_language);
        Ok(Self { default_language: default_language.clone(), prompts, engines, warnings })
    }

    /// Things to tell the operator that are no errors.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How many prompts come with the program.
    pub fn shipped_count(&self) -> usize {
        self.listed()
            .filter(|(_, translations)| translations.values().any(|document| document.is_shipped))
            .count()
    }

    /// Whether there is any prompt in a language, or in a more general one.
    pub fn speaks(&self, language: &Language) -> bool {
        let languages = self.languages();
        language.fallbacks().any(|tag| languages.iter().any(|language| language.as_str() == tag))
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
        let document = translations.get(language).ok_or_else(|| self.unknown(name))?;
        let text = settled(document, schema_of(translations), name, variables)
            .and_then(|values| self.render_document(document, name, &values))
            .map_err(|error| self.with_unknown(error, document, schema_of(translations), variables))?;
        Ok(Rendered {
            text,
            name: document.place.name.clone(),
            label: document.place.label.clone(),
            fallback: requested != language,
            language: language.clone(),
            requested_language: requested.clone(),
            version: document.front.version.clone(),
            config: document.front.config.clone().unwrap_or_default(),
        })
    }

    /// A missing variable, with those that were given and that the prompt does not have: one of them was perhaps meant.
    fn with_unknown(
        &self,
        error: PromptError,
        document: &Document,
        schema: Option<&Schema>,
        given: &Map<String, Value>,
    ) -> PromptError {
        let PromptError::MissingVariable { name, variable, .. } = error else { return error };
        let mut known = checks::all_variables(document, &self.prompts);
        known.extend(schema.into_iter().flat_map(Schema::names));
        let is_unknown = |name: &&String| !known.contains(document.variable_named(name).as_str());
        let unknown = given.keys().filter(is_unknown).cloned().collect();
        PromptError::MissingVariable { name, variable, unknown }
    }

    /// Whether a prompt, named `name` or `name@label`, has a variable: in its schema or in its text, in any language.
    ///
    /// # Errors
    /// There is no such prompt.
    pub fn takes(&self, name: &str, variable: &str) -> Result<bool, PromptError> {
        let translations = self.find(name)?;
        let in_schema = schema_of(translations).is_some_and(|schema| schema.names().any(|n| n == variable));
        let in_text = |document| checks::all_variables(document, &self.prompts).contains(variable);
        Ok(in_schema || translations.values().any(in_text))
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
        let (key, _) = found.ok_or_else(|| self.unknown(name))?;
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

    /// Everything in it, partials included.
    pub(super) fn documents(&self) -> impl Iterator<Item = (&Key, &Document)> {
        self.prompts
            .iter()
            .flat_map(|(key, translations)| translations.values().map(move |document| (key, document)))
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
            _ => Err(self.unknown(base)),
        }
    }

    fn unknown(&self, name: &str) -> PromptError {
        let known = self.prompts.keys().map(|(known, _)| known.as_str());
        PromptError::Unknown { name: name.to_owned(), nearest: nearest(name, known).map(str::to_owned) }
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
        let mut rendered = Bounded::default();
        let done = engine.render_to_write(&template_name(document), values, &mut rendered);
        done.map_err(|error| match error.reason() {
            RenderErrorReason::MissingVariable(Some(path)) => PromptError::MissingVariable {
                name: name.to_owned(),
                variable: path.clone(),
                unknown: Vec::new(),
            },
            RenderErrorReason::IOError(_) => PromptError::TooLarge(name.to_owned()),
            // The engine's reason names what the template says, not what the caller said.
            reason => failed(reason.to_string()),
        })?;
        Ok(rendered.into_text().trim().to_owned())
    }
}

impl Rendered {
    /// Which text this is, for logs, usage and callers: `name@version/language`, or `name@language` of a prompt that
    /// states no version. A label stands before the version.
    pub fn reference(&self) -> String {
        let Self { name, language, .. } = self;
        match (&self.label, &self.version) {
            (None, None) => format!("{name}@{language}"),
            (Some(one), None) | (None, Some(one)) => format!("{name}@{one}/{language}"),
            (Some(label), Some(version)) => format!("{name}@{label}.{version}/{language}"),
        }
    }
}

impl Translation {
    fn of(document: &Document) -> Self {
        Self {
            language: document.place.language.clone(),
            template: document.body.clone(),
            version: document.front.version.clone(),
            model: document.front.model.clone(),
            config: document.front.config.clone().unwrap_or_default(),
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
    for (given, value) in variables {
        values.insert(document.variable_named(given), value.clone());
    }
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

/// Puts a document where it belongs, which may be taken.
fn insert(prompts: &mut Prompts, document: Document) -> Option<PromptFault> {
    let of_prompt = prompts.entry(key_of(&document)).or_default();
    let path = document.path.clone();
    let other = of_prompt.insert(document.place.language.clone(), document)?;
    let problem = format!("the same prompt stands in {}", other.path);
    Some(DocumentFault::new(None, problem, "take one of the two out").in_file(&path))
}

fn key_of(document: &Document) -> Key {
    (document.place.name.clone(), document.place.label.clone())
}

/// A default that one language states holds for all of them; a language's own wins.
fn share_defaults(translations: &mut BTreeMap<Language, Document>, default: &Language) {
    let in_default = translations.get(default).into_iter();
    let mut shared = Map::new();
    for document in in_default.chain(translations.values()) {
        for (name, value) in &document.front.input.default {
            shared.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    for document in translations.values_mut() {
        for (name, value) in &shared {
            document.front.input.default.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// The text that the others translate: that in the default language, or else in the first one.
pub(super) fn source_of<'t>(
    translations: &'t BTreeMap<Language, Document>,
    default: &Language,
) -> Option<&'t Document> {
    translations.get(default).or_else(|| translations.values().next())
}

/// A translation has the settings of its source where it does not state its own.
fn inherit(translations: &mut BTreeMap<Language, Document>, default: &Language) {
    let Some(source) = source_of(translations, default) else { return };
    let (config, version, model) =
        (source.front.config.clone(), source.front.version.clone(), source.front.model.clone());
    for FrontMatter { config: own_config, version: own_version, model: own_model, .. } in
        translations.values_mut().map(|document| &mut document.front)
    {
        *own_config = own_config.take().or_else(|| config.clone());
        *own_version = own_version.take().or_else(|| version.clone());
        *own_model = own_model.take().or_else(|| model.clone());
    }
}

/// One engine a language, in which partials of other languages stand in for missing ones.
fn engines(prompts: &Prompts, default: &Language) -> BTreeMap<Language, Handlebars<'static>> {
    let languages: BTreeSet<&Language> = prompts.values().flat_map(BTreeMap::keys).collect();
    let engine_for = |language: &Language| {
        let mut engine = Handlebars::new();
        engine.set_strict_mode(true);
        engine.register_escape_fn(no_escape);
        pace::register(&mut engine);
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
