//! Gemma 1, and the text half of Gemma 3.

use super::super::entry::{CatalogueEntry, Family};
use super::super::source::Source;
use super::{GEMMA, SPRING_2026};

/// The first generation. Its own template refuses system messages, which the original drops.
fn gemma1(id: &'static str, folder: &'static str, description: &'static str) -> CatalogueEntry {
    CatalogueEntry::row(Family::Gemma, id, folder, description)
        .licence(GEMMA)
        .form_always("gemma")
}

pub(super) fn rows() -> Vec<CatalogueEntry> {
    vec![
        gemma1(
            "@hf/google/gemma-7b-it",
            "gemma-7b-it",
            "Gemma 7B, instruction-tuned, at full precision",
        )
        .context(8192)
        .abilities(|has| {
            has.lora = true;
            has.beta = true;
        })
        .deprecated(SPRING_2026)
        .from(Source::gated("google/gemma-7b-it")),
        gemma1(
            "@cf/google/gemma-2b-it-lora",
            "gemma-2b-it",
            "Gemma 2B, instruction-tuned, at full precision, to put adapters on",
        )
        .context(8192)
        .abilities(|has| {
            has.lora = true;
            has.beta = true;
        })
        .neurons(0, 0)
        .from(Source::gated("google/gemma-2b-it")),
        gemma1(
            "@cf/google/gemma-7b-it-lora",
            "gemma-7b-it",
            "Gemma 7B, instruction-tuned, at full precision, to put adapters on",
        )
        .context(3500)
        .abilities(|has| {
            has.lora = true;
            has.beta = true;
        })
        .neurons(0, 0)
        .from(Source::gated("google/gemma-7b-it")),
        CatalogueEntry::row(
            Family::Gemma3,
            "@cf/google/gemma-3-12b-it",
            "gemma-3-12b-it-Q4_K_M.gguf",
            "Gemma 3 12B, instruction-tuned, text only and in 4 bits here",
        )
        .context(80000)
        .licence(GEMMA)
        .form("gemma")
        .abilities(|has| has.lora = true)
        .neurons(31371, 50560)
        .deprecated(SPRING_2026)
        .from(Source::file(
            "ggml-org/gemma-3-12b-it-GGUF",
            "gemma-3-12b-it-Q4_K_M.gguf",
        )),
    ]
}
