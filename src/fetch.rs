//! One document from the web: whole or not at all, bounded in size and time.
//!
//! For what an operator asks for by a command, not for requests: nothing is kept, nothing is sent but the question,
//! and what fails is said in words that hold no address.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response};
use tokio::time::timeout;

use crate::config::Timeouts;

/// Fetches documents.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    timeouts: Timeouts,
    most_bytes: usize,
}

/// How far a document has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Come {
    /// So much is there.
    pub bytes: usize,
    /// So much there will be, if the server says.
    pub of: Option<u64>,
}

/// Why there is no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No client could be made.
    #[error("no connection can be made from this machine: {0}")]
    NoClient(String),
    /// Nobody answers there.
    #[error("it cannot be reached")]
    Unreachable,
    /// Nothing came for so long.
    #[error("nothing came for {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// The whole took longer than this.
    #[error("it took longer than {} s", .0.as_secs_f64())]
    Late(Duration),
    /// It has no such document.
    #[error("it answered with the status {0}")]
    Status(u16),
    /// It leads elsewhere too often, or from an encrypted page to one that is not.
    #[error("it leads to other pages that are not followed")]
    Redirected,
    /// Longer than is read.
    #[error("it is longer than {0} bytes")]
    TooLarge(usize),
    /// The connection broke midway.
    #[error("it broke off after {0} bytes")]
    Cut(usize),
}

/// So many pages may lead to another.
const MOST_REDIRECTS: usize = 4;

impl Fetcher {
    /// A fetcher of documents of at most so many bytes.
    ///
    /// # Errors
    /// The machine's certificates cannot be read.
    pub fn new(timeouts: Timeouts, most_bytes: usize) -> Result<Self, FetchError> {
        let client = Client::builder()
            .redirect(Policy::custom(|attempt| {
                if may_follow(&attempt) { attempt.follow() } else { attempt.error("not followed") }
            }))
            .referer(false)
            .user_agent(concat!("llm-proxy-api/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timeouts.connect)
            .build();
        let client = client.map_err(|error| FetchError::NoClient(error.without_url().to_string()))?;
        Ok(Self { client, timeouts, most_bytes })
    }

    /// Fetches the document at an address, and says now and then how far it has come.
    ///
    /// # Errors
    /// There is none, or not all of it.
    pub async fn document(&self, url: &str, mut come: impl FnMut(Come)) -> Result<Bytes, FetchError> {
        let whole = self.timeouts.request;
        let fetched = timeout(whole, async {
            let response = self.within(self.client.get(url).send()).await?.map_err(|error| unsent(&error))?;
            self.body(response, &mut come).await
        });
        fetched.await.unwrap_or(Err(FetchError::Late(whole)))
    }

    async fn body(&self, mut response: Response, come: &mut impl FnMut(Come)) -> Result<Bytes, FetchError> {
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let of = response.content_length();
        if of.is_some_and(|of| of > self.most_bytes as u64) {
            return Err(FetchError::TooLarge(self.most_bytes));
        }
        let mut body = Vec::new();
        loop {
            come(Come { bytes: body.len(), of });
            let piece = self.within(response.chunk()).await?;
            let Some(piece) = piece.map_err(|_| FetchError::Cut(body.len()))? else { return Ok(body.into()) };
            if body.len() + piece.len() > self.most_bytes {
                return Err(FetchError::TooLarge(self.most_bytes));
            }
            body.extend_from_slice(&piece);
        }
    }

    /// Waits as long as may be silence.
    async fn within<T>(&self, step: impl Future<Output = T>) -> Result<T, FetchError> {
        let silence = self.timeouts.stall;
        timeout(silence, step).await.map_err(|_| FetchError::Silent(silence))
    }
}

/// Whether a page may lead to this one.
fn may_follow(attempt: &Attempt) -> bool {
    let was_encrypted = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    attempt.previous().len() <= MOST_REDIRECTS && !(was_encrypted && attempt.url().scheme() != "https")
}

fn unsent(error: &reqwest::Error) -> FetchError {
    tracing::debug!(cause = error.source().map(ToString::to_string), "A document could not be fetched");
    if error.is_redirect() { FetchError::Redirected } else { FetchError::Unreachable }
}
