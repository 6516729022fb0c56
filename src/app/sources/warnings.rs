//! What the operator is told of what was loaded that is no error.

use std::sync::Arc;

use super::Loaded;
use crate::callers::{Price, matches};
use crate::llm::shortened;
use crate::router::{MOST_DISCOVERED, Route, Served};

/// So many names are told in one line.
const MOST_NAMED: usize = 5;

impl Loaded {
    /// Things to tell the operator that are no errors.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.catalog.warnings.clone();
        warnings.extend_from_slice(self.prompts.warnings());
        let default = self.prompts.default_language();
        if !self.prompts.speaks(default) {
            let languages: Vec<String> = self.prompts.languages().iter().map(ToString::to_string).collect();
            warnings.push(format!(
                "LLM_PROXY_API_DEFAULT_EP_LANGUAGE: there is no prompt in `{default}`; those there are, are in {}",
                languages.join(", ")
            ));
        }
        if let (Some(file), None) = (&self.catalog.leaderboard.file, self.leaderboard.file()) {
            warnings.push(format!(
                "the leaderboard's file {} is not there, so the figures that come with the program hold; `llm-proxy-api leaderboard update` writes it",
                file.display()
            ));
        }
        for route in self.routes.routes().iter().filter(|route| route.deployments.is_empty()) {
            warnings.push(format!(
                "nobody is asked for the model `{}`: none of its deployments has a score above 0 (see /routes and `leaderboard show`)",
                route.model
            ));
        }
        warnings.extend(self.nobodies());
        warnings.extend(self.served.iter().filter_map(unfit));
        warnings.extend(self.served.iter().filter_map(too_many));
        for served in self.served.iter().filter(|served| served.discovers()) {
            let name = &served.config.name;
            let why = self.silent.get(name).map(String::as_str);
            if served.discovered.is_empty() {
                let why = why.unwrap_or("says that it has no models");
                warnings.push(format!("provider `{name}` {why}; it is asked again from time to time"));
            } else if let Some(why) = why {
                warnings.push(format!("provider `{name}` {why}; the models that it had stay until it does"));
            }
        }
        warnings
    }
}

impl Loaded {
    /// Models that are to take over and that nobody has, once all who are asked what they have, have said so.
    fn nobodies(&self) -> Vec<String> {
        let mut asked = self.served.iter().filter(|served| served.discovers());
        if asked.any(|served| served.discovered.is_empty()) {
            return Vec::new();
        }
        let is_known = |name: &str| self.routes.route(name).or_else(|| self.routes.off(name)).is_some();
        let routes = self.routes.on_and_off().iter();
        let named = routes.flat_map(|route| {
            let names = route.fallbacks.iter().chain(&route.context_fallbacks);
            names.map(|name| (&route.model, name))
        });
        let unknown = named.filter(|(_, name)| !is_known(name));
        let line =
            |(model, name)| format!("`{name}` is to take over from the model `{model}`, but nobody has it");
        unknown.map(line).collect()
    }
}

impl Loaded {
    /// How many prices there are, which of them are of no use here, and which models have none now. Nothing without a file
    /// of prices.
    pub fn prices(&self) -> Option<String> {
        let prices = &self.catalog.prices;
        self.catalog.prices_file.as_ref()?;
        let names = |route: &Route| -> Vec<String> {
            let upstream = route.all_deployments().map(|deployment| deployment.upstream_model.to_string());
            upstream.chain([route.model.to_string()]).collect()
        };
        let known: Vec<String> = self.routes.on_and_off().iter().flat_map(|route| names(route)).collect();
        let is_used = |price: &&Price| known.iter().any(|name| matches(&price.model, name));
        let idle = prices.iter().filter(|price| !is_used(price)).map(|price| format!("`{}`", price.model));
        let is_unpriced = |route: &&Arc<Route>| route.all_deployments().any(|one| one.prices.now().is_none());
        let unpriced =
            self.routes.on_and_off().iter().filter(is_unpriced).map(|route| format!("`{}`", route.model));
        let part =
            |what: &str, names: Vec<String>| (!names.is_empty()).then(|| format!("{what} {}", some(&names)));
        let parts = [
            Some(prices.len().to_string()),
            part("for no model here:", idle.collect()),
            part("none holds now for", unpriced.collect()),
        ];
        Some(format!("prices: {}", parts.into_iter().flatten().collect::<Vec<_>>().join("; ")))
    }
}

/// The first of these, and how many more there are.
fn some(names: &[String]) -> String {
    let first = names.get(..MOST_NAMED).unwrap_or(names).join(", ");
    match names.len().saturating_sub(MOST_NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Which models of a provider are not served for their names. A list that is not the operator's must not stop the gateway.
fn unfit(served: &Served) -> Option<String> {
    let all: Vec<String> =
        served.unfit().map(|(name, why)| format!("`{}` ({why})", shortened(name))).collect();
    (!all.is_empty()).then(|| {
        format!(
            "provider `{}` has models that no request can ask for by their names, so they are left out: {}; list them in the models file under other names",
            served.config.name,
            some(&all)
        )
    })
}

/// How many models of a provider are not served because there are too many.
fn too_many(served: &Served) -> Option<String> {
    let beyond = served.beyond_the_most();
    (beyond > 0).then(|| {
        format!(
            "provider `{}` has too many models: the first {MOST_DISCOVERED} are served, {beyond} are not; list those that are wanted in the models file",
            served.config.name
        )
    })
}
