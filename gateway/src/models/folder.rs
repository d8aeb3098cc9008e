//! A folder of configuration, tokenizer and safetensors, file by file out of a repository.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use local_inference::catalogue::Task;

use super::download::{self, Origin, Status};
use super::progress::Progress;

/// What the engine cannot do without.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// What it reads where there is one.
const USEFUL: [&str; 4] = [
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// The same, of encoders.
const OF_ENCODERS: [&str; 3] = [
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
];
const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";
/// As many as the engine opens.
const MAX_SHARDS: usize = 512;

/// Completes the folder `part` from the addresses `url` gives for names. Files that are there came whole.
pub(super) async fn fetch(
    part: &Path,
    task: Task,
    url: impl Fn(&str) -> String,
    token: Option<&str>,
) -> anyhow::Result<()> {
    let get = async |name: &str| file(part, name, &url(name), token).await;
    for name in NEEDED {
        anyhow::ensure!(get(name).await?, "the repository has no `{name}`");
    }
    for name in USEFUL {
        get(name).await?;
    }
    if task != Task::TextGeneration {
        for name in OF_ENCODERS {
            get(name).await?;
        }
    }
    if get(INDEX).await? {
        let text = tokio::fs::read_to_string(part.join(INDEX))
            .await
            .context("reading the list of shards")?;
        for name in shards(&text)? {
            anyhow::ensure!(get(&name).await?, "the repository has no `{name}`");
        }
    } else {
        anyhow::ensure!(
            get(WEIGHTS).await?,
            "the repository has no weights as safetensors"
        );
    }
    Ok(())
}

/// Brings one file; false: the repository has none of that name.
async fn file(part: &Path, name: &str, url: &str, token: Option<&str>) -> anyhow::Result<bool> {
    let place = part.join(name);
    if tokio::fs::metadata(&place).await.is_ok() {
        return Ok(true);
    }
    let folder = place.parent().unwrap_or(part);
    tokio::fs::create_dir_all(folder)
        .await
        .with_context(|| format!("creating `{}`", folder.display()))?;
    // Outside the folder: what is in it is whole.
    let unfinished = part.with_extension(format!("part-{}", name.replace('/', "-")));
    let progress = Progress::new(None);
    let bytes = None;
    let origin = Origin { url, bytes, token };
    match download::to_file(&unfinished, &origin, &progress).await {
        Ok(_) => progress.finish(),
        Err(error) => {
            let status = error.downcast_ref::<Status>();
            return match status.is_some_and(|status| status.0.as_u16() == 404) {
                true => Ok(false),
                false => Err(error.context(format!("fetching `{name}`"))),
            };
        }
    }
    tokio::fs::rename(&unfinished, &place)
        .await
        .with_context(|| format!("moving `{name}` into its folder"))?;
    Ok(true)
}

/// The files an index names, each of which stays in the folder.
fn shards(index: &str) -> anyhow::Result<BTreeSet<String>> {
    let index: serde_json::Value =
        serde_json::from_str(index).context("the list of shards is not JSON")?;
    let places = index["weight_map"].as_object();
    let places = places.context("the list of shards names none")?;
    let names = places.values().filter_map(serde_json::Value::as_str);
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    let is_plain = |name: &String| {
        name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(['/', '\\'])
    };
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        anyhow::bail!("the list of shards names `{name}`");
    }
    anyhow::ensure!(
        (1..=MAX_SHARDS).contains(&names.len()),
        "the list of shards names {} files, 1 to {MAX_SHARDS} are possible",
        names.len()
    );
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::shards;

    #[test]
    fn an_index_names_files_of_its_folder_only() {
        let names = |text: &str| shards(text).map(|names| names.into_iter().collect::<Vec<_>>());
        let two = r#"{"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}"#;
        assert_eq!(
            names(two).ok().as_deref(),
            Some(&["m-1.safetensors".to_owned(), "m-2.safetensors".to_owned()][..])
        );
        for broken in [
            "{",
            "{}",
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"a": "../x.safetensors"}}"#,
            r#"{"weight_map": {"a": "x.bin"}}"#,
            r#"{"weight_map": {"a": ".x.safetensors"}}"#,
        ] {
            assert!(names(broken).is_err(), "{broken}");
        }
    }
}
