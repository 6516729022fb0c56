//! The questions in what a model says, whatever it says besides.
//!
//! A prompt asks for one question a line and nothing else. Models number them all the same, put marks and fences around
//! them, say "Here are three questions:" first and something friendly last, or answer in JSON.

use serde_json::Value;

/// No list of questions is longer.
pub(super) const MOST_BYTES: usize = 1024 * 1024;

/// What a line begins with where it is an item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Number,
    Bullet,
    None,
}

/// A line without its mark.
struct Line<'s> {
    mark: Mark,
    text: &'s str,
}

/// The questions, `most` of them at most.
///
/// What a number or a bullet marks as an item counts if any item is a question, for then all are meant as such, also those
/// like `Name three rivers.`; otherwise lines that end in a question mark count, otherwise items, otherwise all lines
/// but an introduction.
pub(super) fn listed(said: &str, most: usize) -> Vec<String> {
    let said = within_fence(said.trim());
    let mut questions = in_json(said).unwrap_or_else(|| in_lines(said));
    questions.truncate(most);
    questions
}

/// What stands in the first fenced block, if there is one with anything in it.
fn within_fence(said: &str) -> &str {
    let fenced = || {
        let (_, behind) = said.split_once("```")?;
        let (_language, block) = behind.split_once('\n')?;
        let block = block.split_once("```").map_or(block, |(block, _)| block).trim();
        Some(block).filter(|block| !block.is_empty())
    };
    fenced().unwrap_or(said)
}

/// A list of texts, or an object with one, whatever its name.
fn in_json(said: &str) -> Option<Vec<String>> {
    let value: Value = serde_json::from_str(said).ok()?;
    let list = match &value {
        Value::Array(list) => list,
        Value::Object(members) => members.values().find_map(Value::as_array)?,
        _ => return None,
    };
    let text = |item: &Value| {
        let text = item.as_str().or_else(|| item.as_object()?.get("question")?.as_str())?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    list.iter().map(text).collect()
}

fn in_lines(said: &str) -> Vec<String> {
    let lines: Vec<Line<'_>> = said.lines().map(Line::of).filter(Line::says_something).collect();
    let strongest = strongest_mark(&lines);
    let is_item = |line: &Line<'_>| line.mark == strongest;
    let is_question = |line: &Line<'_>| line.is_question();
    let are_items = lines.iter().any(|line| line.mark != Mark::None);
    let kept: Vec<&Line<'_>> = if are_items && lines.iter().filter(|line| is_item(line)).any(is_question) {
        lines.iter().filter(|line| is_item(line)).collect()
    } else if lines.iter().any(is_question) {
        lines.iter().filter(|line| line.is_question()).collect()
    } else if are_items {
        lines.iter().filter(|line| is_item(line)).collect()
    } else {
        let introduction =
            usize::from(lines.len() > 1 && lines.first().is_some_and(|line| line.text.ends_with(':')));
        lines.iter().skip(introduction).collect()
    };
    kept.into_iter().map(|line| line.text.to_owned()).collect()
}

/// Answers often stand as bullets below numbered questions.
fn strongest_mark(lines: &[Line<'_>]) -> Mark {
    let is_numbered = lines.iter().any(|line| line.mark == Mark::Number);
    if is_numbered { Mark::Number } else { Mark::Bullet }
}

impl<'s> Line<'s> {
    fn of(line: &'s str) -> Self {
        let line = line.trim().trim_start_matches(['#', '>']).trim_start();
        let (bullet, rest) = match line.strip_prefix(['-', '*', '+', '•', '·', '–', '—', '◦', '▪'])
        {
            // `**Why?**` has no bullet, and `-5 degrees` has none either.
            Some(rest) if rest.starts_with(char::is_whitespace) => (Mark::Bullet, rest.trim_start()),
            _ => (Mark::None, line),
        };
        let rest = without_emphasis(rest);
        let (mark, text) = match without_number(rest) {
            Some(text) => (Mark::Number, text),
            None => (bullet, rest),
        };
        Self { mark, text: without_quotes(without_emphasis(text)) }
    }

    fn says_something(&self) -> bool {
        !self.text.is_empty() && !self.text.starts_with("```")
    }

    fn is_question(&self) -> bool {
        let bare = self
            .text
            .trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '*' | '_' | '"' | '”' | ')' | '»'));
        bare.ends_with(['?', '？', '؟', '\u{37e}', '՞'])
    }
}

/// Without a number such as `1.`, `1)`, `(1)`, `1:`, `Q1:`, `Question 1:`; `None` if there is none.
fn without_number(line: &str) -> Option<&str> {
    // The number alone may be bold, as in `**1.** Why?`
    let bare = line.trim_start_matches(['*', '_']);
    let (word, rest) = bare.split_at(bare.find(|c: char| c.is_ascii_digit() || c == '(')?);
    let is_word = word.trim_end().chars().all(char::is_alphabetic) && word.chars().count() <= 12;
    if !is_word {
        return None;
    }
    let rest = rest.strip_prefix('(').unwrap_or(rest);
    let behind = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    // More digits are a year.
    if !(1..=3).contains(&(rest.len() - behind.len())) {
        return None;
    }
    let behind = behind.trim_start_matches(['*', '_']);
    let text = behind
        .strip_prefix(['.', ')', ':'])
        .or_else(|| behind.strip_prefix(" -"))
        .or_else(|| behind.strip_prefix(" –"))?;
    // `3.5 million` is no item, and neither is `Route 66.`
    let is_item = text.starts_with(|c: char| c.is_whitespace() || c == '*') && !text.trim().is_empty();
    let text = if bare.len() < line.len() { text.trim_start_matches(['*', '_']) } else { text };
    is_item.then(|| text.trim_start())
}

/// Without marks of bold and italic around all of it.
fn without_emphasis(text: &str) -> &str {
    let mut text = text.trim();
    for mark in ["**", "__", "*", "_"] {
        if let Some(inner) = text.strip_prefix(mark).and_then(|rest| rest.strip_suffix(mark))
            && !inner.is_empty()
            && !inner.contains(mark)
        {
            text = inner.trim();
        }
    }
    text
}

/// Without quotation marks around all of it.
fn without_quotes(text: &str) -> &str {
    const PAIRS: [(char, char); 6] =
        [('"', '"'), ('“', '”'), ('„', '”'), ('„', '“'), ('«', '»'), ('\'', '\'')];
    let inner = |(open, close): (char, char)| {
        let inner = text.strip_prefix(open)?.strip_suffix(close)?;
        (!inner.is_empty() && !inner.contains([open, close])).then_some(inner.trim())
    };
    PAIRS.into_iter().find_map(inner).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[&str] = &["What froze?", "Who waited?"];

    /// What it is, what is said, and the questions in it.
    type Case = (&'static str, &'static str, &'static [&'static str]);

    fn check(cases: &[Case]) {
        for (what, said, expected) in cases {
            assert_eq!(listed(said, 2), *expected, "{what}: {said}");
        }
    }

    #[test]
    fn marks_around_questions_are_taken_off() {
        check(&[
            ("as asked for", "What froze?\nWho waited?", TWO),
            ("blank lines", "\n\nWhat froze?\n\n\nWho waited?\n", TWO),
            ("windows lines", "What froze?\r\nWho waited?\r\n", TWO),
            ("numbers", "1. What froze?\n2. Who waited?", TWO),
            ("numbers with brackets", "1) What froze?\n(2) Who waited?", TWO),
            ("numbers with dashes", "1 - What froze?\n2 – Who waited?", TWO),
            ("words and numbers", "Question 1: What froze?\nPytanie 2: Who waited?", TWO),
            ("letters and numbers", "Q1: What froze?\nQ2. Who waited?", TWO),
            ("bullets", "- What froze?\n* Who waited?", TWO),
            ("other bullets", "• What froze?\n– Who waited?", TWO),
            ("bold", "**What froze?**\n**Who waited?**", TWO),
            ("bold numbers", "**1. What froze?**\n**2.** Who waited?", TWO),
            ("headings", "## Questions\n\n### 1. What froze?\n### 2. Who waited?", TWO),
            ("quotes", "\"What froze?\"\n„Who waited?”", TWO),
            ("numbers and quotes", "1. \"What froze?\"\n2. «Who waited?»", TWO),
        ]);
    }

    #[test]
    fn what_is_no_question_is_left_out() {
        check(&[
            ("a fence", "```\nWhat froze?\nWho waited?\n```", TWO),
            (
                "a fence with words",
                "Here you are:\n```text\n1. What froze?\n2. Who waited?\n```\nAnything else?",
                TWO,
            ),
            ("an open fence", "```markdown\n- What froze?\n- Who waited?", TWO),
            ("an introduction", "Here are 2 questions:\n\nWhat froze?\nWho waited?", TWO),
            ("an introduction and an end", "Sure!\n\n1. What froze?\n2. Who waited?\n\nShall I go on?", TWO),
            ("answers below", "1. What froze?\n   - The harbour?\n2. Who waited?\n   Answer: ships.", TWO),
            ("JSON", r#"["What froze?", "Who waited?"]"#, TWO),
            ("fenced JSON", "```json\n{\"questions\": [\"What froze?\", \"Who waited?\"]}\n```", TWO),
            ("JSON of objects", r#"[{"question": "What froze?"}, {"question": "Who waited?"}]"#, TWO),
            ("too many", "1. What froze?\n2. Who waited?\n3. Why?", TWO),
            ("too few", "What froze?", &["What froze?"]),
        ]);
    }

    #[test]
    fn a_question_need_not_look_like_one() {
        check(&[
            ("orders", "1. What froze?\n2. Name the ships.", &["What froze?", "Name the ships."]),
            (
                "orders alone",
                "Of course:\n1. Name the harbour.\n2. Name the ships.",
                &["Name the harbour.", "Name the ships."],
            ),
            ("sections", "1. Weather\nWhat froze?\n2. Ships\nWho waited?", TWO),
            (
                "no marks at all",
                "Questions:\nName the harbour\nName the ships",
                &["Name the harbour", "Name the ships"],
            ),
            ("one line without a mark", "Name the harbour:", &["Name the harbour:"]),
            (
                "years and amounts",
                "1997 was cold?\n3.5 million waited?",
                &["1997 was cold?", "3.5 million waited?"],
            ),
            (
                "other question marks",
                "港が凍ったのはなぜですか？\nمن انتظر؟",
                &["港が凍ったのはなぜですか？", "من انتظر؟"],
            ),
            (
                "emphasis within",
                "What *really* froze?\n*Who* waited?",
                &["What *really* froze?", "*Who* waited?"],
            ),
            ("a question in quotes", "What does \"frozen\" mean?", &["What does \"frozen\" mean?"]),
            ("JSON of something else", "{\"a\": 1}", &["{\"a\": 1}"]),
            ("nothing", "  \n ", &[]),
            ("an empty fence", "```\n```", &[]),
        ]);
    }

    #[test]
    fn no_more_are_given_than_were_asked_for() {
        assert_eq!(listed("A?\nB?\nC?", 1), ["A?"]);
        assert_eq!(listed("A?\nB?\nC?", 100), ["A?", "B?", "C?"]);
    }

    #[test]
    fn many_lines_take_linear_time() {
        let started = std::time::Instant::now();
        for line in ["- a?\n", "a?\n", "- a\n", "1. a\n", "> # **a**\n"] {
            assert_eq!(listed(&line.repeat(MOST_BYTES / line.len()), 1).len(), 1, "{line}");
        }
        // By squares it takes hours.
        assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    }
}
