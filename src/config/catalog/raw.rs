//! The shapes of the models file, as serde reads them.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::callers::RawLimits;
use super::judged::Gaps;
use super::probes::RawProbe;
use super::{lua, older};
use crate::config::{ConfigError, Fault, ListenAddress};
use crate::lint::{self, Object, Syntax};
use crate::llm::Abilities;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCatalog {
    #[serde(default)]
    pub(super) providers: Pairs<Object<RawProvider>>,
    #[serde(default)]
    pub(super) models: Pairs<Object<RawPolicy>>,
    #[serde(default)]
    pub(super) adjustments: Pairs<Object<RawAdjustment>>,
    #[serde(default)]
    pub(super) routing: Option<Object<RawRouting>>,
    #[serde(default)]
    pub(super) limits: Option<Object<RawLimits>>,
    #[serde(default)]
    pub(super) prices: Option<String>,
    #[serde(default)]
    pub(super) leaderboard: Option<Object<RawLeaderboard>>,
    /// Where to listen, which only files in Lua say.
    #[serde(skip)]
    pub(super) listen: Option<Vec<ListenAddress>>,
    #[serde(skip)]
    pub(super) warnings: Vec<String>,
    #[serde(default, rename = "comment")]
    pub(super) _comment: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawProvider {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) base_url: Option<String>,
    pub(super) models_url: Option<String>,
    pub(super) discover_every: Option<f64>,
    pub(super) optional: bool,
    pub(super) api_key: Option<String>,
    pub(super) api_keys: Vec<String>,
    pub(super) headers: Pairs<String>,
    pub(super) timeout: Option<f64>,
    pub(super) connect_timeout: Option<f64>,
    pub(super) first_token_timeout: Option<f64>,
    pub(super) stall_timeout: Option<f64>,
    pub(super) base_priority: Option<f64>,
    pub(super) probe: Option<RawProbe>,
    pub(super) raw_headers: Vec<String>,
    pub(super) binary: Option<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Pairs<String>,
    pub(super) memory: Option<u64>,
    pub(super) memory_budget: Option<u64>,
    pub(super) queue_max: Option<usize>,
    pub(super) max_unfairness: Option<f64>,
    pub(super) keep_prompt_cache: Option<bool>,
    pub(super) prompt_cache_dir: Option<String>,
    pub(super) prompt_cache_mib: Option<u64>,
    pub(super) health_check_timeout: Option<f64>,
    pub(super) engine_startup_timeout: Option<f64>,
    pub(super) engine_stall_timeout: Option<f64>,
    pub(super) engine_idle_timeout: Option<f64>,
    pub(super) engine_drain_timeout: Option<f64>,
    pub(super) default_output_reserve: Option<u64>,
    pub(super) tokenization: Option<Object<RawTokenization>>,
    pub(super) models: Option<RawModels>,
    /// Where it stands, if not where files of this form have it.
    #[serde(skip)]
    pub(super) place: Option<String>,
    #[serde(rename = "comment")]
    pub(super) _comment: Option<IgnoredAny>,
}

impl RawProvider {
    pub(super) fn listed_models(&self) -> Vec<String> {
        match &self.models {
            Some(RawModels::Listed(Pairs(models))) => models.iter().map(|(name, _)| name.clone()).collect(),
            _ => Vec::new(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) upstream: Option<String>,
    pub(super) priority: Option<i32>,
    pub(super) weight: Option<f64>,
    pub(super) score_adjustment: Option<f64>,
    pub(super) aliases: Vec<String>,
    pub(super) context: Option<u64>,
    pub(super) supports: Object<RawSupports>,
    pub(super) languages: Vec<String>,
    pub(super) defaults: Map<String, Value>,
    pub(super) overrides: Map<String, Value>,
    pub(super) binary: Option<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Pairs<String>,
    pub(super) memory: Option<u64>,
    pub(super) connect: Option<String>,
    pub(super) health_check_timeout: Option<f64>,
    pub(super) engine_startup_timeout: Option<f64>,
    pub(super) engine_stall_timeout: Option<f64>,
    pub(super) engine_idle_timeout: Option<f64>,
    pub(super) engine_drain_timeout: Option<f64>,
    pub(super) default_output_reserve: Option<u64>,
    pub(super) tokenization: Option<Object<RawTokenization>>,
    pub(super) pinned: Option<bool>,
    pub(super) preload: Option<bool>,
    pub(super) secondary: Option<bool>,
    pub(super) keep_prompt_cache: Option<bool>,
    pub(super) variants: Option<Vec<Object<RawVariant>>>,
    /// Where it stands, if not where files of this form have it.
    #[serde(skip)]
    pub(super) place: Option<String>,
    #[serde(rename = "comment")]
    pub(super) _comment: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSupports {
    pub(super) tools: Option<bool>,
    pub(super) response_format: Option<bool>,
    pub(super) images: Option<bool>,
    pub(super) reasoning: Option<bool>,
    pub(super) max_output: Option<u64>,
    #[serde(rename = "comment")]
    pub(super) _comment: Option<IgnoredAny>,
}

impl RawSupports {
    pub(super) fn abilities(&self) -> Abilities {
        Abilities {
            tools: self.tools,
            response_format: self.response_format,
            images: self.images,
            reasoning: self.reasoning,
            output_tokens: self.max_output,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawVariant {
    pub(super) context: Option<u64>,
    pub(super) binary: Option<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Pairs<String>,
    pub(super) memory: Option<u64>,
    pub(super) connect: Option<String>,
    pub(super) health_check_timeout: Option<f64>,
    pub(super) engine_startup_timeout: Option<f64>,
    pub(super) engine_stall_timeout: Option<f64>,
    pub(super) engine_idle_timeout: Option<f64>,
    pub(super) engine_drain_timeout: Option<f64>,
    /// Where it stands, if not where files of this form have it.
    #[serde(skip)]
    pub(super) place: Option<String>,
    #[serde(rename = "comment")]
    pub(super) _comment: Option<IgnoredAny>,
}

#[derive(Clone, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTokenization {
    pub(super) binary: Option<String>,
    pub(super) base_args: Option<Vec<String>>,
    pub(super) extra_args: Vec<String>,
    pub(super) extra_tokens_per_message: u64,
    pub(super) extra_tokens: u64,
    #[serde(rename = "comment")]
    pub(super) _comment: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAdjustment {
    pub(super) priority: Option<f64>,
    pub(super) regex: Vec<String>,
    /// The file in which it stands, if that is another.
    #[serde(skip)]
    pub(super) file: Option<String>,
    #[serde(rename = "comment")]
    pub(super) _comment: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRouting {
    pub(super) strategy: Option<String>,
    pub(super) max_wait: Option<f64>,
    pub(super) max_cooldown: Option<f64>,
    pub(super) hedge_after: Option<f64>,
    pub(super) hedge_budget: Option<f64>,
    pub(super) overflow_after: Option<f64>,
    #[serde(alias = "MODEL_LEADERBOARD_SCORE_SCALAR")]
    pub(super) model_leaderboard_score_scalar: Option<f64>,
    #[serde(alias = "MODEL_PARAM_SCORE_SCALAR")]
    pub(super) model_param_score_scalar: Option<f64>,
    #[serde(alias = "MODEL_CTX_SCORE_SCALAR")]
    pub(super) model_ctx_score_scalar: Option<f64>,
    #[serde(alias = "MODEL_ADJUSTMENT_SCALAR")]
    pub(super) model_adjustment_scalar: Option<f64>,
    #[serde(rename = "comment")]
    pub(super) _comment: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLeaderboard {
    pub(super) file: Option<String>,
    pub(super) sources: Vec<Object<RawLeaderboardSource>>,
    #[serde(rename = "comment")]
    pub(super) _comment: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLeaderboardSource {
    pub(super) name: Option<String>,
    pub(super) url: Option<String>,
    pub(super) format: Option<String>,
    pub(super) licence: Option<String>,
    pub(super) notes: Option<String>,
    #[serde(rename = "comment")]
    pub(super) _comment: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    #[serde(default)]
    pub(super) strategy: Option<String>,
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    #[serde(default)]
    pub(super) fallbacks: Vec<String>,
    #[serde(default)]
    pub(super) context_fallbacks: Vec<String>,
    #[serde(default)]
    pub(super) affinity: Option<bool>,
    #[serde(default, rename = "comment")]
    _comment: Option<IgnoredAny>,
}

/// A list of models, or the word `discover`.
pub(super) enum RawModels {
    Listed(Pairs<Option<Object<RawModel>>>),
    Discover,
}

impl<'de> Deserialize<'de> for RawModels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListOrWord;

        // An untagged enum would lose the place of a fault inside.
        impl<'de> Visitor<'de> for ListOrWord {
            type Value = RawModels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of models, or \"discover\"")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<RawModels, E> {
                let known = word == "discover";
                let unknown = || {
                    E::custom(format!("`{word}` is not `discover`; write \"discover\", or list the models"))
                };
                known.then_some(RawModels::Discover).ok_or_else(unknown)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawModels, A::Error> {
                pairs(map).map(|pairs| RawModels::Listed(Pairs(pairs)))
            }
        }

        deserializer.deserialize_any(ListOrWord)
    }
}

/// A map in the order of the file, in which no name stands twice.
pub(super) struct Pairs<T>(pub(super) Vec<(String, T)>);

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Vec<(String, T)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                pairs(map)
            }
        }

        deserializer.deserialize_map(Map(PhantomData)).map(Self)
    }
}

fn pairs<'de, T: Deserialize<'de>, A: MapAccess<'de>>(mut map: A) -> Result<Vec<(String, T)>, A::Error> {
    let mut pairs: Vec<(String, T)> = Vec::new();
    while let Some((name, value)) = map.next_entry::<String, T>()? {
        if pairs.iter().any(|(other, _)| *other == name) {
            return Err(A::Error::custom(format!("`{name}` stands twice; take one of the two out")));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// The form of a file that is no program, by its ending.
pub(super) fn syntax(path: &Path) -> Option<Syntax> {
    match ending(path).as_str() {
        "json" => Some(Syntax::Json),
        "yaml" | "yml" => Some(Syntax::Yaml),
        _ => None,
    }
}

fn ending(path: &Path) -> String {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// Reads the text of a file, by its ending, and by its content where that is of an older system: what can be read of it,
/// all that is wrong, and what was left out for that.
pub(super) fn judged(path: &Path, text: &str) -> (Option<RawCatalog>, Vec<Fault>, Gaps) {
    let file = path.display().to_string();
    let read = match syntax(path) {
        Some(syntax) => match older::read(syntax, path, text) {
            Some(read) => read,
            None => return judged_from(syntax, &file, text),
        },
        None => read_program(path, text),
    };
    match read {
        Ok(raw) => (Some(raw), Vec::new(), Gaps::default()),
        Err(error) => (None, error.faults, Gaps::default()),
    }
}

/// A text of our own form, with all its faults.
fn judged_from(syntax: Syntax, file: &str, text: &str) -> (Option<RawCatalog>, Vec<Fault>, Gaps) {
    let judged = lint::read_all::<Option<Object<RawCatalog>>>(syntax, text);
    let gaps = Gaps::of(file, &judged);
    let faults = judged.misreads.into_iter().map(|misread| Fault::misread(file, misread)).collect();
    (judged.value.map(|catalog| catalog.unwrap_or_default().0), faults, gaps)
}

fn read_program(path: &Path, text: &str) -> Result<RawCatalog, ConfigError> {
    let file = path.display().to_string();
    let ending = ending(path);
    if ending == "lua" {
        return lua::read(path, text);
    }
    Err(Fault::new(
        file,
        format!("models files that end in `.{ending}` are not read in this version"),
        "name a .json, .yaml, .yml or .lua file",
    )
    .into())
}

/// Reads a text of our own form.
pub(super) fn from(syntax: Syntax, file: &str, text: &str) -> Result<RawCatalog, ConfigError> {
    let read = lint::read::<Option<Object<RawCatalog>>>(syntax, text);
    let catalog = read.map_err(|misread| Fault::misread(file, misread))?;
    Ok(catalog.unwrap_or_default().0)
}
