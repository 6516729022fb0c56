//! Settles what the file says of engines that the gateway starts: whatever may stand at the provider, a model or a
//! variant becomes whole [`EngineVariant`]s. The innermost statement holds; arguments are put one after the other.

mod args;
mod env;
mod files;
mod outer;

use self::args::Facts;
pub(super) use self::outer::Outer;
use self::outer::{Launch, TimeoutKeys};
use super::expand::Expansion;
use super::raw::{RawModel, RawTokenization, RawVariant};
use super::{Reader, place_of};
use crate::config::{
    EngineAddress, EngineEnvironment, EngineModel, EngineTimeouts, EngineVariant, Tokenization,
};
use crate::lint::Object;

/// What llama-tokenize is asked for, if the file does not say.
const TOKENIZE: &[&str] = &["--log-disable", "--stdin", "--ids"];

/// Tokens kept for an answer, if the file does not say.
const OUTPUT_RESERVE: u64 = 2048;

/// What is settled for all variants of a model.
struct Inner {
    launch: Launch,
    timeouts: EngineTimeouts,
    budget_mib: Option<u64>,
}

impl Reader<'_> {
    /// How to run a model, if its provider is one whose engines the gateway starts.
    pub(super) fn engine(
        &mut self,
        provider: &str,
        (public, raw): (&str, &RawModel),
        outer: Option<&Outer>,
        expansion: &mut Expansion<'_>,
    ) -> Option<EngineModel> {
        let place = place_of(provider, public, raw);
        let Some(outer) = outer else {
            self.refuse_engine_keys(&place, &outer::keys_of_model(raw));
            return None;
        };
        let inner = Inner {
            launch: Launch::of_model(raw).within(&outer.launch),
            timeouts: self.engine_timeouts(&place, TimeoutKeys::of_model(raw), outer.timeouts),
            budget_mib: outer.settings.memory_budget_mib,
        };
        let mut variants = Vec::new();
        for (place, variant) in self.stated_variants(&place, raw) {
            variants.extend(self.variant(&place, variant, &inner, expansion));
        }
        self.sort_by_context(&place, &mut variants);
        let largest = variants.last().map(|variant| variant.context_tokens);
        if raw.variants.is_some() && raw.context.is_some() && largest.is_some() && raw.context != largest {
            let cure = "take it out: each variant has its own, and the model's is the largest of them";
            self.fault(&place, "`context` stands beside `variants` and is none of theirs", cure);
        }
        let tokenization = raw.tokenization.as_ref().map(|Object(own)| own).or(outer.tokenization.as_ref());
        let tokenization = tokenization.map(|raw| {
            let environment = env::environment(outer::expanded_env(inner.launch.env.clone(), expansion));
            Tokenization { environment, ..self.tokenization(&place, raw, expansion) }
        });
        (!variants.is_empty()).then(|| EngineModel {
            variants,
            tokenization,
            default_output_reserve: raw
                .default_output_reserve
                .or(outer.default_output_reserve)
                .unwrap_or(OUTPUT_RESERVE),
            is_pinned: raw.pinned.unwrap_or(false),
            is_preloaded: raw.preload.unwrap_or(false),
            is_secondary: raw.secondary.unwrap_or(false),
            keeps_prompt_cache: raw.keep_prompt_cache.or(outer.keep_prompt_cache).unwrap_or(true),
        })
    }

    /// The variants as they stand, each with its place. A model without a list is its own only variant.
    fn stated_variants<'r>(&mut self, place: &str, raw: &'r RawModel) -> Vec<(String, Stated<'r>)> {
        match &raw.variants {
            None => vec![(place.to_owned(), Stated::Model(raw))],
            Some(variants) => {
                if variants.is_empty() {
                    let cure = "list at least one, such as { \"context\": 8192 }";
                    self.lack(place, "`variants` is empty", cure);
                }
                let place_of = |(index, Object(variant)): (usize, &'r Object<RawVariant>)| {
                    let place = variant.place.clone().unwrap_or_else(|| format!("{place}.variants[{index}]"));
                    (place, Stated::Variant(variant))
                };
                variants.iter().enumerate().map(place_of).collect()
            }
        }
    }

    fn variant(
        &mut self,
        place: &str,
        stated: Stated<'_>,
        inner: &Inner,
        expansion: &mut Expansion<'_>,
    ) -> Option<EngineVariant> {
        let missing = expansion.missing.len();
        let (launch, timeouts) = match stated {
            Stated::Model(_) => (inner.launch.clone(), inner.timeouts),
            Stated::Variant(raw) => (
                Launch::of_variant(raw).within(&inner.launch),
                self.engine_timeouts(place, TimeoutKeys::of_variant(raw), inner.timeouts),
            ),
        };
        self.check_env(place, &launch.env);
        let launch = launch.expanded(expansion);
        if expansion.missing.len() > missing {
            return None;
        }
        let facts = args::read(&launch.args);
        for (flag, what) in args::pointless(&launch.args) {
            self.warn(place, &format!("`{flag}` stands in the arguments, so {what}"));
        }
        for (problem, cure) in &facts.faults {
            self.fault_once(place, problem, cure);
        }
        let context_tokens = self.context(place, stated, &facts);
        let address = self.address(place, launch.connect.as_deref(), &facts);
        if let (Some(memory), Some(budget)) = (launch.memory, inner.budget_mib)
            && memory > budget
        {
            let problem = format!("`memory` is {memory} MiB, and `memory_budget` is {budget} MiB");
            self.fault(place, &problem, "raise the budget, or take it out");
        }
        let binary = launch.binary.as_deref().unwrap_or("llama-server");
        let binary = match files::program(binary, self.environment.get("PATH")) {
            Ok(path) => Some(path),
            Err((problem, cure)) => {
                self.fault_once(place, &problem, &cure);
                None
            }
        };
        for (flag, file) in &facts.files {
            if let Some((problem, cure)) = files::unreadable(flag, file, binary.as_deref()) {
                self.fault_once(place, &problem, &cure);
            }
        }
        Some(EngineVariant {
            context_tokens: context_tokens?,
            binary: binary?,
            args: launch.args,
            address,
            memory_mib: launch.memory,
            timeouts,
            environment: env::environment(launch.env),
        })
    }

    /// The context that a variant states. llama-server goes by its arguments, so they had better say the same.
    fn context(&mut self, place: &str, stated: Stated<'_>, facts: &Facts) -> Option<u64> {
        let context = match stated {
            Stated::Model(raw) => raw.context.or(facts.context),
            Stated::Variant(raw) => raw.context,
        };
        let Some(context) = context else {
            let cure = match stated {
                Stated::Model(_) => {
                    "give its `context` or `variants` to have it run here, or the provider's `base_url` to use a server that runs already"
                }
                Stated::Variant(_) => "give the context size in tokens",
            };
            self.lack(place, "`context` is missing", cure);
            return None;
        };
        if context == 0 {
            // Of a model, this is told already.
            if matches!(stated, Stated::Variant(_)) {
                self.fault(place, "`context` is 0", "give the context size in tokens");
            }
            return None;
        }
        if let Some(said) = facts.context
            && !facts.is_context(context)
        {
            let words = format!(
                "`context` is {context}, but the arguments say {said}, by which the engine goes; make them the same"
            );
            self.warn(place, &words);
        }
        Some(context)
    }

    /// Where the file wants the engine to listen.
    fn address(&mut self, place: &str, connect: Option<&str>, facts: &Facts) -> Option<EngineAddress> {
        let connect = connect.and_then(|text| match args::connect(text) {
            Ok(address) => Some(address),
            Err((problem, cure)) => {
                self.fault_once(place, &problem, &cure);
                None
            }
        });
        if let Some(address) = &connect
            && !facts.agrees_with(address)
        {
            let problem =
                format!("the arguments say {}, and `connect` says {address}", facts.address_words());
            self.fault(place, &problem, "make them the same, or take one of the two out");
        }
        if facts.host.is_some() && facts.port.is_none() && connect.is_none() {
            let problem = "`--host` stands in the arguments without `--port`";
            self.fault_once(place, problem, "give both, or neither to have the address chosen");
        }
        connect.or_else(|| facts.address())
    }

    fn sort_by_context(&mut self, place: &str, variants: &mut [EngineVariant]) {
        variants.sort_by_key(|variant| variant.context_tokens);
        let pairs = variants.iter().zip(variants.iter().skip(1));
        let twice: Vec<u64> = pairs
            .filter(|(one, next)| one.context_tokens == next.context_tokens)
            .map(|(one, _)| one.context_tokens)
            .collect();
        for context in twice {
            let problem = format!("two variants have the context {context}");
            self.fault(place, &problem, "give each its own, or take one of the two out");
        }
    }

    fn tokenization(
        &mut self,
        place: &str,
        raw: &RawTokenization,
        expansion: &mut Expansion<'_>,
    ) -> Tokenization {
        let missing = expansion.missing.len();
        let binary = raw.binary.as_ref().map(|text| expansion.expand_for_engine(text));
        let base = raw.base_args.clone();
        let base = base.unwrap_or_else(|| TOKENIZE.iter().map(|&arg| arg.to_owned()).collect());
        let args = base.iter().chain(&raw.extra_args).map(|text| expansion.expand_for_engine(text)).collect();
        let binary = binary.filter(|_| expansion.missing.len() == missing).and_then(|name| {
            let found = files::program(&name, self.environment.get("PATH"));
            // Prompts can be counted by other means.
            let told = |(problem, _): (String, String)| {
                self.warn(&format!("{place}.tokenization"), &format!("{problem}; it is done without"));
            };
            found.map_err(told).ok()
        });
        Tokenization {
            binary,
            args,
            environment: EngineEnvironment::default(),
            extra_tokens_per_message: raw.extra_tokens_per_message,
            extra_tokens: raw.extra_tokens,
        }
    }

    /// A fault that many variants may share is told of the first.
    fn fault_once(&mut self, place: &str, problem: &str, cure: &str) {
        if !self.faults.iter().any(|fault| fault.problem == problem) {
            self.fault(place, problem, cure);
        }
    }
}

/// A variant as it stands in the file.
#[derive(Clone, Copy)]
enum Stated<'r> {
    /// The model is its only one.
    Model(&'r RawModel),
    /// One of the list.
    Variant(&'r RawVariant),
}

#[cfg(test)]
mod tests;
