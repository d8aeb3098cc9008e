//! Whether files are an adapter for a model, found out before anybody asks for it.

use super::target::Targets;
use super::tensors::Tensors;
use super::{AdapterError, AdapterFiles, AdapterLimits, AdapterSummary};
use crate::engine::EngineHandle;
use crate::error::EngineError;
use crate::model;
use crate::weights::ModelFiles;
use std::path::Path;

impl EngineHandle {
    /// Looks at every byte of an adapter, and at the header of the base's files; the base need not be loaded.
    ///
    /// # Errors
    /// What is wrong with the files and what to change, or why the base cannot be looked at.
    pub async fn check_adapter(
        &self,
        model: &str,
        files: AdapterFiles,
        limits: AdapterLimits,
    ) -> Result<AdapterSummary, AdapterError> {
        let models = self.models().into_iter();
        let entry = models
            .map(|known| known.entry)
            .find(|entry| entry.is_called(model))
            .ok_or_else(|| EngineError::UnknownModel {
                model: model.to_owned(),
            })?;
        let path = self.config().model_dir.join(&*entry.file);
        if !path.exists() {
            let (model, how) = (entry.id.to_string(), entry.how_to_get());
            return Err(EngineError::NotPulled { model, how }.into());
        }
        tokio::task::spawn_blocking(move || check(&path, &files, limits))
            .await
            .map_err(|error| EngineError::Internal(error.to_string()))?
    }
}

fn check(
    base: &Path,
    files: &AdapterFiles,
    limits: AdapterLimits,
) -> Result<AdapterSummary, AdapterError> {
    let bytes = files.weights.len() as u64;
    if bytes > limits.max_bytes {
        return Err(AdapterError::Weights(format!(
            "has {bytes} bytes, the limit is {}: train a smaller rank or fewer modules",
            limits.max_bytes
        )));
    }
    let targets = targets(base)?;
    Tensors::open(files, &targets)?.check(limits)
}

/// What of the model in these files can be adapted.
fn targets(base: &Path) -> Result<Targets, EngineError> {
    let load = |error: &dyn std::fmt::Display| EngineError::Load(error.to_string());
    let files = ModelFiles::open(base).map_err(|error| load(&error))?;
    let (targets, _) = model::targets(&files).map_err(|error| load(&error))?;
    Ok(targets)
}
