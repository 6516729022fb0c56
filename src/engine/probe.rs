//! Short questions to an engine: is it well, what can it take, how long is a prompt.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::arrivals::Arrivals;
use super::endpoint::{Endpoint, Stranger};
use super::planner::Capacity;
use super::process::Exit;

/// An answer beyond this is none of an engine's. (A chat template may take some dozens of kilobytes.)
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Slots are rounded up by less than this, in tokens.
const ROUNDED_UP: u64 = 256;

/// Where an engine is asked, the key that opens it, and what becomes of it.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) endpoint: Endpoint,
    pub(super) api_key: SecretString,
    /// How its process has ended, once it has.
    pub(super) exit: watch::Receiver<Option<Exit>>,
    /// Cancelled when the gateway asks it to end.
    pub(super) stop: CancellationToken,
    /// What it works on.
    pub(super) arrivals: Arc<Arrivals>,
}

/// How an engine answers to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Introduction {
    Known(Capacity),
    /// It does not say what it can take.
    Unknown,
    /// It does not answer yet.
    Silent,
    /// It does not know the key: it is another server.
    Stranger,
}

impl Door {
    /// Whether the engine answers, and says that it has loaded.
    pub(super) async fn is_well(&self, limit: Duration) -> bool {
        self.health(limit).await.unwrap_or(false)
    }

    /// The same.
    ///
    /// # Errors
    /// Another program listens at its address.
    pub(super) async fn health(&self, limit: Duration) -> Result<bool, Stranger> {
        match self.ask(Method::GET, "/health", Bytes::new(), limit).await {
            Ok((status, _)) => Ok(status == StatusCode::OK),
            Err(error) => Stranger::in_error(&error).map_or(Ok(false), Err),
        }
    }

    /// Whether the engine answers, in whatever way, what can only be answered between two steps of its work.
    pub(super) async fn is_at_work(&self, limit: Duration) -> bool {
        self.ask(Method::GET, "/slots", Bytes::new(), limit).await.is_ok()
    }

    /// What the engine can take, as it says itself. `whole` is what it was told to take, all requests together.
    pub(super) async fn capacity(&self, whole: u64, limit: Duration) -> Introduction {
        let Ok((status, body)) = self.ask(Method::GET, "/props", Bytes::new(), limit).await else {
            return Introduction::Silent;
        };
        let props: Option<Props> = serde_json::from_slice(&body).ok().filter(|_| status.is_success());
        match (status, props) {
            (StatusCode::UNAUTHORIZED, _) => Introduction::Stranger,
            (StatusCode::SERVICE_UNAVAILABLE, _) => Introduction::Silent,
            (_, None) => Introduction::Unknown,
            (_, Some(props)) => {
                let (slots, of_slot) = (props.total_slots, props.default_generation_settings.n_ctx);
                // Each slot has a part of its own, rounded up a little, or may use what there is, which may be more than
                // the model can read.
                let parts = whole.saturating_add(ROUNDED_UP.saturating_mul(slots as u64));
                let is_shared = slots > 1 && of_slot.saturating_mul(slots as u64) > parts;
                let pool_tokens = if is_shared { whole.max(of_slot) } else { of_slot };
                Introduction::Known(Capacity { slots, context_tokens: of_slot, is_shared, pool_tokens })
            }
        }
    }

    /// How many tokens the engine makes of a chat request; `None` if it does not say. An older one is asked what its
    /// template makes of it, and how many tokens that has.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) async fn input_tokens(&self, body: Bytes, limit: Duration) -> io::Result<Option<u64>> {
        let path = "/v1/chat/completions/input_tokens";
        let (status, said) = self.ask(Method::POST, path, body.clone(), limit).await?;
        if status != StatusCode::NOT_FOUND {
            let counted: Option<Counted> = in_good((status, &said));
            return Ok(counted.map(|counted| counted.input_tokens));
        }
        let (status, said) = self.ask(Method::POST, "/apply-template", body, limit).await?;
        match in_good::<Applied>((status, &said)) {
            Some(applied) => self.tokens_of(applied.prompt.get().as_bytes(), limit).await,
            None => Ok(None),
        }
    }

    /// How many tokens the engine makes of a text, which is a JSON string; `None` if it does not say.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) async fn tokens_of(&self, text: &[u8], limit: Duration) -> io::Result<Option<u64>> {
        let Ok(text) = serde_json::from_slice::<&RawValue>(text) else { return Ok(None) };
        let question = Question { content: text, add_special: true, parse_special: true };
        let question = serde_json::to_vec(&question)?;
        let (status, said) = self.ask(Method::POST, "/tokenize", question.into(), limit).await?;
        let tokens: Option<Tokens> = in_good((status, &said));
        Ok(tokens.map(|tokens| tokens.tokens.len() as u64))
    }

    /// What the slots hold; nothing if the engine does not say.
    pub(super) async fn slots(&self, limit: Duration) -> Vec<SlotState> {
        let Ok((status, body)) = self.ask(Method::GET, "/slots", Bytes::new(), limit).await else {
            return Vec::new();
        };
        if !status.is_success() {
            return Vec::new();
        }
        serde_json::from_slice(&body).unwrap_or_default()
    }

    /// Writes a slot to a file in the folder for that, or reads it; `None` if the engine does not.
    pub(super) async fn slot(
        &self,
        slot: usize,
        action: SlotAction,
        file: &str,
        limit: Duration,
    ) -> Option<SlotDone> {
        let action = match action {
            SlotAction::Save => "save",
            SlotAction::Restore => "restore",
        };
        let path = format!("/slots/{slot}?action={action}");
        let question = serde_json::json!({ "filename": file }).to_string();
        let (status, body) = self.ask(Method::POST, &path, question.into(), limit).await.ok()?;
        serde_json::from_slice(&body).ok().filter(|_| status.is_success())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> io::Result<(StatusCode, Bytes)> {
        timeout(limit, self.answer(method, path, body)).await?
    }

    async fn answer(&self, method: Method, path: &str, body: Bytes) -> io::Result<(StatusCode, Bytes)> {
        let socket = self.endpoint.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.endpoint.authority())
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {}", self.api_key.expose_secret()))
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let mut asking = pin!(async {
            let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
            let body = Limited::new(body, MOST_BYTES).collect().await.map_err(io::Error::other)?;
            Ok((head.status, body.to_bytes()))
        });
        tokio::select! {
            biased;
            answer = asking.as_mut() => return answer,
            // What it brought before it ended is still to be read.
            _ = connection => {}
        }
        asking.await
    }
}

/// What a good answer says.
fn in_good<'a, T: Deserialize<'a>>((status, said): (StatusCode, &'a [u8])) -> Option<T> {
    serde_json::from_slice(said).ok().filter(|_| status.is_success())
}

/// What can be done with a slot.
#[derive(Clone, Copy, Debug)]
pub(super) enum SlotAction {
    Save,
    Restore,
}

/// A slot, as the engine tells of it.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct SlotState {
    #[serde(default)]
    pub(super) is_processing: bool,
    #[serde(default, rename = "n_prompt_tokens")]
    pub(super) tokens: Option<u64>,
}

/// What was written, or read.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct SlotDone {
    #[serde(alias = "n_saved", alias = "n_restored")]
    pub(super) tokens: u64,
    #[serde(alias = "n_written", alias = "n_read")]
    pub(super) bytes: u64,
}

#[derive(Deserialize)]
struct Props {
    total_slots: usize,
    default_generation_settings: SlotProps,
}

#[derive(Deserialize)]
struct SlotProps {
    n_ctx: u64,
}

#[derive(Deserialize)]
struct Counted {
    input_tokens: u64,
}

#[derive(Deserialize)]
struct Applied {
    prompt: Box<RawValue>,
}

#[derive(Serialize)]
struct Question<'a> {
    content: &'a RawValue,
    add_special: bool,
    parse_special: bool,
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<IgnoredAny>,
}
