//! The library as a whole: what loads, what does not, and what is rendered.

use serde_json::json;

use super::*;
use crate::prompts::{Coverage, State};

fn english() -> Language {
    Language::parse("en").unwrap()
}

fn library(files: &[(&str, &str)]) -> Result<PromptLibrary, LibraryError> {
    let file =
        |(path, text): &(&str, &str)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() };
    PromptLibrary::of_files(&files.iter().map(file).collect::<Vec<_>>(), &english())
}

fn problems(files: &[(&str, &str)]) -> String {
    library(files).unwrap_err().to_string()
}

fn wanted(tag: &str) -> Wanted {
    Wanted { requested: Language::parse(tag), ..Wanted::default() }
}

fn render(library: &PromptLibrary, name: &str, tag: &str, variables: &Value) -> Result<String, PromptError> {
    library.render(name, &wanted(tag), variables.as_object().unwrap()).map(|rendered| rendered.text)
}

#[test]
fn a_prompt_is_rendered_in_the_wanted_language() {
    let library =
        library(&[("en/hi.prompt", "Hello {{who}} <3"), ("pl/hi.prompt", "Cześć {{who}}")]).unwrap();

    let rendered =
        library.render("hi", &wanted("pl-PL"), json!({"who": "<Ala>"}).as_object().unwrap()).unwrap();

    assert_eq!(rendered.text, "Cześć <Ala>");
    assert_eq!((rendered.language.as_str(), rendered.requested_language.as_str()), ("pl", "pl-PL"));
    assert!(rendered.fallback);
    assert_eq!(render(&library, "hi", "fr", &json!({"who": "x"})).unwrap(), "Hello x <3");
}

#[test]
fn a_variable_that_is_missing_is_named() {
    let library = library(&[("en/hi.prompt", "Hello {{user.name}}")]).unwrap();

    assert_eq!(
        render(&library, "hi", "en", &json!({"user": {}})),
        Err(PromptError::MissingVariable { name: "hi".to_owned(), variable: "user.name".to_owned() })
    );
}

#[test]
fn variables_are_never_templates() {
    let library = library(&[("en/hi.prompt", "{{text}}")]).unwrap();
    assert_eq!(
        render(&library, "hi", "en", &json!({"text": "{{secret}} {{#each x}}"})).unwrap(),
        "{{secret}} {{#each x}}"
    );
}

#[test]
fn optional_variables_and_defaults_are_filled_in() {
    let text = "---\ninput:\n  schema:\n    who: string\n    tone?: string\n    count?: integer\n  default:\n    tone: warm\n---\n{{who}} {{tone}}{{#if count}} {{count}}{{/if}}";
    let library = library(&[("en/hi.prompt", text)]).unwrap();

    assert_eq!(render(&library, "hi", "en", &json!({"who": "a"})).unwrap(), "a warm");
    assert_eq!(
        render(&library, "hi", "en", &json!({"who": "a", "tone": "cold", "count": 2})).unwrap(),
        "a cold 2"
    );
    let error = render(&library, "hi", "en", &json!({"who": 3})).unwrap_err();
    assert!(matches!(error, PromptError::InvalidVariable { ref variable, .. } if variable == "who"));
}

#[test]
fn labels_choose_a_variant_or_a_version() {
    let library =
        library(&[("en/hi.prompt", "---\nversion: 2\n---\nplain"), ("en/hi.short.prompt", "short")]).unwrap();

    let text = |name: &str| render(&library, name, "en", &json!({}));
    assert_eq!(text("hi").unwrap(), "plain");
    assert_eq!(text("hi@short").unwrap(), "short");
    assert_eq!(text("hi@2").unwrap(), "plain");
    assert!(matches!(text("hi@long"), Err(PromptError::UnknownLabel { .. })));
    assert!(matches!(text("ho@long"), Err(PromptError::Unknown(_))));
}

#[test]
fn strictness_refuses_another_language() {
    let library = library(&[("en/hi.prompt", "x")]).unwrap();
    let strict = Wanted { strict: true, ..wanted("pl") };
    assert!(matches!(library.render("hi", &strict, &Map::new()), Err(PromptError::NotTranslated { .. })));
}

#[test]
fn partials_follow_the_language_and_are_not_listed() {
    let library = library(&[
        ("en/hi.prompt", "Hello. {{> sign}}"),
        ("pl/hi.prompt", "Cześć. {{> sign}}"),
        ("de/hi.prompt", "Hallo. {{> sign}}"),
        ("en/_sign.prompt", "Bye"),
        ("pl/_sign.prompt", "Pa"),
    ])
    .unwrap();

    assert_eq!(render(&library, "hi", "pl", &json!({})).unwrap(), "Cześć. Pa");
    assert_eq!(render(&library, "hi", "de", &json!({})).unwrap(), "Hallo. Bye");
    assert_eq!(library.list().len(), 1);
    assert!(matches!(library.get("sign"), Err(PromptError::Unknown(_))));
}

#[test]
fn languages_must_agree_on_variables() {
    let message = problems(&[("en/hi.prompt", "{{a}} {{b}}"), ("pl/hi.prompt", "{{a}} {{c}}")]);
    assert!(
        message.contains("pl/hi.prompt") && message.contains("`b`") && message.contains("`c`"),
        "{message}"
    );
}

#[test]
fn languages_must_agree_on_the_schema() {
    let with = |kind: &str| format!("---\ninput:\n  schema:\n    a: {kind}\n---\n{{{{a}}}}");
    assert!(library(&[("en/hi.prompt", &with("string")), ("pl/hi.prompt", &with("string, opis"))]).is_ok());
    assert!(
        problems(&[("en/hi.prompt", &with("string")), ("pl/hi.prompt", &with("integer"))]).contains("schema")
    );
}

#[test]
fn a_template_may_use_only_what_the_schema_declares() {
    let text = "---\ninput:\n  schema:\n    a: string\n---\n{{a}} {{b}}";
    assert!(problems(&[("en/hi.prompt", text)]).contains("`b` is not in"));
    let text = "---\ninput:\n  schema:\n    a: string\n  default:\n    b: 1\n---\n{{a}}";
    assert!(problems(&[("en/hi.prompt", text)]).contains("input.default sets `b`"));
}

#[test]
fn unknown_partials_and_circles_do_not_load() {
    assert!(problems(&[("en/a.prompt", "{{> nowhere}}")]).contains("`nowhere`"));
    let message =
        problems(&[("en/a.prompt", "{{> b}}"), ("en/b.prompt", "{{> c}}"), ("en/c.prompt", "{{> b}}")]);
    assert!(
        message.contains("en/b.prompt: it includes itself") && !message.contains("en/a.prompt"),
        "{message}"
    );
}

#[test]
fn the_same_prompt_in_two_trees_does_not_load() {
    let message = problems(&[("en/a.prompt", "x"), ("builtin/system/en/a.prompt", "y")]);
    assert!(message.contains("same prompt"), "{message}");
}

#[test]
fn all_faults_are_told_with_file_and_line() {
    let message = problems(&[("en/a.prompt", "x\n{{#if}}"), ("en/b.prompt", "---\nx: 1\n---\n")]);
    assert!(
        message.contains("en/a.prompt: line 2:") && message.contains("en/b.prompt: line 2:"),
        "{message}"
    );
}

#[test]
fn coverage_tells_missing_and_stale_translations() {
    let source = library(&[("en/a.prompt", "one")]).unwrap();
    let hash = source.get("a").unwrap().translations[0].hash.clone();
    let current = format!("---\nsource_hash: {hash}\n---\njeden");
    let library = library(&[
        ("en/a.prompt", "one"),
        ("pl/a.prompt", &current),
        ("en/b.prompt", "two"),
        ("pl/b.prompt", "---\nsource_hash: \"000000000000\"\n---\ndwa"),
        ("en/c.prompt", "three"),
        ("pl/d.prompt", "cztery"),
        ("de/c.prompt", "drei"),
    ])
    .unwrap();

    let coverage = Coverage::of(&library);

    let languages: Vec<_> = coverage.languages.iter().map(Language::as_str).collect();
    assert_eq!(languages, ["de", "en", "pl"]);
    let states: Vec<_> = coverage.rows.iter().map(|row| row.states.clone()).collect();
    assert_eq!(
        states,
        [
            [State::Missing, State::Source, State::Current],
            [State::Missing, State::Source, State::Stale],
            [State::Unknown, State::Source, State::Missing],
            [State::Missing, State::Missing, State::Source],
        ]
    );
    assert!(!coverage.is_complete());
}
