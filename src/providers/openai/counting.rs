//! Servers that count tokens for nothing: vLLM and llama-server, each in its own words.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value, json};

use super::OpenAi;
use crate::llm::{Change, ChatRequest, Count, CountRequest, CountSource, RequestKind, read_lenient};
use crate::providers::error::{ErrorKind, ProviderError};

/// By what a server is asked for a number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::providers) enum Counts {
    /// vLLM's `/tokenize`, which takes texts and conversations.
    Vllm,
    /// llama-server's `/tokenize` for texts, and for conversations what its template makes of them.
    LlamaCpp,
}

#[derive(Deserialize)]
struct Counted {
    count: u64,
}

#[derive(Deserialize)]
struct InputTokens {
    input_tokens: u64,
}

#[derive(Deserialize)]
struct Applied {
    prompt: String,
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<IgnoredAny>,
}

impl OpenAi {
    /// Counts all prompts, one after the other; `None` if there is no way to.
    pub(super) async fn counted(
        &self,
        model: &str,
        request: &CountRequest,
    ) -> Result<Option<Count>, ProviderError> {
        let Some(counts) = self.dialect.counts else { return Ok(None) };
        let mut tokens = Vec::with_capacity(request.prompts.len());
        for prompt in &request.prompts {
            tokens.push(match counts {
                Counts::Vllm => self.by_vllm(model, prompt).await?,
                Counts::LlamaCpp => self.by_llama_server(model, prompt).await?,
            });
        }
        Ok(Some(Count { tokens, source: CountSource::Provider }))
    }

    async fn by_vllm(&self, model: &str, prompt: &ChatRequest) -> Result<u64, ProviderError> {
        let member = |name: &str| prompt.body.get(name).and_then(|json| serde_json::from_slice(json).ok());
        let said = ["prompt", "messages", "tools"].into_iter().filter_map(|name| Some((name, member(name)?)));
        let said = said.filter(|(_, value): &(_, Value)| !value.is_null());
        let question: Map<String, Value> =
            said.chain([("model", model.into())]).map(|(name, value)| (name.to_owned(), value)).collect();
        let question = Value::Object(question).to_string();
        let Counted { count } = self.asked("/tokenize", question.into()).await?;
        Ok(count)
    }

    async fn by_llama_server(&self, model: &str, prompt: &ChatRequest) -> Result<u64, ProviderError> {
        if prompt.kind == RequestKind::Completion {
            let text = prompt.body.get("prompt").and_then(|json| serde_json::from_slice(json).ok());
            return self.of_text(text.unwrap_or_default()).await;
        }
        let body = prompt.body.edit(&[Change::Set("model", Value::from(model).to_string().into())]);
        let path = "/v1/chat/completions/input_tokens";
        match self.asked::<InputTokens>(path, body.clone()).await {
            // An older one tells what its template makes of it.
            Err(error) if is_missing(&error) => {
                let Applied { prompt } = self.asked("/apply-template", body).await?;
                self.of_text(prompt).await
            }
            counted => Ok(counted?.input_tokens),
        }
    }

    /// As the beginning of a prompt, in which special tokens are what they are.
    async fn of_text(&self, text: String) -> Result<u64, ProviderError> {
        let question = json!({"content": text, "add_special": true, "parse_special": true});
        let Tokens { tokens } = self.asked("/tokenize", question.to_string().into()).await?;
        Ok(tokens.len() as u64)
    }

    async fn asked<A: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<A, ProviderError> {
        let answer = self.upstream.ask_below_root(path, body).await?;
        read_lenient(&answer).map_err(|reason| self.upstream.failed(ErrorKind::Protocol(reason)))
    }
}

fn is_missing(error: &ProviderError) -> bool {
    matches!(&error.kind, ErrorKind::Rejected(rejection) if rejection.status == 404)
}
