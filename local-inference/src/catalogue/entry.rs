//! One row of the catalogue.

use super::Source;
use std::borrow::Cow;
use std::path::Path;

type Text = Cow<'static, str>;

/// One model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The name requests use.
    pub id: Text,
    /// Other names it is asked for by.
    pub aliases: Vec<Text>,
    pub task: Task,
    pub family: Family,
    pub description: Text,
    /// Name in the model directory, of a file (`.gguf`) or a folder; of a model of the operator's own, any path.
    pub file: Text,
    /// Of a single file, where known.
    pub bytes: Option<u64>,
    /// In hexadecimal; of a single file, where known.
    pub sha256: Option<Text>,
    /// Longest prompt and answer together, in tokens; 0: what the files say.
    pub context: u32,
    pub licence: Text,
    pub template: Template,
    /// Put before a prompt that is no chat, as its system message.
    pub system: Option<Text>,
    pub abilities: Abilities,
    /// Answer length when the caller gives none.
    pub max_tokens: u32,
    /// What the original asks for it.
    pub neurons: Option<Neurons>,
    /// The original's limit for an account.
    pub requests_per_minute: u32,
    /// The day the original took it, or takes it, off: `2025-10-01`.
    pub deprecated: Option<Text>,
    /// Tried in order. None: the files have to be brought by hand.
    pub sources: Vec<Source>,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    TextGeneration,
    TextEmbeddings,
    /// Rerankers are of this kind on the original.
    TextClassification,
}

impl Task {
    /// The original's id of the task.
    pub fn id(self) -> &'static str {
        match self {
            Task::TextGeneration => "c329a1f9-323d-4e91-b2aa-582dd4188d34",
            Task::TextEmbeddings => "0137cdcf-162a-4108-94f2-1ca59e8c65ee",
            Task::TextClassification => "19606750-23ed-4371-aab2-c20349b53a60",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Task::TextGeneration => "Text Generation",
            Task::TextEmbeddings => "Text Embeddings",
            Task::TextClassification => "Text Classification",
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Task::TextGeneration => "Answers to prompts and chats, in text",
            Task::TextEmbeddings => "Texts as vectors, near each other where their meanings are",
            Task::TextClassification => {
                "Scores for texts: which kind they are, or how well they answer"
            }
        }
    }

    const fn requests_per_minute(self) -> u32 {
        match self {
            Task::TextGeneration => 300,
            Task::TextEmbeddings => 3000,
            Task::TextClassification => 2000,
        }
    }
}

/// How a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Gemma,
    Gemma3,
    Qwen2,
    Phi,
    Falcon,
    Bert,
    XlmRoberta,
    /// What the files say.
    Unstated,
}

/// The form a chat is put into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// The model's own; without one, the API's most common form, `chatml`.
    Own,
    /// The model's own; without one, the form of this name.
    OwnOr(Text),
    /// The form of this name, whatever the model brings: where its own refuses what callers send.
    Named(Text),
}

impl Template {
    /// The forms known by name.
    pub fn forms() -> impl Iterator<Item = &'static str> {
        crate::prompt::chat_template::Named::names()
    }
}

/// What the original tells about a model in its list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abilities {
    pub function_calling: bool,
    pub lora: bool,
    /// Batches may be queued.
    pub async_queue: bool,
    pub reasoning: bool,
    pub beta: bool,
}

/// The unit the original bills in, a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neurons {
    pub input: u32,
    pub output: u32,
}

impl CatalogueEntry {
    /// A text model that is nobody's row: `file` is its path, taken from the model directory when relative. The rest as for
    /// a chat model whose files say everything; every field may be set after.
    pub fn custom(id: impl Into<Text>, file: impl Into<Text>) -> CatalogueEntry {
        CatalogueEntry {
            id: id.into(),
            aliases: Vec::new(),
            task: Task::TextGeneration,
            family: Family::Unstated,
            description: Text::Borrowed("a model of this machine's own"),
            file: file.into(),
            bytes: None,
            sha256: None,
            context: 0,
            licence: Text::Borrowed("not stated"),
            template: Template::Own,
            system: None,
            abilities: Abilities::default(),
            max_tokens: 256,
            neurons: None,
            requests_per_minute: Task::TextGeneration.requests_per_minute(),
            deprecated: None,
            sources: Vec::new(),
        }
    }

    /// Whether requests for `name` mean this model.
    pub fn is_called(&self, name: &str) -> bool {
        let mut names = std::iter::once(&self.id).chain(&self.aliases);
        names.any(|known| known.eq_ignore_ascii_case(name))
    }

    /// What to do where its files are missing.
    pub(crate) fn how_to_get(&self) -> String {
        format!("run `ai-gateway model pull {}`", self.id)
    }

    /// Whether the model is a folder of files.
    pub fn is_folder(&self) -> bool {
        !self.file.ends_with(".gguf")
    }

    /// Bytes of its weights: what the catalogue says, or else what is in the model directory.
    pub fn weight_bytes(&self, model_dir: &Path) -> u64 {
        if let Some(bytes) = self.bytes {
            return bytes;
        }
        let path = model_dir.join(&*self.file);
        let length = |path: &Path| path.metadata().map_or(0, |file| file.len());
        match std::fs::read_dir(&path) {
            Ok(files) => files
                .filter_map(|file| Some(file.ok()?.path()))
                .filter(|path| path.extension().is_some_and(|kind| kind == "safetensors"))
                .map(|path| length(&path))
                .sum(),
            Err(_) => length(&path),
        }
    }

    /// Whether its files are in the model directory, as far as a look at names and lengths can tell.
    pub fn is_in(&self, model_dir: &Path) -> bool {
        let path = model_dir.join(&*self.file);
        match path.metadata() {
            Ok(found) if found.is_dir() => path.join("config.json").exists(),
            Ok(found) => self.bytes.is_none_or(|bytes| bytes == found.len()),
            Err(_) => false,
        }
    }
}

/// How rows are written down.
impl CatalogueEntry {
    pub(super) fn row(
        family: Family,
        id: &'static str,
        file: &'static str,
        description: &'static str,
    ) -> CatalogueEntry {
        CatalogueEntry {
            family,
            description: Text::Borrowed(description),
            context: 4096,
            ..CatalogueEntry::custom(id, file)
        }
    }

    pub(super) fn task(mut self, task: Task) -> CatalogueEntry {
        self.task = task;
        self.requests_per_minute = task.requests_per_minute();
        self
    }

    pub(super) fn alias(mut self, alias: &'static str) -> CatalogueEntry {
        self.aliases.push(Text::Borrowed(alias));
        self
    }

    pub(super) fn context(mut self, tokens: u32) -> CatalogueEntry {
        self.context = tokens;
        self
    }

    pub(super) fn licence(mut self, licence: &'static str) -> CatalogueEntry {
        self.licence = Text::Borrowed(licence);
        self
    }

    pub(super) fn form(mut self, name: &'static str) -> CatalogueEntry {
        self.template = Template::OwnOr(Text::Borrowed(name));
        self
    }

    pub(super) fn form_always(mut self, name: &'static str) -> CatalogueEntry {
        self.template = Template::Named(Text::Borrowed(name));
        self
    }

    pub(super) fn abilities(mut self, set: impl Fn(&mut Abilities)) -> CatalogueEntry {
        set(&mut self.abilities);
        self
    }

    pub(super) fn neurons(mut self, input: u32, output: u32) -> CatalogueEntry {
        self.neurons = Some(Neurons { input, output });
        self
    }

    pub(super) fn per_minute(mut self, requests: u32) -> CatalogueEntry {
        self.requests_per_minute = requests;
        self
    }

    pub(super) fn deprecated(mut self, day: &'static str) -> CatalogueEntry {
        self.deprecated = Some(Text::Borrowed(day));
        self
    }

    pub(super) fn pinned(mut self, bytes: u64, sha256: &'static str) -> CatalogueEntry {
        self.bytes = Some(bytes);
        self.sha256 = Some(Text::Borrowed(sha256));
        self
    }

    pub(super) fn from(mut self, source: Source) -> CatalogueEntry {
        self.sources.push(source);
        self
    }
}
