//! Members of requests in `defaults` and `overrides` that were probably meant as others: a server that does not know a member
//! mostly says nothing of it.

use serde_json::{Map, Value};

use crate::lint::misspelt;
use crate::llm::option_names;

/// Members that servers know besides the options: those of OpenAI's API, and of servers that add to it. Names that are close
/// to each other all have to be here.
const MEMBERS: &[&str] = &[
    "add_generation_prompt",
    "allowed_token_ids",
    "audio",
    "bad_words",
    "best_of",
    "cache_control",
    "cache_prompt",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "detokenize",
    "dimensions",
    "dry_allowed_length",
    "dry_base",
    "dry_multiplier",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "dynatemp_range",
    "echo",
    "enable_thinking",
    "encoding_format",
    "extra_body",
    "fallbacks",
    "format",
    "function_call",
    "functions",
    "grammar",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "guided_whitespace_pattern",
    "id_slot",
    "ignore_eos",
    "include_reasoning",
    "include_stop_str_in_output",
    "json_schema",
    "keep_alive",
    "length_penalty",
    "logit_bias",
    "logits_processors",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "metadata",
    "min_keep",
    "min_tokens",
    "modalities",
    "models",
    "n",
    "n_keep",
    "n_probs",
    "options",
    "parallel_tool_calls",
    "plugins",
    "post_sampling_probs",
    "prediction",
    "priority",
    "prompt_cache_key",
    "prompt_logprobs",
    "provider",
    "raw",
    "reasoning",
    "reasoning_effort",
    "reasoning_format",
    "response_fields",
    "response_format",
    "return_tokens",
    "return_tokens_as_token_ids",
    "route",
    "safety_identifier",
    "safe_prompt",
    "samplers",
    "service_tier",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop_token_ids",
    "store",
    "stream_options",
    "structured_outputs",
    "suffix",
    "system",
    "template",
    "tfs_z",
    "think",
    "thinking",
    "thinking_budget",
    "timings_per_token",
    "tool_choice",
    "tools",
    "top_a",
    "top_logprobs",
    "top_n_sigma",
    "transforms",
    "truncate",
    "truncate_prompt_tokens",
    "use_beam_search",
    "user",
    "verbosity",
    "web_search_options",
    "xtc_probability",
    "xtc_threshold",
];
/// Ollama's options, besides those that have names here.
const OLLAMA: &[&str] = &[
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mlock",
    "numa",
    "penalize_newline",
    "draft_num_predict",
];

/// Members that look like slips: where, and what was probably meant.
pub(super) fn slips(key: &str, settings: &Map<String, Value>) -> Vec<(String, &'static str)> {
    let members = || option_names().chain(MEMBERS.iter().copied());
    let mut slips = of_names(key, settings, members);
    if let Some(options) = settings.get("options").and_then(Value::as_object) {
        let options_known = || option_names().chain(OLLAMA.iter().copied());
        slips.extend(of_names(&format!("{key}.options"), options, options_known));
    }
    slips
}

fn of_names<K: Iterator<Item = &'static str>>(
    key: &str,
    settings: &Map<String, Value>,
    known: impl Fn() -> K,
) -> Vec<(String, &'static str)> {
    let unknown = settings.keys().filter(|name| !known().any(|known| known == *name));
    unknown.filter_map(|name| Some((format!("{key}.{name}"), misspelt(name, known())?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slips_are_found_and_names_that_are_right_are_not() {
        let settings = json!({
            "temprature": 0.3, "max_token": 5, "top_k": 3, "top_a": 0.1, "guided_json": {}, "my_own_member": 1,
            "min_tokens": 1, "chat_template_kwarg": {}, "options": {"num_cxt": 4096, "num_predict": 5, "use_mlock": true},
        });
        let slips = slips("defaults", settings.as_object().unwrap());
        let told: Vec<(&str, &str)> = slips.iter().map(|(at, meant)| (at.as_str(), *meant)).collect();
        assert_eq!(
            told,
            [
                ("defaults.temprature", "temperature"),
                ("defaults.max_token", "max_tokens"),
                ("defaults.chat_template_kwarg", "chat_template_kwargs"),
                ("defaults.options.num_cxt", "num_ctx"),
            ]
        );
    }
}
