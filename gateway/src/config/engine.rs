//! The embedded engine's settings: the written form and the resolved one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[cfg(feature = "local")]
use local_inference::catalogue::{self, Template};
use serde::{Deserialize, Serialize};

/// `[engine]` as people write it: the embedded engine behind the `workers-ai` provider.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineEntry {
    /// Off: `workers-ai` answers that no engine runs here.
    pub enabled: bool,
    /// Where model files are; unset = `models` in `data.dir`.
    pub model_dir: Option<PathBuf>,
    /// Models offered; each is loaded on its first use.
    pub models: Vec<String>,
    /// Models of the operator's own, by the name requests use.
    pub custom_models: BTreeMap<String, CustomModelEntry>,
    /// Of all these, the ones loaded at start.
    pub preload: Vec<String>,
    /// What computes the steps of generating models.
    pub backend: EngineBackend,
    /// Threads of a model's arithmetic; 0 = one per logical core.
    pub threads: usize,
    /// Answers generated at once, each model; more wait.
    pub max_running: usize,
    /// Answers waiting, each model; past it 429.
    pub max_waiting: usize,
    /// Longest prompt and answer together, model tokens; 0 = the model's own window.
    pub max_context: usize,
    /// Model tokens a step may hold.
    pub max_step_tokens: usize,
    /// How long a step may take while an answer is being written, milliseconds.
    pub target_step_ms: u64,
    /// Attention memory of a model, MiB.
    pub kv_cache_mib: usize,
    /// How attention memory keeps numbers.
    pub kv_dtype: KvDtype,
    /// Reuse prompt beginnings between accounts too.
    pub share_prefixes: bool,
    /// Adapters of a model kept loaded, MiB.
    pub adapter_cache_mib: usize,
    /// Weights, attention memory and adapters of all loaded models, MiB; 0 = no bound.
    pub memory_budget_mib: usize,
    /// Seconds after which an unused model is unloaded; 0 = never.
    pub idle_unload_s: u64,
    /// Text of random length in each chunk of a stream.
    pub padding: bool,
    /// `off`, `documented`, or a table of requests a minute by task or model.
    pub requests_per_minute: WrittenRequests,
    /// Neurons an account may use a day, UTC; 0 = no limit.
    pub neurons_per_day: u64,
    /// Neurons a million prompt tokens, for models without a published price.
    pub neurons_per_million_input: f64,
    /// Neurons a million generated tokens, for models without a published price.
    pub neurons_per_million_output: f64,
}

/// `[engine.custom_models.<name>]`: a model that no catalogue knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomModelEntry {
    /// A `.gguf` file, or a folder of `config.json`, `tokenizer.json` and safetensors; a relative one lies in `model_dir`.
    pub path: PathBuf,
    /// Longest prompt and answer together, model tokens; 0 = what the files say.
    #[serde(default)]
    pub context: u32,
    /// Form of chats; unset = the files' own, and without one `chatml`.
    pub template: Option<String>,
}

/// A word, or counts by task or model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum WrittenRequests {
    Word(String),
    Table(BTreeMap<String, u32>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineBackend {
    #[default]
    Cpu,
    Candle,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvDtype {
    F32,
    #[default]
    Bf16,
}

impl Default for EngineEntry {
    fn default() -> EngineEntry {
        EngineEntry {
            enabled: true,
            model_dir: None,
            models: vec!["@cf/huggingfacetb/smollm2-135m-instruct".to_owned()],
            custom_models: BTreeMap::new(),
            preload: Vec::new(),
            backend: EngineBackend::Cpu,
            threads: 0,
            max_running: 16,
            max_waiting: 256,
            max_context: 0,
            max_step_tokens: 256,
            target_step_ms: 60,
            kv_cache_mib: 1024,
            kv_dtype: KvDtype::Bf16,
            share_prefixes: false,
            adapter_cache_mib: 512,
            memory_budget_mib: 0,
            idle_unload_s: 0,
            padding: true,
            requests_per_minute: WrittenRequests::Word("off".to_owned()),
            neurons_per_day: 0,
            neurons_per_million_input: 2457.0,
            neurons_per_million_output: 18252.0,
        }
    }
}

impl EngineEntry {
    /// What is wrong with it: key and message.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut say = |key: &str, message: String| problems.push((key.to_owned(), message));
        for (key, value) in [
            ("max_running", self.max_running),
            ("max_step_tokens", self.max_step_tokens),
            ("kv_cache_mib", self.kv_cache_mib),
            ("adapter_cache_mib", self.adapter_cache_mib),
        ] {
            if value == 0 {
                say(key, "is 0, at least 1 is needed".to_owned());
            }
        }
        let offered = self.models.iter().chain(self.custom_models.keys());
        for model in &self.preload {
            if !offered.clone().any(|name| name.eq_ignore_ascii_case(model)) {
                let message = "is neither in engine.models nor in engine.custom_models";
                say("preload", format!("`{model}` {message}"));
            }
        }
        for (name, model) in &self.custom_models {
            let key = |field: &str| format!("custom_models.\"{name}\"{field}");
            let is_same = |other: &&String| other.eq_ignore_ascii_case(name);
            if is_catalogued(name) || offered.clone().filter(is_same).count() > 1 {
                say(&key(""), "is the name of another model".to_owned());
            }
            if !(name.starts_with('@') && name.contains('/')) {
                let message = "begin with `@` and have a `/`, as in `@acme/assistant`";
                say(&key(""), format!("names of models {message}"));
            }
            if let Some(message) = model.template.as_deref().and_then(unknown_form) {
                say(&key(".template"), message);
            }
        }
        match &self.requests_per_minute {
            WrittenRequests::Word(word) if word != "off" && word != "documented" => say(
                "requests_per_minute",
                format!("`{word}` is neither `off` nor `documented` nor a table"),
            ),
            WrittenRequests::Word(_) => {}
            WrittenRequests::Table(table) => {
                for (name, _) in table.iter().filter(|(_, count)| **count == 0) {
                    let key = format!("requests_per_minute.{name}");
                    say(&key, "is 0, at least 1 is needed".to_owned());
                }
            }
        }
        for (key, value) in [
            ("neurons_per_million_input", self.neurons_per_million_input),
            (
                "neurons_per_million_output",
                self.neurons_per_million_output,
            ),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                say(key, format!("{value} is not a number from 0 on"));
            }
        }
        problems
    }
}

#[cfg(feature = "local")]
fn is_catalogued(name: &str) -> bool {
    catalogue::find(name).is_some()
}

#[cfg(feature = "local")]
fn unknown_form(form: &str) -> Option<String> {
    let known: Vec<&str> = Template::forms().collect();
    let message = || format!("no chat form is called `{form}`: {}", known.join(", "));
    (!known.contains(&form)).then(message)
}

/// Without an engine there are neither forms nor a catalogue.
#[cfg(not(feature = "local"))]
fn unknown_form(_form: &str) -> Option<String> {
    None
}

#[cfg(not(feature = "local"))]
fn is_catalogued(_name: &str) -> bool {
    false
}

/// What the program uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    pub model_dir: PathBuf,
    pub models: Vec<String>,
    pub custom_models: Vec<CustomModel>,
    pub preload: Vec<String>,
    pub backend: EngineBackend,
    /// 0 = one per logical core.
    pub threads: usize,
    pub max_running: usize,
    pub max_waiting: usize,
    /// 0 = the model's own window.
    pub max_context: usize,
    pub max_step_tokens: usize,
    pub target_step_ms: u64,
    pub kv_cache_mib: usize,
    pub kv_dtype: KvDtype,
    pub share_prefixes: bool,
    pub adapter_cache_mib: usize,
    /// 0 = no bound.
    pub memory_budget_mib: usize,
    /// 0 = never.
    pub idle_unload_s: u64,
    pub padding: bool,
    pub requests_per_minute: RequestsPerMinute,
    pub neurons_per_day: Option<u64>,
    pub neurons_per_million_input: f64,
    pub neurons_per_million_output: f64,
}

/// A model of the operator's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomModel {
    pub name: String,
    pub path: PathBuf,
    /// 0 = what the files say.
    pub context: u32,
    pub template: Option<String>,
}

/// How often each account may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestsPerMinute {
    Off,
    /// The original's own numbers.
    Documented,
    /// By task (`text-generation`) or model.
    Table(BTreeMap<String, u32>),
}

impl Engine {
    pub(super) fn from_entry(entry: &EngineEntry, data_dir: &Path) -> Engine {
        let own = || data_dir.join("models");
        Engine {
            model_dir: entry.model_dir.clone().unwrap_or_else(own),
            models: entry.models.clone(),
            custom_models: entry
                .custom_models
                .iter()
                .map(|(name, model)| CustomModel {
                    name: name.clone(),
                    path: model.path.clone(),
                    context: model.context,
                    template: model.template.clone(),
                })
                .collect(),
            preload: entry.preload.clone(),
            backend: entry.backend,
            threads: entry.threads,
            max_running: entry.max_running,
            max_waiting: entry.max_waiting,
            max_context: entry.max_context,
            max_step_tokens: entry.max_step_tokens,
            target_step_ms: entry.target_step_ms,
            kv_cache_mib: entry.kv_cache_mib,
            kv_dtype: entry.kv_dtype,
            share_prefixes: entry.share_prefixes,
            adapter_cache_mib: entry.adapter_cache_mib,
            memory_budget_mib: entry.memory_budget_mib,
            idle_unload_s: entry.idle_unload_s,
            padding: entry.padding,
            requests_per_minute: match &entry.requests_per_minute {
                WrittenRequests::Word(word) if word == "documented" => {
                    RequestsPerMinute::Documented
                }
                WrittenRequests::Word(_) => RequestsPerMinute::Off,
                WrittenRequests::Table(table) => RequestsPerMinute::Table(table.clone()),
            },
            neurons_per_day: (entry.neurons_per_day > 0).then_some(entry.neurons_per_day),
            neurons_per_million_input: entry.neurons_per_million_input,
            neurons_per_million_output: entry.neurons_per_million_output,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_is_told_with_its_key() {
        let written: EngineEntry = toml::from_str(
            r#"
            kv_cache_mib = 0
            preload = ["@cf/a/b"]
            requests_per_minute = { text-generation = 0 }
            neurons_per_million_output = -1.0
            [custom_models.mine]
            path = "mine.gguf"
            [custom_models."@cf/microsoft/phi-2"]
            path = "phi"
            template = "morse"
            [custom_models."@acme/assistant"]
            path = "assistant"
            template = "chatml"
            "#,
        )
        .unwrap();
        let keys: Vec<String> = written.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            [
                "kv_cache_mib",
                "preload",
                "custom_models.\"@cf/microsoft/phi-2\"",
                "custom_models.\"@cf/microsoft/phi-2\".template",
                "custom_models.\"mine\"",
                "requests_per_minute.text-generation",
                "neurons_per_million_output"
            ]
        );
        let written: EngineEntry = toml::from_str(r#"requests_per_minute = "often""#).unwrap();
        assert!(written.problems()[0].1.contains("`often`"));
        assert!(EngineEntry::default().problems().is_empty());
    }
}
