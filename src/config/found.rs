//! What other programs' variables say of what may be near.

use std::path::PathBuf;

use secrecy::SecretString;

use super::Environment;

/// What other programs' variables say about providers that may be near.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// `OPENAI_API_KEY`
    pub openai_api_key: Option<SecretString>,
    /// `OPENAI_BASE_URL`
    pub openai_base_url: Option<String>,
    /// `OLLAMA_HOST`
    pub ollama_host: Option<String>,
    /// Whether `HTTP_PROXY`, `ALL_PROXY` or the like is set.
    pub has_proxy: bool,
    /// `PATH`, for `llama-server`.
    pub path: Option<String>,
    /// `LLM_PROXY_API_GGUF_DIR`
    pub gguf_dir: Option<PathBuf>,
}

impl Found {
    pub(super) fn from_environment(environment: &Environment, gguf_dir: Option<PathBuf>) -> Self {
        let owned = |name| environment.get(name).map(str::to_owned);
        Self {
            openai_api_key: owned("OPENAI_API_KEY").map(SecretString::from),
            openai_base_url: owned("OPENAI_BASE_URL"),
            ollama_host: owned("OLLAMA_HOST"),
            has_proxy: ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
                .iter()
                .any(|name| environment.get(name).is_some()),
            path: owned("PATH"),
            gguf_dir,
        }
    }
}
