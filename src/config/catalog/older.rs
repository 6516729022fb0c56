//! Files of older systems on their way into the catalog, or out of the program again in our own form.

use std::path::Path;

use serde_json::Value;

use super::raw::{self, RawCatalog, RawModels};
use super::{Catalog, Timeouts};
use crate::config::import::{self, Origins, Translated};
use crate::config::{ConfigError, Environment, Fault};
use crate::lint::{self, Syntax};

/// A models file in our own form.
#[derive(Debug)]
pub struct Imported {
    /// The whole of it.
    pub file: Value,
    /// Things to tell the operator that are no errors.
    pub warnings: Vec<String>,
}

impl Catalog {
    /// Reads a file of an older system, and gives it in our own form. One that has this form is given as it is.
    ///
    /// # Errors
    /// The file cannot be read, or has faults.
    pub fn import(path: &Path, environment: &Environment) -> Result<Imported, ConfigError> {
        let file = path.display().to_string();
        let text = lint::read_text(path)
            .map_err(|error| Fault::new(&file, error.to_string(), "name a file that can be read"))?;
        let Some(syntax) = raw::syntax(path) else {
            let cure = "name a .json, .yaml or .yml file; a program in Lua is served as it is, by LLM_PROXY_API_MODELS_CONFIG";
            return Err(Fault::new(file, "files of this ending are not imported", cure).into());
        };
        let value = lint::read::<Value>(syntax, &text).map_err(|misread| Fault::misread(&file, misread))?;
        let (imported, raw) = match import::translate(path, &value) {
            Some(translated) => {
                let translated = translated?;
                let raw = read_on(&file, &translated)?;
                (Imported { file: translated.file, warnings: translated.warnings }, raw)
            }
            None => {
                let raw = raw::from(syntax, &file, &text)?;
                let warning = format!("{file}: this has the form of this service already");
                (Imported { file: value, warnings: vec![warning] }, raw)
            }
        };
        // What is printed is to be in order; whether its variables are set is a matter of where it will be served.
        Self::of(&file, raw, (environment, Timeouts::default(), true))?;
        Ok(imported)
    }
}

/// The raw shapes of a text, if it is that of an older system.
pub(super) fn read(syntax: Syntax, path: &Path, text: &str) -> Option<Result<RawCatalog, ConfigError>> {
    // A text that cannot be read is told by whoever reads it next.
    let value = lint::read::<Value>(syntax, text).ok()?;
    let translated = import::translate(path, &value)?;
    Some(translated.and_then(|translated| {
        let mut raw = read_on(&path.display().to_string(), &translated)?;
        raw.warnings = translated.warnings;
        Ok(raw)
    }))
}

/// The translated file as any other, but for the places that its faults will name.
fn read_on(file: &str, translated: &Translated) -> Result<RawCatalog, ConfigError> {
    let mut raw = raw::from(Syntax::Json, file, &translated.file.to_string())?;
    place(&mut raw, &translated.origins);
    Ok(raw)
}

fn place(raw: &mut RawCatalog, origins: &Origins) {
    for (name, provider) in &mut raw.providers.0 {
        let Some(origin) = origins.providers.get(name) else { continue };
        provider.0.place = Some(origin.place.clone());
        let Some(RawModels::Listed(models)) = &mut provider.0.models else { continue };
        for (name, model) in &mut models.0 {
            if let Some(model) = model {
                model.0.place = origin.models.get(name).cloned();
            }
        }
    }
    for (_, adjustment) in &mut raw.adjustments.0 {
        adjustment.0.file.clone_from(&origins.adjustments);
    }
}
