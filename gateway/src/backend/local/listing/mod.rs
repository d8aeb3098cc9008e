//! The models this gateway can be asked for, as the API describes models.

mod schema;

use local_inference::catalogue::{self, CatalogueEntry, Task};
use local_inference::encoders;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Local;
use super::meter::{self, Rates};

/// Dollars a neuron, in the original's list of prices.
const USD_PER_NEURON: f64 = 0.000_011;

/// One model of the list.
#[derive(Debug, Clone)]
pub struct Listed {
    entry: &'static CatalogueEntry,
    /// It is configured here; the others are known to this build.
    is_offered: bool,
    /// Length of a vector, of models that make some.
    dimensions: Option<u32>,
    rates: Rates,
}

impl Local {
    /// What is configured here, and with `all` also what else this build knows.
    pub fn listing(&self, all: bool) -> Vec<Listed> {
        let models = self.engine().models().into_iter().map(|model| model.entry);
        let vectors = self.engine().encoder_models().into_iter();
        let vectors = vectors.filter_map(|encoder| catalogue::find(encoder.id));
        let mut list: Vec<Listed> = models
            .chain(vectors)
            .map(|entry| self.listed(entry, true))
            .collect();
        if all {
            let rest = catalogue::all().iter();
            let rest: Vec<Listed> = rest
                .filter(|entry| !list.iter().any(|offered| offered.entry.id == entry.id))
                .map(|entry| self.listed(entry, false))
                .collect();
            list.extend(rest);
        }
        list
    }

    fn listed(&self, entry: &'static CatalogueEntry, is_offered: bool) -> Listed {
        let mut vectors = encoders().iter();
        let vectors = vectors.find(|encoder| encoder.id == entry.id);
        Listed {
            entry,
            is_offered,
            dimensions: vectors
                .filter(|_| entry.task == Task::TextEmbeddings)
                .map(|encoder| encoder.dimensions),
            rates: self.meter().rates(&entry.id),
        }
    }
}

impl Listed {
    pub fn name(&self) -> &'static str {
        &self.entry.id
    }

    pub fn description(&self) -> &'static str {
        &self.entry.description
    }

    pub fn task(&self) -> Task {
        self.entry.task
    }

    /// By this name or another one that it has.
    pub fn is_called(&self, name: &str) -> bool {
        self.entry.is_called(name)
    }

    /// Of the original's experiments.
    pub fn is_experimental(&self) -> bool {
        self.entry.abilities.beta
    }

    /// `meta` of `@cf/meta/llama`.
    pub fn author(&self) -> &'static str {
        self.name().split('/').nth(1).unwrap_or_default()
    }

    /// 1: the API's own, 2: taken from Hugging Face.
    pub fn source(&self) -> u32 {
        if self.name().starts_with("@hf/") {
            2
        } else {
            1
        }
    }

    /// As `models/search` tells it.
    pub fn native(&self) -> Value {
        let tags: &[&str] = if self.is_offered {
            &[]
        } else {
            &["not-offered"]
        };
        json!({
            "id": id(self.name()),
            "source": self.source(),
            "name": self.name(),
            "description": self.description(),
            "task": describe(self.task()),
            "tags": tags,
            "properties": self.properties(),
        })
    }

    /// Values are texts, but for the price.
    fn properties(&self) -> Vec<Value> {
        let property = |id: &str, value: Value| json!({"property_id": id, "value": value});
        let mut list = vec![property("async_queue", json!("true"))];
        let abilities = self.entry.abilities;
        for (id, has) in [("beta", abilities.beta), ("reasoning", abilities.reasoning)] {
            if has {
                list.push(property(id, json!("true")));
            }
        }
        let context = json!(self.entry.context.to_string());
        match self.dimensions {
            Some(dimensions) => {
                list.push(property("max_input_tokens", context));
                list.push(property("output_dimensions", json!(dimensions.to_string())));
            }
            None if self.entry.context == 0 => {}
            None => list.push(property("context_window", context)),
        }
        let usd = |neurons: f64| rounded(neurons * USD_PER_NEURON);
        let unit =
            |unit: &str, neurons| json!({"unit": unit, "price": usd(neurons), "currency": "USD"});
        let mut price = vec![unit("per M input tokens", self.rates.input)];
        if self.task() == Task::TextGeneration {
            // Calls are held to a grammar, so any model can make them.
            list.push(property("function_calling", json!("true")));
            list.push(property("lora", json!("true")));
            price.push(unit("per M output tokens", self.rates.output));
        }
        list.push(property("price", json!(price)));
        list
    }

    /// As `format=openrouter` has it: dollars a token, as texts.
    pub fn openrouter(&self) -> Value {
        let usd = |neurons: f64| rounded(neurons * USD_PER_NEURON / 1e6).to_string();
        let (output, parameters): (&str, &[&str]) = match self.task() {
            Task::TextGeneration => (
                "text",
                &[
                    "max_tokens",
                    "temperature",
                    "top_p",
                    "top_k",
                    "seed",
                    "stop",
                    "tools",
                    "tool_choice",
                    "response_format",
                    "structured_outputs",
                    "logprobs",
                ],
            ),
            Task::TextEmbeddings => ("embeddings", &[]),
            Task::TextClassification => ("rerank", &[]),
        };
        json!({
            "id": self.name(),
            "name": self.name(),
            "created": 0,
            "description": self.description(),
            "context_length": Some(self.entry.context).filter(|known| *known > 0),
            "architecture": {
                "modality": format!("text->{output}"),
                "input_modalities": ["text"],
                "output_modalities": [output],
            },
            "pricing": {"prompt": usd(self.rates.input), "completion": usd(self.rates.output), "request": "0", "image": "0"},
            "supported_parameters": parameters,
        })
    }

    /// As OpenAI's list has it.
    pub fn openai(&self) -> Value {
        json!({"id": self.name(), "object": "model", "created": 0, "owned_by": self.author()})
    }

    /// What it takes and gives, as JSON Schema.
    pub fn schema(&self) -> Value {
        schema::of(self.task())
    }
}

/// Without the noise of binary fractions.
fn rounded(value: f64) -> f64 {
    format!("{value:.12}").parse().unwrap_or(value)
}

/// The tasks of the engine's models.
pub const TASKS: [Task; 3] = [
    Task::TextGeneration,
    Task::TextEmbeddings,
    Task::TextClassification,
];

/// A task as the API tells it.
pub fn describe(task: Task) -> Value {
    json!({"id": task.id(), "name": task.name(), "description": task.description()})
}

/// By its name, slug or id, as clients ask for it.
pub fn is_task(task: Task, word: &str) -> bool {
    let names = [task.name(), meter::slug(task), task.id()];
    names.iter().any(|name| word.eq_ignore_ascii_case(name))
}

/// The same id for a name everywhere and always.
fn id(name: &str) -> String {
    let hash = Sha256::digest(name.as_bytes());
    let bytes = hash.first_chunk::<16>().copied().unwrap_or_default();
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_names() {
        assert_eq!(id("@cf/a/b"), id("@cf/a/b"));
        assert_ne!(id("@cf/a/b"), id("@cf/a/c"));
        assert_eq!(id("@cf/a/b").len(), 36);
    }

    #[test]
    fn tasks_are_known_by_every_name_clients_use() {
        for word in [
            "Text Generation",
            "text-generation",
            "c329a1f9-323d-4e91-b2aa-582dd4188d34",
        ] {
            assert!(is_task(Task::TextGeneration, word) && !is_task(Task::TextEmbeddings, word));
        }
    }
}
