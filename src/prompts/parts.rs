//! What a library is made of, in the terms in which two libraries are compared.

use sha2::{Digest, Sha256};

use super::PromptLibrary;
use super::language::Language;

/// One prompt file, partials included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptPart {
    /// The name; a label follows behind `@`, and `_` stands in front of a partial's.
    pub name: String,
    /// The language.
    pub language: Language,
    /// Of all that the file says.
    pub digest: [u8; 32],
}

impl PromptLibrary {
    /// Everything in it, in the order of names and languages.
    pub fn parts(&self) -> Vec<PromptPart> {
        let documents = self.documents();
        let part = |((name, label), document): (&super::library::Key, &super::document::Document)| {
            let mark = if document.place.is_partial { "_" } else { "" };
            let label = label.as_ref().map_or_else(String::new, |label| format!("@{label}"));
            let digest = Sha256::new_with_prefix(document.front_text()).chain_update([0]);
            PromptPart {
                name: format!("{mark}{name}{label}"),
                language: document.place.language.clone(),
                digest: digest.chain_update(document.body.as_bytes()).finalize().into(),
            }
        };
        documents.map(part).collect()
    }
}
