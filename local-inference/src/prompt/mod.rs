//! Text to token ids before the queue, token ids to text after it.

pub(crate) mod chat_template;
pub(crate) mod detokenizer;
pub(crate) mod stop;
pub(crate) mod tokenizer;

use crate::catalogue::{CatalogueEntry, Template};
use crate::weights::ModelFiles;
use chat_template::{ChatTemplate, Named, TemplateError};
use std::path::Path;
use tokenizer::{Tokenizer, TokenizerError};

/// For chat models of which nothing is known: the form most of them were trained with.
const USUAL_FORM: &str = "chatml";

#[derive(Debug, thiserror::Error)]
pub(crate) enum PromptError {
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("no chat form is called `{0}`")]
    Form(String),
}

/// The tokenizer in a model's files, and the chat template in them or the form the catalogue names. `path` is where the files are.
pub(crate) fn open(
    files: &ModelFiles,
    path: &Path,
    entry: &CatalogueEntry,
) -> Result<(Tokenizer, ChatTemplate), PromptError> {
    let tokenizer = match files {
        ModelFiles::Gguf(file) => Tokenizer::from_gguf(&file.header)?,
        ModelFiles::Folder(_) => Tokenizer::from_files(&path.join("tokenizer.json"))?,
    };
    let own = |tokenizer: &Tokenizer| match files {
        ModelFiles::Gguf(file) => ChatTemplate::from_gguf(&file.header, tokenizer),
        ModelFiles::Folder(_) => ChatTemplate::from_folder(path, tokenizer),
    };
    let form = |name: &str| match Named::find(name) {
        Some(form) => Ok(ChatTemplate::named(form)),
        None => Err(PromptError::Form(name.to_owned())),
    };
    let template = match &entry.template {
        Template::Named(name) => form(name)?,
        Template::OwnOr(name) => match own(&tokenizer)? {
            Some(own) => own,
            None => form(name)?,
        },
        Template::Own => match own(&tokenizer)? {
            Some(own) => own,
            None => form(USUAL_FORM)?,
        },
    };
    let system = entry.system.as_deref().map(str::to_owned);
    Ok((tokenizer, template.with_system(system)))
}
