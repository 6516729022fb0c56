//! Names that others have chosen: how they are repeated, and what in them cannot be seen.

use std::borrow::Cow;

/// This many characters of a caller's own text are repeated to the caller.
const MOST_OF_A_NAME: usize = 128;

/// A name that is not ours, fit for a message or a line of the log: not too long, and without what cannot be seen. All that
/// repeats a word of callers, upstreams or files does so through this.
pub fn shortened(name: &str) -> Cow<'_, str> {
    let is_plain = |letter: char| !is_invisible(letter);
    if name.len() <= MOST_OF_A_NAME && name.chars().all(is_plain) {
        return name.into();
    }
    let mut letters = name.chars().filter(|letter| is_plain(*letter));
    let mut short: String = letters.by_ref().take(MOST_OF_A_NAME).collect();
    if letters.next().is_some() {
        short.push('…');
    }
    short.into()
}

/// Whether a character does something else than to be seen: it controls a terminal, turns the direction of writing, or shows
/// nothing.
pub fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_cut_and_show_nothing_hidden() {
        assert!(matches!(shortened("gpt-4o:ż"), Cow::Borrowed("gpt-4o:ż")));
        assert_eq!(shortened("a\u{1b}[2Jb\n\u{202e}c\0"), "a[2Jbc");
        assert_eq!(shortened(&"ż".repeat(100)), "ż".repeat(100));
        assert_eq!(shortened(&"ż".repeat(5_000_000)), format!("{}…", "ż".repeat(128)));
    }
}
