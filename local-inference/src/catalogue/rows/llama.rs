//! Llama 2, 3, 3.1, 3.2, Llama Guard and TinyLlama.

use super::super::entry::{CatalogueEntry, Family};
use super::super::source::Source;
use super::{AUTUMN_2025, LLAMA_2, LLAMA_3, LLAMA_31, LLAMA_32, SPRING_2026};

fn row(id: &'static str, file: &'static str, description: &'static str) -> CatalogueEntry {
    CatalogueEntry::row(Family::Llama, id, file, description)
}

/// Of Llama 3.1 8B, whose names differ by hardware we do not have; eight bits come nearest to most.
fn llama31(id: &'static str, description: &'static str) -> CatalogueEntry {
    const FILE: &str = "Meta-Llama-3.1-8B-Instruct-Q8_0.gguf";
    row(id, FILE, description)
        .licence(LLAMA_31)
        .form("llama3")
        .abilities(|has| has.function_calling = true)
        .from(Source::file(
            "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
            FILE,
        ))
}

pub(super) fn rows() -> Vec<CatalogueEntry> {
    vec![
        row(
            "@cf/meta/llama-2-7b-chat-int8",
            "llama-2-7b-chat.Q8_0.gguf",
            "Llama 2 7B Chat in 8 bits",
        )
        .context(8192)
        .licence(LLAMA_2)
        .form("llama2")
        .deprecated(SPRING_2026)
        .from(Source::file(
            "TheBloke/Llama-2-7B-Chat-GGUF",
            "llama-2-7b-chat.Q8_0.gguf",
        )),
        row(
            "@cf/meta/llama-2-7b-chat-fp16",
            "Llama-2-7b-chat-hf",
            "Llama 2 7B Chat at full precision",
        )
        .licence(LLAMA_2)
        .form("llama2")
        .neurons(50505, 606_061)
        .deprecated(SPRING_2026)
        .from(Source::gated("meta-llama/Llama-2-7b-chat-hf"))
        .from(Source::folder("NousResearch/Llama-2-7b-chat-hf")),
        row(
            "@cf/meta-llama/llama-2-7b-chat-hf-lora",
            "Llama-2-7b-chat-hf",
            "Llama 2 7B Chat at full precision, to put adapters on",
        )
        .context(8192)
        .licence(LLAMA_2)
        .form("llama2")
        .abilities(|has| {
            has.lora = true;
            has.beta = true;
        })
        .neurons(0, 0)
        .from(Source::gated("meta-llama/Llama-2-7b-chat-hf"))
        .from(Source::folder("NousResearch/Llama-2-7b-chat-hf")),
        row(
            "@hf/thebloke/llama-2-13b-chat-awq",
            "Llama-2-13B-chat-AWQ",
            "Llama 2 13B Chat in 4 bits (AWQ)",
        )
        .licence(LLAMA_2)
        .form("llama2")
        .deprecated(AUTUMN_2025)
        .from(Source::folder("TheBloke/Llama-2-13B-chat-AWQ")),
        row(
            "@cf/meta/llama-3-8b-instruct",
            "Meta-Llama-3-8B-Instruct-Q8_0.gguf",
            "Llama 3 8B Instruct, in 8 bits here",
        )
        .alias("@hf/meta-llama/meta-llama-3-8b-instruct")
        .context(7968)
        .licence(LLAMA_3)
        .form("llama3")
        .neurons(25608, 75147)
        .deprecated(SPRING_2026)
        .from(Source::file(
            "bartowski/Meta-Llama-3-8B-Instruct-GGUF",
            "Meta-Llama-3-8B-Instruct-Q8_0.gguf",
        )),
        row(
            "@cf/meta/llama-3-8b-instruct-awq",
            "llama-3-8b-instruct-awq",
            "Llama 3 8B Instruct in 4 bits (AWQ)",
        )
        .context(8192)
        .licence(LLAMA_3)
        .form("llama3")
        .neurons(11161, 24215)
        .deprecated(SPRING_2026)
        .from(Source::folder("casperhansen/llama-3-8b-instruct-awq")),
        llama31(
            "@cf/meta/llama-3.1-8b-instruct",
            "Llama 3.1 8B Instruct, in 8 bits here",
        )
        .context(7968)
        .neurons(25608, 75147)
        .deprecated(SPRING_2026),
        llama31(
            "@cf/meta/llama-3.1-8b-instruct-fp8",
            "Llama 3.1 8B Instruct in 8 bits",
        )
        .context(32000)
        .neurons(13778, 26128),
        llama31(
            "@cf/meta/llama-3.1-8b-instruct-fast",
            "Llama 3.1 8B Instruct with its long window, in 8 bits here",
        )
        .context(128_000),
        llama31(
            "@cf/meta/llama-3.1-8b-instruct-fp8-fast",
            "Llama 3.1 8B Instruct with its long window, in 8 bits",
        )
        .context(128_000)
        .neurons(4119, 34868),
        row(
            "@cf/meta/llama-3.1-8b-instruct-awq",
            "Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
            "Llama 3.1 8B Instruct in 4 bits (AWQ)",
        )
        .context(8192)
        .licence(LLAMA_31)
        .form("llama3")
        .abilities(|has| has.function_calling = true)
        .neurons(11161, 24215)
        .deprecated(SPRING_2026)
        .from(Source::folder(
            "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
        )),
        row(
            "@cf/meta/llama-3.2-1b-instruct",
            "Llama-3.2-1B-Instruct-Q8_0.gguf",
            "Llama 3.2 1B Instruct, in 8 bits here",
        )
        .context(60000)
        .licence(LLAMA_32)
        .form("llama3")
        .abilities(|has| has.function_calling = true)
        .neurons(2457, 18252)
        .from(Source::file(
            "bartowski/Llama-3.2-1B-Instruct-GGUF",
            "Llama-3.2-1B-Instruct-Q8_0.gguf",
        )),
        row(
            "@cf/meta/llama-3.2-3b-instruct",
            "Llama-3.2-3B-Instruct-Q8_0.gguf",
            "Llama 3.2 3B Instruct, in 8 bits here",
        )
        .context(80000)
        .licence(LLAMA_32)
        .form("llama3")
        .abilities(|has| has.function_calling = true)
        .neurons(4625, 30475)
        .from(Source::file(
            "bartowski/Llama-3.2-3B-Instruct-GGUF",
            "Llama-3.2-3B-Instruct-Q8_0.gguf",
        )),
        row(
            "@cf/meta/llama-guard-3-8b",
            "Llama-Guard-3-8B",
            "Llama Guard 3 8B: says whether the last message of a chat is safe",
        )
        .context(131_072)
        .licence(LLAMA_31)
        .form("llama-guard")
        .abilities(|has| has.lora = true)
        .neurons(44003, 2730)
        .from(Source::gated("meta-llama/Llama-Guard-3-8B")),
        row(
            "@hf/thebloke/llamaguard-7b-awq",
            "LlamaGuard-7B-AWQ",
            "Llama Guard 7B in 4 bits (AWQ): judges what its prompt puts before it",
        )
        .licence(LLAMA_2)
        .form_always("inst")
        .deprecated(AUTUMN_2025)
        .from(Source::folder("TheBloke/LlamaGuard-7B-AWQ")),
        row(
            "@cf/tinyllama/tinyllama-1.1b-chat-v1.0",
            "tinyllama-1.1b-chat-v1.0.Q8_0.gguf",
            "TinyLlama 1.1B Chat, in 8 bits here",
        )
        .context(2048)
        .licence("Apache-2.0")
        .form("tinyllama")
        .abilities(|has| has.beta = true)
        .per_minute(720)
        .deprecated(AUTUMN_2025)
        .from(Source::file(
            "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF",
            "tinyllama-1.1b-chat-v1.0.Q8_0.gguf",
        )),
    ]
}
