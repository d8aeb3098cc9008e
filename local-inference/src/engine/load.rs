//! From a catalogue entry to what a model's thread needs.

use crate::catalogue::CatalogueEntry;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::model::{self, CausalModel, LoadOptions};
use crate::prompt;
use crate::prompt::chat_template::ChatTemplate;
use crate::prompt::tokenizer::Tokenizer;

use crate::weights::ModelFiles;
use std::path::Path;
use std::sync::Arc;

/// What a model's thread needs to begin.
pub(crate) struct Loaded {
    pub model: Box<dyn CausalModel>,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    pub window: usize,
    /// Memory the model holds beside its attention memory.
    pub weight_bytes: usize,
}

pub(crate) type Load = Arc<dyn Fn(&CatalogueEntry) -> Result<Loaded, EngineError> + Send + Sync>;

pub(crate) fn load_file(
    entry: &CatalogueEntry,
    config: &EngineConfig,
) -> Result<Loaded, EngineError> {
    let path = config.model_dir.join(&*entry.file);
    if !path.exists() {
        return Err(EngineError::NotPulled {
            model: entry.id.to_string(),
            how: entry.how_to_get(),
        });
    }
    read_model(entry, &path, config)
        .map_err(|error| EngineError::Load(format!("`{}`: {error}", entry.file)))
}

fn read_model(
    entry: &CatalogueEntry,
    path: &Path,
    config: &EngineConfig,
) -> Result<Loaded, Box<dyn std::error::Error>> {
    let size = path.metadata()?.len();
    if let Some(bytes) = entry.bytes.filter(|bytes| *bytes != size) {
        return Err(format!("has {size} bytes instead of {bytes}, pull it again").into());
    }
    let files = ModelFiles::open(path)?;
    let (tokenizer, template) = prompt::open(&files, path, entry)?;
    let own = match entry.context {
        0 => model::window(&files)?
            .ok_or("the files name no window: set the model's context in the configuration")?,
        stated => stated as usize,
    };
    let window = match config.max_context {
        0 => own,
        bound => bound.min(own),
    };
    let pool = kernels::Pool::with_setup(config.thread_count(), kernels::lower_thread_priority);
    let options = LoadOptions {
        backend: config.backend,
        max_positions: window,
        kv_dtype: config.kv_dtype,
    };
    let model = model::load(&files, options, pool)?;
    // Weights are often padded to a round number of tokens; the rest mean nothing.
    if tokenizer.vocabulary() > model.vocabulary() {
        return Err("the tokenizer has tokens the weights do not know".into());
    }
    Ok(Loaded {
        weight_bytes: model.weight_bytes(),
        model,
        tokenizer,
        template,
        window,
    })
}
