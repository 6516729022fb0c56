//! The way of a request, told before or beside it: who would be asked, in which order, and how everyone fares.
//!
//! Names models and providers, never keys or addresses, and asks nobody.

use std::sync::Arc;
use std::time::Duration;

use poem::Request;
use poem_openapi::OpenApi;
use tokio::time::Instant;

use super::body::JsonBody;
use super::context::Context;
use super::error::ApiError;
use super::payload::Json;
use super::prompt_headers::{self, PROMPT};
use super::schema::{
    CandidateBody, ExplainedPrompt, Explanation, FacadeChat, ProbeBody, RouteBody, RouteList, ScoreBody,
};
use super::{Tag, dto, openai as openai_api, record_of, rest};
use crate::gateway::{State, Way, may_use};
use crate::llm::{Demands, Session};
use crate::router::{Deployment, Probed, Route};
use crate::wire::openai;

/// Routes.
pub(super) struct RoutesApi {
    pub(super) context: Arc<Context>,
}

#[OpenApi(prefix_path = "/api", tag = "Tag::Operators")]
impl RoutesApi {
    /// Routes
    ///
    /// For every model that the caller may use those who serve it, in the order in which they are asked, with scores,
    /// rests and times.
    #[oai(path = "/routes", method = "get", operation_id = "list_routes")]
    async fn routes(&self, request: &Request) -> Json<RouteList> {
        let (state, record) = (self.context.gateway.state(), record_of(request));
        let caller = record.caller();
        let shown = state.routes.routes().iter().filter(|route| may_use(caller, route));
        Json(RouteList { routes: shown.map(|route| route_body(route)).collect() })
    }

    /// The way of a request
    ///
    /// Takes the body of a chat, or that of a conversation, and tells who would be asked, with which prompt. Nobody is
    /// asked.
    #[oai(path = "/explain", method = "post", operation_id = "explain")]
    async fn explain(
        &self,
        request: &Request,
        body: JsonBody<FacadeChat>,
    ) -> Result<Json<Explanation>, ApiError> {
        let record = record_of(request);
        let object = dto::object(body.bytes.clone())?;
        let gateway = &self.context.gateway;
        let way = if object.get("user_last_statement").is_some() {
            let (conversation, _) = rest::extended(&object, request)?;
            gateway.way_of_conversation(conversation, &record)?
        } else {
            let chat = openai::chat_request(body.bytes, true)?;
            match request.headers().get(&PROMPT) {
                None => gateway.way_of_chat(&chat, &record)?,
                Some(name) => {
                    let (chat, opening) = openai_api::opened(chat, name, request)?;
                    let way = gateway.way_of_chat_behind(&opening, chat, &record);
                    way.map_err(|error| prompt_headers::named(error.into()))?
                }
            }
        };
        Ok(Json(explanation(&way, &self.context.gateway.state())))
    }
}

fn explanation(way: &Way, state: &State) -> Explanation {
    let is_on = |name: &&String| state.routes.off(name).is_none();
    let routes = || way.routes.iter().map(|stop| &*stop.route);
    Explanation {
        candidates: way
            .routes
            .iter()
            .flat_map(|stop| candidates(&stop.route, Some((&way.demands, stop.least_tokens)), stop.session))
            .collect(),
        strategy: routes().next().map(|route| route.strategy().name()).unwrap_or_default().to_owned(),
        fallbacks: routes().flat_map(|route| &route.fallbacks).filter(is_on).cloned().collect(),
        context_fallbacks: routes()
            .flat_map(|route| &route.context_fallbacks)
            .filter(is_on)
            .cloned()
            .collect(),
        affinity: way.routes.iter().find_map(|stop| stop.session).map(|session| session.source.to_owned()),
        estimated_tokens: way.demands.input_tokens,
        prompt: way.prompt.as_ref().map(|prompt| ExplainedPrompt {
            name: prompt.name.clone(),
            language: prompt.language.to_string(),
            text: prompt.text.clone(),
        }),
    }
}

/// What a request asks for, and how many tokens are in its prompt at least, where that decides.
type Demanded<'a> = Option<(&'a Demands, u64)>;

fn route_body(route: &Route) -> RouteBody {
    RouteBody {
        model: route.model.to_string(),
        aliases: route.aliases.clone(),
        strategy: route.strategy().name().to_owned(),
        fallbacks: route.fallbacks.clone(),
        context_fallbacks: route.context_fallbacks.clone(),
        candidates: candidates(route, None, None),
    }
}

fn candidates(route: &Route, demanded: Demanded<'_>, session: Option<Session>) -> Vec<CandidateBody> {
    let asked = route.candidates(demanded.map(|(demands, _)| demands), session).into_iter();
    asked.chain(&route.left_out).map(|deployment| candidate(route, deployment, demanded)).collect()
}

/// Whether it can be asked, and if not, why.
fn reason(
    route: &Route,
    deployment: &Arc<Deployment>,
    rest: Option<Duration>,
    demanded: Demanded<'_>,
) -> String {
    if route.left_out.iter().any(|other| Arc::ptr_eq(other, deployment)) {
        return "is never asked: its score is not above 0".to_owned();
    }
    if demanded.is_some_and(|(_, least_tokens)| !deployment.may_hold(least_tokens)) {
        return "is not asked: the prompt is surely too long for its context".to_owned();
    }
    match (rest, demanded.and_then(|(demands, _)| deployment.lacks(demands))) {
        (Some(rest), _) => format!("rests for {:.0} s more", rest.as_secs_f64().ceil()),
        (None, Some(word)) => format!("is asked last: it does not take {word}"),
        (None, None) => "can be asked".to_owned(),
    }
}

fn probe_body(probed: Probed, now: Instant) -> ProbeBody {
    ProbeBody {
        ok: probed.failure.is_none(),
        failure: probed.failure.map(str::to_owned),
        seconds_ago: now.saturating_duration_since(probed.at).as_secs_f64(),
        took_ms: probed.took.as_secs_f64() * 1000.0,
    }
}

fn candidate(route: &Route, deployment: &Arc<Deployment>, demanded: Demanded<'_>) -> CandidateBody {
    let now = Instant::now();
    let (own, provider) = (deployment.health.figures(now), deployment.provider_health.figures(now));
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let rests = deployment.rests_for(now);
    let asked = own.answered + own.failed;
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let success_rate = (asked > 0).then(|| own.answered as f64 / asked as f64);
    let reason = reason(route, deployment, rests, demanded);
    let keys = deployment.keys(now);
    CandidateBody {
        model: deployment.model.to_string(),
        provider: deployment.provider_name.to_string(),
        upstream: deployment.upstream_model.to_string(),
        priority: deployment.priority,
        weight: deployment.weight,
        context: deployment.context_tokens,
        score: ScoreBody {
            leaderboard: deployment.score.leaderboard,
            param: deployment.score.param,
            context: deployment.score.context,
            adjustment: deployment.score.adjustment,
            overall: deployment.score.overall,
        },
        reason,
        keys: keys.map(|(all, _)| all),
        resting_keys: keys.map(|(_, resting)| resting),
        rests_for_seconds: rests.map(|rest| rest.as_secs_f64()),
        success_rate,
        answered: own.answered,
        failed: own.failed,
        last_failure: own.last_failure.map(str::to_owned),
        last_probe: provider
            .last_probe
            .filter(|_| deployment.is_probed)
            .map(|probed| probe_body(probed, now)),
        first_token_p50_ms: own.first_token_p50.map(milliseconds),
        first_token_p95_ms: own.first_token_p95.map(milliseconds),
    }
}
