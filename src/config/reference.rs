//! What every setting is for: the text of `serve --help`.

use super::settings::{KNOWN, PREFIX};

/// A setting: its name without the prefix, what holds without it, and what it means.
type Setting = (&'static str, &'static str, &'static str);

/// In the order in which they are shown.
const SETTINGS: &[Setting] = &[
    ("LISTEN", "127.0.0.1:8080", "comma list of host:port, [v6]:port, unix:/path; --listen"),
    ("MODELS_CONFIG", "resources/configs/models-config.json", "the models file: JSON, YAML or Lua; --config"),
    ("MINIMUM", "off", "start on what can be found, whether or not there is a models file"),
    ("PROMPTS_DIR", "resources/prompts", "the prompt library"),
    ("DEFAULT_EP_LANGUAGE", "en", "the language when nothing else says"),
    ("EP_PREFIX", "/api", "prefix of the facade; empty for none"),
    ("GGUF_DIR", "unset", "where MINIMUM looks for GGUF files"),
    ("AUTH", "auto", "keys, none, or auto: none on this machine's addresses, a start error on others"),
    ("RAW_REQUESTS", "listed", "which keys may make raw requests: listed or open"),
    ("ADMIN_KEY", "unset", "opens the admin API; or a comma list of name:key"),
    ("METRICS_KEY", "unset", "opens /metrics, and nothing else"),
    ("METRICS_LISTEN", "unset", "comma list of addresses at which only /metrics is"),
    ("CORS_ORIGINS", "unset", "comma list of sites whose pages may call; * for all"),
    ("TRUSTED_PROXIES", "unset", "addresses and networks of proxies whose X-Forwarded-For counts"),
    ("TLS_CERT", "unset", "PEM file of the certificates; with TLS_KEY it turns TLS on"),
    ("TLS_KEY", "unset", "PEM file of the key"),
    ("TIMEOUT", "300", "seconds for one upstream request"),
    ("CONNECT_TIMEOUT", "5", "seconds for a connection to an upstream"),
    ("FIRST_TOKEN_TIMEOUT", "TIMEOUT", "seconds for the first content of a stream"),
    ("STALL_TIMEOUT", "60", "seconds of silence in a stream"),
    ("HEADER_TIMEOUT", "10", "seconds for the head of a request"),
    ("BODY_TIMEOUT", "30", "seconds of silence within the body of a request"),
    ("IDLE_TIMEOUT", "75", "seconds between two requests of a connection"),
    ("DRAIN_TIMEOUT", "30", "seconds for open answers at the end"),
    ("MAX_BODY_BYTES", "20971520", "larger bodies are refused"),
    ("MAX_BODY_MEMORY_BYTES", "268435456", "bytes of all bodies in memory at the same time"),
    ("MAX_CONNECTIONS", "16384", "further connections wait"),
    ("DATA_DIR", "$STATE_DIRECTORY, or data", "folder of the database and the log file"),
    ("DATABASE_URL", "a SQLite file in the data folder", "sqlite://PATH or postgres://…"),
    ("USAGE_KEEP_DAYS", "400", "how long the record of each request is kept"),
    ("TIME_ZONE", "UTC", "where days, weeks and months begin"),
    ("REDIS_URL", "unset", "Redis, through which replicas share limits and budgets"),
    ("REDIS_FAIL", "open", "while Redis is away: open (each counts for itself) or closed"),
    ("LOG_LEVEL", "INFO", "DEBUG, INFO, WARN, ERROR, or a filter expression; --log-level"),
    ("LOG_FORMAT", "text", "text or json"),
    (
        "LOG_FILENAME",
        "llm-proxy-rest.log in the data folder",
        "written beside standard error; empty for none",
    ),
    ("IN_DEBUG", "off", "more log lines, and errors with the upstream's own text"),
];

/// All settings there are, a line or two each.
pub fn settings_in_words() -> String {
    let is_known = |setting: &&Setting| KNOWN.contains(&setting.0.to_ascii_lowercase().as_str());
    let width = SETTINGS.iter().map(|(name, ..)| name.len()).max().unwrap_or_default();
    let lines = SETTINGS.iter().filter(is_known).map(|(name, default, meaning)| {
        format!("  {name:width$}  {meaning}\n  {:width$}  [default: {default}]\n", "")
    });
    format!(
        "Settings, environment variables that begin with {PREFIX}, in the process or in the file .env:\n\n{}\n\
         Without the prefix, OPENAI_API_KEY, OPENAI_BASE_URL and OLLAMA_HOST are looked at where MINIMUM is on, and NO_COLOR \
         turns colours off.",
        lines.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_explained() {
        for known in KNOWN {
            assert!(SETTINGS.iter().any(|(name, ..)| name.eq_ignore_ascii_case(known)), "{known}");
        }
        let words = settings_in_words();
        assert!(words.contains("  LISTEN ") && words.contains("[default: 127.0.0.1:8080]"), "{words}");
    }
}
