//! Model files: their heads, vocabularies and chat templates, read and asked as the confined child does.

use std::path::Path;

use llm_proxy_api::engine::counter::answering;

use crate::chance::Chance;
use crate::gguf::{LIST, TEXT, entries, entry, file, list, text};

const PIECES: &[&str] = &[
    "{{ m.content }}",
    "{{ bos_token }}",
    "{{ tools | tojson }}",
    "{{ messages[0].role }}",
    "{{ 1|string }}",
    "{% set x = [1, 'a', {'k': none}] %}",
    "{% set ns = namespace(n=0) %}",
    "{% set ns.n = ns.n + 1 %}",
    "{{ ns.n }}",
    "{{ x | join(',') }}",
    "{{ 'a'.upper().split('a') }}",
    "{{ raise_exception('no') }}",
    "{{ m.x.y.z }}",
    "text ",
    "{{ loop.index }}",
    "{%- break -%}",
    "{# c #}",
    "{{",
    "}}",
    "{%",
    "%}",
    "'",
    "|string",
    "{{ m | items }}",
    "żó",
];
const PAIRS: &[(&str, &str)] = &[
    ("{% for m in messages %}", "{% endfor %}"),
    ("{% for i in range(9) %}", "{% endfor %}"),
    ("{% if messages %}", "{% endif %}"),
    ("{% macro f(a) %}", "{% endmacro %}{{ f(1) }}"),
    ("{% filter upper %}", "{% endfilter %}"),
    ("{{ (", ") }}"),
    ("{{ [", "] }}"),
    ("{% set b %}", "{% endset %}"),
    ("{% raw %}", "{% endraw %}"),
];

const QUESTIONS: &[&[u8]] = &[
    b"c{\"messages\":[{\"role\":\"user\",\"content\":\"hello there\"}]}",
    b"c{\"messages\":[{\"role\":\"a\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}],\"tool_calls\":[{\"function\":{\"arguments\":\"{\\\"a\\\":1}\"}}]}],\"tools\":[{}]}",
    b"t{\"prompt\":\"he he\"}",
    b"c{\"messages\":1}",
    b"",
];

pub(crate) fn attempt(chance: &mut Chance, folder: &Path) {
    let path = folder.join("m.gguf");
    std::fs::write(&path, model_file(chance)).unwrap();
    let mut answer = answering(&path);
    for _ in 0..2 {
        let mut question = chance.one_of(QUESTIONS).to_vec();
        if chance.once_in(4) {
            chance.change(&mut question);
        }
        let said = answer(&question);
        assert!(said.len() < 100, "an answer is short");
    }
}

fn model_file(chance: &mut Chance) -> Vec<u8> {
    let template = chance.text_of(PIECES, PAIRS, 4);
    let mut parts = entries(&template, 97 + chance.below(20) as u32);
    for _ in 0..chance.below(3) {
        let value = value(chance, 3);
        let name =
            *chance.one_of(&["x", "tokenizer.x", "tokenizer.ggml.merges", "tokenizer.ggml.tokens", ""]);
        parts.insert(chance.below(parts.len()), entry(name, value.0, &value.1));
    }
    if chance.once_in(3) {
        let at = chance.below(parts.len());
        chance.change(&mut parts[at]);
    }
    let mut whole = file(&parts);
    if chance.once_in(3) {
        chance.change(&mut whole);
    }
    whole
}

/// A kind and a value of it, whose lengths may be lies.
fn value(chance: &mut Chance, depth: usize) -> (u32, Vec<u8>) {
    match chance.below(4) {
        0 => (TEXT, text("value")),
        1 => (TEXT, chance.length().to_le_bytes().to_vec()),
        2 if depth > 0 => {
            let (kind, item) = value(chance, depth - 1);
            let count = if chance.once_in(2) { 3 } else { chance.length() };
            (LIST, list(kind, count, &item.repeat(3)))
        }
        _ => (chance.below(15) as u32, vec![7; chance.below(20)]),
    }
}
