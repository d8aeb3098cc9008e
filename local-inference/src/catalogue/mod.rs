//! The models the engine knows: what each may be asked, how it is asked, where its files come from, what proves them whole.
//!
//! A row names one file (`.gguf`) or one folder (`config.json` and safetensors) in the model directory. The names are those
//! of the API the engine speaks; weights come in a form that suits a CPU where the original's is made for other hardware,
//! and the description says so.

mod entry;
mod rows;
mod source;

#[cfg(test)]
mod tests;

pub use entry::{Abilities, CatalogueEntry, Family, Neurons, Task, Template};
pub use source::Source;

use std::sync::LazyLock;

static MODELS: LazyLock<Vec<CatalogueEntry>> = LazyLock::new(rows::all);

/// Every model, in the order they are listed to people.
pub fn all() -> &'static [CatalogueEntry] {
    &MODELS
}

/// The model of that name, or of that other name; case does not matter, as on the original.
pub fn find(id: &str) -> Option<&'static CatalogueEntry> {
    all().iter().find(|entry| entry.is_called(id))
}
