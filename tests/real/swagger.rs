//! The Swagger page in a real browser: it needs nobody else, and its examples run as they stand.

use serde_json::{Value, json};

use crate::harness::{Claim, Need, claims};
use crate::support::Gateway;
use crate::support::browser::{Browser, HOST};

pub(crate) fn claims() -> Vec<Claim> {
    claims![&[Need::Chromium];
        the_page_asks_no_other_host_and_reports_no_error,
        ping_is_answered_from_the_page,
        the_example_of_chat_runs_as_it_stands,
        the_examples_of_conversations_run_as_they_stand,
        a_stream_can_be_chosen_for_chat,
        every_operation_that_is_shown_can_be_opened,
    ]
}

/// The page, loaded.
async fn page() -> (Gateway, Browser) {
    let models = json!({"providers": {"echo": {"type": "echo", "models": {"echo": {}}}}});
    let gateway = Gateway::for_pages(&models, "").await;
    let mut browser = Browser::start().await;
    let port = gateway.base.rsplit(':').next().unwrap();
    browser.open(&format!("http://{HOST}:{port}/docs")).await;
    browser.until("document.querySelectorAll('.opblock').length").await;
    (gateway, browser)
}

/// The part of the page that shows an operation.
fn block(operation: &str) -> String {
    format!("document.querySelector('[id=\"operations-Facade-{operation}\"]')")
}

/// Opens an operation, presses "Try it out" and "Execute", and waits for the answer: status and body.
async fn execute(browser: &mut Browser, operation: &str) -> (Value, String) {
    let block = block(operation);
    press(browser, &format!("{block}?.querySelector('.opblock-summary-control')")).await;
    press(browser, &format!("{block}.querySelector('.try-out__btn')")).await;
    press(browser, &format!("{block}.querySelector('.execute')")).await;
    let answer = format!("{block}.querySelector('.live-responses-table .response')");
    let status = browser.until(&format!("{answer}?.querySelector('.response-col_status')?.innerText")).await;
    let body = browser.until(&format!("{answer}?.querySelector('.highlight-code pre')?.textContent")).await;
    (status, body.as_str().unwrap().to_owned())
}

async fn press(browser: &mut Browser, element: &str) {
    browser.until(&format!("!!({element})")).await;
    browser.evaluate(&format!("{element}.click()")).await;
}

/// Where the page sent requests to, and what it complained of.
fn reported(browser: &Browser) -> (Vec<String>, Vec<String>) {
    let (mut urls, mut complaints) = (Vec::new(), Vec::new());
    for event in &browser.events {
        let params = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => urls.push(params["request"]["url"].as_str().unwrap().to_owned()),
            "Runtime.exceptionThrown" => complaints.push(params.to_string()),
            "Runtime.consoleAPICalled" if params["type"] == "error" => complaints.push(params.to_string()),
            "Log.entryAdded" if params["entry"]["level"] == "error" => complaints.push(params.to_string()),
            _ => {}
        }
    }
    (urls, complaints)
}

async fn the_page_asks_no_other_host_and_reports_no_error() {
    let (gateway, mut browser) = page().await;
    execute(&mut browser, "ping").await;
    let (urls, complaints) = reported(&browser);
    assert_eq!(complaints, Vec::<String>::new());
    let port = gateway.base.rsplit(':').next().unwrap();
    let own = format!("http://{HOST}:{port}/");
    assert!(urls.iter().any(|url| url.ends_with("/docs")), "{urls:?}");
    assert!(urls.iter().any(|url| url.ends_with("/api/ping")), "{urls:?}");
    let foreign: Vec<_> =
        urls.iter().filter(|url| !url.starts_with(&own) && !url.starts_with("data:")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

async fn ping_is_answered_from_the_page() {
    let (_gateway, mut browser) = page().await;
    let (status, body) = execute(&mut browser, "ping").await;
    assert!(status.as_str().unwrap().starts_with("200"), "{status} {body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["status"], &body["body"]), (&json!(true), &json!("pong")));
}

async fn the_example_of_chat_runs_as_it_stands() {
    let (_gateway, mut browser) = page().await;
    let (status, body) = execute(&mut browser, "chat").await;
    assert!(status.as_str().unwrap().starts_with("200"), "{status} {body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    // The echo model repeats what the example says.
    let asked = example(&mut browser, "chat").await;
    assert_eq!(body["choices"][0]["message"]["content"], asked["messages"][0]["content"]);
}

async fn the_examples_of_conversations_run_as_they_stand() {
    let (_gateway, mut browser) = page().await;
    for operation in ["conversation_with_model", "extended_conversation_with_model"] {
        let (status, body) = execute(&mut browser, operation).await;
        assert!(status.as_str().unwrap().starts_with("200"), "{status} {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        let asked = example(&mut browser, operation).await;
        assert_eq!(body["response"], asked["user_last_statement"], "{operation}");
    }
}

/// What stands in the text field of an operation.
async fn example(browser: &mut Browser, operation: &str) -> Value {
    let text = browser.evaluate(&format!("{}.querySelector('textarea').value", block(operation))).await;
    serde_json::from_str(text.as_str().unwrap()).unwrap()
}

async fn a_stream_can_be_chosen_for_chat() {
    let (_gateway, mut browser) = page().await;
    let block = block("chat");
    press(&mut browser, &format!("{block}?.querySelector('.opblock-summary-control')")).await;
    let offered = format!(
        "[...({block}.querySelector('.responses-wrapper .content-type')?.options ?? [])].map(option => option.value).join(' ')"
    );
    let offered = browser.until(&offered).await;
    assert_eq!(offered, "application/json text/event-stream application/x-ndjson");
}

async fn every_operation_that_is_shown_can_be_opened() {
    let (_gateway, mut browser) = page().await;
    let count = browser.evaluate("document.querySelectorAll('.opblock').length").await;
    assert!(count.as_u64().unwrap() >= 15, "{count}");
    browser.evaluate("document.querySelectorAll('.opblock:not(.is-open) .opblock-summary-control').forEach(button => button.click())").await;
    browser.until("document.querySelectorAll('.opblock.is-open').length === document.querySelectorAll('.opblock').length").await;
    let faults = browser.evaluate("document.querySelectorAll('.errors-wrapper').length").await;
    assert_eq!(faults, 0, "the page finds fault with the document");
    assert_eq!(reported(&browser).1, Vec::<String>::new());
}
