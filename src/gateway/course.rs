//! Where a request goes: found once, when it begins, in what there was then.

use std::sync::Arc;

use super::admission::allowed;
use super::chain::Chain;
use super::{Gateway, GatewayError, Opening, State, note_route};
use crate::llm::{Doubt, RawObject, nested_rival};
use crate::prompts::Rendered;
use crate::router::{Deployment, Route};
use crate::telemetry::RequestRecord;

/// The way of a request, which a reload does not change.
#[derive(Clone)]
pub(super) struct Course {
    pub(super) state: Arc<State>,
    /// The model that is asked first.
    pub(super) first: Arc<Route>,
    /// Those that it names besides.
    pub(super) others: Chain,
}

impl Course {
    /// The prompt of a conversation, if it has one of the library's.
    pub(super) fn opened(
        &self,
        opening: &Opening,
        record: &RequestRecord,
    ) -> Result<Option<Rendered>, GatewayError> {
        // Otherwise it is noted when it is asked.
        let refused = |_: &_| note_route(record, &self.first);
        let prompt = opening.prompt(&self.state.prompts).inspect_err(refused)?;
        record.facts().prompt = prompt.as_ref().map(Rendered::reference);
        Ok(prompt)
    }
}

impl Gateway {
    /// The way of a request for a model, which its caller may use.
    ///
    /// # Errors
    /// Nobody serves a model of that name, or the caller may use none of them.
    pub(super) fn course(&self, model: &str, record: &RequestRecord) -> Result<Course, GatewayError> {
        let state = self.state.load_full();
        let caller = record.caller();
        let mut others = allowed(&state, state.wanted(model, caller)?, caller)?;
        let first = others.next().ok_or_else(|| state.unknown(model))?;
        Ok(Course { state, first, others })
    }

    /// As [`Gateway::course`], for a body that goes on as it is, and may have a `rival` of its member `model`.
    ///
    /// # Errors
    /// As there; or a server could take the request for another model, where it matters which one it is for.
    pub(super) fn course_of_body(
        &self,
        model: &str,
        (rival, body): (Option<&str>, &RawObject),
        record: &RequestRecord,
    ) -> Result<Course, GatewayError> {
        let course = self.course(model, record)?;
        if !course.state.guards_any_model(record.caller()) {
            return Ok(course);
        }
        let Some(doubt) = rival.map(Doubt::of_member).or_else(|| nested_rival(body)) else {
            return Ok(course);
        };
        let first = std::iter::once(course.first.clone());
        let reachable = course.state.reachable(first.chain(course.others.clone()));
        let asked = reachable.iter().flat_map(|route| route.all_deployments());
        let is_asked = |deployment: &Deployment| {
            asked.clone().any(|asked| asked.provider_name == deployment.provider_name)
        };
        if course.state.guards_models(record.caller(), is_asked) {
            return Err(GatewayError::ModelUntold(doubt));
        }
        Ok(course)
    }
}
