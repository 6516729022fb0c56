//! Several texts of one request, of which all find what was there when it began.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::super::*;
use super::conversation;
use super::keyed::{served, state_of};

/// A model that takes a second for each answer.
fn slow() -> State {
    let mut served = served("a", &[("m", "m")]);
    let crate::config::ModelSource::Listed(models) = &mut served.config.models else { panic!("listed") };
    models[0].overrides = json!({"echo": {"first_delay_ms": 1000}}).as_object().cloned().unwrap();
    state_of(&[served])
}

#[tokio::test(start_paused = true)]
async fn a_reload_in_between_changes_nothing_for_the_texts_that_still_wait() {
    let gateway = Gateway::new(slow(), Budgets::default());
    let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let record = Arc::new(RequestRecord::new("id".to_owned()));
    let asked = conversation(Opening::Text("Be brief.".to_owned()));
    let answered = gateway.converse_about_each(asked, &texts, record);
    let reloaded = async {
        sleep(Duration::from_millis(500)).await;
        gateway.replace(state_of(&[]));
    };
    let (answered, ()) = tokio::join!(answered, reloaded);
    assert_eq!(answered.unwrap().answers.len(), 20);
    assert!(gateway.state().route("m", None).is_err(), "it is gone for whoever comes now");
}
