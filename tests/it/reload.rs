//! Changed files take effect while the service runs: all of it, or nothing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Events, Gateway, Setup, answer, eventually};

fn models(names: &[&str]) -> String {
    let models: Value = names.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
    json!({"providers": {"echo": {"type": "echo", "models": models}}}).to_string()
}

async fn served(gateway: &Gateway) -> Vec<String> {
    let (_, list) = answer(gateway.get("/v1/models")).await;
    let names = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap());
    names.filter(|name| *name != "priority-auto").map(str::to_owned).collect()
}

fn write(gateway: &Gateway, path: &str, text: &str) {
    std::fs::write(gateway.folder.path().join(path), text).unwrap();
}

#[tokio::test]
async fn a_changed_models_file_is_served_within_three_seconds() {
    let gateway = Setup::new().file("models.json", &models(&["echo"])).start();

    let changed = Instant::now();
    write(&gateway, "models.json", &models(&["echo", "second"]));
    eventually("the new model is served", async || served(&gateway).await == ["echo", "second"]).await;
    assert!(changed.elapsed() < Duration::from_secs(3));

    // A rename into place, as editors and orchestrators do it.
    write(&gateway, "new.json", &models(&["third"]));
    let changed = Instant::now();
    std::fs::rename(gateway.folder.path().join("new.json"), gateway.folder.path().join("models.json"))
        .unwrap();
    eventually("the renamed file is served", async || served(&gateway).await == ["third"]).await;
    assert!(changed.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_bad_file_keeps_the_last_good_set_and_is_told() {
    let gateway = Setup::new()
        .file("prompts/en/chat-conversation-simple.prompt", "Talk.\n")
        .env("PROMPTS_DIR", "prompts")
        .start();

    write(
        &gateway,
        "models.json",
        "{\"providers\": {\"echo\": {\"type\": \"ehco\", \"models\": {\"echo\": {}}}}}",
    );
    let line = gateway.logged("ERROR");
    assert!(line.contains("models.json") && line.contains("ehco"), "{line}");
    assert_eq!(served(&gateway).await, ["echo"]);
    let (status, ready) = answer(gateway.get("/readyz")).await;
    assert_eq!((status, &ready["reload"]["ok"]), (200, &json!(false)));
    assert!(ready["reload"]["error"].to_string().contains("ehco"), "{ready}");

    // Good models beside a bad prompt change nothing either.
    write(&gateway, "prompts/en/chat-conversation-simple.prompt", "Talk {{#if}}.\n");
    write(&gateway, "models.json", &models(&["echo", "second"]));
    eventually("the prompt is told", async || {
        answer(gateway.get("/readyz")).await.1.to_string().contains("chat-conversation-simple")
    })
    .await;
    assert_eq!(served(&gateway).await, ["echo"]);

    write(&gateway, "prompts/en/chat-conversation-simple.prompt", "Talk well.\n");
    eventually("both are taken", async || served(&gateway).await == ["echo", "second"]).await;
    let (_, ready) = answer(gateway.get("/readyz")).await;
    assert_eq!(ready["reload"], json!({"ok": true, "error": null}));
}

#[tokio::test]
async fn a_refused_reload_is_one_line_in_the_log() {
    let gateway = Setup::new().start();
    write(&gateway, "models.json", "{");
    gateway.logged("ERROR");
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(gateway.log().lines().filter(|line| line.contains("ERROR")).count(), 1, "{}", gateway.log());
}

#[tokio::test]
async fn a_broken_leaderboard_that_is_newly_named_is_refused_once_and_watched() {
    let gateway = Setup::new().file("board.json", "{").start();
    let errors = || gateway.log().lines().filter(|line| line.contains("ERROR")).count();
    let echo = json!({"type": "echo", "models": {"echo": {}}});
    let named = json!({"providers": {"echo": echo}, "leaderboard": {"file": "board.json"}});
    write(&gateway, "models.json", &named.to_string());
    assert!(gateway.logged("ERROR").contains("board.json"));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(errors(), 1, "{}", gateway.log());
    write(&gateway, "board.json", "{\"still\":");
    eventually("another change is another try", async || errors() == 2).await;
    std::fs::remove_file(gateway.folder.path().join("board.json")).unwrap();
    eventually("a file that is not there is no fault", async || {
        answer(gateway.get("/readyz")).await.1["reload"]["ok"] == true
    })
    .await;
}

#[tokio::test]
async fn a_hangup_signal_reloads_too() {
    let gateway = Setup::new().start();
    write(&gateway, "models.json", &models(&["other"]));
    gateway.signal("HUP");
    eventually("the new model is served", async || served(&gateway).await == ["other"]).await;
}

#[tokio::test]
async fn prompts_change_while_requests_under_way_keep_theirs() {
    let gateway = Setup::new()
        .file("prompts/en/chat-conversation-simple.prompt", "Old.\n")
        .env("PROMPTS_DIR", "prompts")
        .start();
    let slow = json!({"model": "echo", "messages": [{"role": "user", "content": "one two three four five six"}], "echo": {"delay_ms": 300}});
    let mut events = Events::of(gateway.post("/api/chat", &slow).send().await.unwrap());
    events.next().await.unwrap();

    write(&gateway, "prompts/en/chat-conversation-simple.prompt", "New.\n");
    write(&gateway, "models.json", &models(&["other"]));
    let text = async || {
        gateway.ask("/api/prompts/chat-conversation-simple/render", &json!({})).await.1["text"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    eventually("the new prompt is used", async || text().await.contains("New.")).await;

    assert_eq!(gateway.ask("/api/chat", &slow).await.0, 404, "its model is gone");
    assert_eq!(events.rest().await.last().unwrap(), "[DONE]", "and yet the old stream ends well");
}

#[tokio::test]
async fn a_folder_that_comes_later_takes_no_shipped_prompt_away() {
    let gateway = Setup::new().start();
    std::fs::create_dir_all(gateway.folder.path().join("resources/prompts/en")).unwrap();
    write(&gateway, "resources/prompts/en/mine.prompt", "Mine.\n");
    let status = async |name: &str| answer(gateway.get(&format!("/api/prompts/{name}"))).await.0;
    eventually("the new prompt is there", async || status("mine").await == 200).await;
    assert_eq!(status("chat-conversation-simple").await, 200);

    write(&gateway, "resources/prompts/en/mine.prompt", "One.\n{{upper x}}\n");
    let line = gateway.logged("ERROR");
    assert!(line.contains("mine.prompt: line 2: there is no helper `upper`"), "{line}");
    assert_eq!(status("mine").await, 200, "the last good set goes on");
}

fn prices(output: f64) -> String {
    json!({"prices": [{"model": "echo", "input": 0.0, "output": output}]}).to_string()
}

/// What one call of a word costs now.
async fn cost(gateway: &Gateway) -> f64 {
    let told = async || {
        let rows = answer(gateway.get("/admin/usage").header("x-admin-key", "an-admin-key-of-some-length"))
            .await
            .1["rows"]
            .clone();
        (rows[0]["requests"].as_u64().unwrap_or(0), rows[0]["cost"].as_f64().unwrap_or(0.0))
    };
    let (requests, before) = told().await;
    let body = json!({"model": "echo", "stream": false, "messages": [{"role": "user", "content": "word"}]});
    assert_eq!(gateway.ask("/api/chat", &body).await.0, 200);
    eventually("it is written down", async || told().await.0 > requests).await;
    told().await.1 - before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_of_prices_is_read_by_itself_and_whole_or_not_at_all() {
    let mut file: Value = serde_json::from_str(&models(&["echo"])).unwrap();
    file["prices"] = json!("costs/prices.json");
    let setup = Setup::new().env("ADMIN_KEY", "an-admin-key-of-some-length").models(&file);
    let gateway = setup.file("costs/prices.json", &prices(1_000_000.0)).start();
    assert_eq!(cost(&gateway).await, 1.0);

    write(&gateway, "costs/prices.json", &prices(2_500_000.0));
    let diff = gateway.post("/admin/reload?dry_run=true", &json!({}));
    let diff = answer(diff.header("x-admin-key", "an-admin-key-of-some-length")).await.1;
    assert!(diff.to_string().contains("echo: output 1000000 → 2500000"), "{diff}");
    let line = gateway.logged("The changed configuration is in place");
    assert!(line.contains("prices changed"), "{line}");
    assert_eq!(cost(&gateway).await, 2.5);

    write(&gateway, "costs/prices.json", "{\"prices\": [{\"model\": \"echo\"}]}");
    let line = gateway.logged("ERROR");
    assert!(line.contains("costs/prices.json") && line.contains("input"), "{line}");
    assert_eq!(cost(&gateway).await, 2.5, "the last good set goes on");

    // Another file, which is broken at first: it is watched all the same.
    file["prices"] = json!("other.json");
    write(&gateway, "other.json", "{");
    write(&gateway, "models.json", &file.to_string());
    eventually("it is told", async || {
        answer(gateway.get("/readyz")).await.1["reload"]["error"].to_string().contains("other.json")
    })
    .await;
    write(&gateway, "other.json", &prices(3_000_000.0));
    eventually("it is mended", async || answer(gateway.get("/readyz")).await.1["reload"]["ok"] == true).await;
    assert_eq!(cost(&gateway).await, 3.0);
}
