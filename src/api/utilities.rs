//! The utilities: tasks with texts, each a prompt of the library and a form for its answer.
//!
//! Where every text has an answer of its own, all of them are given whole; where there is one answer, it may be streamed.

mod questions;
mod reading;
mod sources;
mod target;

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use poem::Request;
use poem::http::StatusCode;
use poem_openapi::OpenApi;
use serde::Serialize;

use self::reading::Asked;
use super::body::JsonBody;
use super::context::Context;
use super::error::ApiError;
use super::payload::json_response;
use super::reply::{self, GeneratedResponse, SeveralResponse, WholeForm};
use super::rest;
use super::schema::{
    AboutAnswers, ArticleAnswer, ArticleRequest, ArticleText, ChatChunk, ConversationAnswer, FullArticle,
    FullArticleRequest, GenerativeAnswerRequest, OneText, OwnPrompt, Question, Questions, QuestionsAnswer,
    QuestionsRequest, SimplifyAnswer, SimplifyRequest, TargetLanguage, TextQuestions, TranslateAnswer,
    TranslateRequest, Translated,
};
use super::{Tag, prompts, record_of};
use crate::fairness;
use crate::gateway::{self, Offer, Opening, Replies, Unanswered};
use crate::llm::{AnswerText, Completion};
use crate::prompts::Rendered;
use crate::telemetry::RequestRecord;

/// The utilities.
pub(super) struct UtilitiesApi {
    pub(super) context: Arc<Context>,
}

type Streamable<W> = Result<GeneratedResponse<W, ChatChunk>, ApiError>;
type Listed<W> = Result<SeveralResponse<W>, ApiError>;

#[OpenApi(prefix_path = "/api", tag = "Tag::Utilities")]
impl UtilitiesApi {
    /// Translate texts
    ///
    /// Each text by itself, into any language.
    #[oai(path = "/translate", method = "post", operation_id = "translate")]
    async fn translate(
        &self,
        request: &Request,
        body: JsonBody<TranslateRequest>,
    ) -> Listed<TranslateAnswer> {
        let asked = Asked::for_list(body.bytes, &["target_language"])?;
        let into: TargetLanguage = asked.part()?;
        let (texts, wanted) = (asked.texts()?, asked.wanted(request)?);
        let library = self.context.gateway.state().prompts.clone();
        let default = wanted.first().unwrap_or(library.default_language());
        let language = target::language(into.target_language.as_deref(), default)?;
        let offers = vec![Offer::variable(&["target_language"], language)];
        let conversation = asked.conversation("translate", offers, wanted)?;
        let target_language = conversation.opening.told(&library, "target_language");

        let Answers { said, size, about, replies } = self.each(request, conversation, &texts).await?;
        let pair = |(original, translated)| Translated { original, translated };
        let make = move || {
            let response = texts.into_iter().zip(said).map(pair).collect();
            TranslateAnswer { response, target_language, about }
        };
        Ok(listed(made(size, make).await?, &replies, &asked))
    }

    /// Simplify texts
    ///
    /// Each text by itself, in plain language.
    #[oai(path = "/simplify_text", method = "post", operation_id = "simplify_text")]
    async fn simplify_text(
        &self,
        request: &Request,
        body: JsonBody<SimplifyRequest>,
    ) -> Listed<SimplifyAnswer> {
        let asked = Asked::for_list(body.bytes, &[])?;
        let (texts, wanted) = (asked.texts()?, asked.wanted(request)?);
        let conversation = asked.conversation("simplify-text", Vec::new(), wanted)?;

        let Answers { said, size, about, replies } = self.each(request, conversation, &texts).await?;
        Ok(listed(made(size, move || SimplifyAnswer { response: said, about }).await?, &replies, &asked))
    }

    /// Ask questions about texts
    ///
    /// For each text, questions that it answers.
    #[oai(path = "/generate_questions", method = "post", operation_id = "generate_questions")]
    async fn generate_questions(
        &self,
        request: &Request,
        body: JsonBody<QuestionsRequest>,
    ) -> Listed<QuestionsAnswer> {
        let asked = Asked::for_list(body.bytes, &["number_of_questions"])?;
        let Questions { number_of_questions: number } = asked.part()?;
        let (texts, wanted) = (asked.texts()?, asked.wanted(request)?);
        let in_words = format!("{number} question{}", if number == 1 { "" } else { "s" });
        let offers = vec![
            Offer::variable(&["number_of_questions"], number),
            Offer::variable(&["question_num_str"], in_words),
        ];
        let conversation = asked.conversation("generate-questions", offers, wanted)?;

        let Answers { said, size, about, replies } = self.each(request, conversation, &texts).await?;
        if let Some(index) = said.iter().position(|said| said.len() > questions::MOST_BYTES) {
            return Err(no_list(index));
        }
        let most = usize::try_from(number).unwrap_or(usize::MAX);
        let asked_of = move |(text, said): (String, String)| TextQuestions {
            text,
            questions: questions::listed(&said, most),
        };
        let make = move || {
            let response = texts.into_iter().zip(said).map(asked_of).collect();
            QuestionsAnswer { response, about }
        };
        Ok(listed(made(size, make).await?, &replies, &asked))
    }

    /// Answer a question from passages
    ///
    /// One answer, out of the passages and nothing else. Streamed if `stream` is true.
    #[oai(path = "/generative_answer", method = "post", operation_id = "generative_answer")]
    async fn generative_answer(
        &self,
        request: &Request,
        body: JsonBody<GenerativeAnswerRequest>,
    ) -> Streamable<ConversationAnswer> {
        let own = &["question_str", "texts", "doc_name_in_answer", "question_prompt", "system_prompt"];
        let asked = Asked::for_one(body.bytes, own)?;
        let question: Question = asked.part()?;
        let OwnPrompt { system_prompt } = asked.part()?;
        reading::not_blank("question_str", &question.question_str)?;
        reading::check_passages(&question.texts)?;
        let wanted = asked.wanted(request)?;
        let mut conversation =
            asked.conversation("answer-from-context-simple", of_question(&question), wanted)?;
        if let Some(own) = system_prompt {
            conversation.opening = own_opening(&own, &question);
        }
        conversation.statement = sources::question(&question);
        let answered = self.one(request, conversation, asked, WholeForm::Own(answer)).await;
        answered.map_err(|error| error.at_text("texts"))
    }

    /// Make a post of a text
    ///
    /// A short article for social media. Streamed if `stream` is true.
    #[oai(path = "/generate_article_from_text", method = "post", operation_id = "generate_article_from_text")]
    async fn generate_article_from_text(
        &self,
        request: &Request,
        body: JsonBody<ArticleRequest>,
    ) -> Streamable<ArticleAnswer> {
        let asked = Asked::for_one(body.bytes, &["text"])?;
        let OneText { text } = asked.part()?;
        reading::not_blank("text", &text)?;
        let wanted = asked.wanted(request)?;
        let mut conversation = asked.conversation("news-on-sm", Vec::new(), wanted)?;
        conversation.statement = text;
        let answered = self.one(request, conversation, asked, WholeForm::Own(article)).await;
        answered.map_err(|error| error.at_text("text"))
    }

    /// Make an article of texts
    ///
    /// One article out of all of them. Streamed if `stream` is true.
    #[oai(
        path = "/create_full_article_from_texts",
        method = "post",
        operation_id = "create_full_article_from_texts"
    )]
    async fn create_full_article_from_texts(
        &self,
        request: &Request,
        body: JsonBody<FullArticleRequest>,
    ) -> Streamable<ArticleAnswer> {
        let asked = Asked::for_one(body.bytes, &["user_query", "texts", "article_type"])?;
        let FullArticle { user_query, texts, article_type } = asked.part()?;
        reading::not_blank("user_query", &user_query)?;
        reading::check_texts("texts", &texts)?;
        let wanted = asked.wanted(request)?;
        let mut offers = vec![Offer::said(&["user_query", "user_q_str"], &user_query)];
        offers.extend(given(article_type.as_deref()).map(|kind| Offer::said(&["article_type"], kind)));
        let mut conversation = asked.conversation("full-article", offers, wanted)?;
        conversation.statement = sources::sources(&texts);
        let answered = self.one(request, conversation, asked, WholeForm::Own(article)).await;
        answered.map_err(|error| error.at_text("texts"))
    }
}

impl UtilitiesApi {
    /// One answer for each text.
    async fn each(
        &self,
        request: &Request,
        conversation: gateway::Conversation,
        texts: &[String],
    ) -> Result<Answers, ApiError> {
        let record = record_of(request);
        let asked = self.context.gateway.converse_about_each(conversation, texts, record.clone());
        let replies = asked.await.map_err(|error| told_of_text(error, &record))?;
        let answers: Vec<Completion> = replies.answers.iter().map(|reply| reply.body.clone()).collect();
        let size = answers.iter().map(|answer| answer.body.len()).sum();
        let read = fairness::aside(size, move || all_said(&answers)).await;
        let (said, finish_reasons) = read.ok_or_else(ApiError::internal)??;
        let generation_time = record.elapsed().as_secs_f64();
        let facts = record.facts();
        let about = AboutAnswers {
            generation_time,
            model: facts.model.as_deref().unwrap_or_default().to_owned(),
            finish_reasons,
            usage: facts.usage.unwrap_or_default().into(),
            prompt: replies.prompt.as_ref().map(prompts::note),
        };
        drop(facts);
        Ok(Answers { said, size, about, replies })
    }

    /// One answer.
    async fn one<W>(
        &self,
        request: &Request,
        conversation: gateway::Conversation,
        asked: Asked,
        form: WholeForm,
    ) -> Streamable<W> {
        Ok(rest::converse(&self.context, request, conversation, asked.ignored, form).await?.into())
    }
}

/// What was said about each text.
struct Answers {
    said: Vec<String>,
    /// Bytes of all answers, as they came.
    size: usize,
    about: AboutAnswers,
    replies: Replies,
}

/// What is said in answers, without reasoning, and why each of them ended.
fn all_said(answers: &[Completion]) -> Result<(Vec<String>, Vec<String>), ApiError> {
    let one = |answer| {
        let AnswerText { text, finish_reason } = rest::answer_text(answer)?;
        Ok((answer_alone(&text).to_owned(), finish_reason))
    };
    answers.iter().map(one).collect()
}

/// The JSON of what is made of answers of so many bytes.
async fn made<W: Serialize>(
    size: usize,
    make: impl FnOnce() -> W + Send + 'static,
) -> Result<Made<W>, ApiError> {
    let written = fairness::aside(size, move || serde_json::to_vec(&make())).await;
    match written {
        Some(Ok(body)) => Ok(Made { body: body.into(), of: PhantomData }),
        _ => Err(ApiError::internal()),
    }
}

/// The JSON of a `W`.
struct Made<W> {
    body: Bytes,
    of: PhantomData<fn() -> W>,
}

/// The answer is too long to be a list of questions.
fn no_list(index: usize) -> ApiError {
    let most = questions::MOST_BYTES;
    let message = format!(
        "the answer about `texts[{index}]` is longer than {most} bytes, so it is no list of questions"
    );
    ApiError::new(StatusCode::BAD_GATEWAY, "upstream_protocol", message)
}

fn listed<W>(made: Made<W>, replies: &Replies, asked: &Asked) -> SeveralResponse<W> {
    let mut response = json_response(made.body);
    reply::add_headers_of_several(response.headers_mut(), replies, &asked.ignored);
    response.into()
}

/// The error of one text names that text, if it is the text's own.
fn told_of_text(unanswered: Unanswered, record: &RequestRecord) -> ApiError {
    let error = ApiError::from(unanswered.error).with_param_named("model", "model_name");
    let error = error.with_attempts(record.facts().attempts);
    match unanswered.text {
        Some(index) => error.at_text(&format!("texts[{index}]")),
        None => error,
    }
}

/// What a question tells a prompt of the library.
fn of_question(question: &Question) -> Vec<Offer> {
    let names = sources::names_documents(question);
    let mut offers = vec![
        Offer::variable(&["question_str"], question.question_str.as_str()),
        Offer::variable(&["doc_name_in_answer"], names),
    ];
    offers.extend(
        given(question.question_prompt.as_deref()).map(|text| Offer::said(&["question_prompt"], text)),
    );
    offers
}

/// A system prompt of the caller's own, which may mark the place of the question as those of older systems do.
fn own_opening(own: &str, question: &Question) -> Opening {
    let mut text = own.replace("##QUESTION_STR##", &question.question_str);
    if let Some(more) = given(question.question_prompt.as_deref()) {
        text.push_str("\n\n");
        text.push_str(more);
    }
    Opening::Text(text)
}

/// What is given, unless it says nothing.
fn given(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// An answer without the reasoning before it. Servers that know a model's marks send its reasoning apart; the others leave
/// it in the text.
fn answer_alone(said: &str) -> &str {
    match said.trim_start().strip_prefix("<think>") {
        // Cut off before its end, it is nothing but reasoning.
        Some(reasoning) => reasoning.split_once("</think>").map_or("", |(_, answer)| answer.trim_start()),
        None => said,
    }
}

/// The whole answer to a question.
fn answer(
    completion: &Completion,
    prompt: Option<&Rendered>,
    record: &RequestRecord,
) -> Result<Bytes, ApiError> {
    let whole = rest::answer_of(completion, prompt, record)?;
    let response = answer_alone(&whole.response).to_owned();
    let whole = ConversationAnswer { response, ..whole };
    Ok(serde_json::to_vec(&whole).map_err(|_| ApiError::internal())?.into())
}

/// A whole article.
fn article(
    completion: &Completion,
    prompt: Option<&Rendered>,
    record: &RequestRecord,
) -> Result<Bytes, ApiError> {
    let ConversationAnswer { response, generation_time, model, finish_reason, usage, prompt } =
        rest::answer_of(completion, prompt, record)?;
    let response = ArticleText { article_text: answer_alone(&response).to_owned() };
    let whole = ArticleAnswer { response, generation_time, model, finish_reason, usage, prompt };
    Ok(serde_json::to_vec(&whole).map_err(|_| ApiError::internal())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_is_no_part_of_an_answer() {
        for (said, answer) in [
            ("Yes.", "Yes."),
            ("<think>Hm.\nNo?</think>\n\nYes.", "Yes."),
            ("\n<think></think>Yes. </think>", "Yes. </think>"),
            ("<think>Hm, and th", ""),
            ("  Yes. <think>", "  Yes. <think>"),
        ] {
            assert_eq!(answer_alone(said), answer);
        }
    }
}
