//! `ai-gateway model list`.

use std::path::Path;

use local_inference::catalogue::{self, CatalogueEntry, Family, Source, Task};

use crate::config::Config;

/// Up to so many rows are shown with all that is known of them.
const MAX_IN_FULL: usize = 3;

/// Prints the models this build knows, those on disk first; with `filter`, those whose names, task, family, licence or
/// description hold it.
pub fn list(config: &Config, filter: Option<&str>) -> anyhow::Result<()> {
    let directory = super::directory(config);
    let rows = matching(catalogue::all(), filter, &directory);
    anyhow::ensure!(
        !rows.is_empty(),
        "no model matches `{}`",
        filter.unwrap_or_default()
    );
    print!("{}", text(&rows, &directory));
    Ok(())
}

fn matching<'a>(
    entries: &'a [CatalogueEntry],
    filter: Option<&str>,
    directory: &Path,
) -> Vec<&'a CatalogueEntry> {
    let filter = filter.unwrap_or_default().to_lowercase();
    let is_wanted = |entry: &&CatalogueEntry| {
        let said = [&entry.id, &entry.description, &entry.licence];
        let mut said = said.into_iter().chain(&entry.aliases);
        said.any(|text| text.to_lowercase().contains(&filter))
            || entry.task.name().to_lowercase().contains(&filter)
            || family(entry.family).contains(&filter)
    };
    let mut rows: Vec<&CatalogueEntry> = entries.iter().filter(is_wanted).collect();
    rows.sort_by_key(|entry| !entry.is_in(directory));
    rows
}

fn family(family: Family) -> &'static str {
    match family {
        Family::Llama => "llama",
        Family::Mistral => "mistral",
        Family::Gemma => "gemma",
        Family::Gemma3 => "gemma3",
        Family::Qwen2 => "qwen2",
        Family::Phi => "phi",
        Family::Falcon => "falcon",
        Family::Bert => "bert",
        Family::XlmRoberta => "xlm-roberta",
        Family::Unstated => "unstated",
    }
}

fn text(rows: &[&CatalogueEntry], directory: &Path) -> String {
    let longest = rows.iter().map(|entry| entry.id.len()).max();
    let width = longest.unwrap_or_default();
    let mut out = String::new();
    for entry in rows {
        let kind = match entry.task {
            Task::TextGeneration => "text",
            Task::TextEmbeddings => "embedding",
            Task::TextClassification => "reranking",
        };
        out += &format!(
            "{:width$}  {:10}  {:9}  {:>6} tokens  {}\n",
            entry.id,
            state(entry, directory),
            kind,
            entry.context,
            entry.licence
        );
        if rows.len() <= MAX_IN_FULL {
            out += &in_full(entry, directory);
        }
    }
    out
}

fn state(entry: &CatalogueEntry, directory: &Path) -> &'static str {
    let is_there = directory.join(&*entry.file).exists();
    match (entry.is_in(directory), is_there, entry.sources.is_empty()) {
        (true, ..) => "pulled",
        (false, true, _) => "incomplete",
        (false, false, false) => "not pulled",
        (false, false, true) => "to bring",
    }
}

fn in_full(entry: &CatalogueEntry, directory: &Path) -> String {
    let mut out = format!("    {}\n", entry.description);
    let mut line = |name: &str, value: String| out += &format!("    {name}: {value}\n");
    if !entry.aliases.is_empty() {
        line("also called", entry.aliases.join(", "));
    }
    line("place", directory.join(&*entry.file).display().to_string());
    match entry.weight_bytes(directory) {
        0 => {}
        bytes => line("size", format!("{} MB", bytes / 1_000_000)),
    }
    for source in &entry.sources {
        let gated = match source {
            Source::Hub { is_gated: true, .. } => " (its licence has to be accepted there)",
            _ => "",
        };
        line("from", format!("{}{gated}", source.name()));
    }
    if let Some(day) = &entry.deprecated {
        line("gone from the original since", day.to_string());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_comes_first_and_a_filter_narrows() {
        let folder = super::super::tests::Folder::new();
        let here = folder.0.as_path();
        let ids = |filter: Option<&str>| -> Vec<String> {
            let rows = matching(catalogue::all(), filter, here);
            rows.iter().map(|entry| entry.id.to_string()).collect()
        };
        assert_eq!(ids(None).len(), catalogue::all().len());
        let phi = "@cf/microsoft/phi-2";
        std::fs::create_dir_all(here.join("phi-2")).expect("made");
        assert_ne!(ids(None)[0], phi);
        std::fs::write(here.join("phi-2/config.json"), "{}").expect("written");
        assert_eq!(ids(None)[0], phi);
        assert_eq!(ids(Some("PHI-2")), [phi]);
        assert!(ids(Some("embeddings")).len() > 3);
        assert!(ids(Some("none of them")).is_empty());
        let rows = matching(catalogue::all(), Some("phi-2"), here);
        let text = text(&rows, here);
        assert!(text.starts_with("@cf/microsoft/phi-2  pulled"), "{text}");
        assert!(text.contains("from: microsoft/phi-2"), "{text}");
    }
}
