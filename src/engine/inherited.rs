//! Which of the gateway's own variables an engine inherits: all but settings and secrets.
//!
//! An engine needs where libraries, devices and models are; it does not need the keys of the clouds that the gateway
//! speaks to, nor what systemd tells the gateway alone.

use std::ffi::OsString;

/// Settings of the gateway, some of them secrets.
const OWN: &str = "LLM_PROXY_API_";

/// Words that make a variable a secret, wherever they stand in its name.
const SECRET: &[&str] =
    &["API_KEY", "APIKEY", "ACCESS_KEY", "PRIVATE_KEY", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"];
/// Words that do so at its end. `TOKENIZERS_PARALLELISM` is none.
const SECRET_AT_END: &[&str] = &["TOKEN", "DATABASE_URL", "_DSN"];
/// What an engine downloads models with.
const NEEDED: &[&str] = &["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
/// Meant for the gateway alone: an engine would tell systemd that the gateway is ready, take its sockets, or believe
/// that it is the child of a router and end with it.
const NOT_FOR_CHILDREN: &[&str] = &[
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LLAMA_SERVER_ROUTER_PORT",
];

/// The variables of this process that its engines inherit.
pub(super) fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_none_or(is_inherited))
}

fn is_inherited(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let is_secret = SECRET.iter().any(|word| upper.contains(word))
        || SECRET_AT_END.iter().any(|word| upper.ends_with(word));
    let is_withheld = upper.starts_with(OWN) || is_secret || NOT_FOR_CHILDREN.contains(&upper.as_str());
    NEEDED.contains(&upper.as_str()) || !is_withheld
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_inherit_what_they_need() {
        for name in [
            "PATH",
            "HOME",
            "LD_LIBRARY_PATH",
            "CUDA_VISIBLE_DEVICES",
            "GGML_VK_VISIBLE_DEVICES",
            "HF_HOME",
            "HF_TOKEN",
            "LLAMA_CACHE",
            "LLAMA_ARG_THREADS",
            "TOKENIZERS_PARALLELISM",
            "HSA_OVERRIDE_GFX_VERSION",
            "XDG_CACHE_HOME",
        ] {
            assert!(is_inherited(name), "{name}");
        }
    }

    #[test]
    fn engines_inherit_neither_settings_nor_secrets() {
        for name in [
            "LLM_PROXY_API_AUTH_TOKENS",
            "LLM_PROXY_API_LISTEN",
            "OPENAI_API_KEY",
            "OPENAI_API_KEY_2",
            "LLAMA_API_KEY",
            "anthropic_api_key",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "GITHUB_TOKEN",
            "PGPASSWORD",
            "DATABASE_URL",
            "SENTRY_DSN",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "NOTIFY_SOCKET",
            "LLAMA_SERVER_ROUTER_PORT",
        ] {
            assert!(!is_inherited(name), "{name}");
        }
    }
}
