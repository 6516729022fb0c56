//! Acts on a real store, as two nodes do them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tempfile::TempDir;

use super::*;
use crate::callers::Unknown;
use crate::store;

struct Node {
    accounts: Arc<Accounts>,
    ring: Arc<KeyRing>,
}

async fn node(folder: &TempDir) -> Node {
    let url = format!("sqlite://{}/keys.db", folder.path().display());
    let (store, ring) = (store::open(&url).await.unwrap(), Arc::new(KeyRing::default()));
    Node { accounts: Arc::new(Accounts::new(store, ring.clone())), ring }
}

impl Node {
    fn opens(&self, secret: &Secret) -> Result<String, Unknown> {
        self.ring.find(secret, now_ms()).map(|caller| caller.key.id.clone())
    }
}

fn new(name: &str) -> NewKey {
    NewKey { name: name.to_owned(), change: Change::default() }
}

fn disabled(disabled: bool) -> Edit {
    Change { disabled: Some(disabled), ..Change::default() }.into()
}

#[tokio::test]
async fn acts_hold_here_at_once_and_elsewhere_after_a_look() {
    let folder = TempDir::new().unwrap();
    let (here, there) = (node(&folder).await, node(&folder).await);
    let (key, secret) = here.accounts.create(Actor::Admin, new("a")).await.unwrap();
    assert_eq!(here.opens(&secret), Ok(key.id.clone()));
    assert_eq!(there.opens(&secret), Err(Unknown::NoKey));
    assert!(there.accounts.sync().await.unwrap());
    assert!(!there.accounts.sync().await.unwrap(), "nothing has changed since");
    assert_eq!(there.opens(&secret), Ok(key.id.clone()));

    there.accounts.change(Actor::Cli, &key.id, disabled(true)).await.unwrap();
    assert_eq!(there.opens(&secret), Err(Unknown::Disabled));
    here.accounts.sync().await.unwrap();
    assert_eq!(here.opens(&secret), Err(Unknown::Disabled));

    there.accounts.delete(Actor::Cli, &key.id).await.unwrap();
    assert_eq!(there.opens(&secret), Err(Unknown::NoKey));
    here.accounts.sync().await.unwrap();
    assert_eq!(here.opens(&secret), Err(Unknown::NoKey));
    for error in [
        here.accounts.delete(Actor::Cli, &key.id).await.unwrap_err(),
        here.accounts.get(&key.id).await.unwrap_err(),
        here.accounts.change(Actor::Cli, &key.id, disabled(true)).await.unwrap_err(),
        here.accounts.rotate(Actor::Cli, &key.id, Duration::ZERO).await.unwrap_err(),
    ] {
        assert!(matches!(error, AccountError::NoSuchKey), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_others_loses_nothing_that_is_made_meanwhile() {
    let folder = TempDir::new().unwrap();
    let here = node(&folder).await;
    let making = async {
        let mut secrets = Vec::new();
        for number in 0..30 {
            secrets.push(here.accounts.create(Actor::Admin, new(&number.to_string())).await.unwrap().1);
            assert!(secrets.iter().all(|secret| here.opens(secret).is_ok()), "after {number}");
        }
    };
    let looking = async {
        loop {
            here.accounts.sync().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = making => {}
        () = looking => {}
    }
    assert_eq!(here.accounts.list(None).await.unwrap().len(), 30);
}

#[tokio::test]
async fn who_leaves_early_leaves_nothing_half_done() {
    let folder = TempDir::new().unwrap();
    let here = node(&folder).await;
    let act = here.accounts.create(Actor::Admin, new("a"));
    // Begun, and given up before anything has come of it.
    assert!(act.now_or_never().is_none());
    here.accounts.settled().await;
    let keys = here.accounts.list(None).await.unwrap();
    assert_eq!(keys.len(), 1);
    assert!(here.ring.get(&keys[0].id).is_some());
    assert_eq!(here.accounts.audits(None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_secret_before_opens_for_as_long_as_it_is_told() {
    let folder = TempDir::new().unwrap();
    let here = node(&folder).await;
    let (key, first) = here.accounts.create(Actor::Admin, new("a")).await.unwrap();
    let (_, second) =
        here.accounts.rotate(Actor::Key(key.id.clone()), &key.id, Duration::from_secs(60)).await.unwrap();
    assert!(here.opens(&first).is_ok() && here.opens(&second).is_ok());
    assert_eq!(here.ring.find(&first, now_ms() + 61_000).unwrap_err(), Unknown::Expired);
    let (_, third) = here.accounts.rotate(Actor::Admin, &key.id, Duration::ZERO).await.unwrap();
    for gone in [&first, &second] {
        assert_eq!(here.opens(gone), Err(Unknown::NoKey));
    }
    assert!(here.opens(&third).is_ok());
    let error = here.accounts.rotate(Actor::Admin, &key.id, Duration::MAX).await.unwrap_err();
    assert!(matches!(&error, AccountError::Invalid { param, .. } if param == "grace_seconds"), "{error}");
    assert!(here.opens(&third).is_ok(), "what is refused changes nothing");
}

#[tokio::test]
async fn single_limits_are_changed_and_every_difference_is_noted() {
    let folder = TempDir::new().unwrap();
    let here = node(&folder).await;
    let limits = Limits { requests_per_minute: Some(5), tokens_per_minute: Some(6), parallel_requests: None };
    let change = Change { limits: Some(limits), note: Some(Some("n".to_owned())), ..Change::default() };
    let new = NewKey { name: "a".to_owned(), change };
    let (key, secret) = here.accounts.create(Actor::Cli, new).await.unwrap();
    let limits = LimitsEdit {
        requests_per_minute: Some(None),
        parallel_requests: Some(Some(2)),
        ..LimitsEdit::default()
    };
    let edit = Edit { change: Change { note: Some(None), ..Change::default() }, limits };
    let changed = here.accounts.change(Actor::Key("k".to_owned()), &key.id, edit).await.unwrap();
    let expected =
        Limits { requests_per_minute: None, tokens_per_minute: Some(6), parallel_requests: Some(2) };
    assert_eq!((changed.limits, changed.note), (expected, None));

    let audits = here.accounts.audits(None, 10).await.unwrap();
    let told: Vec<(&str, &str, &str)> = audits
        .iter()
        .map(|audit| (audit.entry.actor.as_str(), audit.entry.action.as_str(), audit.entry.subject.as_str()))
        .collect();
    assert_eq!(told, [("key:k", "key.change", key.id.as_str()), ("cli", "key.create", key.id.as_str())]);
    assert_eq!(audits[0].entry.detail["note"], json!({"from": "n", "to": null}));
    assert_eq!(audits[0].entry.detail["limits"]["to"]["parallel_requests"], 2);
    assert_eq!(audits[0].entry.detail.as_object().unwrap().len(), 2);
    let text = format!("{audits:?}");
    assert!(!text.contains(secret.reveal()) && !text.contains(&key.digest.to_hex()));

    let zero = LimitsEdit { tokens_per_minute: Some(Some(0)), ..LimitsEdit::default() };
    let edit = Edit { limits: zero, ..Edit::default() };
    let error = here.accounts.change(Actor::Admin, &key.id, edit).await.unwrap_err();
    assert!(
        matches!(&error, AccountError::Invalid { param, .. } if param == "limits.tokens_per_minute"),
        "{error}"
    );
}

#[tokio::test]
async fn a_model_whose_name_cannot_be_kept_is_not_switched() {
    let folder = TempDir::new().unwrap();
    let here = node(&folder).await;
    let off = || SwitchEdit { disabled: Some(true), note: None };
    let longest = "ż".repeat(500);
    assert_eq!(here.accounts.switch(Actor::Cli, &longest, off()).await.unwrap().model, longest);
    for name in ["", "a\0b", &"x".repeat(501)] {
        let refused = here.accounts.switch(Actor::Cli, name, off()).await.unwrap_err();
        assert!(matches!(&refused, AccountError::Invalid { param, .. } if param == "model"), "{refused}");
    }
    assert_eq!(here.accounts.models().await.unwrap().len(), 1);
}

#[tokio::test]
async fn whoever_waits_too_long_for_a_switch_is_not_told_of_keys() {
    let folder = TempDir::new().unwrap();
    let here = node(&folder).await;
    let _held = here.accounts.models_off.lock().await;
    tokio::time::pause();
    let off = SwitchEdit { disabled: Some(true), note: None };
    let error = here.accounts.switch(Actor::Cli, "m", off).await.unwrap_err();
    assert_eq!(error.to_string(), "changes wait for others that take too long");
}
