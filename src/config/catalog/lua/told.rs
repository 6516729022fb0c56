//! What the process that runs a configuration in Lua tells the gateway: what the file sets, or what is wrong with it.

use serde::{Deserialize, Serialize};

use crate::config::catalog::raw::{
    Pairs, RawCatalog, RawModel, RawModels, RawProvider, RawTokenization, RawVariant,
};
use crate::config::{ConfigError, Fault, ListenAddress};
use crate::lint::Object;

/// All that it tells.
#[derive(Serialize, Deserialize)]
pub(super) struct Told {
    /// What the file has printed.
    pub(super) lines: Vec<String>,
    pub(super) outcome: Result<File, Vec<Problem>>,
}

/// What a file sets.
#[derive(Serialize, Deserialize)]
pub(super) struct File {
    listen: Vec<String>,
    warnings: Vec<String>,
    provider: String,
    timeouts: Timeouts,
    models: Vec<Model>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Problem {
    place: String,
    problem: String,
    cure: String,
}

/// Of health checks, of starts, and of idleness, in seconds.
type Timeouts = [Option<f64>; 3];

#[derive(Serialize, Deserialize)]
struct Model {
    name: String,
    place: Option<String>,
    secondary: Option<bool>,
    connect: Option<String>,
    timeouts: Timeouts,
    tokenization: Option<Tokenization>,
    variants: Vec<Variant>,
}

#[derive(Serialize, Deserialize)]
struct Tokenization {
    binary: Option<String>,
    base_args: Option<Vec<String>>,
    extra_args: Vec<String>,
    extra_tokens_per_message: u64,
    extra_tokens: u64,
}

#[derive(Serialize, Deserialize)]
struct Variant {
    place: Option<String>,
    binary: Option<String>,
    args: Vec<String>,
    context: Option<u64>,
    connect: Option<String>,
    timeouts: Timeouts,
}

impl Told {
    /// In the process that has run the file.
    pub(super) fn of(lines: Vec<String>, read: Result<RawCatalog, ConfigError>) -> Self {
        let outcome = read.map(File::of).map_err(|error| error.faults.into_iter().map(Problem::of).collect());
        Self { lines, outcome }
    }

    /// In the gateway.
    pub(super) fn into_catalog(self) -> Result<RawCatalog, ConfigError> {
        let faults =
            |problems: Vec<Problem>| problems.into_iter().map(Problem::into_fault).collect::<Vec<_>>();
        self.outcome.map(File::into_catalog).map_err(|problems| faults(problems).into())
    }
}

impl Problem {
    fn of(Fault { place, problem, cure, .. }: Fault) -> Self {
        Self { place, problem, cure }
    }

    fn into_fault(self) -> Fault {
        Fault::new(self.place, self.problem, self.cure)
    }
}

impl File {
    fn of(catalog: RawCatalog) -> Self {
        let (provider, Object(raw)) = catalog.providers.0.into_iter().next().unwrap_or_default();
        let models = match raw.models {
            Some(RawModels::Listed(Pairs(models))) => models,
            _ => Vec::new(),
        };
        Self {
            listen: catalog.listen.into_iter().flatten().map(|address| address.to_string()).collect(),
            warnings: catalog.warnings,
            provider,
            timeouts: [raw.health_check_timeout, raw.engine_startup_timeout, raw.engine_idle_timeout],
            models: models
                .into_iter()
                .map(|(name, model)| Model::of(name, model.unwrap_or_default().0))
                .collect(),
        }
    }

    fn into_catalog(self) -> RawCatalog {
        let models = self.models.into_iter().map(Model::into_pair).collect();
        let [health_check_timeout, engine_startup_timeout, engine_idle_timeout] = self.timeouts;
        let provider = RawProvider {
            kind: Some("llamacpp".to_owned()),
            health_check_timeout,
            engine_startup_timeout,
            engine_idle_timeout,
            models: Some(RawModels::Listed(Pairs(models))),
            ..RawProvider::default()
        };
        RawCatalog {
            providers: Pairs(vec![(self.provider, Object(provider))]),
            listen: Some(self.listen.into_iter().map(ListenAddress::Tcp).collect()),
            warnings: self.warnings,
            ..RawCatalog::default()
        }
    }
}

impl Model {
    fn of(name: String, raw: RawModel) -> Self {
        Self {
            name,
            place: raw.place,
            secondary: raw.secondary,
            connect: raw.connect,
            timeouts: [raw.health_check_timeout, raw.engine_startup_timeout, raw.engine_idle_timeout],
            tokenization: raw.tokenization.map(|Object(raw)| Tokenization {
                binary: raw.binary,
                base_args: raw.base_args,
                extra_args: raw.extra_args,
                extra_tokens_per_message: raw.extra_tokens_per_message,
                extra_tokens: raw.extra_tokens,
            }),
            variants: raw.variants.into_iter().flatten().map(|Object(raw)| Variant::of(raw)).collect(),
        }
    }

    fn into_pair(self) -> (String, Option<Object<RawModel>>) {
        let [health_check_timeout, engine_startup_timeout, engine_idle_timeout] = self.timeouts;
        let tokenization = self.tokenization.map(|told| {
            Object(RawTokenization {
                binary: told.binary,
                base_args: told.base_args,
                extra_args: told.extra_args,
                extra_tokens_per_message: told.extra_tokens_per_message,
                extra_tokens: told.extra_tokens,
                ..RawTokenization::default()
            })
        });
        let model = RawModel {
            place: self.place,
            secondary: self.secondary,
            connect: self.connect,
            health_check_timeout,
            engine_startup_timeout,
            engine_idle_timeout,
            tokenization,
            variants: Some(self.variants.into_iter().map(Variant::into_raw).collect()),
            ..RawModel::default()
        };
        (self.name, Some(Object(model)))
    }
}

impl Variant {
    fn of(raw: RawVariant) -> Self {
        Self {
            place: raw.place,
            binary: raw.binary,
            args: raw.args,
            context: raw.context,
            connect: raw.connect,
            timeouts: [raw.health_check_timeout, raw.engine_startup_timeout, raw.engine_idle_timeout],
        }
    }

    fn into_raw(self) -> Object<RawVariant> {
        let [health_check_timeout, engine_startup_timeout, engine_idle_timeout] = self.timeouts;
        Object(RawVariant {
            place: self.place,
            binary: self.binary,
            args: self.args,
            context: self.context,
            connect: self.connect,
            health_check_timeout,
            engine_startup_timeout,
            engine_idle_timeout,
            ..RawVariant::default()
        })
    }
}
