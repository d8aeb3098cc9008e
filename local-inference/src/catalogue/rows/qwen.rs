//! Qwen 1.5 and 2.5, and what was made of the latter.

use super::super::entry::{CatalogueEntry, Family};
use super::super::source::Source;
use super::{AUTUMN_2025, QWEN};

fn row(id: &'static str, file: &'static str, description: &'static str) -> CatalogueEntry {
    CatalogueEntry::row(Family::Qwen2, id, file, description).form("chatml")
}

fn qwen15(id: &'static str, file: &'static str, description: &'static str) -> CatalogueEntry {
    row(id, file, description)
        .licence(QWEN)
        .abilities(|has| has.beta = true)
        .deprecated(AUTUMN_2025)
}

pub(super) fn rows() -> Vec<CatalogueEntry> {
    vec![
        qwen15(
            "@cf/qwen/qwen1.5-0.5b-chat",
            "qwen1_5-0_5b-chat-q8_0.gguf",
            "Qwen 1.5 0.5B Chat, in 8 bits here",
        )
        .context(32000)
        .per_minute(1500)
        .from(Source::file(
            "Qwen/Qwen1.5-0.5B-Chat-GGUF",
            "qwen1_5-0_5b-chat-q8_0.gguf",
        )),
        qwen15(
            "@cf/qwen/qwen1.5-1.8b-chat",
            "qwen1_5-1_8b-chat-q8_0.gguf",
            "Qwen 1.5 1.8B Chat, in 8 bits here",
        )
        .context(32000)
        .per_minute(720)
        .from(Source::file(
            "Qwen/Qwen1.5-1.8B-Chat-GGUF",
            "qwen1_5-1_8b-chat-q8_0.gguf",
        )),
        qwen15(
            "@cf/qwen/qwen1.5-7b-chat-awq",
            "Qwen1.5-7B-Chat-AWQ",
            "Qwen 1.5 7B Chat in 4 bits (AWQ)",
        )
        .context(20000)
        .from(Source::folder("Qwen/Qwen1.5-7B-Chat-AWQ")),
        qwen15(
            "@cf/qwen/qwen1.5-14b-chat-awq",
            "Qwen1.5-14B-Chat-AWQ",
            "Qwen 1.5 14B Chat in 4 bits (AWQ)",
        )
        .context(7500)
        .per_minute(150)
        .from(Source::folder("Qwen/Qwen1.5-14B-Chat-AWQ")),
        row(
            "@cf/qwen/qwen2.5-coder-32b-instruct",
            "qwen2.5-coder-32b-instruct-q4_k_m.gguf",
            "Qwen 2.5 Coder 32B Instruct, in 4 bits here",
        )
        .context(32768)
        .licence("Apache-2.0")
        .abilities(|has| has.lora = true)
        .neurons(60000, 90909)
        .from(Source::file(
            "Qwen/Qwen2.5-Coder-32B-Instruct-GGUF",
            "qwen2.5-coder-32b-instruct-q4_k_m.gguf",
        )),
        row(
            "@cf/qwen/qwq-32b",
            "qwq-32b-q4_k_m.gguf",
            "QwQ 32B: thinks before it answers, in 4 bits here",
        )
        .context(24000)
        .licence("Apache-2.0")
        .abilities(|has| {
            has.lora = true;
            has.reasoning = true;
        })
        .neurons(60000, 90909)
        .from(Source::file("Qwen/QwQ-32B-GGUF", "qwq-32b-q4_k_m.gguf")),
        row(
            "@cf/deepseek-ai/deepseek-r1-distill-qwen-32b",
            "DeepSeek-R1-Distill-Qwen-32B-Q4_K_M.gguf",
            "Qwen 2.5 32B taught by DeepSeek R1: thinks before it answers, in 4 bits here",
        )
        .context(80000)
        .licence("MIT")
        .abilities(|has| {
            has.lora = true;
            has.reasoning = true;
        })
        .neurons(45170, 443_756)
        .from(Source::file(
            "bartowski/DeepSeek-R1-Distill-Qwen-32B-GGUF",
            "DeepSeek-R1-Distill-Qwen-32B-Q4_K_M.gguf",
        )),
    ]
}
