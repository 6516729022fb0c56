//! Tool calls of a real llama-server: whole, streamed, and with the tool's result on the way back.

use serde_json::{Value, json};

use crate::harness::{Claim, Need, claims};
use crate::support::{Gateway, LlamaServer};

pub(crate) fn claims() -> Vec<Claim> {
    claims![&[Need::LlamaServer];
        a_tool_call_arrives_whole,
        the_pieces_of_a_streamed_tool_call_make_up_its_arguments,
        a_tools_result_finds_its_way_back,
        a_conversations_tool_calls_survive_the_facades_chat,
    ]
}

fn asking(model: &str, is_stream: bool) -> Value {
    json!({"model": model, "stream": is_stream, "tool_choice": "required", "tools": tools(),
        "messages": [{"role": "user", "content": "What is the weather like?"}]})
}

fn tools() -> Value {
    json!([{"type": "function", "function": {
        "name": "get_weather", "description": "The weather in a city",
        "parameters": {"type": "object", "required": ["city", "days"], "properties": {
            "city": {"type": "string", "enum": ["Paris", "Łódź"]},
            "days": {"type": "integer", "enum": [1, 2, 3]},
        }},
    }}])
}

/// Checks that arguments are what the tool takes.
fn are_good(arguments: &str) {
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    assert!(["Paris", "Łódź"].iter().any(|city| arguments["city"] == *city), "{arguments}");
    assert!((1..=3).any(|days| arguments["days"] == days), "{arguments}");
}

async fn a_tool_call_arrives_whole() {
    let server = LlamaServer::long().await;
    let gateway = Gateway::before(&server).await;
    for model in ["tiny", "tiny-openai"] {
        let answer = gateway.asked("/v1/chat/completions", &asking(model, false)).await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1, "{answer}");
        assert_eq!(calls[0]["type"], "function");
        assert_eq!(calls[0]["function"]["name"], "get_weather");
        assert!(!calls[0]["id"].as_str().unwrap().is_empty());
        are_good(calls[0]["function"]["arguments"].as_str().unwrap());
    }
}

async fn the_pieces_of_a_streamed_tool_call_make_up_its_arguments() {
    let server = LlamaServer::long().await;
    let gateway = Gateway::before(&server).await;
    for model in ["tiny", "tiny-openai"] {
        let stream = gateway.stream("/v1/chat/completions", &asking(model, true)).await;
        assert!(stream.is_done);
        assert_eq!(stream.finish_reasons(), ["tool_calls"]);
        let pieces: Vec<&Value> =
            stream.deltas().filter_map(|delta| delta.pointer("/tool_calls/0")).collect();
        assert!(pieces.len() > 5, "{pieces:?}");
        assert!(pieces.iter().all(|piece| piece["index"] == 0));
        assert_eq!(pieces[0]["function"]["name"], "get_weather");
        assert!(!pieces[0]["id"].as_str().unwrap().is_empty());
        let arguments: String =
            pieces.iter().filter_map(|piece| piece["function"]["arguments"].as_str()).collect();
        are_good(&arguments);
    }
}

async fn a_tools_result_finds_its_way_back() {
    let server = LlamaServer::long().await;
    let gateway = Gateway::before(&server).await;
    for model in ["tiny", "tiny-openai"] {
        let first = gateway.asked("/v1/chat/completions", &asking(model, false)).await;
        let message = first["choices"][0]["message"].clone();
        let result =
            json!({"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"});
        let mut body = asking(model, false);
        body["tool_choice"] = "auto".into();
        body["messages"].as_array_mut().unwrap().extend([message, result]);

        let second = gateway.asked("/v1/chat/completions", &body).await;
        assert_eq!(second["choices"][0]["finish_reason"], "stop", "{second}");
        assert!(!second["choices"][0]["message"]["content"].as_str().unwrap().is_empty(), "{second}");
        // Call and result are part of the prompt now.
        let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
        assert!(tokens(&second) > tokens(&first) + 60, "{} {}", tokens(&first), tokens(&second));
    }
}

async fn a_conversations_tool_calls_survive_the_facades_chat() {
    let server = LlamaServer::long().await;
    let gateway = Gateway::before(&server).await;
    let stream = gateway.stream("/api/chat", &asking("tiny", true)).await;
    assert_eq!(stream.finish_reasons(), ["tool_calls"]);
    let pieces =
        stream.deltas().filter_map(|delta| delta.pointer("/tool_calls/0/function/arguments")?.as_str());
    are_good(&pieces.collect::<String>());
}
