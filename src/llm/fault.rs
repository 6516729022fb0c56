//! What is wrong with a JSON text, without repeating any of it.

/// Where a text stops being what it should be. serde's own words quote the value that they complain of, which may be a
/// prompt, an answer or a key.
pub fn json_fault(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "a JSON value of another kind than expected",
        serde_json::error::Category::Eof => "JSON that ends too early",
        serde_json::error::Category::Io | serde_json::error::Category::Syntax => "no valid JSON",
    };
    format!("{what} at line {}, column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_text_is_repeated() {
        for text in ["\"planted\"", "{\"planted\":", "planted"] {
            let error = serde_json::from_str::<Vec<u8>>(text).unwrap_err();
            assert!(!json_fault(&error).contains("planted"), "{text}");
        }
    }
}
