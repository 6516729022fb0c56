//! The way that a request would take, for those who want to know before it is asked.

use std::collections::VecDeque;
use std::sync::Arc;

use super::admission::allowed;
use super::opening::behind;
use super::{Conversation, Gateway, GatewayError, Opening};
use crate::callers::Caller;
use crate::llm::{ChatRequest, Demands, Session};
use crate::prompts::Rendered;
use crate::router::{Fallback, Route};
use crate::telemetry::RequestRecord;

/// The way that a request would take.
#[derive(Debug)]
pub struct Way {
    /// The models that are asked, in this order, before those that take over from them after failures.
    pub routes: Vec<WayStop>,
    /// The prompt that is put before the conversation.
    pub prompt: Option<Rendered>,
    /// What the request asks for, the prompt included.
    pub demands: Demands,
}

/// A model on the way of a request.
#[derive(Debug)]
pub struct WayStop {
    /// The model, and who serves it.
    pub route: Arc<Route>,
    /// At least so many tokens are in the prompt, where that decides who is asked; else 0.
    pub least_tokens: u64,
    /// The conversation, where it decides who of them is asked.
    pub session: Option<Session>,
}

impl Gateway {
    /// The way that a chat or completion request would take. Nobody is asked.
    ///
    /// # Errors
    /// The model is unknown.
    pub fn way_of_chat(&self, request: &ChatRequest, record: &RequestRecord) -> Result<Way, GatewayError> {
        let (state, caller) = (self.state.load(), record.caller());
        let mut ahead: VecDeque<_> =
            allowed(&state, state.wanted(&request.model, caller)?, caller)?.collect();
        let (mut routes, mut seen) = (Vec::new(), Vec::new());
        while let Some(route) = ahead.pop_front() {
            if seen.contains(&route.model) {
                continue;
            }
            let mut least_tokens = route.least_tokens(request);
            let fallback = state.passes_on((&route, least_tokens), &seen, caller);
            let taking_over = state.taking_over(&route, fallback, caller);
            match fallback {
                Some(Fallback::Larger) => ahead = taking_over.into(),
                Some(Fallback::Any) => ahead.extend(taking_over),
                None if route.passes_on(least_tokens).is_some() => least_tokens = 0,
                None => {}
            }
            seen.push(route.model.clone());
            let session = route.session(record.session, request);
            routes.push(WayStop { route, least_tokens, session });
        }
        Ok(Way { routes, prompt: None, demands: request.demands() })
    }

    /// The way that a conversation would take. Nobody is asked.
    ///
    /// # Errors
    /// The model is unknown, or the prompt cannot be made.
    pub fn way_of_conversation(
        &self,
        conversation: Conversation,
        record: &RequestRecord,
    ) -> Result<Way, GatewayError> {
        let prompt = self.prompt_of_way(&conversation.model, &conversation.opening, record.caller())?;
        let way = self.way_of_chat(&conversation.into_request(prompt.as_ref()), record)?;
        Ok(Way { prompt, ..way })
    }

    /// The way that a chat behind a prompt of the library would take. No provider is asked.
    ///
    /// # Errors
    /// As [`Gateway::way_of_conversation`].
    pub fn way_of_chat_behind(
        &self,
        opening: &Opening,
        request: ChatRequest,
        record: &RequestRecord,
    ) -> Result<Way, GatewayError> {
        let prompt = self.prompt_of_way(&request.model, opening, record.caller())?;
        let way = self.way_of_chat(&behind(prompt.as_ref(), request), record)?;
        Ok(Way { prompt, ..way })
    }

    fn prompt_of_way(
        &self,
        model: &str,
        opening: &Opening,
        caller: Option<&Caller>,
    ) -> Result<Option<Rendered>, GatewayError> {
        let state = self.state.load();
        // A model that is not there is told before a variable that is missing.
        allowed(&state, state.wanted(model, caller)?, caller)?;
        Ok(opening.prompt(&state.prompts)?)
    }
}
