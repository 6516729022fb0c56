//! Prompts: front matter, templates and what holds between them, loaded and rendered with some variables.

use std::path::Path;
use std::sync::LazyLock;

use llm_proxy_api::prompts::{Language, PromptLibrary, Wanted};
use serde_json::json;

use crate::chance::Chance;

const PIECES: &[&str] = &[
    "{{a}}",
    "{{{b.c}}}",
    "{{&d}}",
    "{{this}}",
    "{{@index}}",
    "{{../a}}",
    "{{lookup m 'k'}}",
    "{{len xs}}",
    "{{> p1}}",
    "{{> p2 x=a}}",
    "{{> (lookup this 'a')}}",
    "{{else}}",
    "{{else if b}}",
    "{{^}}",
    "\\{{",
    "\\\\",
    "{{! c }}",
    "{{!-- }} --}}",
    "{{",
    "}}",
    "{{{{raw}}}}",
    "{{{{/raw}}}}",
    "{{/if}}",
    "\"",
    "'",
    "[",
    "]",
    "(",
    ")",
    "text\n",
    "ż",
    "{{#if (eq a \"}}\")}}",
    "{{a.[x y]}}",
    "{{log a}}",
    "##A##",
    "{{eq a [1, \"x\"]}}",
    "{{#each [\"a\"]}}",
];
const PAIRS: &[(&str, &str)] = &[
    ("{{#if a}}", "{{/if}}"),
    ("{{~#unless b~}}", "{{~/unless}}"),
    ("{{#each xs}}", "{{/each}}"),
    ("{{#each xs as |x i|}}", "{{/each}}"),
    ("{{#with m}}", "{{/with}}"),
    ("{{#*inline \"p1\"}}", "{{/inline}}"),
    ("{{#*inline \"p3\"}}", "{{/inline}}{{> p3}}"),
    ("{{#> p1}}", "{{/p1}}"),
    ("{{#if (not ", ")}}x{{/if}}"),
    ("{{!--", "--}}"),
    ("{{{{raw}}}}", "{{{{/raw}}}}"),
];
const FRONT: &[&str] = &[
    "description: x\n",
    "version: 1.10\n",
    "input:\n",
    "  schema:\n",
    "    a: string, words\n",
    "    xs(array): string\n",
    "    m(object):\n",
    "      k?: integer\n",
    "  default:\n",
    "    a: 1\n",
    "config:\n",
    "  temperature: 0.5\n",
    "  x: [[[[[[1]]]]]]\n",
    "&a [*a]\n",
    "? x\n",
    "- y\n",
    "|\n",
    "\t",
    "source_hash: sha256-1\n",
    "    type: object\n",
    "    properties: {a: {type: string, maxLength: 3}}\n",
    "[",
    "{a: ",
];

/// Files at which something has failed once, and sound ones.
static CORPUS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let folders = ["fuzz/corpus", "resources/prompts/en", "resources/prompts/pl"];
    let folders = folders.map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
});

pub(crate) fn attempt(chance: &mut Chance, _: &Path) {
    let files: Vec<(String, String)> =
        ["p0", "p1", "p2"].map(|name| (format!("en/{name}.prompt"), prompt(chance))).into();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let english = Language::parse("en").unwrap();
    // Together they seldom load: each counts by itself as well.
    let libraries = std::iter::once(&files[..]).chain(files.chunks(1));
    for library in libraries.filter_map(|files| PromptLibrary::of_texts(files, &english).ok()) {
        let words = "w ".repeat(chance.below(5000));
        let xs: Vec<usize> = (0..chance.below(400)).collect();
        let variables = json!({"a": words, "b": {"c": 1}, "d": null, "xs": xs, "m": {"k": [xs]}, "x": "p1"});
        for prompt in library.list() {
            let rendered = library.render(&prompt.name, &Wanted::default(), variables.as_object().unwrap());
            assert!(!rendered.is_ok_and(|rendered| rendered.text.len() > 4 << 20), "within bounds");
        }
    }
}

fn prompt(chance: &mut Chance) -> String {
    let mut text = match chance.below(4) {
        0 => chance.one_of(&CORPUS).clone(),
        1 => format!(
            "---\n{}---\n{}",
            chance.text_of(FRONT, &[("[", "]"), ("{a: ", "}")], 4),
            chance.text_of(PIECES, PAIRS, 3)
        ),
        _ => chance.text_of(PIECES, PAIRS, 5),
    };
    if chance.once_in(3) {
        let mut bytes = text.into_bytes();
        chance.change(&mut bytes);
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    text
}
