//! Keeps a provider's own keys out of raw answers: servers that repeat what they were sent would tell them to callers.
//!
//! All else passes as it comes, and nothing becomes longer or shorter.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aho_corasick::{AhoCorasick, MatchKind};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::HeaderMap;
use secrecy::ExposeSecret;

use super::secret_forms::forms;
use crate::config::ProviderConfig;

/// What stands in the place of each byte.
const MASKED: u8 = b'*';
/// Shorter ones may be innocent words.
const LEAST_BYTES: usize = 8;

/// One provider's keys, in every form in which a server may repeat them.
#[derive(Clone, Default)]
pub(super) struct Mask(Option<Arc<Known>>);

struct Known {
    finder: AhoCorasick,
    forms: Vec<String>,
    /// Whether a form begins with a byte.
    begins: [bool; 256],
    /// The length of the longest form.
    longest: usize,
}

/// Bytes on their way, without the keys.
pub(super) struct Masked<S> {
    mask: Mask,
    inner: S,
    /// The end of what has come, which may be the beginning of a key.
    held: Bytes,
    is_over: bool,
}

// It holds the keys that it looks for.
impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

impl Mask {
    /// The key, and those headers that hold one by their names.
    pub(super) fn of(config: &ProviderConfig) -> Self {
        let holds_key = |name: &str| {
            let name = name.to_ascii_lowercase();
            ["auth", "key", "token", "secret", "cookie"].iter().any(|word| name.contains(word))
        };
        let of_headers = config.headers.iter().filter(|(name, _)| holds_key(name)).map(|(_, value)| value);
        Self::new(of_headers.chain(&config.api_key).map(ExposeSecret::expose_secret))
    }

    fn new<'s>(secrets: impl Iterator<Item = &'s str>) -> Self {
        // `Bearer …`: the word in front is no secret.
        let bare = secrets.map(|secret| secret.rsplit(' ').next().unwrap_or_default());
        let long = bare.filter(|secret| secret.len() >= LEAST_BYTES);
        Self(Known::of(long.flat_map(forms).collect()).map(Arc::new))
    }

    /// The same bytes without the keys.
    pub(super) fn over<S>(&self, inner: S) -> Masked<S> {
        Masked { mask: self.clone(), inner, held: Bytes::new(), is_over: false }
    }

    /// Leaves out the headers that tell one.
    pub(super) fn clean(&self, headers: &mut HeaderMap) {
        let Some(known) = &self.0 else { return };
        let tells = |value: &[u8]| known.finder.is_match(value);
        let telling: Vec<_> = headers
            .iter()
            .filter(|(_, value)| tells(value.as_bytes()))
            .map(|(name, _)| name.clone())
            .collect();
        for name in telling {
            headers.remove(name);
        }
    }

    fn cover(&self, bytes: Bytes) -> Bytes {
        let Some(known) = &self.0 else { return bytes };
        let Some(mut next) = known.finder.find(&bytes) else { return bytes };
        let mut covered = BytesMut::from(bytes);
        loop {
            if let Some(part) = covered.get_mut(next.range()) {
                part.fill(MASKED);
            }
            // From the start again: forms may overlap.
            match known.finder.find(&covered) {
                Some(more) => next = more,
                None => return covered.freeze(),
            }
        }
    }

    /// How many bytes at the end may be the beginning of a key.
    fn open_end(&self, bytes: &[u8]) -> usize {
        self.0.as_ref().map_or(0, |known| known.open_end(bytes))
    }
}

impl Known {
    fn of(forms: Vec<String>) -> Option<Self> {
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&forms).ok()?;
        let mut begins = [false; 256];
        for first in forms.iter().filter_map(|form| form.bytes().next()) {
            if let Some(begins) = begins.get_mut(usize::from(first)) {
                *begins = true;
            }
        }
        let longest = forms.iter().map(String::len).max()?;
        Some(Self { finder, forms, begins, longest })
    }

    fn open_end(&self, bytes: &[u8]) -> usize {
        let start = bytes.len().saturating_sub(self.longest - 1);
        let tail = bytes.get(start..).unwrap_or_default();
        let may_begin = |at: &usize| {
            let rest = tail.get(*at..).unwrap_or_default();
            let first = rest.first().and_then(|first| self.begins.get(usize::from(*first)));
            first == Some(&true) && self.forms.iter().any(|form| form.as_bytes().starts_with(rest))
        };
        (0..tail.len()).find(may_begin).map_or(0, |at| tail.len() - at)
    }
}

impl<S, E> Stream for Masked<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    type Item = Result<Bytes, E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.is_over {
            let Some(next) = ready!(Pin::new(&mut this.inner).poll_next(cx)) else {
                this.is_over = true;
                let last = std::mem::take(&mut this.held);
                return Poll::Ready((!last.is_empty()).then_some(Ok(last)));
            };
            let mut bytes = next?;
            if !this.held.is_empty() {
                let mut both = BytesMut::from(std::mem::take(&mut this.held));
                both.extend_from_slice(&bytes);
                bytes = both.freeze();
            }
            let mut bytes = this.mask.cover(bytes);
            this.held = bytes.split_off(bytes.len() - this.mask.open_end(&bytes));
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};

    use super::*;

    const KEY: &str = "sk-sk-planted";

    async fn masked(chunks: Vec<Vec<u8>>) -> String {
        let chunks = chunks.into_iter().map(|chunk| Ok::<Bytes, Infallible>(chunk.into()));
        // What has ended is not asked again.
        let masked =
            Mask::new([KEY, "Basic dXNlcjpwYXNz", "short"].into_iter()).over(stream::iter(chunks).fuse());
        let all: Vec<Bytes> = masked.map(Result::unwrap).collect().await;
        String::from_utf8(all.concat()).unwrap()
    }

    #[tokio::test]
    async fn keys_are_covered_wherever_they_are_cut_and_nothing_else_is() {
        let text = format!("a short sk-sk-plant, {KEY}{KEY} and dXNlcjpwYXNz; ends with sk-sk-sk-plante");
        let covered = text.replace(KEY, &"*".repeat(KEY.len())).replace("dXNlcjpwYXNz", &"*".repeat(12));
        assert_eq!(covered.len(), text.len());
        assert_eq!(masked(vec![text.clone().into_bytes()]).await, covered);
        assert_eq!(masked(text.bytes().map(|byte| vec![byte]).collect()).await, covered);
        for at in 0..text.len() {
            let (one, other) = text.as_bytes().split_at(at);
            assert_eq!(masked(vec![one.to_vec(), other.to_vec()]).await, covered, "cut at {at}");
        }
        assert_eq!(masked(vec![b"sk-".to_vec(), KEY.as_bytes().to_vec()]).await, "sk-*************");
    }

    #[tokio::test]
    async fn every_form_of_a_key_is_covered_byte_by_byte() {
        let forms = forms(KEY);
        assert!(forms.len() > 10);
        for form in forms {
            let text = format!("{{\"you sent\":\"{form}\"}}");
            let covered = text.replace(&form, &"*".repeat(form.len()));
            assert_eq!(masked(vec![text.clone().into_bytes()]).await, covered);
            assert_eq!(masked(text.bytes().map(|byte| vec![byte]).collect()).await, covered);
        }
    }

    #[test]
    fn headers_that_tell_a_key_are_left_out() {
        let mut headers = HeaderMap::new();
        headers.insert("x-debug", format!("sent {KEY}").parse().unwrap());
        headers.insert("x-other", "sk-sk".parse().unwrap());
        Mask::new([KEY].into_iter()).clean(&mut headers);
        assert_eq!((headers.len(), headers.contains_key("x-other")), (1, true));
        assert!(!format!("{:?}", Mask::new([KEY].into_iter())).contains("planted"));
    }
}
