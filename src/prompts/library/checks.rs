//! What must hold between the files of a library, and what is worth a warning.

use std::collections::{BTreeMap, BTreeSet};

use super::{Prompts, schema_of, source_of, template_name};
use crate::lint::{did_you_mean, nearest};
use crate::prompts::document::Document;
use crate::prompts::fault::PromptFault;
use crate::prompts::language::Language;
use crate::prompts::nesting::DEEPEST;
use crate::prompts::schema::Schema;
use crate::prompts::template::Body;

/// All that is wrong between the files.
pub(super) fn faults(prompts: &Prompts, default: &Language) -> Vec<PromptFault> {
    let mut faults = Vec::new();
    for translations in prompts.values() {
        faults.extend(disagreements(translations, default));
        faults.extend(useless_defaults(translations, prompts));
    }
    faults.extend(unknown_partials(prompts));
    let bodies = bodies(prompts);
    let circles = circles(prompts, &bodies);
    if circles.is_empty() {
        faults.extend(too_deep(prompts, &bodies));
    }
    faults.extend(circles);
    faults
}

/// What looks like a slip and may be meant.
pub(super) fn warnings(prompts: &Prompts) -> Vec<String> {
    let markers = documents(prompts).filter_map(|document| {
        let (name, line) = document.literal_marker()?;
        let variable = name.to_ascii_lowercase();
        let path = &document.path;
        Some(format!(
            "{path}: line {line}: `##{name}##` is only text here; write {{{{{variable}}}}}, or put the file below builtin/system/"
        ))
    });
    let options = documents(prompts).flat_map(|document| {
        let unknown = document.front.unknown_options();
        unknown.map(|(name, cure)| {
            let problem = format!("no provider takes an option `{name}`, which config sets");
            document.fault(document.line_of_key(&["config", name]), problem, cure).to_string()
        })
    });
    markers.chain(options).collect()
}

fn documents(prompts: &Prompts) -> impl Iterator<Item = &Document> {
    prompts.values().flat_map(BTreeMap::values)
}

/// Where the languages of one prompt ask for different variables.
fn disagreements(translations: &BTreeMap<Language, Document>, default: &Language) -> Vec<PromptFault> {
    let Some(source) = source_of(translations, default) else {
        return Vec::new();
    };
    let schema = schema_of(translations);
    let states_schema = translations.values().find(|document| document.schema.is_some());
    let mut faults = Vec::new();
    for document in translations.values() {
        if let Some(other) =
            states_schema.filter(|_| document.schema.is_some() && document.schema.as_ref() != schema)
        {
            let problem = format!("input.schema differs from that of {}", other.path);
            let line = document.line_of_key(&["input", "schema"]);
            faults.push(document.fault(
                line,
                problem,
                "state it in one language only, or the same in all of them",
            ));
        }
        let undeclared =
            document.template.variables.keys().filter(|name| schema.is_some_and(|s| !s.allows(name)));
        faults.extend(undeclared.map(|name| not_in_schema(document, schema, name)));
        for name in
            document.template.variables.keys().filter(|name| !source.template.variables.contains_key(*name))
        {
            let near = nearest(name, source.template.variables.keys().map(String::as_str));
            let problem = format!("the variable `{name}` is not used by {}", source.path);
            faults.push(document.fault(document.line_of_variable(name), problem, same_variables(near)));
        }
        for name in
            source.template.variables.keys().filter(|name| !document.template.variables.contains_key(*name))
        {
            let problem = format!("the variable `{name}` of {} is not used", source.path);
            faults.push(document.fault(None, problem, same_variables(None)));
        }
    }
    faults
}

fn same_variables(near: Option<&str>) -> String {
    near.map_or_else(
        || "use the same variables in all languages of a prompt".to_owned(),
        |near| format!("did you mean `{near}`?"),
    )
}

fn not_in_schema(document: &Document, schema: Option<&Schema>, name: &str) -> PromptFault {
    let known: Vec<&str> = schema.into_iter().flat_map(Schema::names).collect();
    let cure = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add a line `{name}: string` to it"),
    };
    let problem = format!("the variable `{name}` is not in the prompt's input.schema");
    document.fault(document.line_of_variable(name), problem, cure)
}

/// Defaults for variables that the prompt has not got, or of a kind that its schema refuses.
fn useless_defaults(translations: &BTreeMap<Language, Document>, prompts: &Prompts) -> Vec<PromptFault> {
    if translations.values().all(|document| document.front.input.default.is_empty()) {
        return Vec::new();
    }
    let schema = schema_of(translations);
    let mut names = BTreeSet::new();
    for document in translations.values() {
        names.extend(all_variables(document, prompts));
    }
    names.extend(schema.into_iter().flat_map(Schema::names));
    let mut faults = Vec::new();
    for document in translations.values() {
        for (name, value) in &document.front.input.default {
            let line = document.line_of_key(&["input", "default", name]);
            if !names.contains(name.as_str()) {
                let problem =
                    format!("input.default sets `{name}`, a variable that the prompt does not have");
                faults.push(document.fault(line, problem, did_you_mean(name, names.iter().copied())));
            } else if let Some(problem) = schema.and_then(|schema| schema.objection(name, value)) {
                let cure = "give a default that the prompt's input.schema allows";
                faults.push(document.fault(line, format!("input.default: {problem}"), cure));
            }
        }
    }
    faults
}

/// The variables of a document and of all that it includes.
pub(super) fn all_variables<'p>(document: &'p Document, prompts: &'p Prompts) -> BTreeSet<&'p str> {
    let mut seen = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut next = vec![document];
    while let Some(document) = next.pop() {
        names.extend(document.template.variables.keys().map(String::as_str));
        for partial in document.template.partials.keys().filter(|name| seen.insert(name.as_str())) {
            next.extend(documents(prompts).filter(|other| template_name(other) == *partial));
        }
    }
    names
}

fn unknown_partials(prompts: &Prompts) -> Vec<PromptFault> {
    let known: BTreeSet<String> = documents(prompts).map(template_name).collect();
    let mut faults = Vec::new();
    for document in documents(prompts) {
        for name in document.template.partials.keys().filter(|name| !known.contains(*name)) {
            let cure = nearest(name, known.iter().map(String::as_str)).map_or_else(
                || format!("write it as _{name}.prompt beside this one"),
                |near| format!("did you mean `{near}`?"),
            );
            let problem = format!("it includes `{name}`, which does not exist");
            faults.push(document.fault(document.line_of_partial(name), problem, cure));
        }
    }
    faults
}

/// All that a name may stand for when it is included: a prompt in any language, or what any template brings under it.
/// What one brings is seen by all that it includes.
type Bodies<'p> = BTreeMap<String, Vec<&'p Body>>;

fn bodies(prompts: &Prompts) -> Bodies<'_> {
    let mut bodies = Bodies::new();
    for document in documents(prompts) {
        bodies.entry(template_name(document)).or_default().push(&document.template.body);
        for (name, inlined) in &document.template.inlined {
            bodies.entry(name.clone()).or_default().push(inlined);
        }
    }
    bodies
}

/// Prompts that include themselves by way of others, or of templates that they bring: these would render for ever.
fn circles(prompts: &Prompts, bodies: &Bodies<'_>) -> Vec<PromptFault> {
    let reaches = |from: &str, goal: &str| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(name) = next.pop() {
            if seen.insert(name) {
                let bodies = bodies.get(name).into_iter().flatten();
                next.extend(bodies.flat_map(|body| body.includes.keys()).map(String::as_str));
            }
        }
        seen.contains(goal)
    };
    let mut faults = Vec::new();
    for document in documents(prompts) {
        let own_name = template_name(document);
        let inlined = document.template.inlined.iter().map(|(name, body)| (name.as_str(), body));
        let mut edges: Vec<(&String, &str)> = Vec::new();
        for (name, body) in inlined.chain([(own_name.as_str(), &document.template.body)]) {
            edges.extend(body.includes.keys().map(|partial| (partial, name)));
        }
        if let Some((partial, _)) = edges.into_iter().find(|(partial, name)| reaches(partial, name)) {
            let problem = "it includes itself, directly or by way of another prompt";
            let cure = format!("take {{{{> {partial}}}}} out");
            faults.push(document.fault(document.line_of_partial(partial), problem, cure));
        }
    }
    faults
}

/// What is included counts for so many blocks: it takes more of the stack, and of its variables a copy.
const BLOCKS_OF_AN_INCLUDE: usize = 4;

/// Prompts that are too deep with what they include. There are no circles.
fn too_deep(prompts: &Prompts, bodies: &Bodies<'_>) -> Vec<PromptFault> {
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    let depth_of = |body: &Body, depths: &BTreeMap<&str, usize>| {
        let with = |(name, around): (&String, &usize)| {
            around + BLOCKS_OF_AN_INCLUDE + depths.get(name.as_str()).copied().unwrap_or(0)
        };
        body.includes.iter().map(with).fold(body.deepest, usize::max)
    };
    // Each round sees one include further. Those beyond the bound are too deep anyway.
    for _ in 0..=DEEPEST / BLOCKS_OF_AN_INCLUDE {
        for (name, bodies) in bodies {
            let depth = bodies.iter().map(|body| depth_of(body, &depths)).max().unwrap_or(0);
            depths.insert(name, depth);
        }
    }
    let too_deep = documents(prompts).filter(|document| depth_of(&document.template.body, &depths) > DEEPEST);
    let fault = |document: &Document| {
        let problem = format!("with what it includes, more than {DEEPEST} blocks stand in each other");
        document.fault(None, problem, "include less, or put blocks beside each other")
    };
    too_deep.map(fault).collect()
}
