//! Chats, completions and embeddings of a real llama-server: all that it says arrives, and its errors are told in
//! OpenAI's words.

use serde_json::{Value, json};

use crate::harness::{Claim, Need, claims};
use crate::support::client::{Streamed, header};
use crate::support::{Gateway, LlamaServer};

const CHAT: &str = "/v1/chat/completions";
/// The same server, as what it is and as any server with OpenAI's API.
const MODELS: [(&str, &str); 2] = [("tiny", "local"), ("tiny-openai", "cloud")];

pub(crate) fn claims() -> Vec<Claim> {
    claims![&[Need::LlamaServer];
        a_whole_chat_is_answered_in_words,
        a_streamed_chat_has_its_role_first_and_its_reason_last,
        usage_in_a_stream_is_shown_only_to_who_asks,
        a_stream_and_a_whole_answer_say_the_same,
        the_headers_tell_who_answered,
        several_answers_at_once_all_arrive,
        the_likelihood_of_tokens_arrives_whole_and_streamed,
        an_answer_by_a_schema_is_json_of_that_schema,
        a_limit_of_tokens_ends_an_answer_by_length,
        sampling_options_of_llama_cpp_travel,
        legacy_completions_are_answered_whole_and_streamed,
        a_prompt_that_is_too_long_is_refused_with_both_numbers,
        an_unknown_role_is_refused_before_the_server_sees_it,
        embeddings_tell_texts_apart,
        a_server_without_embeddings_refuses_them_in_openais_words,
    ]
}

fn chat(model: &str, more: &Value) -> Value {
    let mut body =
        json!({"model": model, "messages": [{"role": "user", "content": "Zażółć gęślą jaźń"}], "seed": 7});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn short() -> (LlamaServer, Gateway) {
    let server = LlamaServer::short().await;
    let gateway = Gateway::before(&server).await;
    (server, gateway)
}

async fn a_whole_chat_is_answered_in_words() {
    let (_server, gateway) = short().await;
    for (model, _) in MODELS {
        let answer = gateway.asked(CHAT, &chat(model, &json!({}))).await;

        assert_eq!(answer["object"], "chat.completion");
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["message"]["role"], &choice["finish_reason"]),
            (&json!("assistant"), &json!("stop"))
        );
        assert!(!choice["message"]["content"].as_str().unwrap().trim().is_empty(), "{answer}");
        // Every byte of the prompt is a token, and the marks around it are some more.
        let usage = |name: &str| answer["usage"][name].as_u64().unwrap();
        assert!(usage("prompt_tokens") > "Zażółć gęślą jaźń".len() as u64, "{answer}");
        assert!(usage("completion_tokens") > 1, "{answer}");
        assert_eq!(usage("total_tokens"), usage("prompt_tokens") + usage("completion_tokens"));
    }
}

async fn a_streamed_chat_has_its_role_first_and_its_reason_last() {
    let (_server, gateway) = short().await;
    for (model, _) in MODELS {
        let stream = gateway.stream(CHAT, &chat(model, &json!({"stream": true}))).await;

        assert!(stream.is_done);
        assert_eq!(stream.chunks[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(stream.finish_reasons(), ["stop"]);
        let last = stream.chunks.last().unwrap();
        assert_eq!(last["choices"][0]["finish_reason"], "stop", "{last}");
        assert!(stream.chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
        assert!(stream.chunks.iter().all(|chunk| chunk["id"] == last["id"]));
        // A piece for every word: nothing is held back to be sent together.
        assert_eq!(stream.text().split_whitespace().count() + 2, stream.chunks.len());
    }
}

async fn usage_in_a_stream_is_shown_only_to_who_asks() {
    let (_server, gateway) = short().await;
    let with_usage =
        |stream: &Streamed| stream.chunks.iter().filter(|chunk| chunk["usage"].is_object()).count();
    for (model, _) in MODELS {
        let silent = gateway.stream(CHAT, &chat(model, &json!({"stream": true}))).await;
        assert_eq!(with_usage(&silent), 0);
        assert!(silent.chunks.iter().all(|chunk| chunk["choices"][0].is_object()));

        let asking = json!({"stream": true, "stream_options": {"include_usage": true}});
        let asking = gateway.stream(CHAT, &chat(model, &asking)).await;
        assert_eq!(with_usage(&asking), 1);
        let last = asking.chunks.last().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert!(last["usage"]["completion_tokens"].as_u64().unwrap() > 1, "{last}");
        assert!(asking.is_done);
    }
}

async fn a_stream_and_a_whole_answer_say_the_same() {
    let (_server, gateway) = short().await;
    for (model, _) in MODELS {
        let whole = gateway.asked(CHAT, &chat(model, &json!({}))).await;
        let stream = gateway.stream(CHAT, &chat(model, &json!({"stream": true}))).await;
        assert_eq!(whole["choices"][0]["message"]["content"], stream.text());
    }
}

async fn the_headers_tell_who_answered() {
    let (_server, gateway) = short().await;
    for (model, provider) in MODELS {
        let whole = gateway.post(CHAT, &chat(model, &json!({}))).await;
        let stream = gateway.stream(CHAT, &chat(model, &json!({"stream": true}))).await;
        for headers in [&whole.headers, &stream.headers] {
            assert_eq!(header(headers, "x-llm-provider"), provider);
            assert_eq!(header(headers, "x-llm-model"), "tiny");
            assert_eq!(header(headers, "x-llm-attempts"), "1");
            assert!(!header(headers, "x-request-id").is_empty());
            assert!(header(headers, "server-timing").contains("gateway;dur="), "{headers:?}");
        }
        assert_eq!(header(&stream.headers, "cache-control"), "no-cache");
        assert_eq!(header(&stream.headers, "x-accel-buffering"), "no");
    }
}

async fn several_answers_at_once_all_arrive() {
    // Each takes a slot.
    let server = LlamaServer::long().await;
    let gateway = Gateway::before(&server).await;
    for (model, _) in MODELS {
        let several = gateway.asked(CHAT, &chat(model, &json!({"n": 2, "max_tokens": 6}))).await;
        let indices: Vec<_> =
            several["choices"].as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
        assert_eq!(indices, [0, 1], "{several}");
        for choice in several["choices"].as_array().unwrap() {
            assert!(!choice["message"]["content"].as_str().unwrap().is_empty(), "{several}");
        }
    }
}

async fn the_likelihood_of_tokens_arrives_whole_and_streamed() {
    let (_server, gateway) = short().await;
    let asking = json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 5, "ignore_eos": true});
    for (model, _) in MODELS {
        let whole = gateway.asked(CHAT, &chat(model, &asking)).await;
        let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
        assert_eq!(tokens.len() as u64, whole["usage"]["completion_tokens"].as_u64().unwrap(), "{whole}");
        assert!(tokens.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2), "{whole}");

        let mut body = chat(model, &asking);
        body["stream"] = true.into();
        let stream = gateway.stream(CHAT, &body).await;
        let streamed = stream.chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/logprobs/content"));
        assert_eq!(streamed.flat_map(|content| content.as_array().unwrap()).count(), tokens.len());
    }
}

async fn an_answer_by_a_schema_is_json_of_that_schema() {
    let (_server, gateway) = short().await;
    let schema = json!({"type": "object", "required": ["colour"], "additionalProperties": false,
        "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}}});
    let asking = json!({"response_format": {"type": "json_schema",
        "json_schema": {"name": "pick", "strict": true, "schema": schema}}});
    for (model, _) in MODELS {
        let answer = gateway.asked(CHAT, &chat(model, &asking)).await;
        let said: Value =
            serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
        assert!(said == json!({"colour": "red"}) || said == json!({"colour": "blue"}), "{said}");
    }
}

async fn a_limit_of_tokens_ends_an_answer_by_length() {
    let (_server, gateway) = short().await;
    for name in ["max_tokens", "max_completion_tokens"] {
        let answer = gateway.asked(CHAT, &chat("tiny", &json!({name: 3, "ignore_eos": true}))).await;
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!(answer["usage"]["completion_tokens"], 3);
    }
}

async fn sampling_options_of_llama_cpp_travel() {
    let (_server, gateway) = short().await;
    // All words are equally likely; with only one to choose from, nothing is left to chance.
    let asking = json!({"top_k": 1, "seed": 1, "max_tokens": 8, "ignore_eos": true});
    let first = gateway.asked(CHAT, &chat("tiny", &asking)).await;
    let mut other_seed = asking;
    other_seed["seed"] = 2.into();
    let second = gateway.asked(CHAT, &chat("tiny", &other_seed)).await;
    assert_eq!(first["choices"][0]["message"]["content"], second["choices"][0]["message"]["content"]);

    let facade = json!({"model": "tiny", "user_last_statement": "Hi", "stream": false, "system_prompt": "x", "seed": 3,
        "top_k": 1, "typical_p": 0.9, "repetition_penalty": 1.1, "max_new_tokens": 8});
    let answer = gateway.post("/api/extended_conversation_with_model", &facade).await;
    assert_eq!(answer.header("x-llm-ignored-options"), "");
    assert!(!answer.good()["response"].as_str().unwrap().is_empty());
}

async fn legacy_completions_are_answered_whole_and_streamed() {
    let (_server, gateway) = short().await;
    for (model, _) in MODELS {
        let mut body = json!({"model": model, "prompt": "Once upon a time", "max_tokens": 6, "seed": 7});
        let whole = gateway.asked("/v1/completions", &body).await;
        let text = whole["choices"][0]["text"].as_str().unwrap();
        assert!(!text.is_empty(), "{whole}");

        body["stream"] = true.into();
        let stream = gateway.stream("/v1/completions", &body).await;
        let pieces = stream.chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str());
        assert_eq!(pieces.collect::<String>(), text);
        assert!(stream.is_done);
    }
}

async fn a_prompt_that_is_too_long_is_refused_with_both_numbers() {
    let (_server, gateway) = short().await;
    for (model, _) in MODELS {
        for is_stream in [false, true] {
            let long = json!([{"role": "user", "content": "x".repeat(1000)}]);
            let body = json!({"model": model, "stream": is_stream, "messages": long});
            let answer = gateway.post(CHAT, &body).await;

            assert_eq!(answer.fault(), (400, "context_length_exceeded"), "{}", answer.body);
            assert_eq!(answer.body["error"]["type"], "invalid_request_error");
            let message = answer.body["error"]["message"].as_str().unwrap();
            let numbers: Vec<u32> = message
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect();
            assert!(numbers.contains(&512), "{message}");
            assert!(numbers.iter().any(|number| *number > 1000), "{message}");
        }
    }
}

async fn an_unknown_role_is_refused_before_the_server_sees_it() {
    let (_server, gateway) = short().await;
    let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "x"}, {"role": "boss", "content": "x"}]});
    let answer = gateway.post(CHAT, &body).await;
    assert_eq!(answer.fault(), (400, "invalid_value"));
    assert_eq!(answer.body["error"]["param"], "messages[1].role");
}

async fn embeddings_tell_texts_apart() {
    let server = LlamaServer::embedding().await;
    let gateway = Gateway::before(&server).await;
    for (model, provider) in MODELS {
        let body = json!({"model": model, "input": ["a garden", "a garden", "zzz"]});
        let answer = gateway.post("/v1/embeddings", &body).await;
        assert_eq!((answer.header("x-llm-provider"), answer.header("x-llm-model")), (provider, "tiny"));

        let answer = answer.good();
        let vectors: Vec<Vec<f64>> = (0..3)
            .map(|place| serde_json::from_value(answer["data"][place]["embedding"].clone()).unwrap())
            .collect();
        let likeness = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        assert!(likeness(&vectors[0], &vectors[1]) > 0.999);
        assert!(likeness(&vectors[0], &vectors[2]) < 0.5);
        assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() >= 19, "{}", answer["usage"]);
    }
}

async fn a_server_without_embeddings_refuses_them_in_openais_words() {
    let (_server, gateway) = short().await;
    let answer = gateway.post("/v1/embeddings", &json!({"model": "tiny", "input": "x"})).await;
    assert!(answer.status >= 400, "{}", answer.body);
    for member in ["message", "type", "code"] {
        assert!(answer.body["error"][member].is_string(), "{}", answer.body);
    }
}
