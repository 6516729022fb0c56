//! The prompt library over HTTP: list, read, preview.

use serde_json::{Value, json};

use crate::support::{Setup, answer};

const GREETING: &str = "---\ndescription: Greets\ninput:\n  schema:\n    name: string, who is greeted\n    mood?: string\n  default:\n    mood: cheerful\nconfig:\n  temperature: 0.3\n---\nGreet {{name}} in a {{mood}} way. <b>\n";

fn setup() -> Setup {
    Setup::new()
        .file("prompts/en/greet.prompt", GREETING)
        .file("prompts/de/greet.prompt", "---\ninput:\n  schema:\n    name: string\n    mood?: string\n  default:\n    mood: froh\n---\nGrüße {{name}}, {{mood}}.\n")
        .file("prompts/en/deep/inner.prompt", "No variables here.\n")
        .file("prompts/en/chat-conversation-simple.prompt", "Talk.\n")
        .env("PROMPTS_DIR", "prompts")
}

#[tokio::test]
async fn the_list_names_prompts_and_languages() {
    let gateway = setup().start();
    let (status, list) = answer(gateway.get("/api/prompts")).await;
    assert_eq!(status, 200);
    let prompts = list["prompts"].as_array().unwrap();
    let names: Vec<&str> = prompts.iter().filter_map(|prompt| prompt["name"].as_str()).collect();
    for name in ["chat-conversation-simple", "deep/inner", "greet"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let greet = prompts.iter().find(|prompt| prompt["name"] == "greet").unwrap();
    assert_eq!(greet["description"], "Greets");
    let languages = greet["languages"].to_string();
    assert!(languages.contains("de") && languages.contains("en"), "{languages}");
}

#[tokio::test]
async fn a_prompt_is_read_with_its_variables_and_translations() {
    let gateway = setup().start();
    let (status, prompt) = answer(gateway.get("/api/prompts/greet")).await;
    assert_eq!((status, &prompt["name"], &prompt["description"]), (200, &json!("greet"), &json!("Greets")));
    assert_eq!(prompt["variables"]["required"], json!(["name"]));
    let translations: Vec<(&str, &str)> = prompt["translations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["language"].as_str().unwrap(), one["template"].as_str().unwrap()))
        .collect();
    assert_eq!(
        translations,
        [("de", "Grüße {{name}}, {{mood}}."), ("en", "Greet {{name}} in a {{mood}} way. <b>")]
    );
    assert_eq!(answer(gateway.get("/api/prompts/deep%2Finner")).await.0, 200);
    let (status, error) = answer(gateway.get("/api/prompts/gret")).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("prompt_not_found")));
}

#[tokio::test]
async fn rendering_fills_variables_and_asks_no_model() {
    let gateway = setup().start();
    let render = async |body: Value| gateway.ask("/api/prompts/greet/render", &body).await;

    let (status, rendered) = render(json!({"variables": {"name": "Ann & Bob <x>"}})).await;
    assert_eq!(status, 200, "{rendered}");
    assert!(
        rendered["text"].as_str().unwrap().starts_with("Greet Ann & Bob <x> in a cheerful way. <b>"),
        "nothing is escaped: {rendered}"
    );
    assert_eq!(
        (&rendered["prompt"]["name"], &rendered["prompt"]["language"], &rendered["prompt"]["fallback"]),
        (&json!("greet"), &json!("en"), &json!(false))
    );

    let (_, rendered) = render(json!({"variables": {"name": "Ann"}, "language": "fr"})).await;
    assert_eq!(
        (
            &rendered["prompt"]["language"],
            &rendered["prompt"]["requested_language"],
            &rendered["prompt"]["fallback"]
        ),
        (&json!("en"), &json!("fr"), &json!(true))
    );

    let (status, error) =
        render(json!({"variables": {"name": "Ann"}, "language": "fr", "strict_language": true})).await;
    assert_eq!(status, 404, "{error}");

    let (status, error) = render(json!({"variables": {}})).await;
    assert_eq!(
        (status, &error["error"]["code"], &error["error"]["param"]),
        (400, &json!("prompt_variable_missing"), &json!("variables.name"))
    );
    let (status, error) = render(json!({"variables": {"name": 7}})).await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!("invalid_value")), "{error}");
    let (status, error) = render(json!({"variables": {"name": "Ann", "nmae": "x"}})).await;
    assert_eq!(status, 400, "a misspelt variable: {error}");

    assert_eq!(gateway.ask("/api/prompts/deep%2Finner/render", &json!({})).await.0, 200);
}

#[tokio::test]
async fn a_prompts_own_options_reach_the_model() {
    let gateway = setup().start();
    let body = json!({"model_name": "echo", "user_last_statement": "Hi", "stream": false, "prompt": "greet", "variables": {"name": "Ann"}});
    let response = gateway.post("/api/conversation_with_model", &body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    // Echo cannot take it, and so it is named.
    assert_eq!(response.headers()["x-llm-ignored-options"], "temperature");
}

#[tokio::test]
async fn a_folder_of_ones_own_takes_no_shipped_prompt_away() {
    let gateway = Setup::new()
        .file("prompts/en/mine.prompt", "Mine.\n")
        .file("prompts/en/translate.prompt", "My own way.\n")
        .env("PROMPTS_DIR", "prompts")
        .start_on_terminal();
    assert!(gateway.log().contains("8 in en, pl (6 of them come with the program)"), "{}", gateway.log());
    let body = json!({"model_name": "echo", "user_last_statement": "Hi", "stream": false, "language": "pl"});
    let (status, answer) = gateway.ask("/api/conversation_with_model", &body).await;
    assert_eq!((status, &answer["prompt"]["language"]), (200, &json!("pl")), "{answer}");
    let (_, rendered) = gateway.ask("/api/prompts/translate/render", &json!({"language": "pl"})).await;
    assert_eq!(rendered["text"], "My own way.", "a name is replaced in all its languages");
}

#[test]
fn a_named_folder_must_be_there_and_an_empty_one_draws_a_warning() {
    let setup = Setup::new().env("PROMPTS_DIR", "nowhere");
    for arguments in [&["check"][..], &["serve"], &["prompts", "list"]] {
        let ended = setup.run(arguments);
        assert_eq!(ended.code, Some(1));
        let told = "LLM_PROXY_API_PROMPTS_DIR: `nowhere` does not exist; name a folder";
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
    }
    let ended = Setup::new().env("PROMPTS_DIR", "prompts").file("prompts/note.txt", "x").run(&["check"]);
    assert!(
        ended.code == Some(0) && ended.stdout.contains("warning: prompts: there is not one prompt"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_default_language_without_prompts_draws_a_warning() {
    let ended = Setup::new().env("DEFAULT_EP_LANGUAGE", "fr").run(&["check"]);
    assert!(
        ended.stdout.contains("warning: LLM_PROXY_API_DEFAULT_EP_LANGUAGE: there is no prompt in `fr`"),
        "{}",
        ended.stdout
    );
    for tag in ["not a tag", "e", "en_US.UTF-8", "12"] {
        let ended = Setup::new().env("DEFAULT_EP_LANGUAGE", tag).run(&["check"]);
        assert!(ended.code == Some(1) && ended.stderr.contains("LLM_PROXY_API_DEFAULT_EP_LANGUAGE"), "{tag}");
    }
}

#[test]
fn faults_of_prompts_have_one_right_line_and_a_cure() {
    for (text, expected) in [
        ("Hello\n{{upper x}}\n", "line 2: there is no helper `upper`; known here are if"),
        (
            "---\ndescripton: x\n---\nHello\n",
            "line 2: the key `descripton` is not known here; did you mean `description`?",
        ),
        (
            "---\ninput:\n  schema:\n    a: strng\n---\n{{a}}\n",
            "line 4: input.schema.a: `strng` is no type; did you mean `string`? types are null",
        ),
        (
            "---\ninput:\n  schema:\n    name: string\n---\n\nHello\n{{nam}}\n",
            "line 8: the variable `nam` is not in the prompt's input.schema; did you mean `name`?",
        ),
        (
            "---\nconfig:\n  temperature: 9\n---\nHello\n",
            "line 3: config.temperature is 9; give a number from 0 to 2",
        ),
        ("Hello\n\n{{#if a}}\n", "line 3: `{{#if}}` is not closed; write {{/if}}"),
        ("---\ndescription: [\n---\n", "line 2: description: this is not a text; give a text"),
    ] {
        let ended =
            Setup::new().file("prompts/en/x.prompt", text).env("PROMPTS_DIR", "prompts").run(&["check"]);
        assert_eq!(ended.code, Some(1), "{text}");
        assert!(
            ended.stderr.contains(&format!("prompts/en/x.prompt: {expected}")),
            "{expected}\n{}",
            ended.stderr
        );
        assert!(
            ended.stderr.matches("line").count() <= 1 && !ended.stderr.contains("expression"),
            "{}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn labels_choose_another_file() {
    let gateway = setup()
        .file(
            "prompts/en/greet.formal.prompt",
            "---\ninput:\n  schema:\n    name: string\n    mood?: string\n---\nGood day, {{name}}.\n",
        )
        .start();
    let (status, rendered) =
        gateway.ask("/api/prompts/greet@formal/render", &json!({"variables": {"name": "Ann"}})).await;
    assert_eq!((status, rendered["text"].as_str().unwrap().trim()), (200, "Good day, Ann."), "{rendered}");
}

#[tokio::test]
async fn the_old_tree_loads_as_well() {
    let gateway = Setup::new()
        .file("prompts/builtin/system/pl/chat-conversation-simple.prompt", "Jesteś asystentem ##NAME##.\n")
        .env("PROMPTS_DIR", "prompts")
        .env("DEFAULT_EP_LANGUAGE", "pl")
        .start();
    let (status, rendered) = gateway
        .ask("/api/prompts/chat-conversation-simple/render", &json!({"variables": {"name": "Zoja"}}))
        .await;
    assert_eq!(
        (status, rendered["text"].as_str().unwrap().trim()),
        (200, "Jesteś asystentem Zoja."),
        "{rendered}"
    );
}

#[tokio::test]
async fn the_shipped_prompts_render_in_both_languages() {
    let gateway = Setup::new().start();
    let (_, list) = answer(gateway.get("/api/prompts")).await;
    let names: Vec<String> = list["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|prompt| prompt["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "answer-from-context-simple",
            "chat-conversation-simple",
            "full-article",
            "generate-questions",
            "news-on-sm",
            "simplify-text",
            "translate"
        ]
    );
    for name in names {
        for language in ["en", "pl"] {
            let mut variables = json!({});
            match name.as_str() {
                "translate" => variables = json!({"target_language": "German"}),
                "full-article" => variables = json!({"user_query": "The sea"}),
                _ => {}
            }
            let (status, rendered) = gateway
                .ask(
                    &format!("/api/prompts/{name}/render"),
                    &json!({"language": language, "variables": variables}),
                )
                .await;
            assert_eq!(
                (status, &rendered["prompt"]["language"]),
                (200, &json!(language)),
                "{name}: {rendered}"
            );
            assert!(rendered["text"].as_str().unwrap().len() > 40);
        }
    }
}
