use super::*;
use crate::embed::Encoders;
use crate::prompt::chat_template::Named;
use std::collections::HashMap;

#[test]
fn names_are_unique_and_files_stay_in_the_model_directory() {
    let mut names = std::collections::HashSet::new();
    for entry in all() {
        for name in std::iter::once(&entry.id).chain(&entry.aliases) {
            assert!(names.insert(name.to_ascii_lowercase()), "{name} twice");
            assert!(name.starts_with("@cf/") || name.starts_with("@hf/"));
        }
        assert!(!entry.file.contains(['/', '\\']) && !entry.file.starts_with('.'));
        assert!(entry.context > 0 && entry.max_tokens > 0 && entry.requests_per_minute > 0);
        assert!(!entry.description.is_empty() && !entry.licence.is_empty());
    }
}

/// A file two rows share would otherwise be whichever was pulled first.
#[test]
fn rows_of_one_file_have_one_origin() {
    let mut files: HashMap<&str, &CatalogueEntry> = HashMap::new();
    for entry in all() {
        let first = files.entry(&*entry.file).or_insert(entry);
        assert_eq!(first.sources, entry.sources, "{}", entry.file);
        assert_eq!(first.sha256, entry.sha256, "{}", entry.file);
        assert_eq!(first.family, entry.family, "{}", entry.file);
    }
}

#[test]
fn what_rows_refer_to_exists() {
    for entry in all() {
        match &entry.template {
            Template::OwnOr(name) | Template::Named(name) => {
                assert!(Named::find(name).is_some(), "{}: {name}", entry.id);
            }
            Template::Own => {}
        }
        let is_encoder = entry.task != Task::TextGeneration;
        assert_eq!(Encoders::is_known(&entry.id), is_encoder, "{}", entry.id);
        if let Some(sha256) = &entry.sha256 {
            assert!(sha256.len() == 64 && entry.bytes.is_some());
        }
        for source in &entry.sources {
            if let Source::Hub {
                repository, file, ..
            } = source
            {
                assert_eq!(repository.split('/').count(), 2);
                assert_eq!(file.is_none(), entry.is_folder(), "{}", entry.id);
                assert!(file.is_none_or(|file| file == entry.file));
            }
        }
        if let Some(day) = &entry.deprecated {
            let parts: Vec<usize> = day.split('-').map(str::len).collect();
            assert_eq!(parts, [4, 2, 2], "{day}");
        }
    }
}

#[test]
fn models_are_found_by_every_name_they_have() {
    let check = |name: &str, id: &str| {
        let found = find(name).map(|entry| &*entry.id);
        assert_eq!(found, Some(id), "{name}");
    };
    let v02 = "@hf/mistral/mistral-7b-instruct-v0.2";
    check("@HF/Mistral/mistral-7b-instruct-v0.2", v02);
    check("@hf/mistralai/mistral-7b-instruct-v0.2", v02);
    check(
        "@cf/mistral/mistral-7b-instruct-v0.1-vllm",
        "@cf/mistral/mistral-7b-instruct-v0.1",
    );
    check(
        "@hf/meta-llama/meta-llama-3-8b-instruct",
        "@cf/meta/llama-3-8b-instruct",
    );
    check(
        "@cf/mistralai/mistral-7b-instruct-v0.2-lora",
        "@cf/mistral/mistral-7b-instruct-v0.2-lora",
    );
    assert!(find("@cf/none/such").is_none());
}

#[test]
fn limits_and_prices_are_the_originals() {
    let row = |id: &str| find(id).expect("a row");
    let phi = row("@cf/microsoft/phi-2");
    assert_eq!((phi.requests_per_minute, phi.neurons), (720, None));
    let llama = row("@cf/meta/llama-3.1-8b-instruct-fp8");
    let price = Neurons {
        input: 13778,
        output: 26128,
    };
    assert_eq!(
        (llama.requests_per_minute, llama.neurons),
        (300, Some(price))
    );
    assert_eq!(row("@cf/baai/bge-large-en-v1.5").requests_per_minute, 1500);
    assert_eq!(row("@cf/baai/bge-reranker-base").requests_per_minute, 2000);
    assert_eq!(row("@cf/baai/bge-m3").task.name(), "Text Embeddings");
}

#[test]
fn an_operators_own_model_has_what_it_is_given() {
    let entry = CatalogueEntry {
        context: 100,
        template: Template::Named("zephyr".to_owned().into()),
        ..CatalogueEntry::custom("mine".to_owned(), "/models/mine.gguf".to_owned())
    };
    assert!(entry.is_called("MINE") && !entry.is_folder());
    assert_eq!(entry.context, 100);
    assert!(!entry.is_in(std::path::Path::new("/nowhere")));
    assert_eq!(entry.weight_bytes(std::path::Path::new("/nowhere")), 0);
}
