//! A compiled template, and what it asks for: variables and partials.

use std::collections::BTreeMap;

use handlebars::Path;
use handlebars::template::{DecoratorTemplate, HelperTemplate, Parameter, TemplateElement};

use super::fault::DocumentFault;
use super::{nesting, pace, syntax};
use crate::lint::did_you_mean;

/// A Handlebars template with the names that it refers to.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) compiled: handlebars::Template,
    /// The names of the caller's variables that it reads, each with the first line in which it stands.
    pub(super) variables: BTreeMap<String, usize>,
    /// The names of prompts that it includes, in the same way.
    pub(super) partials: BTreeMap<String, usize>,
    /// What it is by itself, and what it brings under names of its own.
    pub(super) body: Body,
    pub(super) inlined: BTreeMap<String, Body>,
}

/// How blocks and other templates stand in one.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    /// The most blocks that stand in each other.
    pub(super) deepest: usize,
    /// What it includes, each with the most blocks around it.
    pub(super) includes: BTreeMap<String, usize>,
}

impl Template {
    /// Compiles a template. Lines are counted from the template's first.
    ///
    /// # Errors
    /// It is not understood, too deep, or asks for a helper that there is not.
    pub(super) fn compile(text: &str) -> Result<Self, Vec<DocumentFault>> {
        nesting::check(text).map_err(|fault| vec![fault])?;
        let mut compiled = handlebars::Template::compile(text)
            .map_err(|error| vec![syntax::explain(text, error.pos().map(|(line, _)| line))])?;
        let mut names = Names::default();
        names.template(&compiled, 0, &[]);
        if !names.faults.is_empty() {
            return Err(names.faults);
        }
        names.partials.retain(|name, _| !names.inlined.contains_key(name));
        pace::pace(&mut compiled);
        let Names { variables, partials, body, inlined, .. } = names;
        Ok(Self { compiled, variables, partials, body, inlined })
    }
}

impl Body {
    /// Two that have the same name: either of them may be meant.
    fn add(&mut self, other: Self) {
        self.deepest = self.deepest.max(other.deepest);
        for (name, around) in other.includes {
            let known = self.includes.entry(name).or_default();
            *known = (*known).max(around);
        }
    }
}

/// Helpers that handlebars brings, which are no variables, and how many values each needs.
const HELPERS: &[(&str, usize)] = &[
    ("if", 1),
    ("unless", 1),
    ("each", 1),
    ("with", 1),
    ("lookup", 2),
    ("raw", 0),
    ("log", 0),
    ("eq", 2),
    ("ne", 2),
    ("gt", 2),
    ("gte", 2),
    ("lt", 2),
    ("lte", 2),
    ("and", 2),
    ("or", 2),
    ("not", 1),
    ("len", 1),
];

#[derive(Default)]
struct Names {
    variables: BTreeMap<String, usize>,
    partials: BTreeMap<String, usize>,
    /// Partials that the template brings itself.
    inlined: BTreeMap<String, Body>,
    faults: Vec<DocumentFault>,
    /// Where the walk is.
    line: usize,
    /// What the walk is in, and how many blocks around are part of it.
    body: Body,
    around: usize,
}

impl Names {
    /// `depth` counts the blocks around that change what a bare name means; `locals` are names that
    /// blocks around gave to their items.
    fn template(&mut self, template: &handlebars::Template, depth: usize, locals: &[String]) {
        self.body.deepest = self.body.deepest.max(self.around);
        for (index, element) in template.elements.iter().enumerate() {
            if let Some(place) = template.mapping.get(index) {
                self.line = place.0;
            }
            self.element(element, depth, locals);
        }
    }

    /// The template of a block.
    fn block(&mut self, template: &handlebars::Template, depth: usize, locals: &[String]) {
        self.around += 1;
        self.template(template, depth, locals);
        self.around -= 1;
    }

    fn fault(&mut self, problem: String, cure: String) {
        self.faults.push(DocumentFault::new(Some(self.line), problem, cure));
    }

    /// A helper that there is not would fail every request.
    fn check_helper(&mut self, name: &str, values: usize) {
        match HELPERS.iter().find(|(known, _)| *known == name) {
            None => {
                let cure = did_you_mean(name, HELPERS.iter().map(|(known, _)| *known));
                self.fault(format!("there is no helper `{name}`"), cure);
            }
            Some((_, needed)) if values < *needed => {
                let plural = if *needed == 1 { "a value" } else { "two values" };
                let problem = format!("the helper `{name}` needs {plural}");
                let example = if *needed == 1 { "name" } else { "name other" };
                self.fault(problem, format!("write {name} {example} there"));
            }
            Some(_) => {}
        }
    }

    fn element(&mut self, element: &TemplateElement, depth: usize, locals: &[String]) {
        match element {
            TemplateElement::Expression(helper)
            | TemplateElement::HtmlExpression(helper)
            | TemplateElement::HelperBlock(helper) => self.helper(helper, depth, locals),
            TemplateElement::PartialExpression(partial) => self.partial(partial, depth, locals),
            TemplateElement::PartialBlock(partial) => {
                // The engine renders its content apart, without the bounds of the whole.
                let name = partial.name.as_name().unwrap_or("name");
                let problem = format!("`{{{{#> {name}}}}}` is not supported");
                let cure = format!("write {{{{#*inline \"part\"}}}}…{{{{/inline}}}}{{{{> {name}}}}}");
                self.fault(problem, cure);
            }
            TemplateElement::DecoratorExpression(decorator) | TemplateElement::DecoratorBlock(decorator) => {
                self.check_decorator(decorator);
                self.decorator(decorator, depth, locals);
            }
            // Text and comments name nothing.
            _ => {}
        }
    }

    fn helper(&mut self, helper: &HelperTemplate, depth: usize, locals: &[String]) {
        let name = helper.name.as_name().unwrap_or_default();
        let is_known = HELPERS.iter().any(|(known, _)| *known == name);
        if helper.block || !helper.params.is_empty() || !helper.hash.is_empty() || is_known {
            self.check_helper(name, helper.params.len());
        } else {
            self.parameter(&helper.name, depth, locals);
        }
        for parameter in helper.params.iter().chain(helper.hash.values()) {
            self.parameter(parameter, depth, locals);
        }
        let changes_context = matches!(name, "each" | "with");
        let mut inner: Vec<String> = locals.to_vec();
        inner.extend(block_parameters(helper));
        if let Some(template) = &helper.template {
            self.block(template, depth + usize::from(changes_context), &inner);
        }
        if let Some(otherwise) = &helper.inverse {
            self.block(otherwise, depth, locals);
        }
    }

    fn partial(&mut self, partial: &DecoratorTemplate, depth: usize, locals: &[String]) {
        // A name that is computed would be the caller's to choose, and whether it ends could not be told beforehand.
        match partial.name.as_name().filter(|name| !name.starts_with('@')) {
            Some(name) => {
                self.partials.entry(name.to_owned()).or_insert(self.line);
                let around = self.body.includes.entry(name.to_owned()).or_default();
                *around = (*around).max(self.around);
            }
            None => self.fault(
                "the name of what is included is computed".to_owned(),
                "write the name itself, and {{#if …}} around it to choose".to_owned(),
            ),
        }
        self.decorator(partial, depth, locals);
    }

    fn check_decorator(&mut self, decorator: &DecoratorTemplate) {
        let name = decorator.name.as_name().unwrap_or_default();
        if name != "inline" {
            self.fault(
                format!("there is no decorator `{name}`"),
                "known is {{#*inline \"name\"}}".to_owned(),
            );
        }
        if !matches!(decorator.params.first(), Some(Parameter::Literal(serde_json::Value::String(_)))) {
            self.fault(
                "the name of an inline template is computed".to_owned(),
                "write {{#*inline \"name\"}}".to_owned(),
            );
        }
    }

    fn decorator(&mut self, decorator: &DecoratorTemplate, depth: usize, locals: &[String]) {
        for parameter in decorator.params.iter().chain(decorator.hash.values()) {
            self.parameter(parameter, depth, locals);
        }
        let Some(template) = &decorator.template else { return };
        // It is rendered where it is included, and not where it stands.
        let outer = (std::mem::take(&mut self.body), std::mem::take(&mut self.around));
        self.template(template, depth, locals);
        let inner = std::mem::replace(&mut self.body, outer.0);
        self.around = outer.1;
        if let Some(Parameter::Literal(serde_json::Value::String(name))) = decorator.params.first() {
            self.inlined.entry(name.clone()).or_default().add(inner);
        }
    }

    fn parameter(&mut self, parameter: &Parameter, depth: usize, locals: &[String]) {
        match parameter {
            Parameter::Path(Path::Relative((_, raw))) => self.path(raw, depth, locals),
            Parameter::Name(name) => self.path(name, depth, locals),
            Parameter::Subexpression(inner) => self.element(&inner.element, depth, locals),
            _ => {}
        }
    }

    /// Notes the variable that a path begins with, if it begins with one.
    fn path(&mut self, raw: &str, depth: usize, locals: &[String]) {
        let mut rest = raw;
        let mut depth = depth;
        if let Some(absolute) = rest.strip_prefix("@root.").or_else(|| rest.strip_prefix("@root/")) {
            (rest, depth) = (absolute, 0);
        }
        while let Some(outer) = rest.strip_prefix("../") {
            rest = outer;
            depth = depth.saturating_sub(1);
        }
        let rest = rest.strip_prefix("this.").or_else(|| rest.strip_prefix("./")).unwrap_or(rest);
        let first = rest.split(['.', '/', '[']).next().unwrap_or_default();
        let is_variable = !first.is_empty() && !first.starts_with('@') && first != "this";
        if depth == 0 && is_variable && !locals.iter().any(|local| local == first) {
            self.variables.entry(first.to_owned()).or_insert(self.line);
        }
    }
}

fn block_parameters(helper: &HelperTemplate) -> Vec<String> {
    use handlebars::template::BlockParam;
    let names: Vec<&Parameter> = match &helper.block_param {
        Some(BlockParam::Single(name)) => vec![name],
        Some(BlockParam::Pair((first, second))) => vec![first, second],
        _ => Vec::new(),
    };
    names.into_iter().filter_map(Parameter::as_name).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(text: &str) -> Vec<String> {
        Template::compile(text).unwrap().variables.into_keys().collect()
    }

    fn faults(text: &str) -> String {
        let faults = Template::compile(text).unwrap_err();
        faults.iter().map(|f| format!("{}: {}; {}\n", f.line.unwrap(), f.problem, f.cure)).collect()
    }

    #[test]
    fn variables_are_found_wherever_they_stand() {
        for (text, expected) in [
            ("{{a}} {{b.c}} {{{d}}} {{this.e}}", vec!["a", "b", "d", "e"]),
            ("{{#if a}}{{b}}{{else}}{{c}}{{/if}}", vec!["a", "b", "c"]),
            ("{{#each xs}}{{this}} {{name}} {{@index}} {{../a}}{{else}}{{b}}{{/each}}", vec!["a", "b", "xs"]),
            ("{{#each xs as |x|}}{{x.name}} {{@root.y}}{{/each}}", vec!["xs", "y"]),
            ("{{#with a}}{{b}}{{/with}}", vec!["a"]),
            ("{{lookup m k}} {{#if (eq a 'x')}}y{{/if}}", vec!["a", "k", "m"]),
            ("{{> part who=name}} \\{{no}} {{! comment }}", vec!["name"]),
        ] {
            assert_eq!(variables(text), expected, "{text}");
        }
    }

    #[test]
    fn partials_are_found() {
        let template = Template::compile("{{> a}}{{#if x}}{{> b/c y=1}}{{/if}}").unwrap();
        assert_eq!(template.partials.keys().collect::<Vec<_>>(), ["a", "b/c"]);
    }

    #[test]
    fn names_have_the_line_in_which_they_stand_first() {
        let template = Template::compile("one\n\n{{a}}\n{{#if b}}\n  {{> p c}}\n  {{a}}\n{{/if}}\n").unwrap();
        let lines: Vec<_> = template.variables.iter().map(|(name, line)| (name.as_str(), *line)).collect();
        assert_eq!(lines, [("a", 3), ("b", 4), ("c", 5)]);
        assert_eq!(template.partials["p"], 5);
    }

    #[test]
    fn helpers_that_there_are_not_do_not_compile() {
        for (text, expected) in [
            ("a\n{{upper x}}", "2: there is no helper `upper`; known here are if, unless, each"),
            ("{{#iff x}}y{{/iff}}", "1: there is no helper `iff`; did you mean `if`?"),
            ("{{#names}}y{{/names}}", "there is no helper `names`"),
            ("{{#if x}}\n{{#if (equal a 'b')}}y{{/if}}{{/if}}", "2: there is no helper `equal`"),
            ("{{len}}", "1: the helper `len` needs a value"),
            ("{{#if (eq a)}}y{{/if}}", "1: the helper `eq` needs two values"),
            ("{{x a=1}}", "there is no helper `x`"),
            ("{{*shout}}", "there is no decorator `shout`"),
            ("a\n{{> (lookup this 'which')}}", "2: the name of what is included is computed; write the name"),
            ("{{#each xs}}{{> @key}}{{/each}}", "1: the name of what is included is computed"),
            ("{{#*inline which}}x{{/inline}}", "1: the name of an inline template is computed"),
            ("{{#> base}}x{{/base}}", "1: `{{#> base}}` is not supported; write {{#*inline"),
        ] {
            assert!(faults(text).contains(expected), "{text}: {}", faults(text));
        }
    }

    #[test]
    fn a_template_may_bring_its_own_partials() {
        let template = Template::compile("{{#*inline \"own\"}}x{{/inline}}{{> own}}{{> other}}").unwrap();
        assert_eq!(template.partials.keys().collect::<Vec<_>>(), ["other"]);
    }
}
