//! A models file with faults: what can still be judged of it, so that one fault does not hide the others.

use std::collections::BTreeSet;
use std::path::Path;

use super::raw::{self, RawCatalog};
use super::{Catalog, Reader};
use crate::config::{ConfigError, Environment, Fault, Timeouts};
use crate::lint::{self, Readable};

/// What a file says as far as it can be read, and all that is wrong with it.
#[derive(Debug)]
pub struct Judged {
    /// To be served if there are no faults, and otherwise good for finding more of them.
    pub catalog: Option<Catalog>,
    /// All that is wrong.
    pub faults: Vec<Fault>,
    gaps: Gaps,
}

/// What was left out of a file, for it could not be read.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// As faults name places.
    places: Vec<String>,
    /// Names that may be those of models.
    pub(super) names: Vec<String>,
}

impl Gaps {
    pub(super) fn of<T>(file: &str, judged: &Readable<T>) -> Self {
        let places = judged.misreads.iter().map(|misread| format!("{file}: {}", misread.path));
        Self { places: places.collect(), names: judged.left_out.clone() }
    }

    /// Whether a fault is only that something is not there which was left out.
    fn explain(&self, fault: &Fault) -> bool {
        let is_within = |place: &String| {
            place.strip_prefix(&fault.place).is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        fault.is_lack && self.places.iter().any(is_within)
    }
}

impl Judged {
    /// The catalog, if it is in order.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn finish(self) -> Result<Catalog, ConfigError> {
        match self.catalog {
            Some(catalog) if self.faults.is_empty() => Ok(catalog),
            _ => Err(self.faults.into()),
        }
    }

    /// Whether a fault that is found later comes only from what could not be read.
    pub fn explains(&self, fault: &Fault) -> bool {
        self.gaps.explain(fault)
    }
}

impl From<Catalog> for Judged {
    fn from(catalog: Catalog) -> Self {
        Self { catalog: Some(catalog), faults: Vec::new(), gaps: Gaps::default() }
    }
}

impl From<Fault> for Judged {
    fn from(fault: Fault) -> Self {
        Self { catalog: None, faults: vec![fault], gaps: Gaps::default() }
    }
}

impl Catalog {
    /// Reads a models file, as [`Catalog::load`] does, with all that is wrong with it.
    pub fn judge(path: &Path, environment: &Environment, defaults: Timeouts, minimum: bool) -> Judged {
        let file = path.display().to_string();
        let text = match lint::read_text(path) {
            Ok(text) => text,
            Err(error) => {
                let cure = "name a file that can be read, in LLM_PROXY_API_MODELS_CONFIG or to the command";
                return Judged::from(Fault::new(file, error.to_string(), cure));
            }
        };
        let (raw, mut faults, gaps) = raw::judged(path, &text);
        let Some(raw) = raw else { return Judged { catalog: None, faults, gaps } };
        let (catalog, more) = Self::checked(&file, raw, &gaps, (environment, defaults, minimum));
        faults.extend(more.into_iter().filter(|fault| !gaps.explain(fault)));
        Judged { catalog: Some(catalog), faults, gaps }
    }

    fn checked(
        file: &str,
        raw: RawCatalog,
        gaps: &Gaps,
        (environment, timeouts, minimum): (&Environment, Timeouts, bool),
    ) -> (Self, Vec<Fault>) {
        let (catalog, faults) = (Self::default(), Vec::new());
        let withheld = BTreeSet::new();
        Reader { file, environment, timeouts, minimum, catalog, faults, withheld }.read(raw, &gaps.names)
    }

    /// The catalog of a file that could be read as a whole.
    ///
    /// # Errors
    /// All that is wrong.
    pub(super) fn of(
        file: &str,
        raw: RawCatalog,
        context: (&Environment, Timeouts, bool),
    ) -> Result<Self, ConfigError> {
        let (catalog, faults) = Self::checked(file, raw, &Gaps::default(), context);
        if faults.is_empty() { Ok(catalog) } else { Err(faults.into()) }
    }
}
