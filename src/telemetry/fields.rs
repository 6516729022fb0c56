//! The fields of a log line, as plain text: `message name=value name="text"`.
//!
//! The line looks like that of `tracing_subscriber`, which asks for a style three times a field, also where there are no
//! colours. A request has a dozen fields, so that was a tenth of what a short request costs.

use std::error::Error;
use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes fields without colours.
#[derive(Debug)]
pub(super) struct PlainFields;

impl<'w> FormatFields<'w> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'w> {
    writer: Writer<'w>,
    is_empty: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn add(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let name = field.name();
        // What the `log` crate says of itself stands elsewhere in the line.
        if self.result.is_err() || name.starts_with("log.") {
            return;
        }
        self.result = self.begin(name).and_then(|()| value(&mut self.writer));
    }

    fn begin(&mut self, name: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_empty) {
            self.writer.write_char(' ')?;
        }
        if name == "message" {
            return Ok(());
        }
        self.writer.write_str(name.strip_prefix("r#").unwrap_or(name))?;
        self.writer.write_char('=')
    }
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, |writer| write!(Harmless(writer), "{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'));
        self.add(field, |writer| match field.name() {
            "message" => Harmless(writer).write_str(value),
            _ if is_plain => {
                writer.write_char('"')?;
                writer.write_str(value)?;
                writer.write_char('"')
            }
            _ => write!(writer, "{value:?}"),
        });
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add(field, |writer| {
            write!(Harmless(writer), "{value}")?;
            let mut source = value.source();
            while let Some(cause) = source {
                write!(Harmless(writer), ": {cause}")?;
                source = cause.source();
            }
            Ok(())
        });
    }
}

/// Writes what a terminal could take for a command in a form that it does not.
struct Harmless<'a, 'w>(&'a mut Writer<'w>);

fn is_command(letter: char) -> bool {
    matches!(letter, '\x07' | '\x08' | '\x0c' | '\x1b' | '\x7f'..='\u{9f}')
}

impl Write for Harmless<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Beyond ASCII all commands begin with one byte.
        let is_suspicious = |byte: &u8| matches!(byte, 0x07 | 0x08 | 0x0c | 0x1b | 0x7f | 0xc2);
        if !text.as_bytes().iter().any(is_suspicious) {
            return self.0.write_str(text);
        }
        text.chars().try_for_each(|letter| {
            if is_command(letter) {
                write!(self.0, "{}", letter.escape_default())
            } else {
                self.0.write_char(letter)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Written {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// What an event looks like with these fields, and with those of the library.
    fn both(event: impl Fn()) -> [String; 2] {
        let plain = Written::default();
        let builder = || tracing_subscriber::fmt().with_ansi(false).without_time();
        let subscriber = builder().fmt_fields(PlainFields).with_writer(plain.clone()).finish();
        tracing::subscriber::with_default(subscriber, &event);
        let usual = Written::default();
        tracing::subscriber::with_default(builder().with_writer(usual.clone()).finish(), &event);
        [plain, usual].map(|written| String::from_utf8(written.0.lock().unwrap().clone()).unwrap())
    }

    #[test]
    fn a_line_looks_as_one_of_the_library() {
        let [plain, usual] = both(|| {
            let nothing: Option<&str> = None;
            tracing::info!(
                text = "plain",
                quoted = "a \"b\" \\ \n\u{1b}[31m żółw",
                number = 12_u64,
                negative = -3_i64,
                float = 0.5,
                yes = true,
                nothing,
                shown = %"as it is",
                list = ?["a", "b"],
                gen_ai.usage.input_tokens = Some(7),
                r#type = "raw",
                "Request {}",
                "done"
            );
            tracing::warn!("only a message, \u{1b}[2Jand more\u{7}");
        });
        assert_eq!(plain.replace("\\u{1b}[2J", "\\x1b[2J").replace("\\u{7}", "\\x07"), usual);
        assert!(plain.contains("\\u{1b}[2J") && !plain.contains('\u{1b}'), "{plain}");
    }

    #[test]
    fn nothing_is_a_command_for_a_terminal() {
        for command in ['\u{7}', '\u{8}', '\u{c}', '\u{1b}', '\u{7f}', '\u{80}', '\u{9b}', '\u{9f}'] {
            let text = format!("ż{command}x");
            let error = io::Error::other(text.clone());
            let [plain, _] = both(|| {
                tracing::warn!(shown = %text, quoted = text, error = &error as &dyn Error, "{text}");
            });
            assert!(!plain.contains(command), "{plain:?}");
            assert_eq!(plain.matches('ż').count(), 4, "{plain}");
        }
        let [plain, _] = both(|| tracing::warn!("¡Hola! £5 \u{a0}é"));
        assert!(plain.ends_with("¡Hola! £5 \u{a0}é\n"), "{plain}");
    }
}
