//! How deep the parts of a template stand in each other, found before the template is parsed.
//!
//! The engine's parser calls itself for every block and every bracket, so that a deep template would overflow the stack
//! before anything could be said of it. This reads the same tags from front to back. Where the two could disagree about the end
//! of a tag, because braces or quotes stand within quotes or brackets, the template is refused: so nothing can be hidden
//! from this count.

use super::fault::DocumentFault;

/// So many blocks may stand in each other, with what is included. As many brackets in a tag.
pub(super) const DEEPEST: usize = 64;

/// Looks at the nesting of a template. Lines are counted from the template's first.
///
/// # Errors
/// It is too deep, or it cannot be told how deep it is.
pub(super) fn check(text: &str) -> Result<(), DocumentFault> {
    let mut scan = Scan { text, at: 0, open: Vec::new(), depth: 0 };
    while scan.reach_tag() {
        if !scan.tag()? {
            break;
        }
    }
    Ok(())
}

/// Where the scan is.
struct Scan<'t> {
    text: &'t str,
    at: usize,
    /// For each open block, how many levels it has added: a chain of `else if` adds one each.
    open: Vec<usize>,
    depth: usize,
}

impl<'t> Scan<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn fault(&self, problem: &str, cure: &str) -> DocumentFault {
        let before = self.text.bytes().take(self.at);
        let line = before.filter(|byte| *byte == b'\n').count() + 1;
        DocumentFault::new(Some(line), problem, cure)
    }

    /// Goes behind the braces of the next tag, past text and escaped braces. Whether there is one.
    fn reach_tag(&mut self) -> bool {
        while let Some(found) = self.rest().find("{{") {
            let before = self.rest().get(..found).unwrap_or_default();
            let slashes = before.bytes().rev().take_while(|byte| *byte == b'\\').count();
            self.at += found + 2;
            if slashes != 1 {
                return true;
            }
            // One backslash makes two braces text, or four.
            self.skip("{{");
        }
        false
    }

    fn skip(&mut self, what: &str) -> bool {
        let is_there = self.rest().starts_with(what);
        if is_there {
            self.at += what.len();
        }
        is_there
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '~']).len();
    }

    /// Passes everything up to `end`, and that; whether it is there.
    fn pass(&mut self, end: &str) -> bool {
        match self.rest().find(end) {
            Some(found) => {
                self.at += found + end.len();
                true
            }
            None => false,
        }
    }

    /// Reads a tag. Whether something may come behind it: what is not closed is for the parser to tell.
    fn tag(&mut self) -> Result<bool, DocumentFault> {
        if self.skip("{{") {
            return self.raw_block();
        }
        self.skip_space();
        if self.skip("!") {
            return Ok(self.comment());
        }
        let start = self.at;
        if self.skip("#") {
            self.open.push(1);
            self.deeper()?;
        } else if self.skip("/") {
            self.depth -= self.open.pop().unwrap_or(0);
        }
        let is_closed = self.inside()?;
        let end = self.at.saturating_sub(2);
        let inner = self.text.get(start..end).unwrap_or_default().trim_matches([' ', '\t', '\n', '\r', '~']);
        let otherwise = inner.strip_prefix("else").or_else(|| inner.strip_prefix('^'));
        if otherwise.is_some_and(|condition| !condition.is_empty())
            && let Some(levels) = self.open.last_mut()
        {
            *levels += 1;
            self.deeper()?;
        }
        Ok(is_closed)
    }

    fn deeper(&mut self) -> Result<(), DocumentFault> {
        self.depth += 1;
        if self.depth <= DEEPEST {
            return Ok(());
        }
        Err(self.fault(&format!("more than {DEEPEST} blocks stand in each other"), "take some of them out"))
    }

    /// What stands in it is text up to the next four braces.
    fn raw_block(&mut self) -> Result<bool, DocumentFault> {
        if !self.inside()? {
            return Ok(false);
        }
        loop {
            let before = self.at;
            if !self.pass("{{{{") {
                return Ok(false);
            }
            let text = self.text.get(before..self.at - 4).unwrap_or_default();
            if text.bytes().rev().take_while(|byte| *byte == b'\\').count() != 1 {
                return self.inside();
            }
        }
    }

    /// A comment with two dashes ends with them, if they stand anywhere behind it.
    fn comment(&mut self) -> bool {
        let start = self.at;
        let rest = self.rest().trim_start_matches([' ', '\t', '\n', '\r']);
        if rest.starts_with("--") {
            self.at = self.text.len() - rest.len() + 2;
            if self.pass("--}}") {
                return true;
            }
            self.at = start;
        }
        self.pass("}}")
    }

    /// Passes the inside of a tag, and the braces that close it; whether they are there.
    fn inside(&mut self) -> Result<bool, DocumentFault> {
        let mut brackets = 0_usize;
        let mut braces = 0_usize;
        // What stands before the first value is a name.
        let mut is_name = true;
        while let Some(c) = self.rest().chars().next() {
            match c {
                '}' if braces == 0 && self.skip("}}") => {
                    // Of four braces two are left.
                    self.skip("}}");
                    return Ok(true);
                }
                '"' | '\'' => self.quoted(c)?,
                '[' => self.bracketed(is_name)?,
                '(' | '{' => brackets += 1,
                ')' | '}' => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            match c {
                '{' => braces += 1,
                '}' => braces = braces.saturating_sub(1),
                _ => {}
            }
            if brackets > DEEPEST {
                let problem = format!("more than {DEEPEST} brackets stand in each other");
                return Err(self.fault(&problem, "take some of them out"));
            }
            is_name = matches!(c, '(' | '.' | '/' | '#' | '>' | '*' | '&' | '^' | '~' | '@' | '{')
                || is_name && c.is_whitespace();
            if !matches!(c, '"' | '\'' | '[') {
                self.at += c.len_utf8();
            }
        }
        Ok(false)
    }

    /// Passes a text in quotes.
    fn quoted(&mut self, quote: char) -> Result<(), DocumentFault> {
        let mut is_escaped = false;
        let rest = self.rest();
        for (at, c) in rest.char_indices().skip(1) {
            let braces = rest.get(at..).is_some_and(|from| from.starts_with("{{") || from.starts_with("}}"));
            if braces {
                break;
            }
            if c == quote && !is_escaped {
                self.at += at + c.len_utf8();
                return Ok(());
            }
            is_escaped = c == '\\' && !is_escaped;
        }
        Err(self.fault("a quote in a tag is not closed before braces", "write no braces within quotes"))
    }

    /// Passes a list of values, or a name of odd characters.
    fn bracketed(&mut self, is_name: bool) -> Result<(), DocumentFault> {
        let rest = self.rest();
        let end = rest.find(']').unwrap_or(rest.len());
        let inner = rest.get(1..end).unwrap_or_default();
        let quotes = |quote| inner.matches(quote).count();
        let is_plain = quotes('"') == 0 && quotes('\'') == 0;
        let is_list = !is_name && quotes('"') % 2 == 0 && quotes('\'') % 2 == 0;
        let has_brackets = inner.contains("{{") || inner.contains("}}") || inner.contains('[');
        if has_brackets || !(is_plain || is_list) {
            let cure = "write no quotes, brackets and braces within brackets";
            return Err(self.fault("it is not clear where a bracket in a tag is closed", cure));
        }
        self.at += end + 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(open: &str, close: &str, depth: usize) -> String {
        format!("{}x{}", open.repeat(depth), close.repeat(depth))
    }

    #[test]
    fn templates_that_are_not_deep_pass() {
        let long = "{{#if a}}{{b}}{{else if c}}{{else}}{{/if}}{{! {{x }}".repeat(1000);
        for text in [
            "",
            "text { } }} \\{{#if}} \\\\{{a}}",
            "{{{a}}} {{&b}} {{~#if (eq a 'x')~}} y {{~/if~}}",
            "{{!-- {{#if a}} }} --}}{{! #if }}",
            "{{{{raw}}}} {{#if a}} {{/x}} {{{{/raw}}}}",
            "{{lookup m.[a b] \"k\"}}{{#each [\"a\", 'b']}}{{this}}{{/each}}{{> part a={\"x\": {\"y\": 1}}}}",
            "{{#if a}} it's \"quoted {{/if}}",
            &long,
            &nested("{{#if a}}", "{{/if}}", DEEPEST),
            &format!("{{{{a {}}}}}", nested("(not ", ")", DEEPEST)),
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
            let _ = handlebars::Template::compile(text);
        }
    }

    #[test]
    fn deep_templates_are_refused_whatever_hides_it() {
        for text in [
            nested("{{#if a}}", "{{/if}}", DEEPEST + 1),
            nested("{{#if a}}", "{{/if}}", 100_000),
            nested("{{~ #with a }}", "{{ /with ~}}", 100_000),
            nested("{{#if a}}{{! {{/if}}", "{{/if}}", 1000),
            nested("{{#if a}}{{!-- }} {{/if}} --}}", "{{/if}}", 1000),
            nested("{{#if a}}{{{{raw}}}}{{/if}}{{{{/raw}}}}", "{{/if}}", 1000),
            nested("{{#if a}}\\{{/if}}", "{{/if}}", 1000),
            nested("{{#if (eq a \"}}{{/if}}\")}}", "{{/if}}", 1000),
            nested("{{#if [a\"] \"}}{{/if}}\"}}", "{{/if}}", 1000),
            nested("{{#if a.[}}{{/if}}]}}", "{{/if}}", 1000),
            nested("{{#*inline \"a\"}}", "{{/inline}}", 1000),
            nested("{{#> a}}", "{{/a}}", 1000),
            format!("{{{{#if a}}}}{}{{{{/if}}}}", "{{else if b}}".repeat(1000)),
            format!("{{{{#if a}}}}{}{{{{/if}}}}", "{{^if b}}".repeat(1000)),
            format!("{{{{a {}}}}}", nested("(not ", ")", 100_000)),
            format!("{{{{a {}}}}}", nested("(eq \"}}\" ", ")", 1000)),
            format!("{{{{a {}}}}}", nested("[", "]", 100_000)),
            format!("{{{{a {}}}}}", nested("{\"a\": ", "}", 100_000)),
        ] {
            let fault = check(&text).unwrap_err();
            assert!(fault.line.is_some(), "{fault:?}");
        }
    }
}
