//! How long a prompt is at least, whatever counts its tokens: what is surely too long for a model need not be sent to it.
//!
//! No estimate by bytes is safe here: indentation and lines of dashes come to a hundred bytes a token, an image to
//! thousands, and JSON may write a letter in six. So only the texts of what is said are looked at, as they are meant, and in
//! them words: no vocabulary in wide use joins two words between which there is space. In a word, its letters and digits count
//! as a token for each sixteen bytes, twice as many as vocabularies have in a token on average even of the scripts that they
//! know best. Languages without spaces so come to little, and the provider says what is too long, as ever.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{ChatRequest, RequestKind};

/// Of a long word, so many bytes of letters and digits may be one token.
const LONGEST_TOKEN: usize = 16;
/// A letter and a space: with fewer bytes there is no further word.
const SHORTEST_WORD: u64 = 2;

impl ChatRequest {
    /// At least so many tokens are in the prompt. 0 where they are surely not more than `beyond`, for which nothing is read.
    pub fn least_input_tokens(&self, beyond: u64) -> u64 {
        if self.body.text().len() as u64 / SHORTEST_WORD <= beyond {
            return 0;
        }
        let member = match self.kind {
            RequestKind::Chat => "messages",
            RequestKind::Completion => "prompt",
        };
        // Whatever has another form may be of any length.
        let prompt = self.body.get(member).map(|json| match self.kind {
            RequestKind::Chat => serde_json::from_slice::<Vec<Message>>(json).map(|messages| all(&messages)),
            RequestKind::Completion => {
                serde_json::from_slice::<Prompts>(json).map(|prompts| prompts.longest())
            }
        });
        prompt.and_then(Result::ok).unwrap_or(0)
    }
}

fn all(messages: &[Message]) -> u64 {
    messages.iter().fold(0, |sum, message| sum.saturating_add(message.content.0))
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Said,
}

/// A prompt, or several, each of which is answered by itself.
#[derive(Deserialize)]
#[serde(untagged)]
enum Prompts {
    One(String),
    Several(Vec<String>),
}

impl Prompts {
    fn longest(&self) -> u64 {
        match self {
            Self::One(text) => tokens(text),
            Self::Several(texts) => texts.iter().map(|text| tokens(text)).max().unwrap_or(0),
        }
    }
}

/// What a text, or a list of parts of which some are texts, comes to at least. Nothing of it is kept.
#[derive(Default)]
struct Said(u64);

/// A part of what is said.
#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: Said,
}

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Said;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of parts")
    }

    fn visit_str<E>(self, text: &str) -> Result<Said, E> {
        Ok(Said(tokens(text)))
    }

    fn visit_unit<E>(self) -> Result<Said, E> {
        Ok(Said(0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Said, A::Error> {
        let mut sum = 0_u64;
        while let Some(part) = parts.next_element::<Part>()? {
            sum = sum.saturating_add(part.text.0);
        }
        Ok(Said(sum))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Said, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Said(0))
    }
}

fn tokens(text: &str) -> u64 {
    let of_word = |word: &str| {
        let letters = word.chars().filter(|c| c.is_alphanumeric()).map(char::len_utf8).sum::<usize>();
        letters.div_ceil(LONGEST_TOKEN).max(1) as u64
    };
    text.split_whitespace().map(of_word).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::llm::{Options, Places, RawObject};

    fn request(kind: RequestKind, body: String) -> ChatRequest {
        let body = RawObject::parse(body.into()).unwrap();
        ChatRequest {
            model: "m".to_owned(),
            kind,
            stream: false,
            include_usage: false,
            max_output_tokens: None,
            n: None,
            options: Options::default(),
            patience: None,
            answer_at_most: None,
            rival: None,
            places: Places::of(&body),
            body,
        }
    }

    fn least(messages: &Value) -> u64 {
        let body = json!({"model": "m", "messages": messages}).to_string();
        request(RequestKind::Chat, body).least_input_tokens(0)
    }

    fn of_text(content: &str) -> u64 {
        least(&json!([{"role": "user", "content": content}]))
    }

    #[test]
    fn words_are_counted_as_they_are_meant() {
        for (text, tokens) in [
            ("", 0),
            (" one  two\n\tthree ", 3),
            ("नमस्ते मेरा नाम", 3),
            ("don't-stop", 1),
            (&"word ".repeat(5000), 5000),
            (&"x".repeat(16_000), 1000),
            // What comes to one token however long it is.
            (&" ".repeat(10_000), 0),
            (&"-".repeat(10_000), 1),
            (&"─".repeat(10_000), 1),
            // Without spaces: about a character and a half a token, in truth.
            (&"你好".repeat(1000), 375),
        ] {
            assert_eq!(of_text(text), tokens, "{:?}", text.chars().take(20).collect::<String>());
        }
        let escaped = r#"{"model":"m","messages":[{"role":"user","content":"\u0928\u092e \u0928"}]}"#;
        assert_eq!(request(RequestKind::Chat, escaped.to_owned()).least_input_tokens(0), 2);
    }

    #[test]
    fn only_what_is_said_counts_and_no_payload() {
        let image = format!("data:image/png;base64,{}", "iVBO".repeat(100_000));
        let small = format!("data:image/png;base64,{}", "iVBO".repeat(500));
        let parts = json!([
            {"type": "text", "text": "one two"},
            {"type": "image_url", "image_url": {"url": image}},
            {"type": "image_url", "image_url": {"url": small}},
            {"type": "text", "text": "three"},
        ]);
        let messages = json!([
            {"role": "system", "content": "zero zero", "name": "a b c d"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
                "function": {"name": "f", "arguments": "{\"a\": \"b c d\"}"}}]},
            {"role": "tool", "content": "four", "tool_call_id": "1"},
        ]);
        assert_eq!(least(&messages), 6);
    }

    #[test]
    fn of_several_prompts_the_longest_counts() {
        for (prompt, tokens) in [(json!("a b c"), 3), (json!(["a", "a b", "a"]), 2), (json!([1, 2, 3]), 0)] {
            let body = json!({"model": "m", "prompt": prompt}).to_string();
            assert_eq!(request(RequestKind::Completion, body).least_input_tokens(0), tokens, "{prompt}");
        }
    }

    #[test]
    fn what_is_surely_short_enough_is_not_read() {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "a ".repeat(500)}]});
        let request = request(RequestKind::Chat, body.to_string());
        assert_eq!(request.least_input_tokens(499), 500);
        assert_eq!(request.least_input_tokens(600), 0);
    }
}
