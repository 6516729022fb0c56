//! Prompts: which are new, gone or written anew, and in which languages.

use std::collections::BTreeMap;

use super::{Change, How, What};
use crate::prompts::{PromptLibrary, PromptPart};

/// The texts of a prompt, by language.
type Texts = BTreeMap<String, [u8; 32]>;

pub(super) fn changes(old: &PromptLibrary, new: &PromptLibrary) -> Vec<Change> {
    let (old, new) = (by_name(old.parts()), by_name(new.parts()));
    let mut changes = Vec::new();
    for (name, texts) in &new {
        match old.get(name) {
            None => {
                let languages: Vec<&str> = texts.keys().map(String::as_str).collect();
                changes.push(Change::new(What::Prompt, name, How::Added, vec![languages.join(", ")]));
            }
            Some(before) if before != texts => {
                changes.push(Change::new(What::Prompt, name, How::Changed, by_language(before, texts)));
            }
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    changes.extend(gone.map(|name| Change::new(What::Prompt, name, How::Removed, Vec::new())));
    changes
}

fn by_name(parts: Vec<PromptPart>) -> BTreeMap<String, Texts> {
    let mut all: BTreeMap<String, Texts> = BTreeMap::new();
    for PromptPart { name, language, digest } in parts {
        all.entry(name).or_default().insert(language.to_string(), digest);
    }
    all
}

fn by_language(old: &Texts, new: &Texts) -> Vec<String> {
    let written = new.iter().filter_map(|(language, digest)| match old.get(language) {
        None => Some(format!("{language} added")),
        Some(before) => (before != digest).then(|| format!("{language} changed")),
    });
    let gone = old.keys().filter(|language| !new.contains_key(*language));
    written.chain(gone.map(|language| format!("{language} removed"))).collect()
}
