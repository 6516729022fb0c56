//! How long a prompt is when nobody has counted: four bytes a token, but for images and sounds, which are no text.

use memchr::memrchr;

use super::Usage;

/// What an image or a sound comes to. Models make some hundred tokens of one, or a few thousand; how many depends on its
/// width or its length, which nobody looks for here, and hardly on its bytes.
const PAYLOAD_TOKENS: u64 = 1000;
/// A shorter one comes to less as text, and stays that.
const SHORTEST: usize = 4000;
/// Names of media types are shorter.
const LONGEST_MEDIA_TYPE: usize = 128;
/// So many bytes are looked at together.
const AT_ONCE: usize = 32;

impl Usage {
    /// What a request comes to when nobody has counted, by its JSON or a part of that. What stands in it in base64, as
    /// a `data:` URL, as the `data` of a part or among the `images` of a message, counts as a fixed sum.
    pub fn estimated_prompt(json: &[u8]) -> u64 {
        Self::estimated_parts([json])
    }

    /// The same of several parts together.
    pub fn estimated_parts<'j>(parts: impl IntoIterator<Item = &'j [u8]>) -> u64 {
        let (mut text, mut payloads) = (0_usize, 0_u64);
        for json in parts {
            text = text.saturating_add(json.len());
            for bytes in Payloads::of(json) {
                text = text.saturating_sub(bytes);
                payloads += PAYLOAD_TOKENS;
            }
        }
        Self::estimated_tokens(text).saturating_add(payloads)
    }
}

/// The lengths of the payloads in a JSON text.
struct Payloads<'j> {
    json: &'j [u8],
    /// Where it is looked next. Whatever is long enough stands on one of these places, so hardly a byte of other texts
    /// is looked at.
    at: usize,
    /// Where the last long word ended, and whether it was one of `images`.
    last: (usize, bool),
}

impl<'j> Payloads<'j> {
    fn of(json: &'j [u8]) -> Self {
        Self { json, at: SHORTEST - 1, last: (0, false) }
    }

    /// Whether what stands between is a payload: the whole of a text that is one.
    fn is_payload(&mut self, start: usize, end: usize) -> bool {
        let (searched, was_image) = std::mem::replace(&mut self.last, (end, false));
        let before = self.json.get(..start).unwrap_or_default();
        let after = self.json.get(end..).unwrap_or_default();
        // With a backslash in front the quote is one of a text that goes on.
        let is_whole = after.first() == Some(&b'"') && self.json.get(end - 1) != Some(&b'\\');
        if !is_whole {
            return false;
        }
        if let Some(head) = before.strip_suffix(b";base64,") {
            return is_data_url(head);
        }
        let Some(before) = before.strip_suffix(b"\"").map(<[u8]>::trim_ascii_end) else { return false };
        match before.split_last() {
            Some((b':', name)) => name.trim_ascii_end().ends_with(b"\"data\""),
            Some((b'[' | b',', _)) => {
                let ends_list = after.get(1..).map(<[u8]>::trim_ascii_start).and_then(<[u8]>::first);
                let is_listed = matches!(ends_list, Some(b',' | b']'));
                self.last.1 = is_listed && is_of_images(before, searched).unwrap_or(was_image);
                self.last.1
            }
            _ => false,
        }
    }
}

impl Iterator for Payloads<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            if !is_letter(*self.json.get(self.at)?) {
                self.at += SHORTEST;
                continue;
            }
            let before = self.json.get(..self.at)?;
            let start = before.iter().rposition(|byte| !is_letter(*byte)).map_or(0, |other| other + 1);
            let end = end_of_letters(self.json, self.at);
            self.at = end + SHORTEST;
            if end - start >= SHORTEST && self.is_payload(start, end) {
                return Some(end - start);
            }
        }
    }
}

/// Whether a text that begins in here is a `data:` URL so far.
fn is_data_url(head: &[u8]) -> bool {
    let head = head.get(head.len().saturating_sub(LONGEST_MEDIA_TYPE)..).unwrap_or_default();
    memrchr(b'"', head)
        .and_then(|quote| head.split_at_checked(quote))
        .is_some_and(|(before, text)| text.starts_with(b"\"data:") && before.last() != Some(&b'\\'))
}

/// Whether the list that is open at the end is one of `images`; `None` if it was open at `searched` already.
fn is_of_images(json: &[u8], searched: usize) -> Option<bool> {
    let opened = searched + memrchr(b'[', json.get(searched..)?)?;
    let name = json.get(..opened)?.trim_ascii_end().strip_suffix(b":");
    Some(name.is_some_and(|name| name.trim_ascii_end().ends_with(b"\"images\"")))
}

/// Where the letters end that stand from here on.
fn end_of_letters(json: &[u8], from: usize) -> usize {
    let rest = json.get(from..).unwrap_or_default();
    let are_letters = |chunk: &&[u8]| chunk.iter().fold(true, |all, byte| all & is_letter(*byte));
    let sure = rest.chunks_exact(AT_ONCE).take_while(are_letters).count() * AT_ONCE;
    let more = rest.get(sure..).unwrap_or_default().iter().take_while(|byte| is_letter(**byte)).count();
    from + sure + more
}

/// Whether a byte may stand in base64 of any kind, as JSON writes it: also with slashes and ends of lines escaped.
/// Plain enough for many to be looked at together.
fn is_letter(byte: u8) -> bool {
    let is_alphabetic = (byte | 0x20).wrapping_sub(b'a') < 26;
    let is_digit_or_slash = byte.wrapping_sub(b'/') < 11;
    let is_other = matches!(byte, b'+' | b'-' | b'_' | b'=' | b'\\');
    is_alphabetic || is_digit_or_slash || is_other
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The estimate of a message with this content, beyond that of one without, and the content's bytes.
    fn beyond(member: &str, content: &Value) -> u64 {
        let of = |content: &Value| {
            let message = json!({"role": "user", member: content, "z": "at the end"});
            Usage::estimated_prompt(json!({"messages": [message]}).to_string().as_bytes())
        };
        of(content) - of(&json!(""))
    }

    fn base64(bytes: usize) -> String {
        "iVBORw0KGgo+/9_-".chars().cycle().take(bytes).collect()
    }

    #[test]
    fn images_and_sounds_count_as_a_fixed_sum() {
        for bytes in [SHORTEST, SHORTEST + 1, 3_000_000] {
            let payload = base64(bytes);
            let url = format!("data:image/png;name=a.png;base64,{payload}==");
            let broken = format!("data:image/png;base64,{}", payload.replace("KG", "\r\n"));
            for (member, content) in [
                ("content", json!([{"type": "image_url", "image_url": {"url": url}}])),
                ("content", json!([{"type": "image_url", "image_url": {"url": broken}}])),
                ("content", json!([{"type": "input_image", "image_url": url}])),
                (
                    "content",
                    json!([{"type": "input_audio", "input_audio": {"data": payload, "format": "wav"}}]),
                ),
                (
                    "content",
                    json!([{"source": {"type": "base64", "media_type": "image/png", "data": payload}}]),
                ),
                ("images", json!([payload])),
            ] {
                let tokens = beyond(member, &content);
                assert!(
                    (PAYLOAD_TOKENS..PAYLOAD_TOKENS + 50).contains(&tokens),
                    "{bytes} {member}: {tokens}"
                );
            }
        }
    }

    #[test]
    fn each_of_several_counts() {
        let [small, large] = [base64(40), base64(9000)];
        for (images, large_ones) in [
            (json!([large, large, large]), 3),
            (json!([small, large, small, large]), 2),
            (json!([large, small]), 1),
        ] {
            let tokens = beyond("images", &images);
            let expected = PAYLOAD_TOKENS * large_ones;
            assert!((expected..expected + 50).contains(&tokens), "{tokens}");
        }
        let spaced = format!("{{ \"images\" : [ \"{large}\" , \"{large}\" ] }}");
        let tokens = Usage::estimated_prompt(spaced.as_bytes());
        assert!((2 * PAYLOAD_TOKENS..2 * PAYLOAD_TOKENS + 20).contains(&tokens), "{tokens}");
        let escaped = format!(r#"{{"url":"data:image\/png;base64,{}"}}"#, large.replace('/', r"\/"));
        assert!(Usage::estimated_prompt(escaped.as_bytes()) < PAYLOAD_TOKENS + 20);
    }

    #[test]
    fn text_is_text_whatever_it_looks_like() {
        let word = base64(9000);
        let cheat = format!(r#"{{"images":["{word}"],"data":"{word}"}}"#);
        for content in [
            json!(word),
            json!([word, word]),
            json!(cheat),
            json!(format!("Look: data:image/png;base64,{word}")),
            json!(format!("data:image/png;base64,{word} and more")),
            json!(format!("\"data:image/png;base64,{word}\"")),
            json!({word.as_str(): 1}),
            json!("a few words ".repeat(2000)),
        ] {
            let text = content.to_string().len() as u64 / 4;
            let tokens = beyond("content", &content);
            assert!(tokens.abs_diff(text) < 3, "{tokens}, not {text}");
        }
        assert_eq!(Usage::estimated_prompt(b""), 0);
        assert_eq!(Usage::estimated_prompt(word.as_bytes()), 2250);
        assert!(beyond("images", &json!([base64(1000)])).abs_diff(250) < 3, "less than the sum");
    }

    #[test]
    fn many_small_lists_are_read_once() {
        let word = base64(SHORTEST);
        let list = format!("[{}]", vec![format!("\"{word}\""); 5000].join(","));
        let began = std::time::Instant::now();
        assert_eq!(Usage::estimated_prompt(list.as_bytes()), (list.len() as u64).div_ceil(4));
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    }
}
