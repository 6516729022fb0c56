//! Tokens counted before an answer are those that a real llama-server counts with it.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Claim, Need, claims};
use crate::support::{Gateway, LlamaServer};
use crate::tiny_gguf;

const COUNT: &str = "/api/tokenize/count";
const CHAT: &str = "/v1/chat/completions";

pub(crate) fn claims() -> Vec<Claim> {
    claims![&[Need::LlamaServer];
        the_models_own_file_and_its_engine_count_alike,
        a_running_server_counts_for_the_gateway,
    ]
}

const TEXT: &str = "The road's music: 12345 roads,  they'll say!!!\n\n zażółć gęślą 你好\r\nend ";

fn conversation(model: &str) -> Value {
    let tools = json!([{"type": "function", "function": {"name": "road", "description": "a <road>",
        "parameters": {"type": "object", "properties": {"ll": {"type": "string"}}}}}]);
    json!({"model": model, "max_tokens": 2, "tools": tools, "messages": [
        {"role": "system", "content": "Say 123!!"}, {"role": "user", "content": TEXT}]})
}

fn counted(answer: &Value, source: &str) -> u64 {
    assert_eq!(answer["source"], source, "{answer}");
    answer["count"].as_u64().unwrap()
}

async fn the_models_own_file_and_its_engine_count_alike() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tiny.gguf");
    std::fs::write(&file, tiny_gguf::merging(8192, "qwen2")).unwrap();
    let gateway = Gateway::start(&json!({"providers": {"local": {"type": "llamacpp",
        "binary": Need::LlamaServer.path(), "args": ["-t", "1", "--offline", "-m", file],
        "models": {"tiny": {"variants": [{"context": 4096}]}}}}}))
    .await;
    let texts = json!({"model": "tiny", "input": [TEXT, "", "end"]});
    let of_texts = gateway.asked(COUNT, &texts).await;
    let of_chat = gateway.asked(COUNT, &conversation("tiny")).await;
    let engines = gateway.get("/api/engines").await.good();
    assert_eq!(engines["engines"][0]["state"], "cold", "nothing was started for it");

    let answer = gateway.asked(CHAT, &conversation("tiny")).await;

    let tokens = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(counted(&of_chat, "tokenizer"), tokens);
    assert_eq!(counted(&gateway.asked(COUNT, &conversation("tiny")).await, "engine"), tokens);
    let by_engine = gateway.asked(COUNT, &texts).await;
    assert_eq!(counted(&by_engine, "engine"), counted(&of_texts, "tokenizer"));
    assert_eq!(by_engine["detail"], of_texts["detail"]);
}

async fn a_running_server_counts_for_the_gateway() {
    let server = LlamaServer::long().await;
    let gateway = Gateway::before(&server).await;
    let answer = gateway.asked(CHAT, &conversation("tiny")).await;
    let count = gateway.asked(COUNT, &conversation("tiny")).await;
    assert_eq!(Some(counted(&count, "provider")), answer["usage"]["prompt_tokens"].as_u64());

    let question = json!({"content": TEXT, "add_special": true, "parse_special": true});
    let tokens = server.directly().asked("/tokenize", &question).await;
    let count = gateway.asked("/extras/tokenize/count", &json!({"model": "tiny", "input": TEXT})).await;
    assert_eq!(counted(&count, "provider"), tokens["tokens"].as_array().unwrap().len() as u64);
    // As a server that nobody knows more of, it is not asked.
    counted(&gateway.asked(COUNT, &conversation("tiny-openai")).await, "estimated");
}
