//! SHA-256 of model files, and notes of them in the form `sha256sum` writes and checks.

use std::path::{Path, PathBuf};

use anyhow::Context;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

/// A note holds a line a file; a longer one is none of ours.
const MAX_NOTE_BYTES: u64 = 1 << 20;

/// In hexadecimal.
pub(super) async fn of_file(path: &Path) -> anyhow::Result<String> {
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
    let bytes = hash.finalize();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Checksum and name of each file of a model, by name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sums(Vec<(String, String)>);

impl Sums {
    /// Of the file at `path`, or of the files in the folder there, called after `name`.
    pub(super) async fn of(path: &Path, name: &str) -> anyhow::Result<Sums> {
        let mut sums = Vec::new();
        let mut waiting: Vec<(PathBuf, String)> = vec![(path.to_owned(), name.to_owned())];
        while let Some((path, name)) = waiting.pop() {
            let reading = || format!("reading `{}`", path.display());
            if !tokio::fs::metadata(&path)
                .await
                .with_context(reading)?
                .is_dir()
            {
                sums.push((name, of_file(&path).await?));
                continue;
            }
            let mut entries = tokio::fs::read_dir(&path).await.with_context(reading)?;
            while let Some(entry) = entries.next_entry().await.with_context(reading)? {
                let inner = format!("{name}/{}", entry.file_name().to_string_lossy());
                waiting.push((entry.path(), inner));
            }
        }
        sums.sort();
        Ok(Sums(sums))
    }

    pub(super) async fn write(&self, path: &Path) -> anyhow::Result<()> {
        let lines = self.0.iter();
        let text: String = lines
            .map(|(name, sum)| format!("{sum}  {name}\n"))
            .collect();
        tokio::fs::write(path, text)
            .await
            .with_context(|| format!("writing `{}`", path.display()))
    }

    /// `None`: no note is there.
    pub(super) async fn read(path: &Path) -> anyhow::Result<Option<Sums>> {
        let Ok(found) = tokio::fs::metadata(path).await else {
            return Ok(None);
        };
        anyhow::ensure!(
            found.len() <= MAX_NOTE_BYTES,
            "`{}` is too long for a note of checksums",
            path.display()
        );
        let text = tokio::fs::read_to_string(path)
            .await
            .with_context(|| format!("reading `{}`", path.display()))?;
        let mut sums: Vec<(String, String)> = text
            .lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
            .collect();
        sums.sort();
        Ok(Some(Sums(sums)))
    }
}
