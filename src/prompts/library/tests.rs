//! The library as a whole: what loads, what does not, and what is rendered.

use serde_json::json;

use super::*;
use crate::prompts::{Coverage, State};

fn english() -> Language {
    Language::parse("en").unwrap()
}

fn library(files: &[(&str, &str)]) -> Result<PromptLibrary, LibraryError> {
    PromptLibrary::of_texts(files, &english())
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
fn an_option_that_no_provider_takes_draws_a_warning_with_its_line() {
    let text = "---\nconfig:\n  temperature: 0.2\n  temprature: 0.3\n  topK: 3\n  num_ctx: 4096\n  zzz: 1\n---\nHello";
    let library = library(&[("en/hi.prompt", text)]).unwrap();
    let [slip, unknown] = library.warnings() else { panic!("{:?}", library.warnings()) };
    assert_eq!(
        slip,
        "en/hi.prompt: line 4: no provider takes an option `temprature`, which config sets; did you mean `temperature`?"
    );
    assert!(unknown.starts_with("en/hi.prompt: line 7: no provider takes an option `zzz`"), "{unknown}");
    assert!(unknown.contains("known here are temperature, "), "{unknown}");
}

#[test]
fn a_translation_has_the_settings_of_its_source_unless_it_states_its_own() {
    let source = "---\nversion: 2\nmodel: m\nconfig:\n  temperature: 0.3\n---\nHi";
    let library = library(&[
        ("en/hi.prompt", source),
        ("pl/hi.prompt", "Cześć"),
        ("de/hi.prompt", "---\nversion: 3\nconfig:\n  top_p: 0.5\n---\nHallo"),
        ("fr/hi.prompt", "---\nconfig: {}\n---\nSalut"),
        ("pl/hi.short.prompt", "Hej"),
    ])
    .unwrap();
    let of = |name: &str, language: &str| {
        let rendered = library.render(name, &wanted(language), &Map::new()).unwrap();
        (rendered.reference(), Value::Object(rendered.config))
    };
    assert_eq!(of("hi", "pl"), ("hi@2/pl".to_owned(), json!({"temperature": 0.3})));
    assert_eq!(of("hi", "de"), ("hi@3/de".to_owned(), json!({"top_p": 0.5})));
    assert_eq!(of("hi", "fr"), ("hi@2/fr".to_owned(), json!({})));
    assert_eq!(of("hi@short", "pl"), ("hi@short/pl".to_owned(), json!({})));
    let models = library.get("hi").unwrap().translations.into_iter().map(|it| it.model);
    assert!(models.eq(vec![Some("m".to_owned()); 4]));
}

#[test]
fn a_misspelt_variable_is_named_with_the_missing_one() {
    let library = library(&[
        ("en/free.prompt", "Hello {{name}}, {{> end}}"),
        ("en/_end.prompt", "yours {{from}}"),
        (
            "en/ruled.prompt",
            "---\ninput:\n  schema:\n    name: string\n    mood?: string\n---\nHello {{name}}",
        ),
    ])
    .unwrap();
    for (prompt, variables, missing, given) in [
        ("free", json!({"nam": "Ada", "from": "x"}), "`name`", "; `nam` was given"),
        ("free", json!({"name": "Ada", "form": "x", "b": 1}), "`from`", "; `form`, `b` was given"),
        ("ruled", json!({"Name": "Ada", "mood": "x"}), "`name`", "; `Name` was given"),
        ("ruled", json!({"mood": "x"}), "`name`", "needs the variable `name`"),
    ] {
        let error = render(&library, prompt, "en", &variables).unwrap_err().to_string();
        assert!(error.contains(missing) && error.contains(given), "{prompt} {variables}: {error}");
    }
    let error = render(&library, "ruled", "en", &json!({"name": "Ada", "mod": "x"})).unwrap_err();
    assert!(error.to_string().ends_with("`mod` is not known to the prompt; did you mean `mood`?"), "{error}");
}

#[test]
fn a_variable_that_is_missing_is_named() {
    let library = library(&[("en/hi.prompt", "Hello {{user.name}}")]).unwrap();

    assert_eq!(
        render(&library, "hi", "en", &json!({"user": {}})),
        Err(PromptError::MissingVariable {
            name: "hi".to_owned(),
            variable: "user.name".to_owned(),
            unknown: Vec::new(),
        })
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
    let unknown = text("ho@long").unwrap_err();
    assert!(matches!(unknown, PromptError::Unknown { .. }));
    assert!(!unknown.to_string().contains("did you mean"), "{unknown}");
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
    assert!(matches!(library.get("sign"), Err(PromptError::Unknown { .. })));
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
fn what_one_language_declares_holds_for_all() {
    let declared = "---\ninput:\n  schema:\n    who?: string\n  default:\n    who: you\n---\nHi {{who}}!";
    let own = "---\ninput:\n  default:\n    who: Du\n---\nHallo {{who}}!";
    let library =
        library(&[("en/hi.prompt", declared), ("pl/hi.prompt", "Hej {{who}}!"), ("de/hi.prompt", own)])
            .unwrap();

    for (language, text) in [("en", "Hi you!"), ("pl", "Hej you!"), ("de", "Hallo Du!")] {
        assert_eq!(render(&library, "hi", language, &json!({})).unwrap(), text);
    }
    let error = render(&library, "hi", "pl", &json!({"who": 3})).unwrap_err();
    assert!(matches!(error, PromptError::InvalidVariable { .. }), "the schema holds, too: {error}");
}

#[test]
fn defaults_must_be_for_variables_of_the_prompt() {
    let with = |name: &str, value: &str, body: &str| {
        format!("---\ninput:\n  default:\n    {name}: {value}\n---\n{body}")
    };
    let message = problems(&[("en/hi.prompt", &with("nme", "x", "Hi {{name}}"))]);
    assert!(
        message.contains("line 4: input.default sets `nme`") && message.contains("did you mean `name`?"),
        "{message}"
    );
    // Of what it includes, too.
    let body = with("who", "x", "{{> sign}}");
    assert!(library(&[("en/hi.prompt", &body), ("en/_sign.prompt", "{{who}}")]).is_ok());
    let wrong = "---\ninput:\n  schema:\n    n: integer\n  default:\n    n: many\n---\n{{n}}";
    let message = problems(&[("en/hi.prompt", wrong)]);
    assert!(message.contains("line 6: input.default: `n` must be of type integer"), "{message}");
}

#[test]
fn a_name_in_the_folder_takes_the_place_of_the_shipped_prompt_in_all_languages() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("de")).unwrap();
    for (path, text) in [
        ("de/translate.prompt", "Meins."),
        ("de/eigenes.prompt", "Neu."),
        ("de/simplify-text.short.prompt", "Kurz."),
    ] {
        std::fs::write(folder.path().join(path), text).unwrap();
    }
    let library = PromptLibrary::load(folder.path(), &english()).unwrap();

    assert_eq!(render(&library, "translate", "en", &json!({})).unwrap(), "Meins.");
    assert_eq!(library.get("translate").unwrap().translations.len(), 1);
    assert_eq!(library.get("chat-conversation-simple").unwrap().translations.len(), 2);
    assert!(library.get("simplify-text").is_ok() && library.get("simplify-text@short").is_ok());
    assert_eq!((library.list().len(), library.shipped_count()), (9, 6));
    assert!(library.warnings().is_empty());
    let covered: Vec<String> = Coverage::of(&library).rows.into_iter().map(|row| row.name).collect();
    assert_eq!(covered, ["eigenes", "simplify-text@short", "translate"]);
}

#[test]
fn an_empty_folder_draws_a_warning_and_the_shipped_prompts_serve() {
    let folder = tempfile::tempdir().unwrap();
    let library = PromptLibrary::load(folder.path(), &english()).unwrap();
    assert!(library.warnings()[0].contains("not one prompt"), "{:?}", library.warnings());
    assert_eq!(library.list().len(), library.shipped_count());
}

#[test]
fn a_marker_of_the_old_tree_draws_a_warning_in_the_new_one() {
    let files = [("en/a.prompt", "---\nversion: 1\n---\nC## is one\nAsk ##USER_Q##.")];
    let warnings = library(&files).unwrap().warnings().to_vec();
    assert_eq!(warnings.len(), 1);
    for words in ["en/a.prompt: line 5: `##USER_Q##`", "{{user_q}}", "builtin/system/"] {
        assert!(warnings[0].contains(words), "{warnings:?}");
    }
    assert!(library(&[("builtin/system/en/a.prompt", "##USER_Q##")]).unwrap().warnings().is_empty());
}

#[test]
fn a_marker_takes_its_variable_in_small_letters_or_as_it_is_written() {
    let library = library(&[("builtin/system/en/a.prompt", "Ask ##USER_Q##.")]).unwrap();
    for name in ["user_q", "USER_Q"] {
        assert_eq!(render(&library, "a", "en", &json!({name: "why"})).unwrap(), "Ask why.");
    }
}

#[test]
fn a_language_is_spoken_if_there_is_a_prompt_in_it_or_in_a_more_general_one() {
    let library = library(&[("pt/a.prompt", "x")]).unwrap();
    for (tag, spoken) in [("pt", true), ("pt-BR", true), ("de", false)] {
        assert_eq!(library.speaks(&Language::parse(tag).unwrap()), spoken, "{tag}");
    }
}

#[test]
fn a_template_may_use_only_what_the_schema_declares() {
    let text = "---\ninput:\n  schema:\n    a: string\n---\n{{a}} {{b}}";
    assert!(
        problems(&[("en/hi.prompt", text)])
            .contains("line 6: the variable `b` is not in the prompt's input.schema; add a line")
    );
    let text = "---\ninput:\n  schema:\n    a: string\n  default:\n    b: 1\n---\n{{a}}";
    assert!(problems(&[("en/hi.prompt", text)]).contains("line 6: input.default sets `b`"));
}

#[test]
fn unknown_partials_and_circles_do_not_load() {
    assert!(problems(&[("en/a.prompt", "x\n{{> nowhere}}")]).contains("line 2: it includes `nowhere`"));
    let near = problems(&[("en/a.prompt", "{{> sing}}"), ("en/_sign.prompt", "Bye")]);
    assert!(near.contains("did you mean `sign`?"), "{near}");
    let message =
        problems(&[("en/a.prompt", "{{> b}}"), ("en/b.prompt", "{{> c}}"), ("en/c.prompt", "{{> b}}")]);
    assert!(
        message.contains("en/b.prompt: line 1: it includes itself") && !message.contains("en/a.prompt"),
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

#[test]
fn templates_that_would_never_end_or_overflow_the_stack_do_not_load() {
    let own = "{{#*inline \"a\"}}{{> a}}{{/inline}}{{> a}}";
    let two = "{{#*inline \"a\"}}{{> b}}{{/inline}}{{#*inline \"b\"}}{{> a}}{{/inline}}{{> a}}";
    for (text, words) in [
        (own, "it includes itself"),
        (two, "it includes itself"),
        ("{{> (lookup this 'which')}}", "computed"),
        (&("{{#if a}}".repeat(1000) + &"{{/if}}".repeat(1000)), "more than 64 blocks"),
        (&("{{#with a}}".repeat(100_000) + &"{{/with}}".repeat(100_000)), "more than 64 blocks"),
        (&("---\nconfig:\n  x: ".to_owned() + &"[".repeat(100_000)), "front matter"),
        (
            &format!("---\nconfig:\n  x: {}{}\n---\n", "[".repeat(100_000), "]".repeat(100_000)),
            "recursion limit",
        ),
        (
            &format!("---\ninput:\n  schema: {}{}\n---\n", "{a: ".repeat(100_000), "}".repeat(100_000)),
            "nested too deep",
        ),
    ] {
        let message = problems(&[("en/p.prompt", text)]);
        assert!(message.contains(words), "{}: {message}", text.chars().take(60).collect::<String>());
    }
    // What one brings is seen by what it includes.
    let brings = "{{#*inline \"b\"}}{{> c}}{{/inline}}{{> c}}";
    let message = problems(&[("en/a.prompt", brings), ("en/c.prompt", "{{> b}}"), ("en/b.prompt", "x")]);
    assert!(message.contains("en/a.prompt") && message.contains("it includes itself"), "{message}");
    // A long chain is as deep as one template.
    let chain: Vec<(String, String)> = (0..300)
        .map(|at| (format!("en/p{at}.prompt"), format!("{{{{#if a}}}}{{{{> p{}}}}}{{{{/if}}}}", at + 1)))
        .chain([("en/p300.prompt".to_owned(), "{{a}}".to_owned())])
        .collect();
    let chain: Vec<(&str, &str)> = chain.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    assert!(problems(&chain).contains("with what it includes, more than 64 blocks"));
    assert!(library(&chain[290..]).is_ok());
}

#[test]
fn the_deepest_templates_that_load_can_be_rendered_on_a_small_stack() {
    let nested = |depth: usize| "{{#if a}}".repeat(depth) + "{{a}}" + &"{{/if}}".repeat(depth);
    let chained = format!("{{{{#if b}}}}{}{{{{/if}}}}", "{{else if a}}x".repeat(63));
    let brackets = format!("{{{{#if {}a{}}}}}x{{{{/if}}}}", "(not ".repeat(64), ")".repeat(64));
    let includes: Vec<(String, String)> = (0..15)
        .map(|at| (format!("en/_i{at}.prompt"), format!("{{{{> i{}}}}}", at + 1)))
        .chain([("en/_i15.prompt".to_owned(), "{{a}}".to_owned())])
        .collect();
    let deep = nested(64);
    let mut files = vec![("en/deep.prompt", deep.as_str()), ("en/chain.prompt", &chained)];
    files.extend([("en/brackets.prompt", brackets.as_str()), ("en/includes.prompt", "{{> i0}}")]);
    files.extend(includes.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    let library = library(&files).unwrap();
    // Threads have two megabytes.
    let work = move || {
        for name in ["deep", "chain", "brackets", "includes"] {
            render(&library, name, "en", &json!({"a": true, "b": false})).unwrap();
        }
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn variables_that_make_a_prompt_too_much_work_are_refused_soon() {
    let loops = "{{#each xs}}{{#each ../xs}}{{#each ../../xs}}{{/each}}{{/each}}{{/each}}";
    let compares = "{{#each xs}}{{#if (eq @root.big @root.other)}}{{/if}}{{/each}}";
    let doubles: Vec<(String, String)> = (0..14)
        .map(|at| {
            (format!("en/_d{at}.prompt"), format!("{{{{> d{0}}}}}{{{{> d{0}}}}}{{{{> d{0}}}}}", at + 1))
        })
        .chain([("en/_d14.prompt".to_owned(), "x".to_owned())])
        .collect();
    let mut files = vec![
        ("en/loops.prompt", loops),
        ("en/written.prompt", "{{#each xs}}{{#each @root.xs}}{{@root.big}}{{/each}}{{/each}}"),
        ("en/one.prompt", "{{big}}"),
        ("en/compares.prompt", compares),
        ("en/doubles.prompt", "{{> d0}}"),
        (
            "en/copies.prompt",
            "{{#each xs}}{{#with (lookup @root.m 'list')}}{{#each this}}{{/each}}{{/with}}{{/each}}",
        ),
        ("en/fine.prompt", "{{#each xs}}{{this}}{{/each}}"),
    ];
    files.extend(doubles.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    let library = library(&files).unwrap();
    let xs: Vec<u32> = (0..700).collect();
    let big = "b".repeat(5_000_000);
    let other = big.clone();
    let list: Vec<&str> = std::iter::repeat_n("word", 100_000).collect();
    let variables = json!({"xs": xs, "big": big, "other": other, "m": {"list": list}});
    for name in ["loops", "written", "one", "compares", "doubles", "copies"] {
        let error = render(&library, name, "en", &variables).unwrap_err();
        assert_eq!(error, PromptError::TooLarge(name.to_owned()), "{name}");
    }
    assert!(render(&library, "fine", "en", &variables).unwrap().starts_with("0123"));
}
