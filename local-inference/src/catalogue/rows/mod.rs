//! The rows, by family. Windows, limits and prices are the original's; days are those of its notices.

mod encoders;
mod gemma;
mod llama;
mod mistral;
mod others;
mod qwen;

use super::entry::CatalogueEntry;

/// The day most models of the first year went.
const AUTUMN_2025: &str = "2025-10-01";
/// The day most of the rest did.
const SPRING_2026: &str = "2026-05-30";

const LLAMA_2: &str = "Llama 2 Community License";
const LLAMA_3: &str = "Llama 3 Community License";
const LLAMA_31: &str = "Llama 3.1 Community License";
const LLAMA_32: &str = "Llama 3.2 Community License";
const GEMMA: &str = "Gemma Terms of Use";
const QWEN: &str = "Tongyi Qianwen License";
const DEEPSEEK: &str = "DeepSeek License";

pub(super) fn all() -> Vec<CatalogueEntry> {
    let mut rows = others::small();
    rows.extend(llama::rows());
    rows.extend(mistral::rows());
    rows.extend(gemma::rows());
    rows.extend(qwen::rows());
    rows.extend(others::rows());
    rows.extend(encoders::rows());
    rows
}
