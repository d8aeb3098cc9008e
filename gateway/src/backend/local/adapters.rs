//! Fine-tunes in requests: by `lora` or as `<model>:<adapter>`, to the adapter the engine is asked for.

use std::sync::Arc;

use local_inference::catalogue::Task;
use local_inference::{
    AdapterError, AdapterFiles, AdapterHash, AdapterLimits, AdapterRef, AdapterSummary,
    CatalogueEntry,
};
use serde::Deserialize;

use super::fault::Fault;
use super::input::Generate;
use super::{Local, LocalEndpoint, endpoint};
use crate::finetunes::{FinetuneError, Finetunes};
use crate::identify::shown;

impl Local {
    pub fn finetunes(&self) -> &Arc<Finetunes> {
        &self.finetunes
    }

    /// Models that adapters can be put on.
    pub fn bases(&self) -> impl Iterator<Item = &'static CatalogueEntry> {
        let offered = self.offered.iter().copied();
        offered.filter(|entry| entry.task == Task::TextGeneration)
    }

    /// The one of that name, or of that other name.
    pub fn base(&self, name: &str) -> Option<&'static CatalogueEntry> {
        self.bases().find(|entry| entry.is_called(name))
    }

    /// Whether it is configured here, whatever it does.
    pub fn offers(&self, name: &str) -> bool {
        self.offered.iter().any(|entry| entry.is_called(name))
    }

    /// Whether these files are an adapter for that model.
    pub async fn check_adapter(
        &self,
        model: &str,
        files: AdapterFiles,
        limits: AdapterLimits,
    ) -> Result<AdapterSummary, AdapterError> {
        self.engine.check_adapter(model, files, limits).await
    }

    /// Gives each of a request's prompts the adapter it asks for.
    pub(super) fn adapt(&self, account: &str, asked: &mut Generate) -> Result<(), Fault> {
        let Some(first) = asked.requests.first() else {
            return Ok(());
        };
        let Some((model, name)) = self.split(&first.model, asked.lora.as_deref())? else {
            return Ok(());
        };
        let adapter = self.find(account, &model, &name).map_err(|error| {
            let (code, status) = error.code();
            Fault {
                param: Some("lora".to_owned()),
                ..Fault::new(code, status, error.to_string())
            }
        })?;
        for request in &mut asked.requests {
            request.model.clone_from(&model);
            request.adapter = Some(adapter.clone());
        }
        Ok(())
    }

    /// Of a request not yet read, for the cache: what its answer is computed with beside the model. A request that will be
    /// refused has none.
    pub fn adapter_of(&self, account: &str, rest: &str, body: &[u8]) -> Option<AdapterHash> {
        let asked: Names = serde_json::from_slice(body).ok()?;
        let model = match endpoint(rest)? {
            LocalEndpoint::Run { model } if !model.is_empty() => model,
            _ => asked.model?,
        };
        let model = model.strip_prefix("workers-ai/").unwrap_or(&model);
        let lora = asked.lora.filter(|name| !name.is_empty());
        let (model, name) = self.split(model, lora.as_deref()).ok()??;
        Some(self.find(account, &model, &name).ok()?.hash)
    }

    /// Model and adapter, if one is asked for.
    fn split(&self, model: &str, lora: Option<&str>) -> Result<Option<(String, String)>, Fault> {
        let pair = match model.split_once(':') {
            // An operator's own model may have a colon in its name.
            Some((base, name)) if !self.offers(model) && !name.is_empty() => Some((base, name)),
            _ => None,
        };
        match (pair, lora) {
            (Some((_, name)), Some(lora)) if name != lora => Err(Fault::input(
                "lora",
                format_args!(
                    "'/lora' is `{}` and the model's name asks for `{}`: name one adapter",
                    shown(lora),
                    shown(name)
                ),
            )),
            (Some((base, name)), _) => Ok(Some((base.to_owned(), name.to_owned()))),
            (None, Some(lora)) => Ok(Some((model.to_owned(), lora.to_owned()))),
            (None, None) => Ok(None),
        }
    }

    fn find(&self, account: &str, model: &str, name: &str) -> Result<AdapterRef, FinetuneError> {
        let Some(base) = self.base(model) else {
            return Err(match self.offers(model) {
                true => FinetuneError::NoAdapters(shown(model)),
                false => FinetuneError::NoSuchModel(shown(model)),
            });
        };
        let set = self.finetunes.load();
        let found = set.usable(account, name);
        let finetune = found.ok_or_else(|| FinetuneError::NotFound(shown(name)))?;
        if !base.is_called(&finetune.model) {
            return Err(FinetuneError::OtherModel {
                name: shown(name),
                model: finetune.model.to_string(),
                asked: shown(model),
            });
        }
        let hash = finetune
            .adapter()
            .ok_or_else(|| FinetuneError::Incomplete {
                name: shown(name),
                missing: finetune.missing().join(" and no "),
            })?;
        Ok(AdapterRef {
            id: Arc::clone(&finetune.id),
            hash,
        })
    }
}

/// What a body says about model and adapter.
#[derive(Deserialize)]
struct Names {
    model: Option<String>,
    lora: Option<String>,
}
