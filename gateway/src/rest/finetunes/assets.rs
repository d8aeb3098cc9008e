//! Files of a fine-tune: received, checked together as soon as both are there, and taken on.
//!
//! What is refused is not kept, and the fine-tune stays as it was: one that answers requests never stops doing so because a
//! file was to be replaced by a wrong one.

use std::path::PathBuf;
use std::sync::Arc;

use local_inference::{AdapterError, AdapterFiles, AdapterLimits};
use serde_json::Value;

use super::multipart::{self, FileLimits};
use crate::backend::local::Local;
use crate::config::Limits;
use crate::door::intake::{self, BodyLimits};
use crate::door::writer::ReplyWriter;
use crate::error::{GatewayError, Kind};
use crate::exchange::Exchange;
use crate::finetunes::{Asset, FileKind, Finetune, FinetuneError, Receiving};

/// Bytes of adapter_config.json. PEFT writes about one thousand.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Bytes of a body beside its files.
const FRAMING_BYTES: u64 = 64 << 10;

pub async fn take(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    local: &Arc<Local>,
    finetune: Arc<Finetune>,
) -> Result<Arc<Finetune>, GatewayError> {
    let limits = exchange.config.finetunes;
    let files = receive(exchange, writer, local, limits).await?;
    // Others' files of the same fine-tune are seen from here on.
    let _one_at_a_time = local.finetunes().taking_on.lock().await;
    let set = local.finetunes().load();
    let was = set.own(&finetune.account, &finetune.id).cloned();
    let was = was.ok_or_else(|| FinetuneError::NotFound(finetune.name.to_string()))?;
    let checked = check(local, &was, &files, limits).await?;
    super::blocking(local, move |finetunes| {
        let mut now = Finetune::clone(&was);
        for (kind, file) in files {
            let asset = file.keep()?;
            match kind {
                FileKind::Config => now.config = Some(asset),
                FileKind::Weights => now.weights = Some(asset),
            }
        }
        now.rank = checked;
        finetunes.attach(&was, &now)
    })
    .await
}

async fn receive(
    exchange: &Exchange<'_>,
    writer: &mut ReplyWriter<'_>,
    local: &Local,
    limits: Limits,
) -> Result<Vec<(FileKind, Receiving)>, GatewayError> {
    let incoming = exchange.incoming;
    let content_type = incoming.header("content-type").unwrap_or_default();
    let boundary = multer::parse_boundary(content_type).map_err(|_| {
        let text = "send multipart/form-data with the parts `file_name` and `file`";
        GatewayError::new(Kind::BadRequest, text)
    })?;
    let body = BodyLimits {
        max_bytes: limits.max_bytes + MAX_CONFIG_BYTES + FRAMING_BYTES,
        timeout: exchange.config.server.body_read_timeout,
    };
    let announced = intake::check_announced(
        incoming,
        BodyLimits {
            max_bytes: u64::MAX,
            ..body
        },
    )?;
    if announced.is_some_and(|bytes| bytes > body.max_bytes) {
        return Err(FinetuneError::TooLarge {
            name: FileKind::Weights.name(),
            max: limits.max_bytes,
            key: "`finetunes.max_bytes`",
        }
        .into());
    }
    intake::welcome_body(writer.session(), incoming).await?;
    let limits = FileLimits {
        max_config_bytes: MAX_CONFIG_BYTES,
        max_weights_bytes: limits.max_bytes,
    };
    let folder = local.finetunes().folder();
    multipart::receive(writer.session(), boundary, body, folder, limits).await
}

/// Checks what came with what is there. Gives the adapter's rank once both files are.
async fn check(
    local: &Arc<Local>,
    was: &Finetune,
    new: &[(FileKind, Receiving)],
    limits: Limits,
) -> Result<Option<u32>, GatewayError> {
    let find = |kind| {
        let found = new.iter().find(|(other, _)| *other == kind);
        found.map(|(_, file)| file.path().to_owned())
    };
    let (config, weights) = (find(FileKind::Config), find(FileKind::Weights));
    if let Some(path) = &config {
        let bytes = std::fs::read(path).map_err(FinetuneError::Disk)?;
        check_config(&bytes, limits)?;
    }
    if !(config.is_some() || was.config.is_some()) || !(weights.is_some() || was.weights.is_some())
    {
        return Ok(None);
    }
    // Hundreds of megabytes at most, and one upload's only: the caller holds the lock.
    let (old_config, old_weights) = (was.config, was.weights);
    let files = super::blocking(local, move |finetunes| {
        let read = |new: Option<PathBuf>, old: Option<Asset>| match (new, old) {
            (Some(path), _) => std::fs::read(path),
            (None, Some(asset)) => finetunes.folder().read(asset.hash),
            (None, None) => Ok(Vec::new()),
        };
        Ok(AdapterFiles {
            config: read(config, old_config)?,
            weights: read(weights, old_weights)?,
        })
    })
    .await?;
    let engine_limits = AdapterLimits {
        max_rank: limits.max_rank as usize,
        max_bytes: limits.max_bytes,
    };
    let checked = local.check_adapter(&was.model, files, engine_limits).await;
    let summary = checked.map_err(|reason| FinetuneError::Refused {
        reason,
        hint: match new.len() < 2 && was.adapter().is_some() {
            true => ", and the fine-tune is as it was; to replace both files send them in one call",
            false => "",
        },
    })?;
    Ok(Some(summary.rank as u32))
}

/// What the configuration alone tells, before its weights are sent.
fn check_config(bytes: &[u8], limits: Limits) -> Result<(), FinetuneError> {
    let wrong = |text: String| FinetuneError::Refused {
        reason: AdapterError::Config(text),
        hint: "",
    };
    let config: Value =
        serde_json::from_slice(bytes).map_err(|error| wrong(format!("not JSON: {error}")))?;
    if !config.is_object() {
        return Err(wrong("no JSON object, as PEFT writes it".to_owned()));
    }
    match config["r"].as_u64() {
        Some(rank) if rank > u64::from(limits.max_rank) => Err(wrong(format!(
            "`r` is {rank}, at most {} is taken (`finetunes.max_rank`): train with a lower rank",
            limits.max_rank
        ))),
        _ => Ok(()),
    }
}
