//! What provider, model and variant say alike, and how the inner statement is put over the outer one.

use std::path::PathBuf;

use super::Reader;
use crate::config::catalog::expand::Expansion;
use crate::config::catalog::raw::{RawModel, RawModels, RawProvider, RawTokenization, RawVariant};
use crate::config::{EngineSettings, EngineTimeouts};

/// What a provider says of all its engines.
#[derive(Clone)]
pub(in crate::config::catalog) struct Outer {
    pub(super) launch: Launch,
    pub(super) timeouts: EngineTimeouts,
    pub(super) tokenization: Option<RawTokenization>,
    pub(super) default_output_reserve: Option<u64>,
    pub(super) keep_prompt_cache: Option<bool>,
    pub(in crate::config::catalog) settings: EngineSettings,
}

/// How an engine is started.
#[derive(Clone, Default)]
pub(super) struct Launch {
    pub(super) binary: Option<String>,
    pub(super) args: Vec<String>,
    /// Variables for its environment.
    pub(super) env: Vec<(String, String)>,
    pub(super) memory: Option<u64>,
    pub(super) connect: Option<String>,
}

impl Launch {
    pub(super) fn of_model(raw: &RawModel) -> Self {
        Self {
            binary: raw.binary.clone(),
            args: raw.args.clone(),
            env: raw.env.0.clone(),
            memory: raw.memory,
            connect: raw.connect.clone(),
        }
    }

    pub(super) fn of_variant(raw: &RawVariant) -> Self {
        Self {
            binary: raw.binary.clone(),
            args: raw.args.clone(),
            env: raw.env.0.clone(),
            memory: raw.memory,
            connect: raw.connect.clone(),
        }
    }

    /// This over an outer statement, whose arguments and variables come first. Of a variable that stands in both, the
    /// inner value holds.
    pub(super) fn within(self, outer: &Self) -> Self {
        let is_new = |(name, _): &&(String, String)| !self.env.iter().any(|(own, _)| own == name);
        let outer_env: Vec<_> = outer.env.iter().filter(is_new).cloned().collect();
        Self {
            env: [outer_env, self.env].concat(),
            binary: self.binary.or_else(|| outer.binary.clone()),
            args: [outer.args.clone(), self.args].concat(),
            memory: self.memory.or(outer.memory),
            connect: self.connect.or_else(|| outer.connect.clone()),
        }
    }

    pub(super) fn expanded(self, expansion: &mut Expansion<'_>) -> Self {
        Self {
            binary: self.binary.map(|text| expansion.expand_for_engine(&text)),
            args: self.args.iter().map(|text| expansion.expand_for_engine(text)).collect(),
            env: expanded_env(self.env, expansion),
            memory: self.memory,
            connect: self.connect.map(|text| expansion.expand_for_engine(&text)),
        }
    }
}

/// Variables with their references replaced.
pub(super) fn expanded_env(
    env: Vec<(String, String)>,
    expansion: &mut Expansion<'_>,
) -> Vec<(String, String)> {
    env.into_iter().map(|(name, value)| (name, expansion.expand_for_engine(&value))).collect()
}

/// The time-outs as they stand, in seconds.
#[derive(Clone, Copy)]
pub(super) struct TimeoutKeys {
    health_check: Option<f64>,
    startup: Option<f64>,
    stall: Option<f64>,
    idle: Option<f64>,
    drain: Option<f64>,
}

/// The same fields of different shapes.
macro_rules! timeouts_of {
    ($raw:expr) => {
        Self {
            health_check: $raw.health_check_timeout,
            startup: $raw.engine_startup_timeout,
            stall: $raw.engine_stall_timeout,
            idle: $raw.engine_idle_timeout,
            drain: $raw.engine_drain_timeout,
        }
    };
}

impl TimeoutKeys {
    fn of_provider(raw: &RawProvider) -> Self {
        timeouts_of!(raw)
    }

    pub(super) fn of_model(raw: &RawModel) -> Self {
        timeouts_of!(raw)
    }

    pub(super) fn of_variant(raw: &RawVariant) -> Self {
        timeouts_of!(raw)
    }

    /// Which of them stand there.
    fn stated(&self) -> [(&'static str, bool); 5] {
        [
            ("health_check_timeout", self.health_check.is_some()),
            ("engine_startup_timeout", self.startup.is_some()),
            ("engine_stall_timeout", self.stall.is_some()),
            ("engine_idle_timeout", self.idle.is_some()),
            ("engine_drain_timeout", self.drain.is_some()),
        ]
    }
}

impl Reader<'_> {
    /// What the provider says of its engines, if it is one whose engines the gateway starts.
    pub(in crate::config::catalog) fn outer_engines(
        &mut self,
        place: &str,
        raw: &RawProvider,
    ) -> Option<Outer> {
        let is_llama = raw.kind.as_deref() == Some("llamacpp");
        if !is_llama || raw.base_url.is_some() {
            self.refuse_engine_keys(place, &keys_of_provider(raw));
            return None;
        }
        if matches!(raw.models, Some(RawModels::Discover)) {
            let cure = "list the models to have them run here, or give the `base_url` of a llama-server that runs already";
            self.fault(place, "`models` is \"discover\", and there is no server to ask", cure);
        }
        let default = EngineSettings::default();
        if raw.memory_budget == Some(0) {
            let cure = "give MiB, more than 0, or leave it out to run one engine at a time";
            self.fault(place, "`memory_budget` is 0", cure);
        }
        Some(Outer {
            launch: Launch {
                binary: raw.binary.clone(),
                args: raw.args.clone(),
                env: raw.env.0.clone(),
                memory: raw.memory,
                connect: None,
            },
            timeouts: self.engine_timeouts(place, TimeoutKeys::of_provider(raw), EngineTimeouts::default()),
            tokenization: raw.tokenization.as_ref().map(|tokenization| tokenization.0.clone()),
            default_output_reserve: raw.default_output_reserve,
            keep_prompt_cache: raw.keep_prompt_cache,
            settings: EngineSettings {
                memory_budget_mib: raw.memory_budget,
                max_unfairness: self.seconds(
                    place,
                    "max_unfairness",
                    raw.max_unfairness,
                    default.max_unfairness,
                ),
                queue_max: raw.queue_max.unwrap_or(default.queue_max),
                prompt_cache_dir: raw.prompt_cache_dir.as_ref().map(PathBuf::from),
                prompt_cache_mib: raw.prompt_cache_mib.unwrap_or(default.prompt_cache_mib),
            },
        })
    }

    pub(super) fn engine_timeouts(
        &mut self,
        place: &str,
        keys: TimeoutKeys,
        outer: EngineTimeouts,
    ) -> EngineTimeouts {
        EngineTimeouts {
            health_check: self.seconds(place, "health_check_timeout", keys.health_check, outer.health_check),
            startup: self.seconds(place, "engine_startup_timeout", keys.startup, outer.startup),
            stall: self.seconds(place, "engine_stall_timeout", keys.stall, outer.stall),
            idle: self.seconds(place, "engine_idle_timeout", keys.idle, outer.idle),
            drain: self.seconds(place, "engine_drain_timeout", keys.drain, outer.drain),
        }
    }

    /// Keys that would have no effect are faults.
    pub(super) fn refuse_engine_keys(&mut self, place: &str, keys: &[&str]) {
        for key in keys {
            let problem =
                format!("`{key}` is for engines that are started here, and this provider is a server");
            let cure = "take it out, or make the provider \"type\": \"llamacpp\" without `base_url`";
            self.fault(place, &problem, cure);
        }
    }
}

/// Which of the keys about engines a provider has.
fn keys_of_provider(raw: &RawProvider) -> Vec<&'static str> {
    let stated = [
        ("binary", raw.binary.is_some()),
        ("args", !raw.args.is_empty()),
        ("env", !raw.env.0.is_empty()),
        ("memory", raw.memory.is_some()),
        ("memory_budget", raw.memory_budget.is_some()),
        ("queue_max", raw.queue_max.is_some()),
        ("max_unfairness", raw.max_unfairness.is_some()),
        ("keep_prompt_cache", raw.keep_prompt_cache.is_some()),
        ("prompt_cache_dir", raw.prompt_cache_dir.is_some()),
        ("prompt_cache_mib", raw.prompt_cache_mib.is_some()),
        ("default_output_reserve", raw.default_output_reserve.is_some()),
        ("tokenization", raw.tokenization.is_some()),
    ];
    let stated = stated.into_iter().chain(TimeoutKeys::of_provider(raw).stated());
    stated.filter(|(_, is_stated)| *is_stated).map(|(key, _)| key).collect()
}

/// Which of the keys about engines a model has.
pub(super) fn keys_of_model(raw: &RawModel) -> Vec<&'static str> {
    let stated = [
        ("binary", raw.binary.is_some()),
        ("args", !raw.args.is_empty()),
        ("env", !raw.env.0.is_empty()),
        ("memory", raw.memory.is_some()),
        ("connect", raw.connect.is_some()),
        ("default_output_reserve", raw.default_output_reserve.is_some()),
        ("tokenization", raw.tokenization.is_some()),
        ("pinned", raw.pinned.is_some()),
        ("preload", raw.preload.is_some()),
        ("secondary", raw.secondary.is_some()),
        ("keep_prompt_cache", raw.keep_prompt_cache.is_some()),
        ("variants", raw.variants.is_some()),
    ];
    let stated = stated.into_iter().chain(TimeoutKeys::of_model(raw).stated());
    stated.filter(|(_, is_stated)| *is_stated).map(|(key, _)| key).collect()
}
