//! Which of the models that are served a raw request is for, and whether its caller may use it.

use std::sync::Arc;

use http::header::CONTENT_TYPE;

use super::priced::has_money_budget;
use crate::callers::Caller;
use crate::gateway::admission::may_use;
use crate::gateway::{GatewayError, State};
use crate::llm::{Doubt, InvalidObject, Naming, RawObject, is_invisible};
use crate::providers::RawRequest;
use crate::router::{Deployment, Route};
use crate::wire::naming::{Parts, naming};

/// A model, and the deployment that serves it.
pub(super) type Meant = (Arc<Route>, Arc<Deployment>);

/// What a request says of its model.
pub(super) fn naming_of(request: &RawRequest, object: Option<&Result<RawObject, InvalidObject>>) -> Naming {
    let parts = Parts {
        method: &request.method,
        path: &request.path,
        query: request.query.as_deref(),
        content_type: request.headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default()),
        body: request.body.as_ref(),
    };
    naming(&parts, object)
}

/// The model that a raw request is for, as one that is served there; `None` if it is none of those, or the request does not
/// say.
///
/// # Errors
/// The caller may not use the model, or it is off. Where it matters which model is meant, there must be no doubt about it.
pub(super) fn meant(
    state: &State,
    provider: &str,
    (request, naming): (&RawRequest, &Naming),
    asking: Option<&Caller>,
) -> Result<Option<Meant>, GatewayError> {
    let served = || {
        let routes = state.routes.on_and_off().iter();
        let all = routes.flat_map(|route| route.all_deployments().map(move |deployment| (route, deployment)));
        all.filter(|(_, deployment)| *deployment.provider_name == *provider)
    };
    let is_on = |route: &Route| !state.routes.is_off(&route.model);
    let caller = asking.filter(|caller| !caller.key.allowed_models.is_empty());
    let is_managed = served().any(|(_, deployment)| deployment.is_managed());
    let named = if is_managed {
        // Each model has a server of its own, whatever a body says. Where there is one only, it need not be named.
        let first = served().next().map(|(_, deployment)| &deployment.upstream_model);
        let is_only = served().all(|(_, deployment)| Some(&deployment.upstream_model) == first);
        request.model.as_deref().or(first.filter(|_| is_only).map(|name| &**name))
    } else if state.guards_models(caller, |deployment| *deployment.provider_name == *provider) {
        if let Some(doubt) = &naming.doubt {
            return Err(GatewayError::ModelUntold(doubt.clone()));
        }
        naming.model.as_deref()
    } else {
        // A header is a hint for figures. The server does not read it, so it decides on no money.
        let hint = request
            .model
            .as_deref()
            .filter(|_| !asking.is_some_and(|caller| has_money_budget(state, caller)));
        naming.model.as_deref().or(hint)
    };
    let is_it = |deployment: &Deployment| named.is_some_and(|name| is_same(name, &deployment.upstream_model));
    let mut known = served().filter(|(route, deployment)| is_it(deployment) && may_use(caller, route));
    let found = known.clone().find(|(route, _)| is_on(route)).or_else(|| known.next());
    let is_like_one_off = |name: &str| {
        let mut off = served().filter(|(route, _)| !is_on(route));
        off.find(|(_, deployment)| may_be_read_as(name, &deployment.upstream_model))
    };
    match (found, caller, named) {
        (Some((route, _)), _, _) if !is_on(route) => Err(GatewayError::Off(route.model.to_string())),
        (Some((route, deployment)), _, _) => Ok(Some((route.clone(), deployment.clone()))),
        (None, None, name) => match name.and_then(is_like_one_off) {
            Some((route, _)) => Err(GatewayError::Off(route.model.to_string())),
            None => Ok(None),
        },
        (None, Some(_), Some(name)) => Err(GatewayError::NotAllowed(name.to_owned())),
        (None, Some(_), None) => Err(GatewayError::ModelUntold(Doubt::Unnamed)),
    }
}

/// Ollama's `:latest` may be left out.
fn is_same(name: &str, upstream: &str) -> bool {
    without_latest(name) == without_latest(upstream)
}

fn without_latest(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

/// Whether a server may take a name for this model: some ignore case, and what stands before the last slash
/// (`library/NAME`, `models/NAME`).
fn may_be_read_as(name: &str, upstream: &str) -> bool {
    let last = |name: &str| {
        let visible = name.chars().filter(|letter| !is_invisible(*letter) && !letter.is_control());
        let name = visible.collect::<String>().to_lowercase();
        let name = name.trim().rsplit('/').next().unwrap_or_default();
        without_latest(name).trim_end_matches(':').to_owned()
    };
    last(name) == last(upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_read_in_more_ways_than_one() {
        for name in
            ["m", "M", "m:latest", "M:LATEST", "m:", "library/m", "registry/library/M:Latest", "m\u{200b}"]
        {
            assert!(may_be_read_as(name, "m"), "{name:?}");
        }
        for name in ["n", "m:7b", "mm", "m/n"] {
            assert!(!may_be_read_as(name, "m"), "{name:?}");
        }
    }
}
