//! vLLM: OpenAI's API, and sampling options of its own.

use std::sync::Arc;

use super::openai::{Counts, Dialect, OpenAi};
use super::{Provider, Shared};
use crate::config::{Fault, ProviderConfig};

const VLLM: Dialect = Dialect {
    options: &[
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
        ("min_p", "min_p"),
        ("max_tokens", "max_tokens"),
        ("seed", "seed"),
        ("stop", "stop"),
        ("presence_penalty", "presence_penalty"),
        ("frequency_penalty", "frequency_penalty"),
        ("repetition_penalty", "repetition_penalty"),
    ],
    folds_whole_answers: false,
    health_path: Some("/health"),
    counts: Some(Counts::Vllm),
};

pub(super) fn build(config: &ProviderConfig, shared: &Shared) -> Result<Arc<dyn Provider>, Fault> {
    Ok(Arc::new(OpenAi::new(config, shared, &VLLM)?))
}
