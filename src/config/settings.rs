//! The settings: `LLM_PROXY_API_*`, read by `envy`, each checked and explained.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use super::operators::{SAFE_KEY_LENGTH, is_weak};
use super::parse::{self, Parsed};
use super::secret_files::is_file_of_secret;
use super::{
    AdminKey, Catalog, ConfigError, Environment, Fault, Folders, Found, Network, RedisSettings, nearest,
};
use crate::callers::Zone;

pub(super) const PREFIX: &str = "LLM_PROXY_API_";

/// Everything that the environment says.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is the yes or no of one variable")]
pub struct Settings {
    /// `MINIMUM`: start on what can be found, too.
    pub minimum: bool,
    /// `LISTEN`
    pub listen: Vec<ListenAddress>,
    /// Whether `LISTEN` was set: then it holds whatever the models file says.
    pub listen_is_set: bool,
    /// `EP_PREFIX`: empty, or with a slash in front and none behind.
    pub prefix: String,
    /// `MODELS_CONFIG`
    pub models_config: PathBuf,
    /// Whether `MODELS_CONFIG` was set: then the file must be there.
    pub models_config_is_set: bool,
    /// `PROMPTS_DIR`
    pub prompts_dir: PathBuf,
    /// Whether `PROMPTS_DIR` was set: then the folder must be there.
    pub prompts_dir_is_set: bool,
    /// `DEFAULT_EP_LANGUAGE`
    pub default_language: String,
    /// The four time-outs of upstream requests.
    pub timeouts: Timeouts,
    /// What the server allows.
    pub serving: Serving,
    /// Where log lines go.
    pub log: LogSettings,
    /// `IN_DEBUG`: more log lines, and error bodies hold the upstream's own text.
    pub in_debug: bool,
    /// `AUTH`
    pub auth: Auth,
    /// `RAW_REQUESTS`
    pub raw_requests: RawRequests,
    /// `ADMIN_KEY`: without one there is no admin API.
    pub admin_keys: Vec<AdminKey>,
    /// `METRICS_KEY`: opens the figures, and nothing else.
    pub metrics_key: Option<SecretString>,
    /// `METRICS_LISTEN`: where only the figures are.
    pub metrics_listen: Vec<ListenAddress>,
    /// `REDIS_URL` and `REDIS_FAIL`: without the first, this is the only replica.
    pub redis: Option<RedisSettings>,
    /// `CORS_ORIGINS`
    pub cors_origins: Vec<String>,
    /// `TRUSTED_PROXIES`: those that are believed where a request came from.
    pub trusted_proxies: Vec<Network>,
    /// What is kept of keys and usage.
    pub storage: Storage,
    /// Where it writes.
    pub folders: Folders,
    /// What other programs' variables say about providers near by.
    pub found: Found,
    /// Things to tell the operator that are no errors.
    pub warnings: Vec<String>,
}

/// What is kept of keys and usage.
#[derive(Clone, Debug)]
pub struct Storage {
    /// `DATABASE_URL`: `sqlite://path` or `postgres://…`; it may hold a password.
    pub database_url: SecretString,
    /// Whether it, or the folder of its file, was named by a setting.
    pub is_named: bool,
    /// `USAGE_KEEP_DAYS`: how long the record of a single request is kept.
    pub usage_keep: Duration,
    /// `TIME_ZONE`: where days, weeks and months of budgets begin.
    pub zone: Zone,
}

/// Time-outs of upstream requests.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// `TIMEOUT`: of one whole request.
    pub request: Duration,
    /// `CONNECT_TIMEOUT`
    pub connect: Duration,
    /// `FIRST_TOKEN_TIMEOUT`: of a stream, until its first content.
    pub first_token: Duration,
    /// `STALL_TIMEOUT`: of a stream's silence.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(300),
            connect: Duration::from_secs(5),
            first_token: Duration::from_secs(300),
            stall: Duration::from_secs(60),
        }
    }
}

/// What the server allows its callers.
#[derive(Clone, Debug)]
pub struct Serving {
    /// `MAX_BODY_BYTES`
    pub max_body_bytes: usize,
    /// `MAX_BODY_MEMORY_BYTES`: of all bodies together.
    pub max_body_memory_bytes: usize,
    /// `MAX_CONNECTIONS`
    pub max_connections: usize,
    /// `HEADER_TIMEOUT`: from a request's first byte to the end of its head.
    pub header_timeout: Duration,
    /// `IDLE_TIMEOUT`: of a connection between two requests.
    pub idle_timeout: Duration,
    /// `BODY_TIMEOUT`: of silence within a request's body.
    pub body_timeout: Duration,
    /// `DRAIN_TIMEOUT`: for open answers at the end.
    pub drain_timeout: Duration,
    /// `TLS_CERT` and `TLS_KEY`
    pub tls: Option<TlsFiles>,
}

/// Certificate chain and private key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `TLS_CERT`
    pub certificates: PathBuf,
    /// `TLS_KEY`
    pub key: PathBuf,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port`, the host a name, an IPv4 address or an IPv6 address in brackets.
    Tcp(String),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// Where log lines go, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `LOG_FILENAME`; none when set empty.
    pub file: Option<PathBuf>,
    /// `LOG_LEVEL`: a level, or a whole filter expression.
    pub filter: String,
    /// `LOG_FORMAT`
    pub format: LogFormat,
    /// `NO_COLOR`, without the prefix: no colours on a terminal.
    pub is_plain: bool,
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Whoever reaches a listener.
    None,
    /// Whoever reaches a listener, all of which are on this machine only.
    Auto,
    /// Whoever has a key.
    Keys,
}

/// Which keys may make raw requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawRequests {
    /// Those whose `allowed_endpoints` list them.
    Listed,
    /// Those whose `allowed_endpoints` list them, or are empty.
    Open,
}

/// Every variable, once: a field of [`Raw`], and a name of [`KNOWN`].
macro_rules! variables {
    ($($name:ident: $kind:ty,)+) => {
        /// The variables as they stand. `envy` lower-cases their names and cuts the prefix.
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Raw {
            $($name: Option<$kind>,)+
        }

        /// Every variable there is, in lower case, for the warning about an unknown one.
        pub(super) const KNOWN: &[&str] = &[$(stringify!($name)),+];
    };
}

variables! {
    data_dir: PathBuf,
    minimum: String,
    listen: String,
    ep_prefix: String,
    models_config: PathBuf,
    prompts_dir: PathBuf,
    default_ep_language: String,
    timeout: String,
    connect_timeout: String,
    first_token_timeout: String,
    stall_timeout: String,
    max_body_bytes: String,
    max_body_memory_bytes: String,
    max_connections: String,
    header_timeout: String,
    idle_timeout: String,
    body_timeout: String,
    drain_timeout: String,
    tls_cert: PathBuf,
    tls_key: PathBuf,
    log_filename: PathBuf,
    log_level: String,
    log_format: String,
    in_debug: String,
    auth: String,
    cors_origins: String,
    trusted_proxies: String,
    gguf_dir: PathBuf,
    database_url: String,
    usage_keep_days: String,
    time_zone: String,
    redis_url: String,
    redis_fail: String,
    admin_key: String,
    metrics_key: String,
    metrics_listen: String,
    raw_requests: String,
}

impl Settings {
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// Every variable with a bad value, with what is allowed.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        match Self::judge(environment) {
            (Some(settings), faults) if faults.is_empty() => Ok(settings),
            (_, faults) => Err(faults.into()),
        }
    }

    /// The same with good values in the place of bad ones, so that what does not hang on these can be judged, too.
    pub fn judge(environment: &Environment) -> (Option<Self>, Vec<Fault>) {
        // An empty value is as good as none, but where it has a meaning: no log file, no prefix.
        let may_be_empty = |name: &str| matches!(name, "LOG_FILENAME" | "EP_PREFIX");
        let ours = environment
            .iter()
            .filter(|(name, value)| {
                name.strip_prefix(PREFIX).is_some_and(|name| !value.is_empty() || may_be_empty(name))
            })
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let raw: Raw = match envy::prefixed(PREFIX).from_iter(ours) {
            Ok(raw) => raw,
            Err(error) => {
                let cure = "see the README for each variable";
                return (None, vec![Fault::new(format!("{PREFIX}*"), error.to_string(), cure)]);
            }
        };
        let mut check = Parsed::new(PREFIX);
        let folders = Folders::of(environment, raw.data_dir.clone());
        let mut settings = raw.checked(&mut check, folders);
        settings.log.is_plain = environment.get("NO_COLOR").is_some();
        settings.found = Found::from_environment(environment, raw.gguf_dir.clone());
        settings.warnings = Raw::warnings(environment);
        settings.warnings.extend(settings.folders.warning());
        let weak = [
            ("ADMIN_KEY", settings.admin_keys.iter().any(|admin| is_weak(&admin.key))),
            ("METRICS_KEY", settings.metrics_key.as_ref().is_some_and(is_weak)),
        ];
        for (name, _) in weak.into_iter().filter(|(_, is_weak)| *is_weak) {
            let words =
                format!("is shorter than {SAFE_KEY_LENGTH} characters and may be guessed; {KEY_CURE}");
            settings.warnings.push(format!("{PREFIX}{name} {words}"));
        }
        check.faults.extend(settings.faults_of_listeners(&format!("{PREFIX}LISTEN"), &settings.listen));
        (Some(settings), check.faults)
    }

    /// Where to listen, as a models file may say, too.
    ///
    /// # Errors
    /// The file names an address that other machines reach.
    pub fn listeners(&self, catalog: &Catalog) -> Result<Vec<ListenAddress>, ConfigError> {
        let of_file = catalog.listen.as_ref().filter(|_| !self.listen_is_set);
        let Some(listen) = of_file else { return Ok(self.listen.clone()) };
        let faults = self.faults_of_listeners(&self.models_config.display().to_string(), listen);
        if faults.is_empty() { Ok(listen.clone()) } else { Err(faults.into()) }
    }

    /// Without keys, whoever reaches a listener may spend the operator's money.
    fn faults_of_listeners(&self, place: &str, listen: &[ListenAddress]) -> Vec<Fault> {
        let mut open = listen.iter().filter(|address| !address.is_local());
        if self.auth != Auth::Auto {
            return open.next().and_then(|address| self.fault_of_admin_key(address)).into_iter().collect();
        }
        open.map(|address| {
            Fault::new(
                place,
                format!("`{address}` can be reached from other machines, and callers are not checked"),
                format!("set {PREFIX}AUTH=keys and make a key by `llm-proxy-api keys create`, or listen on 127.0.0.1, or set {PREFIX}AUTH=none to serve everybody who reaches it"),
            )
        })
        .collect()
    }

    /// On this machine a key that can be guessed is the operator's affair; from others anybody may try.
    fn fault_of_admin_key(&self, address: &ListenAddress) -> Option<Fault> {
        let is_weak = self.admin_keys.iter().any(|admin| is_weak(&admin.key));
        let problem = format!(
            "it is shorter than {SAFE_KEY_LENGTH} characters, and `{address}` can be reached from other machines"
        );
        is_weak.then(|| Fault::new(format!("{PREFIX}ADMIN_KEY"), problem, KEY_CURE))
    }
}

const KEY_CURE: &str = "give a random one, such as `openssl rand -hex 32` prints";

impl Raw {
    fn checked(&self, check: &mut Parsed, folders: Folders) -> Settings {
        let timeouts = self.timeouts(check);
        let in_debug = check.flag("IN_DEBUG", self.in_debug.as_deref());
        Settings {
            minimum: check.flag("MINIMUM", self.minimum.as_deref()),
            listen: check.listen("LISTEN", self.listen.as_deref().unwrap_or("127.0.0.1:8080")),
            listen_is_set: self.listen.is_some(),
            prefix: check.prefix("EP_PREFIX", self.ep_prefix.as_deref().unwrap_or("/api")),
            models_config: self
                .models_config
                .clone()
                .unwrap_or_else(|| "resources/configs/models-config.json".into()),
            models_config_is_set: self.models_config.is_some(),
            prompts_dir: self.prompts_dir.clone().unwrap_or_else(|| "resources/prompts".into()),
            prompts_dir_is_set: self.prompts_dir.is_some(),
            default_language: check
                .language("DEFAULT_EP_LANGUAGE", self.default_ep_language.as_deref().unwrap_or("en")),
            timeouts,
            serving: self.serving(check),
            log: self.log(check, in_debug, &folders),
            in_debug,
            auth: check.auth("AUTH", self.auth.as_deref()),
            raw_requests: check.raw_requests("RAW_REQUESTS", self.raw_requests.as_deref()),
            admin_keys: check.admin_keys(self.admin_key.as_deref()),
            metrics_key: check.key("METRICS_KEY", self.metrics_key.as_deref()),
            metrics_listen: self
                .metrics_listen
                .as_deref()
                .map_or_else(Vec::new, |value| check.listen("METRICS_LISTEN", value)),
            redis: check.redis(self.redis_url.as_deref(), self.redis_fail.as_deref()),
            cors_origins: check.origins("CORS_ORIGINS", self.cors_origins.as_deref()),
            trusted_proxies: check.networks("TRUSTED_PROXIES", self.trusted_proxies.as_deref()),
            storage: self.storage(check, &folders),
            folders,
            found: Found::default(),
            warnings: Vec::new(),
        }
    }

    fn timeouts(&self, check: &mut Parsed) -> Timeouts {
        let default = Timeouts::default();
        let request = check.seconds("TIMEOUT", self.timeout.as_deref(), default.request);
        Timeouts {
            request,
            connect: check.seconds("CONNECT_TIMEOUT", self.connect_timeout.as_deref(), default.connect),
            first_token: check.seconds("FIRST_TOKEN_TIMEOUT", self.first_token_timeout.as_deref(), request),
            stall: check.seconds("STALL_TIMEOUT", self.stall_timeout.as_deref(), default.stall),
        }
    }

    fn serving(&self, check: &mut Parsed) -> Serving {
        let seconds = Duration::from_secs;
        Serving {
            max_body_bytes: check.count("MAX_BODY_BYTES", self.max_body_bytes.as_deref(), 20_971_520),
            max_body_memory_bytes: check.count(
                "MAX_BODY_MEMORY_BYTES",
                self.max_body_memory_bytes.as_deref(),
                256 * 1024 * 1024,
            ),
            max_connections: check.count("MAX_CONNECTIONS", self.max_connections.as_deref(), 16_384),
            header_timeout: check.seconds("HEADER_TIMEOUT", self.header_timeout.as_deref(), seconds(10)),
            idle_timeout: check.seconds("IDLE_TIMEOUT", self.idle_timeout.as_deref(), seconds(75)),
            body_timeout: check.seconds("BODY_TIMEOUT", self.body_timeout.as_deref(), seconds(30)),
            drain_timeout: check.seconds_or_zero("DRAIN_TIMEOUT", self.drain_timeout.as_deref(), seconds(30)),
            tls: match (&self.tls_cert, &self.tls_key) {
                (Some(certificates), Some(key)) => {
                    Some(TlsFiles { certificates: certificates.clone(), key: key.clone() })
                }
                (None, None) => None,
                (Some(_), None) => check.missing_partner("TLS_CERT", "TLS_KEY"),
                (None, Some(_)) => check.missing_partner("TLS_KEY", "TLS_CERT"),
            },
        }
    }

    fn storage(&self, check: &mut Parsed, folders: &Folders) -> Storage {
        const DAY: Duration = Duration::from_secs(86_400);
        Storage {
            database_url: check.database("DATABASE_URL", self.database_url.as_deref(), &folders.database),
            is_named: self.database_url.is_some() || folders.is_named,
            usage_keep: DAY * check.days("USAGE_KEEP_DAYS", self.usage_keep_days.as_deref(), 400),
            zone: check.zone("TIME_ZONE", self.time_zone.as_deref().unwrap_or("UTC")),
        }
    }

    fn log(&self, check: &mut Parsed, in_debug: bool, folders: &Folders) -> LogSettings {
        let level = if in_debug { "DEBUG" } else { "INFO" };
        LogSettings {
            file: match &self.log_filename {
                None => Some(folders.log.clone()),
                Some(path) if path.as_os_str().is_empty() => None,
                Some(path) => Some(path.clone()),
            },
            filter: self.log_level.clone().unwrap_or_else(|| level.to_owned()),
            format: check.log_format("LOG_FORMAT", self.log_format.as_deref()),
            is_plain: false,
        }
    }

    fn warnings(environment: &Environment) -> Vec<String> {
        let ours = environment.iter().filter_map(|(name, _)| name.strip_prefix(PREFIX));
        let unknown = ours.filter_map(|name| {
            let lower = name.to_ascii_lowercase();
            if KNOWN.contains(&lower.as_str()) || is_file_of_secret(&format!("{PREFIX}{name}")) {
                return None;
            }
            let hint = nearest(&lower, KNOWN.iter().copied()).map_or_else(String::new, |known| {
                format!("; did you mean {PREFIX}{}?", known.to_ascii_uppercase())
            });
            Some(format!("{PREFIX}{name} is not a known variable{hint}"))
        });
        unknown.chain(environment.iter().filter_map(|(name, _)| nearly_ours(name))).collect()
    }
}

/// A variable whose prefix is not quite ours, and whose name is that of a setting: it is not read.
fn nearly_ours(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let is_near =
        !name.starts_with(PREFIX) && (upper.starts_with("LLM_PROXY") || upper.starts_with("LLMPROXY"));
    let ends_in = |known: &&&str| {
        let known = known.to_ascii_uppercase();
        upper.strip_suffix(&known).is_some_and(|before| before.ends_with('_') || before.ends_with("API"))
    };
    let known = KNOWN.iter().filter(ends_in).max_by_key(|known| known.len()).filter(|_| is_near)?;
    Some(format!("{name} is not read; did you mean {PREFIX}{}?", known.to_ascii_uppercase()))
}

impl ListenAddress {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(address) => parse::host_of(address).is_some_and(|host| {
                host.eq_ignore_ascii_case("localhost")
                    || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
            }),
        }
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::OnRedisAway;
    use super::*;

    fn settings<const N: usize>(variables: [(&str, &str); N]) -> Result<Settings, ConfigError> {
        Settings::from_environment(&Environment::of(variables))
    }

    fn fault(name: &str, value: &str) -> String {
        settings([(name, value)]).unwrap_err().to_string()
    }

    #[test]
    fn nothing_set_gives_the_documented_defaults() {
        let settings = settings([]).unwrap();

        assert_eq!(settings.listen, [ListenAddress::Tcp("127.0.0.1:8080".to_owned())]);
        assert_eq!(settings.prefix, "/api");
        assert_eq!(settings.timeouts.request, Duration::from_secs(300));
        assert_eq!(settings.timeouts.first_token, Duration::from_secs(300));
        assert_eq!(settings.serving.max_body_bytes, 20_971_520);
        assert_eq!(settings.log.file, Some("data/llm-proxy-rest.log".into()));
        assert_eq!(settings.log.filter, "INFO");
        assert!(!settings.minimum && !settings.in_debug && settings.warnings.is_empty());
    }

    #[test]
    fn listeners_of_every_kind_are_read() {
        let listen = "127.0.0.1:1, [::1]:2,localhost:3,unix:/run/x.sock";
        let settings = settings([("LLM_PROXY_API_LISTEN", listen)]).unwrap();

        let shown: Vec<String> = settings.listen.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.1:1", "[::1]:2", "localhost:3", "unix:/run/x.sock"]);
    }

    #[test]
    fn an_address_may_be_named_once_only() {
        let with =
            |listen: &str| settings([("LLM_PROXY_API_LISTEN", listen), ("LLM_PROXY_API_AUTH", "none")]);
        for listen in [
            "127.0.0.1:80,127.0.0.1:80",
            "127.0.0.1:80,localhost:80",
            "Example.org:80,example.org:80",
            "0.0.0.0:80,127.0.0.1:80",
            "[::1]:80,[::]:80",
            "unix:/run/x,unix:/run/x",
        ] {
            let error = with(listen).unwrap_err().to_string();
            assert!(
                error.contains("LLM_PROXY_API_LISTEN") && error.contains("are the same address"),
                "{error}"
            );
        }
        for listen in [
            "127.0.0.1:0,127.0.0.1:0",
            "127.0.0.1:80,127.0.0.1:81",
            "0.0.0.0:80,[::]:80",
            "127.0.0.1:80,unix:/x",
        ] {
            assert!(with(listen).is_ok(), "{listen}");
        }
    }

    #[test]
    fn a_listener_for_other_machines_needs_a_decision() {
        for address in ["0.0.0.0:80", "[::]:80", "192.168.1.2:80", "example.org:80"] {
            let error = fault("LLM_PROXY_API_LISTEN", address);
            assert!(error.contains(address) && error.contains("LLM_PROXY_API_AUTH=none"), "{error}");
            let allowed = [("LLM_PROXY_API_LISTEN", address), ("LLM_PROXY_API_AUTH", "none")];
            assert!(settings(allowed).is_ok());
        }
    }

    #[test]
    fn bad_values_name_the_variable_the_value_and_what_is_allowed() {
        for (name, value, allowed) in [
            ("LLM_PROXY_API_LISTEN", "8080", "host:port"),
            ("LLM_PROXY_API_LISTEN", "127.0.0.1:99999", "host:port"),
            ("LLM_PROXY_API_TIMEOUT", "soon", "seconds"),
            ("LLM_PROXY_API_TIMEOUT", "0", "seconds"),
            ("LLM_PROXY_API_MAX_BODY_BYTES", "-1", "whole number"),
            ("LLM_PROXY_API_LOG_FORMAT", "xml", "text"),
            ("LLM_PROXY_API_AUTH", "maybe", "auto"),
            ("LLM_PROXY_API_DEFAULT_EP_LANGUAGE", "x y", "language tag"),
            ("LLM_PROXY_API_EP_PREFIX", "/a b", "path"),
            ("LLM_PROXY_API_CORS_ORIGINS", "example.org", "https://"),
            ("LLM_PROXY_API_MINIMUM", "perhaps", "1"),
            ("LLM_PROXY_API_REDIS_FAIL", "ajar", "open or closed"),
        ] {
            let error = fault(name, value);
            assert!(error.contains(name) && error.contains(value) && error.contains(allowed), "{error}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let error =
            settings([("LLM_PROXY_API_TIMEOUT", "x"), ("LLM_PROXY_API_LOG_FORMAT", "y")]).unwrap_err();
        assert_eq!(error.faults.len(), 2);
    }

    #[test]
    fn an_unknown_variable_is_a_warning_with_the_nearest_known_one() {
        let settings = settings([("LLM_PROXY_API_LISTN", "x"), ("LISTEN", "y")]).unwrap();
        assert_eq!(
            settings.warnings,
            ["LLM_PROXY_API_LISTN is not a known variable; did you mean LLM_PROXY_API_LISTEN?"]
        );
        for (name, meant) in [
            ("LLM_PROXY_LISTEN", "LISTEN"),
            ("llm_proxy_api_listen", "LISTEN"),
            ("LLMPROXY_API_TLS_KEY", "TLS_KEY"),
            ("LLM_PROXY_FIRST_TOKEN_TIMEOUT", "FIRST_TOKEN_TIMEOUT"),
        ] {
            let told = self::settings([(name, "x"), ("LLM_PROXY_HOME", "y")]).unwrap().warnings;
            assert_eq!(told, [format!("{name} is not read; did you mean LLM_PROXY_API_{meant}?")]);
        }
    }

    #[test]
    fn every_variable_that_is_read_is_known() {
        assert!(KNOWN.contains(&"time_zone"));
        for name in KNOWN {
            let name = format!("{PREFIX}{}", name.to_ascii_uppercase());
            assert_eq!(Raw::warnings(&Environment::of([(&name, "")])), Vec::<String>::new());
        }
    }

    #[test]
    fn the_prefix_is_normalised() {
        for (given, kept) in [("/api/", "/api"), ("api", "/api"), ("/", ""), ("/a/b", "/a/b")] {
            let settings = settings([("LLM_PROXY_API_EP_PREFIX", given)]).unwrap();
            assert_eq!(settings.prefix, kept);
        }
    }

    #[test]
    fn an_empty_log_file_name_means_none() {
        let settings = settings([("LLM_PROXY_API_LOG_FILENAME", "")]).unwrap();
        assert_eq!(settings.log.file, None);
    }

    #[test]
    fn debug_raises_the_level_unless_one_is_set() {
        let debug = settings([("LLM_PROXY_API_IN_DEBUG", "1")]).unwrap();
        assert!(debug.in_debug && debug.log.filter == "DEBUG");
        let both = settings([("LLM_PROXY_API_IN_DEBUG", "1"), ("LLM_PROXY_API_LOG_LEVEL", "warn")]).unwrap();
        assert_eq!(both.log.filter, "warn");
    }

    #[test]
    fn every_yes_or_no_is_read_in_the_same_way() {
        for name in ["LLM_PROXY_API_IN_DEBUG", "LLM_PROXY_API_MINIMUM"] {
            let is_on =
                |value: &str| settings([(name, value)]).map(|settings| settings.in_debug || settings.minimum);
            for value in ["1", "true", "YES", " on "] {
                assert!(is_on(value).unwrap(), "{name}={value}");
            }
            for value in ["", "  ", "0", "False", "no", "OFF"] {
                let settings = settings([(name, value)]).unwrap();
                assert!(!settings.in_debug && !settings.minimum, "{name}={value}");
                assert_eq!(settings.log.filter, "INFO");
            }
            for value in ["2", "y", "enabled", "tru"] {
                let error = is_on(value).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains(value) && error.contains("false"), "{error}");
            }
        }
    }

    #[test]
    fn half_a_tls_pair_is_a_fault() {
        assert!(fault("LLM_PROXY_API_TLS_CERT", "/c.pem").contains("LLM_PROXY_API_TLS_KEY"));
    }

    #[test]
    fn an_admin_key_that_may_be_guessed_draws_a_warning_and_is_a_fault_where_others_may_try() {
        let with = |key: &str, listen: &str| {
            settings([
                ("LLM_PROXY_API_ADMIN_KEY", key),
                ("LLM_PROXY_API_LISTEN", listen),
                ("LLM_PROXY_API_AUTH", "none"),
            ])
        };
        let (weak, strong) = ("planted", "planted-planted-planted");
        assert!(
            with(weak, "127.0.0.1:1").unwrap().warnings[0].contains("LLM_PROXY_API_ADMIN_KEY is shorter")
        );
        let error = with(weak, "0.0.0.0:1").unwrap_err().to_string();
        assert!(error.starts_with("LLM_PROXY_API_ADMIN_KEY: it is shorter than 16"), "{error}");
        for listen in ["127.0.0.1:1", "0.0.0.0:1"] {
            assert!(with(strong, listen).unwrap().warnings.is_empty());
        }
        for odd in ["planted planted planted", "planted-planted-plantéd"] {
            let error = with(odd, "127.0.0.1:1").unwrap_err().to_string();
            assert!(error.contains("ADMIN_KEY") && !error.contains("planted"), "{error}");
        }
        assert!(settings([("LLM_PROXY_API_ADMIN_KEY", "")]).unwrap().admin_keys.is_empty());
    }

    #[test]
    fn usage_is_kept_in_a_file_unless_a_database_is_named() {
        use secrecy::ExposeSecret as _;
        let storage = |name, value| settings([(name, value)]).unwrap().storage;
        let default = storage("LLM_PROXY_API_DATABASE_URL", "");
        assert_eq!(default.database_url.expose_secret(), "sqlite://data/llm-proxy-api.db");
        assert_eq!(default.usage_keep, Duration::from_secs(400 * 86_400));
        for url in ["sqlite:///var/lib/x.db", "postgres://u:p@h/d", "postgresql:///d?host=/run/postgresql"] {
            assert_eq!(storage("LLM_PROXY_API_DATABASE_URL", url).database_url.expose_secret(), url);
        }
        assert_eq!(
            storage("LLM_PROXY_API_USAGE_KEEP_DAYS", "31").usage_keep,
            Duration::from_secs(31 * 86_400)
        );
        let error = fault("LLM_PROXY_API_USAGE_KEEP_DAYS", "40000");
        assert!(error.contains("`40000`") && error.contains("36500"), "{error}");
    }

    #[test]
    fn passwords_of_databases_show_nowhere() {
        for url in ["mysql://u:planted@h/d", "sqlite://", "sqlite://x.db?planted=1", "planted"] {
            let error = fault("LLM_PROXY_API_DATABASE_URL", url);
            assert!(error.contains("LLM_PROXY_API_DATABASE_URL") && error.contains("postgres://"), "{error}");
            assert!(!error.contains("planted"), "{error}");
        }
        let settings = settings([("LLM_PROXY_API_DATABASE_URL", "postgres://u:planted@h/d")]).unwrap();
        assert!(!format!("{settings:?}").contains("planted"));
    }

    #[test]
    fn the_url_of_redis_is_checked_and_never_told() {
        let with =
            |url: &str| settings([("LLM_PROXY_API_REDIS_URL", url), ("LLM_PROXY_API_REDIS_FAIL", "closed")]);
        for url in ["redis://:planted@h:1/2", "rediss://h", "unix:///run/redis.sock"] {
            let settings = with(url).unwrap();
            assert_eq!(settings.redis.as_ref().unwrap().away, OnRedisAway::Closed);
            assert!(!format!("{settings:?}").contains("planted") && settings.warnings.is_empty());
        }
        for url in ["planted", "http://:planted@h", "redis://"] {
            let error = with(url).unwrap_err().to_string();
            assert!(error.contains("REDIS_URL: names no Redis") && !error.contains("planted"), "{error}");
        }
        assert!(settings([("LLM_PROXY_API_REDIS_URL", "")]).unwrap().redis.is_none());
    }

    #[test]
    fn trusted_proxies_are_addresses_and_networks() {
        let trusted = |value| settings([("LLM_PROXY_API_TRUSTED_PROXIES", value)]).unwrap().trusted_proxies;
        assert_eq!(trusted(" 10.0.0.0/8, ::1 ,").len(), 2);
        assert!(trusted("").is_empty());
        for value in ["proxy.example", "10.0.0.0/33", "10.0.0.1 10.0.0.2", "*"] {
            let error = fault("LLM_PROXY_API_TRUSTED_PROXIES", value);
            assert!(error.contains(value) && error.contains("10.0.0.0/8"), "{error}");
        }
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        let settings =
            settings([("OPENAI_API_KEY", "sk-planted"), ("LLM_PROXY_API_ADMIN_KEY", "adm-planted")]).unwrap();
        assert!(!format!("{settings:?}").contains("planted"));
    }
}
