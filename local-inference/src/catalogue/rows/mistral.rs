//! Mistral 7B and what others made of it.

use super::super::entry::{CatalogueEntry, Family};
use super::super::source::Source;
use super::{AUTUMN_2025, SPRING_2026};

fn row(id: &'static str, file: &'static str, description: &'static str) -> CatalogueEntry {
    CatalogueEntry::row(Family::Mistral, id, file, description).licence("Apache-2.0")
}

/// A folder of 4-bit weights, all gone on the same day.
fn awq(
    id: &'static str,
    repository: &'static str,
    folder: &'static str,
    description: &'static str,
) -> CatalogueEntry {
    row(id, folder, description)
        .deprecated(AUTUMN_2025)
        .from(Source::folder(repository))
}

const V02: &str = "mistral-7b-instruct-v0.2.Q8_0.gguf";
const V02_REPOSITORY: &str = "TheBloke/Mistral-7B-Instruct-v0.2-GGUF";

pub(super) fn rows() -> Vec<CatalogueEntry> {
    vec![
        row(
            "@cf/mistral/mistral-7b-instruct-v0.1",
            "mistral-7b-instruct-v0.1.Q8_0.gguf",
            "Mistral 7B Instruct 0.1, in 8 bits here",
        )
        .alias("@cf/mistral/mistral-7b-instruct-v0.1-vllm")
        .alias("@cf/mistralai/mistral-7b-instruct-v0.1")
        .context(2824)
        // Its own refuses system messages.
        .form_always("mistral-instruct")
        .abilities(|has| has.lora = true)
        .neurons(10000, 17300)
        .deprecated(SPRING_2026)
        .from(Source::file(
            "TheBloke/Mistral-7B-Instruct-v0.1-GGUF",
            "mistral-7b-instruct-v0.1.Q8_0.gguf",
        )),
        row(
            "@hf/mistral/mistral-7b-instruct-v0.2",
            V02,
            "Mistral 7B Instruct 0.2, in 8 bits here",
        )
        .alias("@hf/mistralai/mistral-7b-instruct-v0.2")
        .context(3072)
        .form_always("mistral-instruct")
        .deprecated(SPRING_2026)
        .from(Source::file(V02_REPOSITORY, V02)),
        row(
            "@cf/mistral/mistral-7b-instruct-v0.2-lora",
            V02,
            "Mistral 7B Instruct 0.2, in 8 bits here, to put adapters on",
        )
        .alias("@cf/mistralai/mistral-7b-instruct-v0.2-lora")
        .context(15000)
        .form_always("mistral-instruct")
        .abilities(|has| {
            has.lora = true;
            has.beta = true;
        })
        .neurons(0, 0)
        .from(Source::file(V02_REPOSITORY, V02)),
        awq(
            "@hf/thebloke/mistral-7b-instruct-v0.1-awq",
            "TheBloke/Mistral-7B-Instruct-v0.1-AWQ",
            "Mistral-7B-Instruct-v0.1-AWQ",
            "Mistral 7B Instruct 0.1 in 4 bits (AWQ)",
        )
        .form_always("mistral-instruct")
        .per_minute(400),
        row(
            "@hf/nousresearch/hermes-2-pro-mistral-7b",
            "Hermes-2-Pro-Mistral-7B.Q8_0.gguf",
            "Hermes 2 Pro on Mistral 7B, trained to call functions, in 8 bits here",
        )
        .context(24000)
        .form("hermes2-pro")
        .abilities(|has| {
            has.function_calling = true;
            has.beta = true;
        })
        .deprecated(SPRING_2026)
        .from(Source::file(
            "NousResearch/Hermes-2-Pro-Mistral-7B-GGUF",
            "Hermes-2-Pro-Mistral-7B.Q8_0.gguf",
        )),
        row(
            "@hf/nexusflow/starling-lm-7b-beta",
            "Starling-LM-7B-beta-Q8_0.gguf",
            "Starling 7B beta, in 8 bits here",
        )
        .form("starling")
        .abilities(|has| has.beta = true)
        .deprecated(AUTUMN_2025)
        .from(Source::file(
            "bartowski/Starling-LM-7B-beta-GGUF",
            "Starling-LM-7B-beta-Q8_0.gguf",
        )),
        row(
            "@cf/openchat/openchat-3.5-0106",
            "openchat-3.5-0106.Q8_0.gguf",
            "OpenChat 3.5 (January 2024), in 8 bits here",
        )
        .context(8192)
        .form("openchat-alt")
        .abilities(|has| has.beta = true)
        .deprecated(AUTUMN_2025)
        .from(Source::file(
            "TheBloke/openchat-3.5-0106-GGUF",
            "openchat-3.5-0106.Q8_0.gguf",
        )),
        awq(
            "@hf/thebloke/openchat_3.5-awq",
            "TheBloke/openchat_3.5-AWQ",
            "openchat_3.5-AWQ",
            "OpenChat 3.5 in 4 bits (AWQ)",
        )
        .form("openchat"),
        awq(
            "@hf/thebloke/zephyr-7b-beta-awq",
            "TheBloke/zephyr-7B-beta-AWQ",
            "zephyr-7B-beta-AWQ",
            "Zephyr 7B beta in 4 bits (AWQ)",
        )
        .licence("MIT")
        .form("zephyr"),
        awq(
            "@hf/thebloke/openhermes-2.5-mistral-7b-awq",
            "TheBloke/OpenHermes-2.5-Mistral-7B-AWQ",
            "OpenHermes-2.5-Mistral-7B-AWQ",
            "OpenHermes 2.5 on Mistral 7B in 4 bits (AWQ)",
        )
        .form("chatml"),
        awq(
            "@hf/thebloke/neural-chat-7b-v3-1-awq",
            "TheBloke/neural-chat-7B-v3-1-AWQ",
            "neural-chat-7B-v3-1-AWQ",
            "Neural Chat 7B 3.1 in 4 bits (AWQ)",
        )
        .form("orca-hashes"),
        awq(
            "@cf/thebloke/discolm-german-7b-v1-awq",
            "TheBloke/DiscoLM_German_7b_v1-AWQ",
            "DiscoLM_German_7b_v1-AWQ",
            "DiscoLM German 7B in 4 bits (AWQ), for German",
        )
        .form("chatml"),
        row(
            "@cf/fblgit/una-cybertron-7b-v2-bf16",
            "una-cybertron-7b-v2-bf16",
            "Una Cybertron 7B 2 at full precision",
        )
        .context(15000)
        .form("bare")
        .abilities(|has| has.beta = true)
        .deprecated(AUTUMN_2025)
        .from(Source::folder("fblgit/una-cybertron-7b-v2-bf16")),
    ]
}
