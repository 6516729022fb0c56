//! Why a template does not compile, in words: the engine itself answers with its grammar.

use super::fault::DocumentFault;

/// Looks for what is wrong in a template that the engine refuses at `line`.
pub(super) fn explain(text: &str, line: Option<usize>) -> DocumentFault {
    let mut open: Vec<(&str, usize)> = Vec::new();
    let mut suspect = None;
    for tag in tags(text) {
        if let Some(fault) = tag.fault(&mut open) {
            return fault;
        }
        if line == Some(tag.line) && !tag.is_comment() {
            suspect.get_or_insert(tag.inner);
        }
    }
    match (open.pop(), suspect) {
        (Some((name, line)), _) => {
            let problem = format!("`{{{{#{name}}}}}` is not closed");
            DocumentFault::new(Some(line), problem, format!("write {{{{/{name}}}}} where it ends"))
        }
        (None, Some(inner)) => {
            DocumentFault::new(line, format!("`{{{{{inner}}}}}` is not understood"), FORMS)
        }
        (None, None) => DocumentFault::new(line, "the template is not understood", FORMS),
    }
}

const FORMS: &str = "write {{name}}, {{#if name}}…{{/if}}, {{#each names}}…{{/each}} or {{> part}}, and \\{{ for braces as text";

/// What stands between two pairs of braces.
struct Tag<'t> {
    line: usize,
    inner: &'t str,
    is_closed: bool,
}

impl<'t> Tag<'t> {
    fn is_comment(&self) -> bool {
        self.inner.starts_with('!')
    }

    /// What is wrong with the tag, after those that are open.
    fn fault(&self, open: &mut Vec<(&'t str, usize)>) -> Option<DocumentFault> {
        let fault = |problem: String, cure: String| Some(DocumentFault::new(Some(self.line), problem, cure));
        if !self.is_closed {
            let end = if self.is_comment() { "--}}" } else { "}}" };
            return fault(
                "`{{` is not closed".to_owned(),
                format!("write `{end}` where the name ends, or \\{{{{ for braces as text"),
            );
        }
        let inner = self.inner.trim_matches(['~', ' ', '\t', '\n', '\r', '{', '}']);
        if inner.is_empty() {
            return fault("`{{}}` names nothing".to_owned(), FORMS.to_owned());
        }
        if let Some(block) = inner.strip_prefix('#') {
            let name = block.trim_start_matches(['>', '*', ' ']).split([' ', '\n', '~']).next()?;
            open.push((name, self.line));
        } else if let Some(name) = inner.strip_prefix('/').map(str::trim) {
            return match open.pop() {
                None => fault(
                    format!("`{{{{/{name}}}}}` closes nothing"),
                    format!("write {{{{#{name} …}}}} where it begins, or take it out"),
                ),
                Some((other, line)) if other != name => fault(
                    format!("`{{{{/{name}}}}}` closes `{{{{#{other}}}}}` of line {line}"),
                    format!("write {{{{/{other}}}}} here"),
                ),
                Some(_) => None,
            };
        } else if inner == "else" && open.is_empty() {
            return fault(
                "`{{else}}` stands in no block".to_owned(),
                "write it between {{#if …}} and {{/if}}".to_owned(),
            );
        }
        None
    }
}

/// All tags of a text, up to the first that is not closed.
fn tags(text: &str) -> Vec<Tag<'_>> {
    let mut tags = Vec::new();
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| rest.find("{{")) {
        let start = at + found;
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        let behind = text.get(start + 2..).unwrap_or_default();
        if text.get(..start).is_some_and(|before| before.ends_with('\\')) {
            at = start + 2;
            continue;
        }
        let (is_long_comment, end) =
            (behind.starts_with("!--"), if behind.starts_with("!--") { "--}}" } else { "}}" });
        let length = behind.find(end);
        let inner = behind.get(..length.unwrap_or(behind.len())).unwrap_or_default();
        let is_closed = length.is_some() && (is_long_comment || !inner.contains("{{"));
        tags.push(Tag { line, inner, is_closed });
        if !is_closed {
            break;
        }
        at = start + 2 + inner.len() + end.len();
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_with_their_line_and_a_cure_and_without_grammar() {
        for (text, line, problem, cure) in [
            ("one\n{{b}\n", 2, "`{{` is not closed", "`}}`"),
            ("one\n{{b and {{c}}\n", 2, "`{{` is not closed", "`}}`"),
            ("a\n{{#if a}}\nb\n", 2, "`{{#if}}` is not closed", "{{/if}}"),
            (
                "{{#if a}}\n{{#each b}}{{/each}}\n{{/with}}",
                3,
                "`{{/with}}` closes `{{#if}}` of line 1",
                "{{/if}}",
            ),
            ("a\n\n{{/if}}", 3, "`{{/if}}` closes nothing", "{{#if …}}"),
            ("a {{else}} b", 1, "`{{else}}` stands in no block", "{{#if …}}"),
            ("a\n{{}}", 2, "`{{}}` names nothing", "{{name}}"),
            ("a\n{{a b=}}", 2, "`{{a b=}}` is not understood", "{{name}}"),
            ("{{!-- {{x}} --}}\n\\{{ok}}\n{{ a.. b }}", 3, "`{{ a.. b }}` is not understood", "{{name}}"),
        ] {
            let error = handlebars::Template::compile(text).unwrap_err();
            let fault = explain(text, error.pos().map(|(line, _)| line));
            assert_eq!(fault.line, Some(line), "{text}: {fault:?}");
            assert!(fault.problem.contains(problem) && fault.cure.contains(cure), "{text}: {fault:?}");
        }
    }
}
