//! llama.cpp's server: OpenAI's API, and sampling options of its own. One that somebody else runs has an address; the
//! others are run by the gateway (`managed`).

use std::sync::Arc;

use super::openai::{Counts, Dialect, OpenAi};
use super::{Provider, Shared, managed};
use crate::config::{Fault, ProviderConfig};

pub(super) const LLAMA_CPP: Dialect = Dialect {
    options: &[
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
        ("min_p", "min_p"),
        ("typical_p", "typical_p"),
        ("max_tokens", "max_tokens"),
        ("seed", "seed"),
        ("stop", "stop"),
        ("presence_penalty", "presence_penalty"),
        ("frequency_penalty", "frequency_penalty"),
        ("repetition_penalty", "repeat_penalty"),
        ("repeat_last_n", "repeat_last_n"),
        ("mirostat", "mirostat"),
        ("mirostat_tau", "mirostat_tau"),
        ("mirostat_eta", "mirostat_eta"),
    ],
    // llama-server polls for a closed connection only between the pieces of a stream; a whole answer would
    // go on being generated for nobody.
    folds_whole_answers: true,
    health_path: Some("/health"),
    counts: Some(Counts::LlamaCpp),
};

pub(super) fn build(config: &ProviderConfig, shared: &Shared) -> Result<Arc<dyn Provider>, Fault> {
    if config.base_url.is_none() {
        return managed::build(config, shared);
    }
    Ok(Arc::new(OpenAi::new(config, shared, &LLAMA_CPP)?))
}
