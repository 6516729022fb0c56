//! The models file: which providers there are, and which models each of them serves.
//!
//! *Provider → model → options.* A public model name that several providers list is one model with
//! several deployments. The text is read twice over: by serde into [`raw`] shapes, whose faults have a
//! line, and then into a [`Catalog`] of checked values, whose faults have a path.

mod callers;
mod checks;
mod discovery;
mod engines;
mod expand;
mod headers;
mod judged;
mod leaderboard;
mod lua;
mod members;
mod older;
mod policies;
mod probes;
mod provider;
mod raw;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Map, Value};

use self::engines::Outer;
use self::expand::Expansion;
pub use self::headers::is_kept_header;
pub use self::judged::Judged;
pub use self::lua::{LUA_LIMITS, RUN_LUA, running_lua};
pub use self::older::Imported;
use self::raw::{Pairs, RawCatalog, RawModel, RawModels, RawProvider};
use super::routing::unusable_name;
use super::{
    Adjustment, ConfigError, EngineModel, EngineSettings, Environment, Fault, LeaderboardConfig,
    ListenAddress, ProbeConfig, Routing, Strategy, Timeouts, never_meant,
};
use crate::callers::{Prices, Rules};
use crate::lint::Object;
use crate::llm::Abilities;

/// All providers and models, checked.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// In the order of the file, which breaks ties of priority.
    pub providers: Vec<ProviderConfig>,
    /// What is said of public models whoever serves them.
    pub policies: Vec<ModelPolicy>,
    /// Points for models by their names, of all providers.
    pub adjustments: Vec<Adjustment>,
    /// What holds for all routes.
    pub routing: Routing,
    /// Limits that are not those of one key.
    pub rules: Rules,
    /// What tokens cost.
    pub prices: Prices,
    /// Where the prices stand, if anywhere.
    pub prices_file: Option<PathBuf>,
    /// Where figures of leaderboards are and come from.
    pub leaderboard: LeaderboardConfig,
    /// Where to listen, if the file says so, as those in Lua do.
    pub listen: Option<Vec<ListenAddress>>,
    /// The files that its secrets are in.
    pub secret_files: Vec<PathBuf>,
    /// Things to tell the operator that are no errors.
    pub warnings: Vec<String>,
}

/// One provider.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Its name in the catalog.
    pub name: String,
    /// Which protocol it speaks.
    pub kind: String,
    /// Where it is, if it is a server.
    pub base_url: Option<String>,
    /// Where it is asked what models it has, if that is elsewhere.
    pub models_url: Option<String>,
    /// How often it is asked that, if its models are not listed.
    pub discover_every: Duration,
    /// The key that opens it.
    pub api_key: Option<SecretString>,
    /// All keys that open it, if there are several. They are used in turns.
    pub api_keys: Vec<SecretString>,
    /// Further headers of every request to it.
    pub headers: Vec<(String, SecretString)>,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// How its server is asked for a sign of life, if it is.
    pub probe: Option<ProbeConfig>,
    /// Patterns of headers of its raw answers that pass besides the usual ones.
    pub raw_headers: Vec<String>,
    /// What the scores of its models are multiplied by.
    pub base_priority: f64,
    /// Its models.
    pub models: ModelSource,
    /// What holds for engines that the gateway starts for it.
    pub engines: EngineSettings,
    /// Where it stands, for messages.
    pub place: String,
}

/// Where the list of a provider's models comes from.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// The file.
    Listed(Vec<ModelConfig>),
    /// The provider itself is asked.
    Discovered,
}

/// One model at one provider.
#[derive(Clone, Debug, Default)]
pub struct ModelConfig {
    /// The name callers use.
    pub public: String,
    /// The name the provider uses.
    pub upstream: String,
    /// Lower comes first.
    pub priority: i32,
    /// How often it is asked, against others, where that is by weight.
    pub weight: Option<f64>,
    /// Points for its score, or against it.
    pub score_adjustment: f64,
    /// Further names for the public one.
    pub aliases: Vec<String>,
    /// Context size in tokens, if stated.
    pub context_tokens: Option<u64>,
    /// What it can do, as far as that is stated.
    pub abilities: Abilities,
    /// Languages it is good at, if stated.
    pub languages: Vec<String>,
    /// Request members for what a caller leaves unsaid.
    pub defaults: Map<String, Value>,
    /// Request members that hold whatever a caller says.
    pub overrides: Map<String, Value>,
    /// How to run it, for a model that the gateway runs itself.
    pub engine: Option<EngineModel>,
}

/// What is said of a public model as such.
#[derive(Clone, Debug, Default)]
pub struct ModelPolicy {
    /// The public name.
    pub model: String,
    /// Further names for it.
    pub aliases: Vec<String>,
    /// In which order its deployments are asked, if not as those of all models.
    pub strategy: Option<Strategy>,
    /// Models that answer when none of its deployments does, in this order.
    pub fallbacks: Vec<String>,
    /// Models that answer when a prompt is too long for it, in this order.
    pub context_fallbacks: Vec<String>,
    /// Whether the turns of a conversation stay with one of its deployments. They do, unless something else is said.
    pub affinity: Option<bool>,
}

impl Catalog {
    /// Reads a models file. Its ending says whether it is JSON, YAML or Lua; its content, whether it is of an older system.
    ///
    /// With `minimum`, a provider whose `${NAME}` is unset is left out with a warning.
    ///
    /// # Errors
    /// The file cannot be read, or has faults.
    pub fn load(
        path: &Path,
        environment: &Environment,
        defaults: Timeouts,
        minimum: bool,
    ) -> Result<Self, ConfigError> {
        Self::judge(path, environment, defaults, minimum).finish()
    }
}

/// Turns raw shapes into checked values.
struct Reader<'a> {
    file: &'a str,
    environment: &'a Environment,
    timeouts: Timeouts,
    minimum: bool,
    catalog: Catalog,
    faults: Vec<Fault>,
    /// The variables that were read for something that engines are not given.
    withheld: BTreeSet<String>,
}

impl Reader<'_> {
    /// With the names of models that may be in what could not be read.
    fn read(mut self, raw: RawCatalog, unread: &[String]) -> (Catalog, Vec<Fault>) {
        let (policies, routing, leaderboard) = (raw.models.0, raw.routing, raw.leaderboard);
        let (limits, prices) = (raw.limits, raw.prices);
        self.catalog.listen = raw.listen;
        self.catalog.warnings = raw.warnings;
        let read = raw.providers.0.iter().flat_map(|(_, provider)| provider.0.listed_models());
        let listed: Vec<String> = read.chain(unread.iter().cloned()).collect();
        let anything_discovered =
            raw.providers.0.iter().any(|(_, p)| matches!(p.0.models, Some(RawModels::Discover)));
        if raw.providers.0.is_empty() && !self.minimum {
            self.catalog.warnings.push(format!(
                "{}: nothing is served, for no provider is listed; list one below `providers`, or set LLM_PROXY_API_MINIMUM=1 to serve what can be found",
                self.file
            ));
        }
        for (name, provider) in raw.providers.0 {
            self.provider(name, provider.0);
        }
        let withheld = std::mem::take(&mut self.withheld);
        self.catalog.withhold(withheld);
        for (model, policy) in policies {
            if !anything_discovered && !listed.contains(&model) {
                self.unserved(&model, &listed);
            }
            self.policy(model, policy.0);
        }
        self.aliases_of_providers();
        self.refuse_ambiguous_names(&listed);
        if !anything_discovered {
            self.check_fallbacks(&listed);
        }
        if let Some(Object(raw)) = limits {
            self.limits(raw, if anything_discovered { &[] } else { &listed });
        }
        if let Some(path) = prices {
            self.prices(&path);
        }
        self.adjustments(raw.adjustments.0);
        if let Some(Object(raw)) = routing {
            self.routing(raw);
        }
        if let Some(Object(raw)) = leaderboard {
            self.leaderboard(raw);
        }
        (self.catalog, self.faults)
    }

    fn provider(&mut self, name: String, raw: RawProvider) {
        let place = raw.place.clone().unwrap_or_else(|| format!("providers.{name}"));
        self.check_provider_name(&place, &name);
        let outer = self.outer_engines(&place, &raw);
        let discover_every = self.discover_every(&place, &raw);
        let Some(kind) = raw.kind else {
            return self.lack(
                &place,
                "`type` is missing",
                "say what it is, for example \"type\": \"openai\"",
            );
        };
        let mut expansion = Expansion::new(self.environment);
        let base_url = raw.base_url.map(|text| self.url(&place, ("base_url", &text), &mut expansion));
        let models_url = raw.models_url.map(|text| self.url(&place, ("models_url", &text), &mut expansion));
        // Of a file that was translated, the translator has told it.
        for (name, keys) in [("api_key", raw.api_key.as_slice()), ("api_keys", raw.api_keys.as_slice())] {
            if raw.place.is_none() && keys.iter().any(|key| checks::is_literal(key)) {
                self.literal_secret(&format!("{place}.{name}"));
            }
        }
        let keys = (raw.api_key, raw.api_keys);
        let (api_key, api_keys) = self.api_keys(&place, keys, &mut expansion);
        for (header, _) in raw.headers.0.iter().filter(|(name, value)| checks::is_literal_secret(name, value))
        {
            self.literal_secret(&format!("{place}.headers.{header}"));
        }
        let headers = raw.headers.0.into_iter();
        let headers =
            headers.map(|(name, value)| (name, SecretString::from(expansion.expand(&value)))).collect();
        let stated = [raw.timeout, raw.connect_timeout, raw.first_token_timeout, raw.stall_timeout];
        let models = self.models(&place, raw.models, outer.as_ref(), &mut expansion);
        self.withheld.append(&mut expansion.withheld);
        self.catalog.secret_files.append(&mut expansion.files);
        self.check_keys_of_engines(&place, &models, &api_keys);
        if !self.all_found((&name, &place), raw.optional, expansion) {
            return;
        }
        let timeouts = self.timeouts_of(&place, stated);
        let probe = self.probe(&place, raw.probe);
        self.check_raw_headers(&place, &raw.raw_headers);
        self.catalog.providers.push(ProviderConfig {
            name,
            kind,
            base_url,
            models_url,
            discover_every,
            api_key,
            api_keys,
            headers,
            timeouts,
            probe,
            raw_headers: raw.raw_headers,
            base_priority: raw.base_priority.unwrap_or(1.0),
            models,
            engines: outer.map(|outer| outer.settings).unwrap_or_default(),
            place: format!("{}: {place}", self.file),
        });
    }

    /// The first key, and all of them if there are several.
    fn api_keys(
        &mut self,
        place: &str,
        (one, several): (Option<String>, Vec<String>),
        expansion: &mut Expansion<'_>,
    ) -> (Option<SecretString>, Vec<SecretString>) {
        if one.is_some() && !several.is_empty() {
            self.fault(place, "there are `api_key` and `api_keys`", "write all of them as `api_keys`");
        }
        let texts = one.into_iter().chain(several);
        let keys: Vec<SecretString> = texts.map(|text| expansion.expand(&text).into()).collect();
        let first = keys.first().cloned();
        (first, if keys.len() > 1 { keys } else { Vec::new() })
    }

    fn check_keys_of_engines(&mut self, place: &str, models: &ModelSource, api_keys: &[SecretString]) {
        let is_run_here = |model: &ModelConfig| model.engine.is_some();
        let has_engines = matches!(models, ModelSource::Listed(models) if models.iter().any(is_run_here));
        if has_engines && !api_keys.is_empty() {
            self.fault(place, "engines of the gateway's own have one key", "take `api_keys` out");
        }
    }

    /// The times that a provider may take: whole, to connect, to the first token, and between two.
    fn timeouts_of(&mut self, place: &str, stated: [Option<f64>; 4]) -> Timeouts {
        let [request, connect, first_token, stall] = stated;
        let usual = self.timeouts;
        Timeouts {
            request: self.seconds(place, "timeout", request, usual.request),
            connect: self.seconds(place, "connect_timeout", connect, usual.connect),
            first_token: self.seconds(place, "first_token_timeout", first_token, usual.first_token),
            stall: self.seconds(place, "stall_timeout", stall, usual.stall),
        }
    }

    fn literal_secret(&mut self, place: &str) {
        self.catalog.warnings.push(format!(
            "{}: {place} stands in the file itself; write ${{NAME}} or ${{file:/path}} instead",
            self.file
        ));
    }

    /// Whether all that the provider refers to was there. What was not is a fault, or with
    /// `MINIMUM`, or at one that is optional, a reason to leave the provider out.
    fn all_found(
        &mut self,
        (name, place): (&str, &str),
        is_optional: bool,
        expansion: Expansion<'_>,
    ) -> bool {
        let missing = expansion.missing;
        let all_found = missing.is_empty();
        for missing in missing {
            if self.minimum || is_optional {
                let warning = format!("provider `{name}` is left out: {}", missing.problem);
                self.catalog.warnings.push(warning);
                break;
            }
            self.fault(place, &missing.problem, &missing.cure);
        }
        all_found
    }

    fn models(
        &mut self,
        place: &str,
        raw: Option<RawModels>,
        outer: Option<&Outer>,
        expansion: &mut Expansion<'_>,
    ) -> ModelSource {
        let Some(RawModels::Listed(Pairs(models))) = raw else {
            if raw.is_none() {
                self.lack(place, "`models` is missing", "list its models, or write \"models\": \"discover\"");
            }
            return ModelSource::Discovered;
        };
        if models.is_empty() {
            self.lack(place, "`models` is empty", "list its models, or write \"models\": \"discover\"");
        }
        let models = models.into_iter().map(|(public, raw)| {
            let raw = raw.unwrap_or_default().0;
            let engine = self.engine(place, (&public, &raw), outer, expansion);
            let mut model = self.model(place, public, raw, expansion);
            let largest = engine.as_ref().and_then(|engine| engine.variants.last());
            model.context_tokens = largest.map(|variant| variant.context_tokens).or(model.context_tokens);
            ModelConfig { engine, ..model }
        });
        ModelSource::Listed(models.collect())
    }

    fn model(
        &mut self,
        provider: &str,
        public: String,
        raw: RawModel,
        expansion: &mut Expansion<'_>,
    ) -> ModelConfig {
        let place = place_of(provider, &public, &raw);
        self.check_model_name(&place, &public);
        if raw.context == Some(0) {
            self.fault(&place, "`context` is 0", "give the context size in tokens, or leave it out");
        }
        if raw.supports.0.max_output == Some(0) {
            self.fault(&place, "`supports.max_output` is 0", "give tokens, or leave it out");
        }
        if let Some(weight) = raw.weight.filter(|weight| !weight.is_finite() || *weight <= 0.0) {
            self.fault(&place, &format!("`weight` is {weight}"), "give a number, more than 0");
        }
        for (problem, cure) in checks::of_members(&raw) {
            self.fault(&place, &problem, &cure);
        }
        for (key, settings) in [("defaults", &raw.defaults), ("overrides", &raw.overrides)] {
            for (at, meant) in members::slips(key, settings) {
                self.warn(&place, &format!("`{at}` goes to the provider as it is; did you mean `{meant}`?"));
            }
        }
        let missing = expansion.missing.len();
        let upstream = raw.upstream.map_or_else(|| public.clone(), |text| expansion.expand(&text));
        let is_said = upstream != public && expansion.missing.len() == missing;
        if let Some(why) = unusable_name(&upstream).filter(|_| is_said) {
            let problem = format!("`upstream` {why}");
            self.fault(&place, &problem, "give the provider's name of the model, or leave it out");
        }
        ModelConfig {
            upstream,
            public,
            priority: raw.priority.unwrap_or(0),
            weight: raw.weight,
            score_adjustment: raw.score_adjustment.unwrap_or(0.0),
            aliases: raw.aliases,
            context_tokens: raw.context,
            abilities: raw.supports.0.abilities(),
            languages: raw.languages,
            defaults: raw.defaults,
            overrides: raw.overrides,
            engine: None,
        }
    }

    fn check_provider_name(&mut self, place: &str, name: &str) {
        let sane = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(sane) {
            let problem = "a provider's name cannot be used in headers and paths";
            self.fault(place, problem, "use letters, digits, `-`, `_` and `.`");
        }
    }

    fn check_model_name(&mut self, place: &str, name: &str) {
        if let Some(why) = unusable_name(name) {
            let problem = format!("this is no usable model name: it {why}");
            self.fault(place, &problem, "use 1 to 256 visible characters");
        } else if name.contains("${") {
            let cure = "write the name itself, with ${NAME} in its `upstream` if need be";
            self.fault(place, "${…} is not replaced in a name", cure);
        } else if let Some(why) = never_meant(name) {
            let problem = format!("no request can ask for a model by the name `{name}`: {why}");
            self.fault(place, &problem, "choose another name; what the provider calls it is its `upstream`");
        }
    }

    fn seconds(&mut self, place: &str, key: &str, value: Option<f64>, default: Duration) -> Duration {
        match value {
            None => default,
            Some(seconds) if seconds > 0.0 && seconds <= 31_536_000.0 => Duration::from_secs_f64(seconds),
            Some(seconds) => {
                self.fault(place, &format!("`{key}` is {seconds}"), "give seconds, more than 0");
                default
            }
        }
    }

    fn fault(&mut self, place: &str, problem: &str, cure: &str) {
        self.faults.push(Fault::new(format!("{}: {place}", self.file), problem, cure));
    }

    /// Something is not there, unless it is what could not be read.
    fn lack(&mut self, place: &str, problem: &str, cure: &str) {
        self.faults.push(Fault::new(format!("{}: {place}", self.file), problem, cure).of_lack());
    }

    fn warn(&mut self, place: &str, words: &str) {
        self.catalog.warnings.push(format!("{}: {place}: {words}", self.file));
    }
}

/// Where a model stands.
fn place_of(provider: &str, public: &str, raw: &RawModel) -> String {
    raw.place.clone().unwrap_or_else(|| format!("{provider}.models.{public}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn load_as(name: &str, text: &str, minimum: bool) -> Result<Catalog, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join("key"), "\u{feff}sk-file\n").unwrap();
        let key_file = folder.path().join("key").display().to_string();
        let environment = Environment::of([("A_KEY", "sk-a"), ("KEY_FILE", &key_file)]);
        Catalog::load(&path, &environment, Timeouts::default(), minimum)
    }

    fn load(text: &str) -> Result<Catalog, ConfigError> {
        load_as("models.json", text, false)
    }

    fn fault(text: &str) -> String {
        load(text).unwrap_err().to_string()
    }

    const GOOD: &str = r#"{
        "comment": "for us",
        "providers": {
            "b": {"type": "openai", "base_url": "http://b/v1", "api_key": "${A_KEY}", "models": {
                "fast": {"upstream": "gpt", "priority": 2, "context": 1000, "defaults": {"temperature": 0.7}},
                "plain": {}
            }},
            "a": {"type": "vllm", "base_url": "${A_URL:-http://a}", "timeout": 1.5, "models": "discover"}
        },
        "models": {"fast": {"strategy": "priority", "aliases": ["small"]}}
    }"#;

    #[test]
    fn a_good_file_becomes_a_catalog_in_its_own_order() {
        let catalog = load(GOOD).unwrap();

        let [b, a] = catalog.providers.as_slice() else { panic!("two providers") };
        assert_eq!((b.name.as_str(), a.name.as_str()), ("b", "a"));
        assert_eq!(b.api_key.as_ref().unwrap().expose_secret(), "sk-a");
        assert_eq!(a.base_url.as_deref(), Some("http://a"));
        assert_eq!(a.timeouts.request, Duration::from_millis(1500));
        let ModelSource::Listed(models) = &b.models else { panic!("listed") };
        assert_eq!(models[0].upstream, "gpt");
        assert_eq!((models[0].priority, models[0].context_tokens), (2, Some(1000)));
        assert_eq!(models[1].upstream, "plain");
        assert_eq!(catalog.policies[0].aliases, ["small"]);
        assert!(catalog.warnings.is_empty());
    }

    #[test]
    fn what_a_model_can_do_is_read_with_its_faults() {
        let file = |supports: &str| {
            format!(r#"{{"providers":{{"a":{{"type":"x","models":{{"m":{{"supports":{supports}}}}}}}}}}}"#)
        };
        let catalog = load(&file(r#"{"tools": false, "images": true, "max_output": 4096}"#)).unwrap();
        let ModelSource::Listed(models) = &catalog.providers[0].models else { panic!("listed") };
        let stated = Abilities {
            tools: Some(false),
            images: Some(true),
            output_tokens: Some(4096),
            ..Abilities::default()
        };
        assert_eq!(models[0].abilities, stated);
        assert!(fault(&file(r#"{"tool": false}"#)).contains("`tools`"));
        assert!(fault(&file(r#"{"max_output": 0}"#)).contains("`supports.max_output` is 0"));
    }

    #[test]
    fn yaml_says_the_same() {
        let yaml = "providers:\n  b:\n    type: openai\n    base_url: http://b\n    models:\n      fast:\n        priority: 1\n      no:\n";
        let catalog = load_as("models.yaml", yaml, false).unwrap();
        let ModelSource::Listed(models) = &catalog.providers[0].models else { panic!("listed") };
        assert_eq!(models[1].public, "no");
    }

    /// A file, and what the message must name: the place and a word of the cure.
    const FAULTY: &[(&str, &str, &str)] = &[
        (r#"{"providers": {"#, "line 1", "ends within an object"),
        (r#"{"provider": {}}"#, "provider", "did you mean `providers`?"),
        (
            r#"{"providers":{"a":{"type":"openai","models":{"m":{"contxt":1}}}}}"#,
            "line 1: providers.a.models.m.contxt",
            "`context`",
        ),
        (r#"{"providers":{"a":{"models":{"m":{}}}}}"#, "providers.a", "type"),
        (r#"{"providers":{"a":{"type":"openai"}}}"#, "providers.a", "discover"),
        (r#"{"providers":{"a":{"type":"openai","models":{}}}}"#, "providers.a", "discover"),
        (r#"{"providers":{"a":{"type":"openai","models":"all"}}}"#, "providers.a.models", "discover"),
        (r#"{"providers":{"a b":{"type":"openai","models":"discover"}}}"#, "providers.a b", "letters"),
        (
            r#"{"providers":{"a":{"type":"x","models":{"m":{"context":"many"}}}}}"#,
            "providers.a.models.m.context",
            "line 1",
        ),
        (
            r#"{"providers":{"a":{"type":"x","models":{"m":{"context":0}}}}}"#,
            "providers.a.models.m",
            "tokens",
        ),
        (
            r#"{"providers":{"a":{"type":"x","models":{"m":{"defaults":{"stream":true}}}}}}"#,
            "models.m",
            "stream",
        ),
        (r#"{"providers":{"a":{"type":"x","api_key":"${NOPE}","models":{"m":{}}}}}"#, "providers.a", "NOPE"),
        (r#"{"providers":{"a":{"type":"x","timeout":0,"models":{"m":{}}}}}"#, "providers.a", "seconds"),
        (
            r#"{"providers":{"a":{"type":"x","models":{"fast":{}}}},"models":{"fasst":{}}}"#,
            "models.fasst",
            "`fast`",
        ),
        (
            r#"{"providers":{"a":{"type":"x","models":{"m":{}}}},"models":{"m":{"strategy":"scores"}}}"#,
            "models.m",
            "did you mean `score`?",
        ),
        (
            r#"{"providers":{"a":{"type":"x","models":{"m":{},"n":{}}}},"models":{"m":{"aliases":["n"]}}}"#,
            "models.m",
            "another",
        ),
        (r#"{"providers":{"a":{"type":"x","models":{"m":{},"m":{}}}}}"#, "providers.a.models", "twice"),
    ];

    #[test]
    fn faults_name_the_file_the_place_and_the_cure() {
        for (text, place, hint) in FAULTY {
            let error = fault(text);
            assert!(error.contains("models.json"), "{error}");
            assert!(error.contains(place) && error.contains(hint), "{text}: {error}");
        }
    }

    /// Nonsense that has the right form.
    const NONSENSE: &[(&str, &str)] = &[
        (r#""m":{"upstream":""}"#, "`upstream` is empty"),
        (r#""m":{"upstream":"${EMPTY:-}"}"#, "`upstream` is empty"),
        (r#""m":{"defaults":{"temperature":9}}"#, "`defaults.temperature` is 9; give a number from 0 to 2"),
        (r#""m":{"overrides":{"n":0}}"#, "`overrides.n` is 0; give a whole number from 1 to 128"),
        (
            r#""m":{"defaults":{"options":{"top_p":2}}}"#,
            "`defaults.options.top_p` is 2; give a number from 0 to 1",
        ),
        (r#""${A_KEY}":{}"#, "${…} is not replaced in a name"),
        (
            r#""a,b":{}"#,
            "no request can ask for a model by the name `a,b`: a comma parts the names of several models; choose another name",
        ),
        (
            r#""priority-auto":{}"#,
            "no request can ask for a model by the name `priority-auto`: it stands for all deployments there are",
        ),
        (
            r#""m":{"aliases":["priority-auto"]}"#,
            "a.models.m: no request can ask for a model by the name `priority-auto`",
        ),
        (r#""m":{"languages":["en","e n"]}"#, "`e n` is no language tag"),
    ];

    #[test]
    fn what_cannot_be_read_explains_what_lacks_and_nothing_else() {
        let of = |model: &str| {
            fault(&format!(r#"{{"providers":{{"a":{{"type":"llamacpp","models":{{"m":{model}}}}}}}}}"#))
        };
        let lacking = of(r#"{"binary":"/bin/true","context":"large"}"#);
        assert!(lacking.contains("m.context") && !lacking.contains("is missing"), "{lacking}");
        let wrong = of(r#"{"binary":"","context":512,"priority":"soon"}"#);
        assert!(wrong.contains("m.priority") && wrong.contains("`binary` is empty"), "{wrong}");
    }

    #[test]
    fn nonsense_of_the_right_form_is_a_fault() {
        for (model, told) in NONSENSE {
            let error = fault(&format!(r#"{{"providers":{{"a":{{"type":"x","models":{{{model}}}}}}}}}"#));
            assert!(error.contains("providers.a.models.") && error.contains(told), "{model}: {error}");
        }
        for ending in ["/chat/completions", "/completions", "/chat/completions/", "/embeddings"]
            .into_iter()
            .chain(["/models", "/models/", "/responses", "/messages", "/chat", "/api/tags", "/api/embed"])
        {
            let error = fault(&format!(
                r#"{{"providers":{{"a":{{"type":"x","base_url":"http://a/v1{ending}","models":{{"m":{{}}}}}}}}}}"#
            ));
            let ending = ending.trim_end_matches('/');
            assert!(error.contains(&format!("leave `{ending}` off")), "{error}");
        }
        for aliases in [r#"["m"]"#, r#"["x","x"]"#] {
            let error = fault(&format!(
                r#"{{"providers":{{"a":{{"type":"x","models":{{"m":{{}}}}}}}},"models":{{"m":{{"aliases":{aliases}}}}}}}"#
            ));
            assert!(error.contains("is a name of this model already; take it out"), "{error}");
        }
        assert!(fault("[]").contains("line 1: this is a list, not an object"), "{}", fault("[]"));
    }

    #[test]
    fn aliases_may_stand_with_a_providers_model() {
        let file = r#"{"providers": {
            "a": {"type": "x", "models": {"m": {"aliases": ["small", "tiny"]}, "n": {"aliases": ["large"]}}},
            "b": {"type": "x", "models": {"m": {"aliases": ["small"]}}}
        }, "models": {"m": {"aliases": ["fast"]}}}"#;
        let policies = load(file).unwrap().policies;
        let names: Vec<(&str, String)> =
            policies.iter().map(|policy| (policy.model.as_str(), policy.aliases.join(" "))).collect();
        assert_eq!(names, [("m", "fast small tiny".to_owned()), ("n", "large".to_owned())]);

        let error = fault(r#"{"providers":{"a":{"type":"x","models":{"m":{"aliases":["n"]},"n":{}}}}}"#);
        assert!(error.contains("the alias `n` is already the name of `n`"), "{error}");
    }

    #[test]
    fn a_probe_is_a_word_or_settings() {
        let probe = |text: &str| {
            let file =
                format!(r#"{{"providers":{{"a":{{"type":"x","probe":{text},"models":{{"m":{{}}}}}}}}}}"#);
            load(&file).map(|catalog| catalog.providers[0].probe.clone())
        };
        let default = ProbeConfig::default();
        assert_eq!(probe("false").unwrap(), None);
        assert_eq!(probe("true").unwrap(), Some(default.clone()));
        assert_eq!(probe("{}").unwrap(), Some(default.clone()));
        let own =
            ProbeConfig { path: Some("/v1/models".to_owned()), interval: Duration::from_secs(30), ..default };
        assert_eq!(probe(r#"{"path":"/v1/models","interval":30,"comment":"x"}"#).unwrap(), Some(own));
        for (text, place, cure) in [
            (r#""yes""#, "providers.a.probe", "true, false"),
            (r#"{"pth":"/x"}"#, "providers.a.probe.pth", "did you mean `path`?"),
            (r#"{"interval":0}"#, "providers.a.probe", "more than 0"),
            (r#"{"interval":0.01}"#, "providers.a.probe", "0.1 or more"),
            (r#"{"timeout":-1}"#, "providers.a.probe", "more than 0"),
            (r#"{"path":"health"}"#, "providers.a.probe", "must begin with a slash"),
            (r#"{"path":"/../x"}"#, "providers.a.probe", "below the server's root"),
            (r#"{"path":"http://h/x"}"#, "providers.a.probe", "below the server's root"),
            (r#"{"path":"//h/x"}"#, "providers.a.probe", "below the server's root"),
            (r#"{"path":"/x?y"}"#, "providers.a.probe", "below the server's root"),
        ] {
            let error = probe(text).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(cure), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_without_providers_draws_a_warning() {
        for (name, text) in
            [("models.json", "{}"), ("models.json", r#"{"providers":{}}"#), ("models.yaml", "# nothing\n")]
        {
            let catalog = load_as(name, text, false).unwrap();
            assert!(catalog.warnings[0].contains("nothing is served"), "{:?}", catalog.warnings);
            assert!(load_as(name, text, true).unwrap().warnings.is_empty());
        }
    }

    #[test]
    fn secrets_in_headers_draw_a_warning_without_their_words() {
        let text = r#"{"providers":{"a":{"type":"x","models":{"m":{}},"headers":{
            "Authorization":"Bearer planted","x-api-key":"planted","My-Token":"planted",
            "api-key":"${A_KEY}","x-team":"blue","x-client-key":"$${planted"}}}}"#;
        let warnings = load(text).unwrap().warnings;
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        for name in ["Authorization", "x-api-key", "My-Token", "x-client-key"] {
            assert!(
                warnings.iter().any(|w| w.contains(&format!("providers.a.headers.{name} stands"))),
                "{warnings:?}"
            );
        }
        assert!(!format!("{warnings:?}").contains("planted"));
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let error =
            load(r#"{"providers":{"a":{"type":"x","models":{"m":{"context":0}}},"b":{"models":{"m":{}}}}}"#);
        assert_eq!(error.unwrap_err().faults.len(), 2);
    }

    #[test]
    fn with_minimum_a_provider_without_its_key_is_left_out() {
        let text = r#"{"providers":{
            "a":{"type":"x","api_key":"${NOPE}","models":{"m":{}}},
            "b":{"type":"x","api_key":"${A_KEY}","models":{"m":{}}}}}"#;
        let catalog = load_as("models.json", text, true).unwrap();

        assert_eq!(catalog.providers.len(), 1);
        assert!(catalog.warnings[0].contains("`a`") && catalog.warnings[0].contains("NOPE"));
    }

    #[test]
    fn a_key_comes_from_a_file_too_and_a_literal_one_draws_a_warning() {
        let text = r#"{"providers":{
            "a":{"type":"x","api_key":"${file:${KEY_FILE}}","models":{"m":{}}},
            "b":{"type":"x","api_key":"sk-planted","models":{"m":{}}},
            "c":{"type":"x","api_keys":["${A_KEY}","sk-planted"],"models":{"m":{}}}}}"#;
        let catalog = load(text).unwrap();

        assert_eq!(catalog.providers[0].api_key.as_ref().unwrap().expose_secret(), "sk-file");
        let [one, several] = catalog.warnings.as_slice() else { panic!("{:?}", catalog.warnings) };
        assert!(one.contains("providers.b.api_key stands in the file"), "{one}");
        assert!(several.contains("providers.c.api_keys stands in the file"), "{several}");
        assert!(!format!("{catalog:?}").contains("planted"));
    }

    #[test]
    fn other_endings_are_refused_with_a_word() {
        assert!(load_as("x.toml", "", false).unwrap_err().to_string().contains(".json"));
    }
}
