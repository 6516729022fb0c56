//! A compiled template, and what it asks for: variables and partials.

use std::collections::BTreeSet;

use handlebars::Path;
use handlebars::template::{DecoratorTemplate, HelperTemplate, Parameter, TemplateElement};

use super::fault::DocumentFault;

/// A Handlebars template with the names that it refers to.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) compiled: handlebars::Template,
    /// The names of the caller's variables that it reads.
    pub(super) variables: BTreeSet<String>,
    /// The names of prompts that it includes.
    pub(super) partials: BTreeSet<String>,
}

impl Template {
    pub(super) fn compile(text: &str) -> Result<Self, DocumentFault> {
        let compiled = handlebars::Template::compile(text).map_err(|error| {
            let line = error.pos().map(|(line, _)| line);
            DocumentFault::new(line, error.reason().to_string())
        })?;
        let mut names = Names::default();
        names.template(&compiled, 0, &[]);
        Ok(Self { compiled, variables: names.variables, partials: names.partials })
    }
}

/// Helpers that handlebars brings, which are no variables.
const HELPERS: &[&str] = &[
    "if", "unless", "each", "with", "lookup", "raw", "log", "eq", "ne", "gt", "gte", "lt", "lte", "and",
    "or", "not", "len",
];

#[derive(Default)]
struct Names {
    variables: BTreeSet<String>,
    partials: BTreeSet<String>,
}

impl Names {
    /// `depth` counts the blocks around that change what a bare name means; `locals` are names that
    /// blocks around gave to their items.
    fn template(&mut self, template: &handlebars::Template, depth: usize, locals: &[String]) {
        for element in &template.elements {
            self.element(element, depth, locals);
        }
    }

    fn element(&mut self, element: &TemplateElement, depth: usize, locals: &[String]) {
        match element {
            TemplateElement::Expression(helper)
            | TemplateElement::HtmlExpression(helper)
            | TemplateElement::HelperBlock(helper) => self.helper(helper, depth, locals),
            TemplateElement::PartialExpression(partial) | TemplateElement::PartialBlock(partial) => {
                self.partial(partial, depth, locals);
            }
            TemplateElement::DecoratorExpression(decorator) | TemplateElement::DecoratorBlock(decorator) => {
                self.decorator(decorator, depth, locals);
            }
            // Text and comments name nothing.
            _ => {}
        }
    }

    fn helper(&mut self, helper: &HelperTemplate, depth: usize, locals: &[String]) {
        let name = helper.name.as_name().unwrap_or_default();
        let calls_helper = helper.block || !helper.params.is_empty() || HELPERS.contains(&name);
        if !calls_helper {
            self.parameter(&helper.name, depth, locals);
        }
        for parameter in helper.params.iter().chain(helper.hash.values()) {
            self.parameter(parameter, depth, locals);
        }
        let changes_context = matches!(name, "each" | "with");
        let mut inner: Vec<String> = locals.to_vec();
        inner.extend(block_parameters(helper));
        if let Some(template) = &helper.template {
            self.template(template, depth + usize::from(changes_context), &inner);
        }
        if let Some(otherwise) = &helper.inverse {
            self.template(otherwise, depth, locals);
        }
    }

    fn partial(&mut self, partial: &DecoratorTemplate, depth: usize, locals: &[String]) {
        if let Some(name) = partial.name.as_name() {
            self.partials.insert(name.to_owned());
        }
        self.decorator(partial, depth, locals);
    }

    fn decorator(&mut self, decorator: &DecoratorTemplate, depth: usize, locals: &[String]) {
        for parameter in decorator.params.iter().chain(decorator.hash.values()) {
            self.parameter(parameter, depth, locals);
        }
        if let Some(template) = &decorator.template {
            self.template(template, depth, locals);
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
            self.variables.insert(first.to_owned());
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
        Template::compile(text).unwrap().variables.into_iter().collect()
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
        assert_eq!(template.partials.iter().collect::<Vec<_>>(), ["a", "b/c"]);
    }
}
