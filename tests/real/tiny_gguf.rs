//! A language model of two megabytes, for llama-server: made here, the same bytes every time.
//!
//! It knows nothing, and what it says next depends on the last token alone: a table, written as a transformer
//! whose only layer adds nothing. Left alone it says words out of [`WORDS`] and ends after a dozen or so; what a
//! grammar wants of it, it spells letter by letter. When tools are offered it begins a call, and llama-server's
//! grammar leads it through. Every byte is a token, so that the length of a prompt can be told beforehand.

/// What it can say.
const WORDS: [&str; 30] = [
    "river", "house", "bread", "water", "light", "stone", "green", "small", "quiet", "garden", "window",
    "paper", "winter", "summer", "morning", "evening", "road", "bridge", "letter", "music", "forest",
    "island", "cloud", "mountain", "apple", "table", "village", "market", "clock", "łąka",
];

/// Tokens with a meaning of their own, after the bytes and the words.
const END: &str = "<|im_end|>";
const ACT: &str = "<|act|>";
const CALL: &str = "<tool_call>";
const SPECIALS: [&str; 6] = ["<|endoftext|>", "<|im_start|>", END, ACT, CALL, "</tool_call>"];

/// `ChatML`, with tools in the form that llama-server knows from many models. Where tools may be called, the model is
/// told by a token of its own to call one.
const TEMPLATE: &str = r#"{%- if tools %}
{{- '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
{{- 'Functions, within <tools></tools>:\n<tools>' }}
{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\n</tools>\nA call is a JSON object within <tool_call></tool_call>:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\n' }}
{%- if message.content %}{{- message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{%- if not loop.first or message.content %}{{- '\n' }}{%- endif %}
{%- if call.function %}{%- set call = call.function %}{%- endif %}
{{- '<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}
{%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- elif message.role != 'system' %}
{{- raise_exception('Unknown role: ' + message.role) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if tools and messages[-1].role != 'tool' %}{{- '<|act|>' }}{%- endif %}
{%- endif %}"#;

/// One dimension for every token, rounded up to whole heads.
const WIDTH: usize = 320;
const HEAD: usize = 64;
const INNER: usize = 32;

/// How likely a token comes next, as the logarithm of a weight: a word, any byte, and what should not come at all.
const WORD: f32 = 0.0;
const BYTE: f32 = -20.0;
/// A grammar mostly allows white space between other things; it is not to be dwelt on.
const SPACE: f32 = -24.0;
const NEVER: f32 = -40.0;
/// Where a call may go on or end.
const LIKELY: f32 = -10.0;
/// Twice a word's weight: one word in sixteen is the last.
const LAST: f32 = 0.7;
const SURELY: f32 = 10.0;

/// The model's file, trained, as it says, for a context of so many tokens.
pub(crate) fn bytes(context_tokens: u32) -> Vec<u8> {
    // Nothing merges: every byte of a prompt is a token.
    file(context_tokens, "gpt-2", &[])
}

/// The same, splitting texts in a way of that name, after which some bytes merge.
pub(crate) fn merging(context_tokens: u32, way: &str) -> Vec<u8> {
    file(context_tokens, way, &MERGES)
}

/// What becomes one, in this order.
const MERGES: [(&str, &str); 17] = [
    ("Ġ", "r"),
    ("Ġr", "o"),
    ("Ġro", "a"),
    ("Ġroa", "d"),
    ("Ġ", "m"),
    ("Ġm", "u"),
    ("Ġmu", "s"),
    ("t", "h"),
    ("e", "r"),
    ("l", "l"),
    ("'", "ll"),
    ("1", "2"),
    ("12", "3"),
    ("Ċ", "Ċ"),
    ("Ġ", "Ġ"),
    ("!", "!"),
    ("Å", "Ĥ"),
];

fn file(context_tokens: u32, way: &str, merges: &[(&str, &str)]) -> Vec<u8> {
    let mut tokens = tokens();
    for merged in merges.iter().map(|(one, other)| format!("{one}{other}")) {
        if !tokens.contains(&merged) {
            tokens.push(merged);
        }
    }
    let mut file = Header::default();
    describe(&mut file, context_tokens);
    file.text("tokenizer.ggml.pre", way);
    let merges: Vec<String> = merges.iter().map(|(one, other)| format!("{one} {other}")).collect();
    file.texts("tokenizer.ggml.merges", &merges);
    describe_tokens(&mut file, &tokens);
    file.finish(&tensors(&tokens))
}

/// All bytes under the names that byte-level tokenizers give them, the words, and the special ones.
fn tokens() -> Vec<String> {
    let mut spare = 256..;
    let name_of = |byte: u8| {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        char::from_u32(if printable { u32::from(byte) } else { spare.next().unwrap() }).unwrap()
    };
    let bytes: Vec<char> = (0..=255).map(name_of).collect();
    let word = |word: &&str| format!(" {word}").bytes().map(|byte| bytes[usize::from(byte)]).collect();
    let mut tokens: Vec<String> = bytes.iter().map(ToString::to_string).collect();
    tokens.extend(WORDS.iter().map(word));
    tokens.extend(SPECIALS.iter().map(ToString::to_string));
    tokens
}

fn describe(file: &mut Header, context_tokens: u32) {
    file.text("general.architecture", "llama");
    file.text("general.name", "tiny");
    file.number("llama.context_length", context_tokens);
    file.number("llama.embedding_length", WIDTH);
    file.number("llama.block_count", 1_u32);
    file.number("llama.feed_forward_length", INNER);
    file.number("llama.attention.head_count", WIDTH / HEAD);
    file.number("llama.attention.head_count_kv", 1_u32);
    file.number("llama.rope.dimension_count", HEAD);
    file.float("llama.attention.layer_norm_rms_epsilon", 1e-6);
}

fn describe_tokens(file: &mut Header, tokens: &[String]) {
    let id = |token: &str| tokens.iter().position(|other| other == token).unwrap();
    let kind = |(id, token): (usize, &String)| match token.as_str() {
        _ if id < 256 + WORDS.len() || !token.starts_with('<') => NORMAL,
        // The marks of turns are not shown, those of calls are.
        token if token.starts_with("<|") => CONTROL,
        _ => USER_DEFINED,
    };
    file.text("tokenizer.ggml.model", "gpt2");
    file.texts("tokenizer.ggml.tokens", tokens);
    file.numbers("tokenizer.ggml.token_type", tokens.iter().enumerate().map(kind));
    file.number("tokenizer.ggml.bos_token_id", id(SPECIALS[0]));
    file.number("tokenizer.ggml.eos_token_id", id(END));
    file.number("tokenizer.ggml.eot_token_id", id(END));
    file.flag("tokenizer.ggml.add_bos_token", false);
    file.text("tokenizer.chat_template", TEMPLATE);
}

/// How likely `next` comes after `this`.
fn weight(this: &str, next: &str, next_is_word: bool, this_is_word: bool) -> f32 {
    match next {
        CALL if this == ACT => WORD,
        "Ċ" if this == CALL => WORD,
        _ if this == ACT || this == CALL => NEVER,
        END if this_is_word => LAST,
        // One call is enough, as far as the grammar has a say.
        END if this.ends_with('>') => SURELY,
        "<" if this == "}" => LIKELY,
        _ if next_is_word => WORD,
        "Ġ" | "Ċ" | "ĉ" | "č" => SPACE,
        _ if next.starts_with('<') && next.len() > 1 => NEVER,
        _ => BYTE,
    }
}

/// The tensors by name, with their shape (columns first).
fn tensors(tokens: &[String]) -> Vec<Tensor> {
    let count = tokens.len();
    let words = 256..256 + WORDS.len();
    let mut embedding = vec![0.0; count * WIDTH];
    let mut output = vec![0.0; count * WIDTH];
    for (this, name) in tokens.iter().enumerate() {
        embedding[this * WIDTH + this] = 1.0;
        for (next, next_name) in tokens.iter().enumerate() {
            output[next * WIDTH + this] =
                weight(name, next_name, words.contains(&next), words.contains(&this));
        }
    }
    // What the norm makes of a single one among zeros is undone.
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let norm = vec![1.0 / (WIDTH as f32).sqrt(); WIDTH];
    let key_width = HEAD;
    let mut tensors = vec![
        Tensor::new("token_embd", &[WIDTH, count], embedding),
        Tensor::new("output_norm", &[WIDTH], norm),
        Tensor::new("output", &[WIDTH, count], output),
    ];
    let idle = [
        ("attn_norm", vec![WIDTH]),
        ("attn_q", vec![WIDTH, WIDTH]),
        ("attn_k", vec![WIDTH, key_width]),
        ("attn_v", vec![WIDTH, key_width]),
        ("attn_output", vec![WIDTH, WIDTH]),
        ("ffn_norm", vec![WIDTH]),
        ("ffn_gate", vec![WIDTH, INNER]),
        ("ffn_up", vec![WIDTH, INNER]),
        ("ffn_down", vec![INNER, WIDTH]),
    ];
    tensors.extend(idle.into_iter().map(|(name, shape)| {
        let zeros = vec![0.0; shape.iter().product()];
        Tensor::new(&format!("blk.0.{name}"), &shape, zeros)
    }));
    tensors
}

/// Kinds of tokens, in GGUF's numbers.
const NORMAL: u32 = 1;
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;

/// Kinds of values, in GGUF's numbers.
const INT32: u32 = 5;
const UINT32: u32 = 4;
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// What everything in a GGUF file is aligned to.
const ALIGNMENT: usize = 32;

struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Tensor {
    fn new(name: &str, shape: &[usize], values: Vec<f32>) -> Self {
        Self { name: format!("{name}.weight"), shape: shape.to_vec(), values }
    }
}

/// The head of a GGUF file: keys and values.
#[derive(Default)]
struct Header {
    entries: u64,
    bytes: Vec<u8>,
}

impl Header {
    fn key(&mut self, name: &str, kind: u32) {
        self.entries += 1;
        put_text(&mut self.bytes, name);
        self.bytes.extend(kind.to_le_bytes());
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name, STRING);
        put_text(&mut self.bytes, value);
    }

    fn number(&mut self, name: &str, value: impl TryInto<u32, Error: std::fmt::Debug>) {
        self.key(name, UINT32);
        self.bytes.extend(value.try_into().unwrap().to_le_bytes());
    }

    fn float(&mut self, name: &str, value: f32) {
        self.key(name, FLOAT32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.key(name, BOOL);
        self.bytes.push(value.into());
    }

    fn array(&mut self, name: &str, kind: u32, length: usize) {
        self.key(name, ARRAY);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((length as u64).to_le_bytes());
    }

    fn texts(&mut self, name: &str, values: &[String]) {
        self.array(name, STRING, values.len());
        values.iter().for_each(|value| put_text(&mut self.bytes, value));
    }

    fn numbers(&mut self, name: &str, values: impl ExactSizeIterator<Item = u32>) {
        self.array(name, INT32, values.len());
        values.for_each(|value| self.bytes.extend(value.to_le_bytes()));
    }

    /// The whole file.
    fn finish(self, tensors: &[Tensor]) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend((tensors.len() as u64).to_le_bytes());
        file.extend(self.entries.to_le_bytes());
        file.extend(self.bytes);
        let mut offset = 0;
        for tensor in tensors {
            put_text(&mut file, &tensor.name);
            file.extend(u32::try_from(tensor.shape.len()).unwrap().to_le_bytes());
            tensor.shape.iter().for_each(|side| file.extend((*side as u64).to_le_bytes()));
            // Kind 0 is F32.
            file.extend(0_u32.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset += (tensor.values.len() * size_of::<f32>()).next_multiple_of(ALIGNMENT);
        }
        for tensor in tensors {
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
            file.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes()));
        }
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
