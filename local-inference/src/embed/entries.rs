//! The encoders requests may name.

use super::Pooling;

/// What an encoder is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncoderTask {
    /// A vector a text.
    Embed,
    /// A score for a query and a context.
    Rank,
}

/// One encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderEntry {
    /// The name requests use.
    pub id: &'static str,
    /// Folder in the model directory.
    pub folder: &'static str,
    pub task: EncoderTask,
    /// When the request names none; `None`: what the folder says.
    pub pooling: Option<Pooling>,
    /// Length of a vector.
    pub dimensions: u32,
    /// Tokens of a text that are read; the rest is cut off.
    pub context: u32,
    pub licence: &'static str,
}

const fn embedding(
    id: &'static str,
    folder: &'static str,
    pooling: Option<Pooling>,
    dimensions: u32,
    context: u32,
    licence: &'static str,
) -> EncoderEntry {
    EncoderEntry {
        id,
        folder,
        task: EncoderTask::Embed,
        pooling,
        dimensions,
        context,
        licence,
    }
}

/// The English bge models were trained for the first token's vector, which their folders say; the API they are asked
/// through has always taken the mean unless told otherwise, and vectors in people's stores are of that kind.
const ENTRIES: &[EncoderEntry] = &[
    embedding(
        "@cf/baai/bge-small-en-v1.5",
        "bge-small-en-v1.5",
        Some(Pooling::Mean),
        384,
        512,
        "MIT",
    ),
    embedding(
        "@cf/baai/bge-base-en-v1.5",
        "bge-base-en-v1.5",
        Some(Pooling::Mean),
        768,
        512,
        "MIT",
    ),
    embedding(
        "@cf/baai/bge-large-en-v1.5",
        "bge-large-en-v1.5",
        Some(Pooling::Mean),
        1024,
        512,
        "MIT",
    ),
    embedding("@cf/baai/bge-m3", "bge-m3", None, 1024, 8192, "MIT"),
    embedding(
        "@cf/sentence-transformers/all-minilm-l6-v2",
        "all-MiniLM-L6-v2",
        None,
        384,
        256,
        "Apache-2.0",
    ),
    EncoderEntry {
        task: EncoderTask::Rank,
        ..embedding(
            "@cf/baai/bge-reranker-base",
            "bge-reranker-base",
            None,
            1,
            512,
            "MIT",
        )
    },
];

pub(super) fn all() -> &'static [EncoderEntry] {
    ENTRIES
}

/// The encoder of that name; case does not matter.
pub(crate) fn find(id: &str) -> Option<&'static EncoderEntry> {
    ENTRIES
        .iter()
        .find(|entry| entry.id.eq_ignore_ascii_case(id))
}
