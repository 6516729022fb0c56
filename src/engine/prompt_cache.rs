//! What an engine has read, kept while it is switched: its slots are written to files before it ends, and the next
//! engine of the model reads them, so that a conversation that has outgrown its engine is not read from its beginning.
//!
//! Whether that works depends on the model and on the build of llama-server, which do not say so. The next turn of a
//! conversation that was kept shows it: what it finds in the cache. What has failed twice is given up.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::memory::Turn;
use super::planner::Capacity;
use super::probe::{Door, SlotAction};
use super::prompt_folder::PromptFolder;
use super::vitals::parts_of;
use crate::config::EngineVariant;

/// Fewer tokens are read again faster than they are looked after.
const LEAST_TOKENS: u64 = 256;
/// A slot that takes longer to write or to read is not worth it.
const PATIENCE: Duration = Duration::from_secs(5);
/// All slots of an engine together.
const WHOLE_PATIENCE: Duration = Duration::from_secs(10);
/// Beyond so many failures it is not tried again.
const MOST_FAILURES: u32 = 2;
const MIB: u64 = 1024 * 1024;

/// The slots of one model's engines, as far as they are kept.
#[derive(Debug)]
pub(super) struct PromptCache {
    model: Arc<str>,
    folder: Arc<PromptFolder>,
    most_bytes: u64,
    // A std mutex: held for a look or a change of a short list.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    slots: Vec<Slot>,
    /// What the engine that runs now has read of it, by its length: not looked for yet by anybody.
    restored: Vec<u64>,
    /// Nobody has been answered since.
    is_untouched: bool,
    failures: u32,
    /// What a token takes, as the last file shows.
    bytes_per_token: u64,
    /// Files that an engine may have written after all.
    strays: Vec<PathBuf>,
    is_closed: bool,
}

#[derive(Debug)]
struct Slot {
    file: PathBuf,
    /// What has written it; only its like can read it.
    kind: String,
    tokens: u64,
}

impl Kept {
    fn remove_strays(&mut self) {
        self.strays.drain(..).for_each(|file| drop(std::fs::remove_file(file)));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl PromptCache {
    pub(super) fn new(model: Arc<str>, folder: Arc<PromptFolder>, most_mib: u64) -> Self {
        Self { model, folder, most_bytes: most_mib.saturating_mul(MIB), kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where engines write; `None` if this is given up.
    pub(super) fn path(&self) -> Option<&Path> {
        let kept = self.kept();
        let is_open = kept.failures < MOST_FAILURES && !kept.is_closed;
        (is_open && self.folder.is_there()).then(|| self.folder.path())
    }

    /// Nothing more is to be kept.
    pub(super) fn close(&self) {
        let mut kept = self.kept();
        kept.is_closed = true;
        kept.slots.clear();
        kept.remove_strays();
    }

    /// Keeps what an idle engine has read, before it ends.
    pub(super) async fn save(&self, door: &Door, variant: &EngineVariant) {
        if self.path().is_none() {
            return;
        }
        // What an earlier engine has left and nobody has read is older than this.
        self.kept().slots.clear();
        if tokio::time::timeout(WHOLE_PATIENCE, self.save_all(door, &kind_of(variant))).await.is_err() {
            self.failed("it takes too long to write");
        }
    }

    async fn save_all(&self, door: &Door, kind: &str) {
        let mut room = self.most_bytes.min(free_bytes(self.folder.path()) / 2);
        for (slot, held) in door.slots(PATIENCE).await.into_iter().enumerate() {
            // Of one that was itself read from a file the engine does not say how much it holds.
            let takes = held.tokens.unwrap_or(0).saturating_mul(self.kept().bytes_per_token);
            if held.is_processing || held.tokens.is_some_and(|tokens| tokens < LEAST_TOKENS) || takes > room {
                continue;
            }
            let name = self.folder.new_name();
            let file = self.folder.path().join(&name);
            let mut written = Slot { file, kind: kind.to_owned(), tokens: 0 };
            self.kept().strays.push(written.file.clone());
            match door.slot(slot, SlotAction::Save, &name, PATIENCE).await {
                Some(done) if done.bytes > room => return,
                Some(done) if done.tokens >= LEAST_TOKENS => {
                    room -= done.bytes;
                    self.kept().bytes_per_token = done.bytes / done.tokens;
                    self.kept().strays.pop();
                    written.tokens = done.tokens;
                    self.kept().slots.push(written);
                }
                Some(_) => {}
                None => return self.failed("it cannot be written"),
            }
        }
    }

    /// Has an engine that has just loaded read what was kept.
    pub(super) async fn restore(&self, door: &Door, variant: &EngineVariant, capacity: Capacity) {
        let mut slots = {
            let mut kept = self.kept();
            kept.restored.clear();
            kept.is_untouched = true;
            kept.remove_strays();
            std::mem::take(&mut kept.slots)
        };
        if self.path().is_none() || slots.is_empty() {
            return;
        }
        // The longest first: it costs most to read again.
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.tokens));
        let kind = kind_of(variant);
        let reading = async {
            let (mut at, mut room) = (0, capacity.context_tokens.saturating_sub(1));
            for slot in slots.iter().filter(|slot| slot.kind == kind) {
                if at >= capacity.slots || slot.tokens > room {
                    continue;
                }
                let name = slot.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                match door.slot(at, SlotAction::Restore, name, PATIENCE).await {
                    Some(done) => self.kept().restored.push(done.tokens),
                    None => return self.failed("it cannot be read"),
                }
                at += 1;
                room = if capacity.is_shared { room - slot.tokens } else { room };
            }
        };
        if tokio::time::timeout(WHOLE_PATIENCE, reading).await.is_err() {
            self.failed("it takes too long to read");
        }
        let tokens: u64 = self.kept().restored.iter().sum();
        if tokens > 0 {
            tracing::info!(model = %self.model, tokens, "The engine goes on with what its predecessor has read");
        }
    }

    /// A request has been answered, with so much of it from the cache; the turn before it is known, perhaps.
    pub(super) fn judge(&self, before: Option<Turn>, cached_tokens: u64) {
        let mut kept = self.kept();
        let is_first = std::mem::take(&mut kept.is_untouched);
        let Some(before) = before else { return };
        // The last token of an answer is not read any more.
        let length = before.prompt_tokens + before.answer_tokens;
        let Some(at) = kept.restored.iter().position(|tokens| tokens.abs_diff(length) <= 2) else { return };
        kept.restored.swap_remove(at);
        if cached_tokens >= before.prompt_tokens / 2 {
            kept.failures = 0;
        } else if is_first {
            // What others have asked since may have taken its place.
            drop(kept);
            self.failed("the engine has not used it");
        }
    }

    fn failed(&self, reason: &str) {
        let failures = {
            let mut kept = self.kept();
            kept.failures += 1;
            kept.failures
        };
        if failures == MOST_FAILURES {
            tracing::warn!(model = %self.model, reason, "The prompt cache is not kept over a switch any more");
        } else {
            tracing::debug!(model = %self.model, reason, "The prompt cache was not kept over a switch");
        }
    }
}

/// What can read each other's slots: the same program with the same model, but for what does not matter.
fn kind_of(variant: &EngineVariant) -> String {
    let stamp = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.len(), found.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?))
    };
    let files = variant.files_read();
    let stamps: Vec<_> = files.iter().flat_map(|file| parts_of(file)).map(|file| stamp(&file)).collect();
    let binary = (variant.binary.display().to_string(), stamp(&variant.binary));
    format!("{binary:?} {stamps:?} {:?}", variant.args_of_the_model())
}

fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, PromptCache) {
        let base = tempfile::tempdir().unwrap();
        let folder = Arc::new(PromptFolder::make(base.path()).unwrap());
        (base, PromptCache::new("m".into(), folder, 100))
    }

    fn turn(prompt_tokens: u64, answer_tokens: u64) -> Turn {
        Turn { prompt_tokens, answer_tokens, growth_tokens: None }
    }

    #[test]
    fn what_is_of_no_use_twice_is_given_up() {
        let (_base, cache) = cache();
        for (cached, is_open) in [(10, true), (980, true), (10, true), (10, false)] {
            cache.kept().restored = vec![1003, 555];
            cache.kept().is_untouched = true;
            cache.judge(Some(turn(1000, 4)), cached);
            assert_eq!(cache.kept().restored, [555]);
            assert_eq!(cache.path().is_some(), is_open);
        }
        let cache = self::cache().1;
        for _ in 0..5 {
            cache.kept().restored = vec![1003];
            cache.kept().is_untouched = true;
            cache.judge(Some(turn(700, 40)), 0);
            cache.judge(None, 0);
            cache.judge(Some(turn(1000, 4)), 0);
        }
        assert_eq!(cache.kept().failures, 0, "others may have taken its place");
    }

    #[test]
    fn what_is_not_kept_any_more_is_removed() {
        let (_base, cache) = cache();
        let file = cache.folder.path().join("1.slot");
        std::fs::write(&file, "words").unwrap();
        cache.kept().slots.push(Slot { file: file.clone(), kind: String::new(), tokens: 300 });
        cache.close();
        assert!(!file.exists() && cache.path().is_none());
    }
}
