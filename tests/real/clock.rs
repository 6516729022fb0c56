//! Days end while the service runs: at midnight of its own time zone, also where the clocks are changed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Claim, Need, claims};
use crate::support::{Client, Gateway, eventually};

pub(crate) fn claims() -> Vec<Claim> {
    claims![&[Need::Faketime];
        a_budget_of_a_day_begins_anew_at_midnight_of_its_zone,
        a_day_in_which_the_clocks_go_back_has_an_hour_more,
        a_day_in_which_the_clocks_go_forward_has_an_hour_less,
    ]
}

const ZONE: &str = "Europe/Warsaw";
/// The services are started so long before the moment that matters, and a little.
const SOON: Duration = Duration::from_secs(20);

/// Status, and the code of an error. One answer takes eight tokens.
async fn ask(caller: &Client) -> (u16, String) {
    let question = json!({"model": "echo", "max_tokens": 1,
        "messages": [{"role": "user", "content": "one two three four five six seven"}]});
    let answer = caller.post("/v1/chat/completions", &question).await;
    let (status, code) = answer.fault();
    (status, code.to_owned())
}

/// A caller who may use 30 tokens a day, and has.
async fn spent(gateway: &Gateway) -> Client {
    let budget = json!({"name": "of a day", "budget": {"tokens": 30, "period": "day"}});
    let key = gateway.admin().post("/admin/keys", &budget).await;
    let caller = Client::new(gateway.base.clone(), key.body["key"].as_str());
    eventually("the budget is used up", SOON, async || {
        let (status, code) = ask(&caller).await;
        assert!(status == 200 || code == "budget_exhausted", "{status} {code}");
        status == 429
    })
    .await;
    caller
}

async fn ends_at(caller: &Client) -> String {
    let me = caller.get("/api/me").await.good();
    me["budget"]["ends_at"].as_str().unwrap().to_owned()
}

/// The requests of each day that were answered.
async fn answered_by_day(gateway: &Gateway) -> Vec<(String, u64)> {
    let path = "/admin/usage?from=2026-01-01&to=2026-12-31&group_by=day";
    let usage = gateway.admin().get(path).await.good();
    let row = |row: &Value| {
        let answered = row["requests"].as_u64().unwrap() - row["failed"].as_u64().unwrap();
        (row["day"].as_str().unwrap().to_owned(), answered)
    };
    usage["rows"].as_array().unwrap().iter().map(row).collect()
}

async fn a_budget_of_a_day_begins_anew_at_midnight_of_its_zone() {
    let gateway = Gateway::at("2026-06-14 21:59:52", ZONE).await;
    let caller = spent(&gateway).await;
    assert_eq!(ends_at(&caller).await, "2026-06-14T22:00:00Z");

    eventually("the next day begins", SOON, async || ask(&caller).await.0 == 200).await;

    assert_eq!(ends_at(&caller).await, "2026-06-15T22:00:00Z");
    eventually("usage is told of both days", SOON, async || {
        // Of 30 tokens, four requests took eight each: the last one more than was left.
        answered_by_day(&gateway).await == [("2026-06-14".to_owned(), 4), ("2026-06-15".to_owned(), 1)]
    })
    .await;
}

async fn a_day_in_which_the_clocks_go_back_has_an_hour_more() {
    // At 3:00 it is 2:00 again, which is 1:00 of UTC.
    let gateway = Gateway::at("2026-10-25 00:59:52", ZONE).await;
    let caller = spent(&gateway).await;
    the_clocks_change(&gateway, "2026-10-25T01:00:00Z").await;

    assert_eq!(ask(&caller).await, (429, "budget_exhausted".to_owned()), "it is the same day");
    assert_eq!(ends_at(&caller).await, "2026-10-25T23:00:00Z");
    let days = answered_by_day(&gateway).await;
    assert_eq!(days, [("2026-10-25".to_owned(), 4)]);

    let evening = Gateway::at("2026-10-25 22:59:52", ZONE).await;
    let caller = spent(&evening).await;
    eventually("the next day begins", SOON, async || ask(&caller).await.0 == 200).await;
    assert_eq!(ends_at(&caller).await, "2026-10-26T23:00:00Z");
}

async fn a_day_in_which_the_clocks_go_forward_has_an_hour_less() {
    // At 2:00 it is 3:00 already.
    let gateway = Gateway::at("2026-03-29 00:59:52", ZONE).await;
    let caller = spent(&gateway).await;
    the_clocks_change(&gateway, "2026-03-29T01:00:00Z").await;

    assert_eq!(ask(&caller).await, (429, "budget_exhausted".to_owned()), "it is the same day");
    assert_eq!(ends_at(&caller).await, "2026-03-29T22:00:00Z");
}

/// By the service's own clock, which it shows where it tells of what it did.
async fn the_clocks_change(gateway: &Gateway, moment: &str) {
    eventually("the clocks are changed", SOON, async || {
        gateway.admin().post("/admin/keys", &json!({"name": "to see the time"})).await;
        let audit = gateway.admin().get("/admin/audit?limit=1").await.good();
        audit["entries"][0]["time"].as_str().unwrap() >= moment
    })
    .await;
}
