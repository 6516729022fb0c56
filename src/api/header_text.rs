//! Values of headers that every answer has: put together where they are, and copied once. Formatting costs, and so does
//! memory that is asked for twice.

use poem::http::HeaderValue;

/// What is to be the value of a header. What does not go in makes it none.
pub(super) struct HeaderText {
    bytes: [u8; MOST],
    length: Option<usize>,
}

/// Bytes of a value.
const MOST: usize = 96;

impl HeaderText {
    pub(super) fn new() -> Self {
        Self { bytes: [0; MOST], length: Some(0) }
    }

    #[must_use]
    pub(super) fn text(mut self, text: &str) -> Self {
        self.length = self.length.and_then(|length| {
            let end = length + text.len();
            self.bytes.get_mut(length..end)?.copy_from_slice(text.as_bytes());
            Some(end)
        });
        self
    }

    #[must_use]
    pub(super) fn number(self, number: u64) -> Self {
        self.text(itoa::Buffer::new().format(number))
    }

    /// With three digits.
    #[must_use]
    pub(super) fn thousandths(self, number: u64) -> Self {
        // The thousand before them is for their zeros.
        self.text(itoa::Buffer::new().format(1000 + number % 1000).get(1..).unwrap_or_default())
    }

    pub(super) fn value(&self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.bytes.get(..self.length?)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_stand_one_after_the_other() {
        let text =
            HeaderText::new().text("a;dur=").number(0).text(".").thousandths(7).text("s").number(u64::MAX);
        assert_eq!(text.value().unwrap(), "a;dur=0.007s18446744073709551615");
        assert_eq!(HeaderText::new().value().unwrap(), "");
    }

    #[test]
    fn what_is_too_long_or_not_for_headers_is_no_value() {
        let (most, more) = ("x".repeat(MOST), "x".repeat(MOST + 1));
        assert_eq!(HeaderText::new().text(&most).value().unwrap(), most.as_str());
        assert!(HeaderText::new().text(&more).value().is_none());
        assert!(HeaderText::new().text(&more).text("x").value().is_none());
        assert!(HeaderText::new().text("\n").value().is_none());
    }
}
