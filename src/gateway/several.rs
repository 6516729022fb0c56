//! One instruction for many texts: each is asked about by itself, a few at once, and answered in its place.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::course::Course;
use super::{Conversation, Gateway, GatewayError, Generated, Opening, Reply, note_route};
use crate::llm::{ChatRequest, Completion, MAX_ANSWER_BYTES};
use crate::prompts::Rendered;
use crate::providers::{ErrorKind, ProviderError};
use crate::telemetry::RequestRecord;

/// So many texts of one request are under way at once. Enough to fill the slots of an engine and to hide the way to a
/// provider; few enough that one caller with many texts neither takes all of it from the others nor runs into its limits.
const AT_ONCE: usize = 8;

/// The answers about several texts.
#[derive(Debug)]
pub struct Replies {
    /// In the order of the texts; at least one.
    pub answers: Vec<Reply<Completion>>,
    /// The prompt that was put before each of them.
    pub prompt: Option<Rendered>,
}

/// Why there are no answers.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unanswered {
    /// What went wrong first.
    #[source]
    pub error: GatewayError,
    /// The text to which it happened, unless nobody was asked about any.
    pub text: Option<usize>,
}

impl From<GatewayError> for Unanswered {
    fn from(error: GatewayError) -> Self {
        Self { error, text: None }
    }
}

impl Gateway {
    /// Has the same conversation about each of several texts, which takes the place of what the user says. The prompt is
    /// rendered and the model looked up once, so that a reload in between leaves no two texts with different ones. The
    /// future may be dropped at any time, which aborts all requests to upstreams.
    ///
    /// # Errors
    /// As [`Gateway::converse`]. The first failure ends the others that are under way.
    pub async fn converse_about_each(
        &self,
        mut conversation: Conversation,
        texts: &[String],
        record: Arc<RequestRecord>,
    ) -> Result<Replies, Unanswered> {
        // A model that is not there is told before a variable that is missing.
        let course = self.course(&conversation.model, &record)?;
        let prompt = course.opened(&conversation.opening, &record)?;
        if let Some(prompt) = &prompt {
            conversation.opening = Opening::Text(prompt.text.clone());
        }
        // Its parts have records of their own.
        note_route(&record, &course.first);
        self.admit_whole(&course.first, &record).await?;
        let began = record.elapsed();
        let answered = self.about_each((&course, &conversation), texts, prompt.as_ref(), &record).await;
        // The parts overlap, so their times do not add up.
        record.facts().upstream = record.elapsed().saturating_sub(began);
        Ok(Replies { answers: answered?, prompt })
    }

    async fn about_each(
        &self,
        (course, conversation): (&Course, &Conversation),
        texts: &[String],
        prompt: Option<&Rendered>,
        record: &Arc<RequestRecord>,
    ) -> Result<Vec<Reply<Completion>>, Unanswered> {
        let mut answers = Vec::with_capacity(texts.len());
        let mut waiting: VecDeque<(usize, &String)> = texts.iter().enumerate().collect();
        let mut asked = FuturesUnordered::new();
        let (mut at_once, mut bytes) = (AT_ONCE, 0);
        loop {
            while asked.len() < at_once
                && let Some((index, text)) = waiting.pop_front()
            {
                let about = Conversation { statement: text.clone(), ..conversation.clone() };
                let part = Arc::new(record.part());
                let request = about.into_request(prompt);
                asked.push(async move { (index, self.about_one(course.clone(), request, part).await) });
            }
            match asked.next().await {
                Some((index, Ok(answer))) => {
                    bytes += answer.body.body.len();
                    if bytes > MAX_ANSWER_BYTES {
                        return Err(Unanswered { error: too_long(&answer), text: Some(index) });
                    }
                    answers.push((index, answer));
                }
                // The others hold what it needs: it waits until one of them has ended.
                Some((index, Err(GatewayError::Refused(refusal))))
                    if !asked.is_empty() && !refusal.is_for_good() =>
                {
                    tracing::debug!(%refusal, "A text waits for others of its request");
                    waiting.extend(texts.get(index).map(|text| (index, text)));
                    at_once = asked.len();
                }
                Some((index, Err(error))) => return Err(Unanswered { error, text: Some(index) }),
                None => break,
            }
        }
        answers.sort_by_key(|(index, _)| *index);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    async fn about_one(
        &self,
        course: Course,
        request: ChatRequest,
        part: Arc<RequestRecord>,
    ) -> Result<Reply<Completion>, GatewayError> {
        let Reply { body, deployment, attempts, ignored_options, variant, .. } =
            self.generated(course, request, part).await?;
        let Generated::Whole(body) = body else {
            let kind = ErrorKind::Protocol("it streams what was not asked for as a stream".to_owned());
            return Err(Box::new(ProviderError::new(&deployment.provider_name, kind)).into());
        };
        Ok(Reply { body, deployment, attempts, ignored_options, variant, prompt: None })
    }
}

/// All answers together are as long as one may be at most.
fn too_long(answer: &Reply<Completion>) -> GatewayError {
    let reason = format!("its answers are longer than {MAX_ANSWER_BYTES} bytes in all");
    let kind = ErrorKind::Protocol(reason);
    Box::new(ProviderError::new(&answer.deployment.provider_name, kind)).into()
}
