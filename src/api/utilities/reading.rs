//! Reads the requests of the utilities: what all of them take, and what must be so of their texts.

use bytes::Bytes;
use poem::Request;
use serde::de::DeserializeOwned;
use validator::Validate;

use super::super::error::ApiError;
use super::super::schema::{GenerationOptions, Passages, SeveralTexts, Streaming, UtilityRequest};
use super::super::{dto, prompts, rest};
use crate::gateway::{Conversation, Offer, Opening};
use crate::llm::{Options, RawObject, shortened};
use crate::prompts::Wanted;

/// More texts than these are a job for several requests.
const MOST_TEXTS: usize = 256;

/// The members that all utilities take.
const COMMON: &[&str] = &[
    "model_name",
    "model",
    "language",
    "strict_language",
    "prompt",
    "variables",
    "stream",
    "temperature",
    "max_new_tokens",
    "top_p",
    "top_k",
    "typical_p",
    "repetition_penalty",
    "seed",
    "stop",
];

/// A request of a utility, of which each room reads its part.
pub(super) struct Asked {
    object: RawObject,
    common: UtilityRequest,
    stream: bool,
    /// Members of older systems, which do nothing here.
    pub(super) ignored: Vec<String>,
}

impl Asked {
    /// A request that has one answer. `own` are the members that only this utility takes.
    pub(super) fn for_one(body: Bytes, own: &[&str]) -> Result<Self, ApiError> {
        let object = dto::object(body)?;
        let ignored = dto::only_known(&object, &[COMMON, own], &[dto::OF_OLDER_CLIENTS])?;
        let common = dto::read(object.text())?;
        let Streaming { stream } = dto::read(object.text())?;
        Ok(Self { object, common, stream: stream.unwrap_or_default(), ignored })
    }

    /// A request that has an answer for each of its texts.
    pub(super) fn for_list(body: Bytes, own: &[&str]) -> Result<Self, ApiError> {
        let asked = Self::for_one(body, &[own, &["texts"]].concat())?;
        if asked.stream {
            let message =
                "`stream` cannot be true here: several texts have several answers, which come whole";
            return Err(ApiError::invalid("stream", message));
        }
        Ok(asked)
    }

    /// What one utility takes besides.
    pub(super) fn part<T: DeserializeOwned + Validate>(&self) -> Result<T, ApiError> {
        dto::read(self.object.text())
    }

    /// The texts that have an answer each.
    pub(super) fn texts(&self) -> Result<Vec<String>, ApiError> {
        let SeveralTexts { texts } = self.part()?;
        check_texts("texts", &texts)?;
        Ok(texts)
    }

    /// The languages that the prompt may have.
    pub(super) fn wanted(&self, request: &Request) -> Result<Wanted, ApiError> {
        prompts::wanted(self.common.language.as_deref(), self.common.strict_language, request)
    }

    /// The conversation with the model, in which nothing is said yet.
    pub(super) fn conversation(
        &self,
        prompt: &str,
        offers: Vec<Offer>,
        wanted: Wanted,
    ) -> Result<Conversation, ApiError> {
        let common = &self.common;
        let mut options = Options::default();
        options.set("temperature", common.temperature);
        options.set("max_tokens", common.max_new_tokens);
        let generation: GenerationOptions = self.part()?;
        rest::set_options(&mut options, generation);
        Ok(Conversation {
            model: common.model_name.clone(),
            opening: Opening::Prompt {
                name: common.prompt.as_deref().unwrap_or(prompt).to_owned(),
                variables: common.variables.0.clone(),
                wanted,
                offers,
            },
            history: Vec::new(),
            statement: String::new(),
            stream: self.stream,
            options,
        })
    }
}

/// Texts that are there, and no more than can be worked on.
pub(super) fn check_texts(place: &str, texts: &[String]) -> Result<(), ApiError> {
    check_count(place, texts.len())?;
    texts.iter().enumerate().try_for_each(|(index, text)| not_blank(&format!("{place}[{index}]"), text))
}

/// The same of passages.
pub(super) fn check_passages(passages: &Passages) -> Result<(), ApiError> {
    match passages {
        Passages::List(list) => check_texts("texts", list),
        Passages::Documents(documents) => {
            check_count("texts", documents.iter().map(|(_, list)| list.len().max(1)).sum())?;
            documents
                .iter()
                .try_for_each(|(name, list)| check_texts(&format!("texts.{}", shortened(name)), list))
        }
    }
}

fn check_count(place: &str, count: usize) -> Result<(), ApiError> {
    match count {
        0 => Err(ApiError::invalid(place, format!("`{place}` must not be empty"))),
        1..=MOST_TEXTS => Ok(()),
        _ => Err(ApiError::invalid(
            place,
            format!("`{place}` must be at most {MOST_TEXTS} texts, not {count}"),
        )),
    }
}

pub(super) fn not_blank(place: &str, text: &str) -> Result<(), ApiError> {
    if text.trim().is_empty() {
        return Err(ApiError::invalid(place, format!("`{place}` must not be empty")));
    }
    Ok(())
}
