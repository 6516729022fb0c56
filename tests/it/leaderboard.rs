//! Figures of leaderboards: fetched when somebody asks, kept in a file, worth something in scores.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, Step, Upstream, answer, eventually, json};

const RUNS: &str = "
- model: alpha-7b
  pass_rate_2: 40
  date: 2025-05-05
- model: beta-7b
  pass_rate_2: 80
  date: 2025-06-06
";

/// A page as it is, with its length.
fn page(text: &str) -> Vec<Step> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
    vec![Step::Send([head.as_bytes(), text.as_bytes()].concat())]
}

/// A server of leaderboards, good ones and bad ones.
async fn boards() -> Upstream {
    Upstream::start(|seen| match seen.path.as_str() {
        "/runs.yml" => page(RUNS),
        "/scores.json" => page(r#"{"alpha-7b": 1300, "gamma": 1000}"#),
        "/moved" => vec![Step::Send(
            b"HTTP/1.1 302 Found\r\nlocation: /scores.json\r\ncontent-length: 0\r\n\r\n".to_vec(),
        )],
        "/around" => {
            vec![Step::Send(b"HTTP/1.1 302 Found\r\nlocation: /around\r\ncontent-length: 0\r\n\r\n".to_vec())]
        }
        "/failing" => vec![json(500, "", &json!({"error": "secret words"}))],
        "/silent" => vec![Step::Hold],
        "/stalling" => {
            vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"alpha".to_vec()), Step::Hold]
        }
        "/announced" => {
            vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 900000000\r\n\r\n".to_vec()), Step::Hold]
        }
        "/endless" => {
            let mut steps = vec![Step::Send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec())];
            steps.extend((0..10).map(|_| Step::Send(vec![b' '; 1024 * 1024])));
            steps
        }
        "/garbage" => page("<html><body>Please log in</body></html>"),
        "/binary" => vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n\xff\xfe\x00".to_vec())],
        "/cut" => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", RUNS.len());
            vec![Step::Send([head.as_bytes(), &RUNS.as_bytes()[..50]].concat()), Step::Close]
        }
        _ => vec![json(404, "", &json!({}))],
    })
    .await
}

fn source(boards: &Upstream, name: &str, path: &str, format: &str) -> Value {
    json!({"name": name, "url": format!("{}{path}", boards.url()), "format": format})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_ones_own_sources_tells_of_these_and_of_no_others() {
    let boards = boards().await;
    let mut stated = source(&boards, "aider-polyglot", "/runs.yml", "aider");
    stated["licence"] = json!("CC-BY-4.0");
    stated["notes"] = json!("Runs of our own.");
    let unstated = source(&boards, "scores", "/scores.json", "scores");
    let setup = setup(&json!({"sources": [stated, unstated]}));

    let ended = setup.run(&["leaderboard", "update"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let file = written(&setup, "data/leaderboard.json");
    assert_eq!(file["notes"], json!([]));
    let today = &file["date"];
    let expected = json!([
        {"name": "aider-polyglot", "url": format!("{}/runs.yml", boards.url()), "format": "aider",
            "licence": "CC-BY-4.0", "date": "2025-06-06", "notes": "Runs of our own."},
        {"name": "scores", "url": format!("{}/scores.json", boards.url()), "format": "scores",
            "licence": "unknown", "date": today},
    ]);
    assert_eq!(file["sources"], expected);
    let shown = setup.run(&["leaderboard", "show"]).stdout;
    for words in ["licence: CC-BY-4.0", "licence: unknown", "Runs of our own."] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(!shown.contains("Apache") && !shown.contains("exercises"), "{shown}");
}

/// Models `m` by two providers, of which the first in the file is the worse on the leaderboards.
fn setup(leaderboard: &Value) -> Setup {
    let provider = |upstream: &str| json!({"type": "echo", "models": {"m": {"upstream": upstream}}});
    Setup::new()
        .models(&json!({
            "providers": {"one": provider("alpha-7b"), "two": provider("vendor/Beta-7B-Instruct:free")},
            "models": {"m": {"strategy": "score"}},
            "leaderboard": leaderboard,
        }))
        .env("STALL_TIMEOUT", "1")
}

/// A file of one source.
fn figures(models: &Value) -> String {
    json!({
        "date": "2025-01-01",
        "sources": [{"name": "own", "url": "https://own.example", "format": "scores", "date": "2025-01"}],
        "models": models,
    })
    .to_string()
}

/// Who is asked for `m`, in that order, with the points for leaderboards.
async fn order(gateway: &Gateway) -> Vec<(String, f64)> {
    let (_, body) = answer(gateway.get("/api/routes")).await;
    let routes = body["routes"].as_array().unwrap();
    let candidates = routes.iter().find(|route| route["model"] == "m").unwrap()["candidates"].clone();
    let told = |candidate: &Value| {
        (
            candidate["provider"].as_str().unwrap().to_owned(),
            candidate["score"]["leaderboard"].as_f64().unwrap(),
        )
    };
    candidates.as_array().unwrap().iter().map(told).collect()
}

fn written(setup: &Setup, path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(setup.path(path)).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_writes_what_the_sources_have_and_says_so() {
    let boards = boards().await;
    let sources =
        json!([source(&boards, "runs", "/runs.yml", "aider"), source(&boards, "scores", "/moved", "scores")]);
    let setup = setup(&json!({"sources": sources}));

    let ended = setup.run(&["leaderboard", "update"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.starts_with("data/leaderboard.json: 3 models\nmodels: "), "{}", ended.stdout);
    assert!(ended.stdout.contains("runs: 2 models of 2025-06-06 (new)"), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("aider-polyglot: gone"),
        "those that come with the program: {}",
        ended.stdout
    );
    // Without a terminal plain lines, and no address in them.
    for line in ["runs: fetching", "scores: fetching", "runs: done, ", "scores: done, "] {
        assert!(ended.stderr.lines().any(|told| told.starts_with(line)), "{line}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains('\u{1b}') && !ended.stderr.contains("127.0.0.1"), "{}", ended.stderr);
    let file = written(&setup, "data/leaderboard.json");
    assert_eq!(file["models"]["alpha-7b"], json!({"runs": 40.0, "scores": 1300.0}));
    assert_eq!(
        (&file["sources"][0]["date"], file["date"].as_str().unwrap().len()),
        (&json!("2025-06-06"), 10)
    );
    assert_eq!(std::fs::read_dir(setup.path("data")).unwrap().count(), 1, "nothing is left beside it");

    let again = setup.run(&["leaderboard", "update"]);
    assert!(
        again.code == Some(0) && again.stdout.contains("models: 0 new, 0 gone, 0 changed"),
        "{}",
        again.stdout
    );

    let shown = setup.run(&["leaderboard", "show"]);
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""));
    assert!(
        shown.stdout.contains("3 models (data/leaderboard.json)") && shown.stdout.contains("runs: 2 models")
    );
    let shown = setup.run(&["leaderboard", "show", "vendor/Alpha-7B:free"]).stdout;
    assert!(shown.contains("0.500 of 1") && shown.contains("`alpha-7b` has 40 between 40 and 80"), "{shown}");
    assert!(setup.run(&["leaderboard", "show", "nobody"]).stdout.contains("no source has it"));

    let asked = boards.seen().len();
    let gateway = setup.start();
    assert_eq!(order(&gateway).await, [("two".to_owned(), 100.0), ("one".to_owned(), 50.0)]);
    gateway.signal("HUP");
    gateway.logged("is in place");
    assert_eq!(boards.seen().len(), asked, "neither a start nor a reload fetches anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_keeps_its_former_figures() {
    let boards = boards().await;
    for (path, why) in [
        ("/failing", "status 500"),
        ("/nowhere", "status 404"),
        ("/silent", "nothing came for 1 s"),
        ("/stalling", "nothing came for 1 s"),
        ("/announced", "longer than 8388608 bytes"),
        ("/endless", "longer than 8388608 bytes"),
        ("/garbage", "cannot be read"),
        ("/binary", "cannot be read"),
        ("/cut", "broke off after 50 bytes"),
        ("/around", "not followed"),
    ] {
        let sources = |path| {
            json!([
                source(&boards, "bad", path, "aider"),
                source(&boards, "scores", "/scores.json", "scores")
            ])
        };
        let config = |path| json!({"file": "boards/own.json", "sources": sources(path)});
        let setup = setup(&config("/runs.yml"));
        assert_eq!(setup.run(&["leaderboard", "update"]).code, Some(0));
        let before = written(&setup, "boards/own.json");
        let changed =
            json!({"providers": {"e": {"type": "echo", "models": {"m": {}}}}, "leaderboard": config(path)});
        let setup = setup.models(&changed);

        let began = Instant::now();
        let ended = setup.run(&["leaderboard", "update"]);
        assert!(began.elapsed() < Duration::from_secs(10), "{path}: {:?}", began.elapsed());
        assert_eq!(ended.code, Some(1), "{path}: {}", ended.stdout);
        assert!(ended.stderr.contains(why), "{path}: {}", ended.stderr);
        assert!(ended.stderr.ends_with("1 of 2 sources gave no figures\n"), "{path}: {}", ended.stderr);
        assert!(ended.stdout.contains("its 2 models of 2025-06-06 stay"), "{path}: {}", ended.stdout);
        assert!(
            !ended.stderr.contains("secret words") && !ended.stderr.contains("127.0.0.1"),
            "{}",
            ended.stderr
        );
        let after = written(&setup, "boards/own.json");
        assert_eq!(
            (&after["models"], &after["sources"][0]),
            (&before["models"], &before["sources"][0]),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_gets_nothing_leaves_the_file_as_it_is() {
    let boards = boards().await;
    let config = json!({"sources": [source(&boards, "own", "/failing", "scores")]});
    let old = figures(&json!({"alpha-7b": {"own": 1}}));
    let setup = setup(&config).file("data/leaderboard.json", &old);
    let ended = setup.run(&["leaderboard", "update"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("left as it was"), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(setup.path("data/leaderboard.json")).unwrap(), old);

    let blocked =
        json!({"file": "models.json/x.json", "sources": [source(&boards, "runs", "/runs.yml", "aider")]});
    let setup = self::setup(&blocked);
    let ended = setup.run(&["leaderboard", "update"]);
    assert!(
        ended.code == Some(1) && ended.stderr.contains("models.json/x.json: cannot be written"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_ranked_model_is_asked_before_others_with_what_comes_with_the_program() {
    let provider = |upstream: &str| json!({"type": "echo", "models": {"m": {"upstream": upstream}}});
    let gateway = Setup::new()
        .models(&json!({
            "providers": {"small": provider("gpt-4o-mini"), "none": provider("unheard-of"), "large": provider("openai/gpt-4o:free")},
            "models": {"m": {"strategy": "score"}},
        }))
        .start();
    let order = order(&gateway).await;
    let names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(&names[..2], ["large", "small"], "{order:?}");
    assert!(order[0].1 > order[1].1 && order[1].1 > 0.0, "{order:?}");
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    let response = gateway.post("/v1/chat/completions", &chat).send().await.unwrap();
    assert_eq!(response.headers()["x-llm-provider"], "large");
}

#[tokio::test]
async fn changed_figures_are_taken_over_and_broken_ones_refused() {
    let setup = setup(&json!({"file": "own.json"}));
    let gateway = setup.start();
    assert!(gateway.logged("WARN").contains("own.json is not there"), "{}", gateway.log());
    let write = |text: &str| std::fs::write(gateway.folder.path().join("own.json"), text).unwrap();

    write(&figures(&json!({"alpha-7b": {"own": 9}, "beta-7b": {"own": 5}, "gamma": {"own": 1}})));
    let first = [("one".to_owned(), 100.0), ("two".to_owned(), 50.0)];
    eventually("the file is read", async || order(&gateway).await == first).await;

    write("{\"date\": \"2025-01-01\",\n\"sources\": [],\n\"models\": {\"alpha-7b\": {\"own\": 1}}}");
    let line = gateway.logged("ERROR");
    assert!(line.contains("own.json: models.alpha-7b: `own` is none of the sources"), "{line}");
    assert_eq!(order(&gateway).await, first, "the last good ones hold");
    let (_, ready) = answer(gateway.get("/readyz")).await;
    assert_eq!(ready["reload"]["ok"], false, "{ready}");

    write(&figures(&json!({"alpha-7b": {"own": 1}, "beta-7b": {"own": 5}})));
    eventually("the mended file is read", async || order(&gateway).await[0].0 == "two").await;

    // A models file that names another file is one reload, not two.
    let reloads = gateway.log().matches("is in place").count();
    let other = figures(&json!({"alpha-7b": {"own": 5}, "beta-7b": {"own": 1}}));
    std::fs::write(gateway.folder.path().join("other.json"), other).unwrap();
    let models = std::fs::read_to_string(gateway.folder.path().join("models.json")).unwrap();
    std::fs::write(gateway.folder.path().join("models.json"), models.replace("own.json", "other.json"))
        .unwrap();
    eventually("the other file is read", async || order(&gateway).await[0].0 == "one").await;
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(gateway.log().matches("is in place").count(), reloads + 1, "{}", gateway.log());
    let worse = figures(&json!({"alpha-7b": {"own": 1}, "beta-7b": {"own": 5}}));
    std::fs::write(gateway.folder.path().join("other.json"), worse).unwrap();
    eventually("its changes are seen, too", async || order(&gateway).await[0].0 == "two").await;
}

#[test]
fn a_broken_file_is_a_start_error_with_its_place() {
    for (text, words) in [
        ("{\n\"date\": \"2025-01-01\",\n\"sources\": {},", "data/leaderboard.json: line 3"),
        ("{}", "data/leaderboard.json"),
        ("", "data/leaderboard.json: line 1"),
        (&figures(&json!({"m": {"own": "good"}})), "data/leaderboard.json: line 1: models.m.own"),
    ] {
        let setup = Setup::new().file("data/leaderboard.json", text);
        for command in [&["check"][..], &[], &["leaderboard", "show"]] {
            let ended = setup.run(command);
            assert_eq!(ended.code, Some(1), "{command:?} {text}");
            assert!(ended.stderr.contains(words), "{command:?} {text}: {}", ended.stderr);
        }
    }
    let checked = Setup::new().run(&["check"]).stdout;
    assert!(
        checked.contains("leaderboard of 20") && checked.contains("(comes with the program)"),
        "{checked}"
    );
}

#[test]
fn faults_of_the_models_file_are_told_by_every_command() {
    let models = json!({"providers": {}, "leaderboard": {"sources": [{"name": "a", "url": "https://a.example", "format": "aidr"}]}});
    let ended = Setup::new().models(&models).run(&["leaderboard", "update"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("models.json: leaderboard.sources[0]: the format `aidr`"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("did you mean `aider`?"), "{}", ended.stderr);
    // Keys that are unset are nothing to figures.
    let models = json!({"providers": {"up": {"type": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "${NOT_SET}", "models": {"m": {}}}}});
    let ended = Setup::new().models(&models).run(&["leaderboard", "show", "gpt-4o"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
    assert!(ended.stdout.contains("gpt-4o: 0."), "{}", ended.stdout);
}
