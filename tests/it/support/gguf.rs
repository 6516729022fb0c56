//! Heads of model files for tests: small ones that are sound, and parts of which unsound ones are made.

/// Kinds of values, in the file's numbers.
pub(crate) const TEXT: u32 = 8;
pub(crate) const LIST: u32 = 9;

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn list(kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat()
}

pub(crate) fn entry(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(name)[..], &kind.to_le_bytes(), value].concat()
}

pub(crate) fn file(entries: &[Vec<u8>]) -> Vec<u8> {
    let numbers = [&3_u32.to_le_bytes()[..], &0_u64.to_le_bytes(), &(entries.len() as u64).to_le_bytes()];
    [&b"GGUF"[..], &numbers.concat(), &entries.concat()].concat()
}

/// The entries of a model whose tokens are the letters of ASCII, `tokens` in all: the rest are never met.
pub(crate) fn entries(template: &str, tokens: u32) -> Vec<Vec<u8>> {
    let name = |id: u32| match char::from_u32(id + 33).filter(char::is_ascii_graphic) {
        Some(letter) => letter.to_string(),
        None => {
            ["Ġ", "Ċ", "<|end|>"].get((id - 94) as usize).map_or(format!("w{id}x"), |name| (*name).to_owned())
        }
    };
    let names: Vec<u8> = (0..tokens).flat_map(|id| text(&name(id))).collect();
    let kinds: Vec<u8> = (0..tokens).flat_map(|_| 1_u32.to_le_bytes()).collect();
    vec![
        entry("tokenizer.ggml.model", TEXT, &text("gpt2")),
        entry("tokenizer.ggml.pre", TEXT, &text("qwen2")),
        entry("tokenizer.ggml.tokens", LIST, &list(TEXT, tokens.into(), &names)),
        entry("tokenizer.ggml.token_type", LIST, &list(5, tokens.into(), &kinds)),
        entry("tokenizer.ggml.merges", LIST, &list(TEXT, 1, &text("h e"))),
        entry("tokenizer.ggml.bos_token_id", 4, &96_u32.to_le_bytes()),
        entry("tokenizer.ggml.eos_token_id", 4, &96_u32.to_le_bytes()),
        entry("tokenizer.ggml.add_bos_token", 7, &[0]),
        entry("tokenizer.chat_template", TEXT, &text(template)),
    ]
}
