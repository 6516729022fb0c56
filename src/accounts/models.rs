//! Models that are switched off and on: by their public names, for all nodes alike.
//!
//! A switch is kept by its name alone. So it holds whatever the models file says, and for a model that comes back.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::MutexGuard;
use tokio::time::timeout;

use super::{AccountError, Accounts, Origin, TURN_PATIENCE, journal, rules};
use crate::callers::now_ms;
use crate::store::ModelSwitch;

/// Those who have to know at once of what is done here.
pub trait Heard: Debug + Send + Sync {
    /// These models are off from now on, and no others.
    fn off(&self, models: HashSet<String>);

    /// Keys or switches were changed here: other nodes shall read them anew.
    fn changed(&self);
}

/// What is to be different of how a model is switched. `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchEdit {
    /// Whether it is off.
    pub disabled: Option<bool>,
    /// What is to be remembered; `Some(None)` takes it away. So does another switch that says nothing: it is of the one
    /// before.
    pub note: Option<Option<String>>,
}

impl SwitchEdit {
    fn applied_to(&self, before: Option<ModelSwitch>, now_ms: i64) -> ModelSwitch {
        let before = before.unwrap_or_default();
        let disabled = self.disabled.unwrap_or(before.disabled);
        let is_another = disabled != before.disabled;
        let kept = before.note.filter(|_| !is_another);
        let note = self.note.clone().unwrap_or(kept).filter(|note| !note.is_empty());
        let since_ms = if is_another { Some(now_ms) } else { before.since_ms };
        ModelSwitch { disabled, since_ms, note, ..before }
    }
}

impl Accounts {
    /// All models that were ever switched, by their names.
    ///
    /// # Errors
    /// The store does not tell.
    pub async fn models(&self) -> Result<Vec<ModelSwitch>, AccountError> {
        Ok(self.store.models().await?)
    }

    /// Switches a model, by its public name, and gives it as it is then. Whether anybody serves it is not asked.
    ///
    /// # Errors
    /// The name or the note is not what it must be, or the store does not keep it.
    pub async fn switch(
        self: &Arc<Self>,
        origin: impl Into<Origin>,
        model: &str,
        edit: SwitchEdit,
    ) -> Result<ModelSwitch, AccountError> {
        let origin = origin.into();
        rules::check_model(model)?;
        if let Some(Some(note)) = &edit.note {
            rules::check_note(note)?;
        }
        let (accounts, model, now_ms) = (self.clone(), model.to_owned(), now_ms());
        self.to_the_end(async move {
            let after = {
                let mut off = accounts.off().await?;
                let change = |before| edit.applied_to(before, now_ms);
                let note = |before: &ModelSwitch, after: &ModelSwitch| {
                    let detail = journal::differences_of_switches(before, after);
                    journal::entry(&origin, "model.change", &model, detail)
                };
                let (_, after) = accounts.store.switch_model(&model, &change, &note).await?;
                if after.disabled {
                    off.insert(after.model.clone());
                } else {
                    off.remove(&after.model);
                }
                accounts.tell_off(off.clone());
                after
            };
            accounts.tell_others();
            Ok(after)
        })
        .await
    }

    /// Takes over what other nodes and commands have switched, and tells whether they had. Cheap if not.
    ///
    /// # Errors
    /// The store does not tell.
    pub async fn sync_models(&self) -> Result<bool, AccountError> {
        let version = self.store.models_version().await?;
        if self.models_version.load(Ordering::Relaxed) == version {
            return Ok(false);
        }
        // As for keys: what changes after the version is read once more.
        let mut off = self.off().await?;
        let disabled = self.store.models().await?.into_iter().filter(|switch| switch.disabled);
        *off = disabled.map(|switch| switch.model).collect();
        self.tell_off(off.clone());
        self.models_version.store(version, Ordering::Relaxed);
        Ok(true)
    }

    async fn off(&self) -> Result<MutexGuard<'_, HashSet<String>>, AccountError> {
        timeout(TURN_PATIENCE, self.models_off.lock()).await.map_err(|_| AccountError::Busy)
    }

    fn tell_off(&self, off: HashSet<String>) {
        if let Some(heard) = &self.heard {
            heard.off(off);
        }
    }

    pub(super) fn tell_others(&self) {
        if let Some(heard) = &self.heard {
            heard.changed();
        }
    }
}
