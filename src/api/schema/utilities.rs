//! Requests and answers of the utilities: tasks with texts, done with prompts of the library.

use poem_openapi::Object;
use poem_openapi::types::Example;
use serde::{Deserialize, Serialize};
use validator::Validate;

use super::facade::{GenerationOptions, OwnPrompt, PromptNote, UsageBody};
use super::{AnyObject, Passages};

/// What all utilities take.
#[derive(Deserialize, Validate, Object)]
pub(in crate::api) struct UtilityRequest {
    /// The model's public name. `model` means the same.
    #[serde(alias = "model")]
    #[validate(length(min = 1, message = "must not be empty"))]
    pub(in crate::api) model_name: String,
    /// The language of the prompt, as a tag such as `pl` or `pt-BR`. Without it `Accept-Language` counts.
    pub(in crate::api) language: Option<String>,
    /// Whether another language than the wanted one is an error.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) strict_language: bool,
    /// Another prompt than the endpoint's own: its name, with a label behind `@` if need be.
    pub(in crate::api) prompt: Option<String>,
    /// Further variables for the prompt's template.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) variables: AnyObject,
    /// How freely to choose words, 0 to 2.
    #[validate(range(min = 0.0, max = 2.0, message = "must be between 0 and 2"))]
    #[oai(validator(minimum(value = "0"), maximum(value = "2")))]
    pub(in crate::api) temperature: Option<f64>,
    /// The most tokens of an answer; where there are several answers, of each.
    #[validate(range(min = 1, message = "must be at least 1"))]
    #[oai(validator(minimum(value = "1")))]
    pub(in crate::api) max_new_tokens: Option<u64>,
}

impl UtilityRequest {
    fn example() -> Self {
        Self {
            model_name: "echo".to_owned(),
            language: Some("en".to_owned()),
            strict_language: false,
            prompt: None,
            variables: AnyObject::default(),
            temperature: None,
            max_new_tokens: Some(512),
        }
    }
}

/// Several texts, each of which is worked on by itself.
#[derive(Deserialize, Validate, Object)]
pub(in crate::api) struct SeveralTexts {
    /// The texts, 1 to 256. A few are worked on at once; the answers come in their order.
    #[oai(validator(min_items = 1, max_items = 256))]
    pub(in crate::api) texts: Vec<String>,
}

impl SeveralTexts {
    fn example() -> Self {
        Self {
            texts: vec![
                "The harbour froze over that winter.".to_owned(),
                "Ships waited until April.".to_owned(),
            ],
        }
    }
}

/// Whether to stream.
#[derive(Default, Deserialize, Validate, Object)]
pub(in crate::api) struct Streaming {
    /// Whether to answer with a stream of chunks. It is not, unless this is true.
    pub(in crate::api) stream: Option<bool>,
}

/// Texts to translate.
#[derive(Object)]
#[oai(example)]
pub(in crate::api) struct TranslateRequest {
    #[oai(flatten)]
    common: UtilityRequest,
    #[oai(flatten)]
    texts: SeveralTexts,
    #[oai(flatten)]
    into: TargetLanguage,
    #[oai(flatten)]
    generation: GenerationOptions,
}

/// The language into which texts are translated.
#[derive(Deserialize, Validate, Object)]
pub(in crate::api) struct TargetLanguage {
    /// The language to translate into: a tag such as `de` or `pt-BR`, or a name such as `German`. Without it the language
    /// that the request asks for: `language`, else the first of `Accept-Language`, else the service's default.
    #[oai(validator(min_length = 1, max_length = 100))]
    pub(in crate::api) target_language: Option<String>,
}

impl Example for TranslateRequest {
    fn example() -> Self {
        Self {
            common: UtilityRequest::example(),
            texts: SeveralTexts::example(),
            into: TargetLanguage { target_language: Some("pl".to_owned()) },
            generation: GenerationOptions::default(),
        }
    }
}

/// Texts to put into plain language.
#[derive(Object)]
#[oai(example)]
pub(in crate::api) struct SimplifyRequest {
    #[oai(flatten)]
    common: UtilityRequest,
    #[oai(flatten)]
    texts: SeveralTexts,
    #[oai(flatten)]
    generation: GenerationOptions,
}

impl Example for SimplifyRequest {
    fn example() -> Self {
        Self {
            common: UtilityRequest::example(),
            texts: SeveralTexts::example(),
            generation: GenerationOptions::default(),
        }
    }
}

/// Texts to ask questions about.
#[derive(Object)]
#[oai(example)]
pub(in crate::api) struct QuestionsRequest {
    #[oai(flatten)]
    common: UtilityRequest,
    #[oai(flatten)]
    texts: SeveralTexts,
    #[oai(flatten)]
    questions: Questions,
    #[oai(flatten)]
    generation: GenerationOptions,
}

/// How many questions are wanted.
#[derive(Deserialize, Validate, Object)]
pub(in crate::api) struct Questions {
    /// How many questions there are to be for each text. There may be fewer, if the model makes fewer.
    #[serde(default = "one")]
    #[validate(range(min = 1, message = "must be at least 1"))]
    #[oai(default = "one", validator(minimum(value = "1")))]
    pub(in crate::api) number_of_questions: u32,
}

fn one() -> u32 {
    1
}

impl Example for QuestionsRequest {
    fn example() -> Self {
        Self {
            common: UtilityRequest::example(),
            texts: SeveralTexts::example(),
            questions: Questions { number_of_questions: 2 },
            generation: GenerationOptions::default(),
        }
    }
}

/// A question, and passages that may hold the answer.
#[derive(Object)]
#[oai(example)]
pub(in crate::api) struct GenerativeAnswerRequest {
    #[oai(flatten)]
    common: UtilityRequest,
    #[oai(flatten)]
    question: Question,
    #[oai(flatten)]
    own: OwnPrompt,
    #[oai(flatten)]
    streaming: Streaming,
    #[oai(flatten)]
    generation: GenerationOptions,
}

/// A question, and passages that may hold the answer.
#[derive(Deserialize, Validate, Object)]
pub(in crate::api) struct Question {
    /// The question.
    #[oai(validator(min_length = 1))]
    pub(in crate::api) question_str: String,
    /// The passages, 1 to 256: a list, or an object with a list for each document's name.
    pub(in crate::api) texts: Passages,
    /// Whether the answer is to name the documents on which it rests, which needs their names in `texts`.
    pub(in crate::api) doc_name_in_answer: Option<bool>,
    /// What else there is to say about how to answer. It is put behind the system prompt.
    pub(in crate::api) question_prompt: Option<String>,
}

impl Example for GenerativeAnswerRequest {
    fn example() -> Self {
        let documents = vec![
            ("harbour.txt".to_owned(), vec!["The harbour froze over that winter.".to_owned()]),
            ("ships.txt".to_owned(), vec!["Ships waited until April.".to_owned()]),
        ];
        Self {
            common: UtilityRequest::example(),
            question: Question {
                question_str: "How long did the ships wait?".to_owned(),
                texts: Passages::Documents(documents),
                doc_name_in_answer: Some(true),
                question_prompt: Some("Answer in one sentence.".to_owned()),
            },
            own: OwnPrompt::default(),
            streaming: Streaming::default(),
            generation: GenerationOptions::default(),
        }
    }
}

/// A text to make a short post of.
#[derive(Object)]
#[oai(example)]
pub(in crate::api) struct ArticleRequest {
    #[oai(flatten)]
    common: UtilityRequest,
    #[oai(flatten)]
    source: OneText,
    #[oai(flatten)]
    streaming: Streaming,
    #[oai(flatten)]
    generation: GenerationOptions,
}

/// A text.
#[derive(Deserialize, Validate, Object)]
pub(in crate::api) struct OneText {
    /// The text.
    #[oai(validator(min_length = 1))]
    pub(in crate::api) text: String,
}

impl Example for ArticleRequest {
    fn example() -> Self {
        Self {
            common: UtilityRequest::example(),
            source: OneText {
                text: "The harbour froze over that winter. Ships waited until April.".to_owned(),
            },
            streaming: Streaming::default(),
            generation: GenerationOptions::default(),
        }
    }
}

/// Texts to make one article of.
#[derive(Object)]
#[oai(example)]
pub(in crate::api) struct FullArticleRequest {
    #[oai(flatten)]
    common: UtilityRequest,
    #[oai(flatten)]
    article: FullArticle,
    #[oai(flatten)]
    streaming: Streaming,
    #[oai(flatten)]
    generation: GenerationOptions,
}

/// What an article is to be made of.
#[derive(Deserialize, Validate, Object)]
pub(in crate::api) struct FullArticle {
    /// What the article is to be about.
    #[oai(validator(min_length = 1))]
    pub(in crate::api) user_query: String,
    /// The source texts, 1 to 256. All of them go into one article.
    #[oai(validator(min_items = 1, max_items = 256))]
    pub(in crate::api) texts: Vec<String>,
    /// What kind of article, such as a report or an interview.
    pub(in crate::api) article_type: Option<String>,
}

impl Example for FullArticleRequest {
    fn example() -> Self {
        Self {
            common: UtilityRequest::example(),
            article: FullArticle {
                user_query: "The winter in the harbour".to_owned(),
                texts: SeveralTexts::example().texts,
                article_type: Some("report".to_owned()),
            },
            streaming: Streaming::default(),
            generation: GenerationOptions::default(),
        }
    }
}

/// How answers about several texts came about.
#[derive(Serialize, Object)]
pub(in crate::api) struct AboutAnswers {
    /// Seconds that all of it took.
    pub(in crate::api) generation_time: f64,
    /// The model's public name.
    pub(in crate::api) model: String,
    /// Why each answer ended, in the order of the texts: `stop`, or `length` for one that was cut off.
    pub(in crate::api) finish_reasons: Vec<String>,
    /// What all of them took together.
    pub(in crate::api) usage: UsageBody,
    /// The prompt from the library that was used.
    pub(in crate::api) prompt: Option<PromptNote>,
}

/// Translations.
#[derive(Serialize, Object)]
#[oai(rename = "TranslateResponse")]
pub(in crate::api) struct TranslateAnswer {
    /// In the order of the texts.
    pub(in crate::api) response: Vec<Translated>,
    /// The language as the prompt names it. Null if a prompt of your own has no variable for it.
    pub(in crate::api) target_language: Option<String>,
    #[serde(flatten)]
    #[oai(flatten)]
    pub(in crate::api) about: AboutAnswers,
}

/// A text and its translation.
#[derive(Serialize, Object)]
pub(in crate::api) struct Translated {
    /// The text.
    pub(in crate::api) original: String,
    /// Its translation.
    pub(in crate::api) translated: String,
}

/// Texts in plain language.
#[derive(Serialize, Object)]
#[oai(rename = "SimplifyResponse")]
pub(in crate::api) struct SimplifyAnswer {
    /// In the order of the texts.
    pub(in crate::api) response: Vec<String>,
    #[serde(flatten)]
    #[oai(flatten)]
    pub(in crate::api) about: AboutAnswers,
}

/// Questions.
#[derive(Serialize, Object)]
#[oai(rename = "QuestionsResponse")]
pub(in crate::api) struct QuestionsAnswer {
    /// In the order of the texts.
    pub(in crate::api) response: Vec<TextQuestions>,
    #[serde(flatten)]
    #[oai(flatten)]
    pub(in crate::api) about: AboutAnswers,
}

/// A text and questions about it.
#[derive(Serialize, Object)]
pub(in crate::api) struct TextQuestions {
    /// The text.
    pub(in crate::api) text: String,
    /// The questions.
    pub(in crate::api) questions: Vec<String>,
}

/// An article.
#[derive(Serialize, Object)]
#[oai(rename = "ArticleResponse")]
pub(in crate::api) struct ArticleAnswer {
    /// The article.
    pub(in crate::api) response: ArticleText,
    /// Seconds that it took.
    pub(in crate::api) generation_time: f64,
    /// The model's public name.
    pub(in crate::api) model: String,
    /// Why it ended: `stop`, `length` …
    pub(in crate::api) finish_reason: String,
    /// What it took.
    pub(in crate::api) usage: UsageBody,
    /// The prompt from the library that was used.
    pub(in crate::api) prompt: Option<PromptNote>,
}

/// An article's text.
#[derive(Serialize, Object)]
pub(in crate::api) struct ArticleText {
    /// The text.
    pub(in crate::api) article_text: String,
}
