//! The models this gateway can be asked for, as the API describes models.

mod schema;

use local_inference::{CatalogueEntry, EncoderEntry, EncoderTask, catalogue, encoders};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Local;
use super::meter::{Rates, Task};

/// Dollars a neuron, in the original's list of prices.
const USD_PER_NEURON: f64 = 0.000_011;

/// One model of the list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The name requests use.
    pub name: String,
    pub description: String,
    pub task: Task,
    /// It is configured here; the others are known to this build.
    pub is_offered: bool,
    context: u32,
    /// Length of a vector, of models that make some.
    dimensions: Option<u32>,
    rates: Rates,
}

impl Local {
    /// What is configured here, and with `all` also what else this build knows.
    pub fn listing(&self, all: bool) -> Vec<Listed> {
        let offered = self.engine().models();
        let mut list: Vec<Listed> = offered
            .iter()
            .map(|model| self.model(model.entry, true))
            .collect();
        let encoders_offered = self.engine().encoder_models();
        list.extend(
            encoders_offered
                .iter()
                .map(|entry| self.encoder(entry, true)),
        );
        if all {
            let models = catalogue::all().iter();
            // Encoders follow from their own list, which knows the length of their vectors.
            let models = models.filter(|entry| entry.task == catalogue::Task::TextGeneration);
            let models = models.filter(|entry| !offered.iter().any(|m| m.entry.id == entry.id));
            list.extend(models.map(|entry| self.model(entry, false)));
            let more = encoders().iter();
            let more = more.filter(|entry| !encoders_offered.iter().any(|o| o.id == entry.id));
            list.extend(more.map(|entry| self.encoder(entry, false)));
        }
        list
    }

    fn model(&self, entry: &CatalogueEntry, is_offered: bool) -> Listed {
        Listed {
            name: entry.id.to_string(),
            description: entry.description.to_string(),
            task: Task::Generation,
            is_offered,
            context: entry.context,
            dimensions: None,
            rates: self.meter().rates(&entry.id),
        }
    }

    fn encoder(&self, entry: &EncoderEntry, is_offered: bool) -> Listed {
        let task = match entry.task {
            EncoderTask::Embed => Task::Embeddings,
            EncoderTask::Rank => Task::Classification,
        };
        let description = match task {
            Task::Embeddings => format!("Vectors of {} numbers for texts", entry.dimensions),
            _ => "Scores how well contexts answer a query".to_owned(),
        };
        Listed {
            name: entry.id.to_owned(),
            description,
            task,
            is_offered,
            context: entry.context,
            dimensions: (task == Task::Embeddings).then_some(entry.dimensions),
            rates: self.meter().rates(entry.id),
        }
    }
}

impl Listed {
    /// `meta` of `@cf/meta/llama`.
    pub fn author(&self) -> &str {
        self.name.split('/').nth(1).unwrap_or_default()
    }

    /// 1: the API's own, 2: taken from Hugging Face.
    pub fn source(&self) -> u32 {
        if self.name.starts_with("@hf/") { 2 } else { 1 }
    }

    /// As `models/search` tells it.
    pub fn native(&self) -> Value {
        let tags: &[&str] = if self.is_offered {
            &[]
        } else {
            &["not-offered"]
        };
        json!({
            "id": id(&self.name),
            "source": self.source(),
            "name": self.name,
            "description": self.description,
            "task": self.task.describe(),
            "tags": tags,
            "properties": self.properties(),
        })
    }

    /// Values are texts, but for the price.
    fn properties(&self) -> Vec<Value> {
        let property = |id: &str, value: Value| json!({"property_id": id, "value": value});
        let mut list = vec![property("async_queue", json!("true"))];
        let context = json!(self.context.to_string());
        match self.dimensions {
            Some(dimensions) => {
                list.push(property("max_input_tokens", context));
                list.push(property("output_dimensions", json!(dimensions.to_string())));
            }
            None => list.push(property("context_window", context)),
        }
        let usd = |neurons: f64| rounded(neurons * USD_PER_NEURON);
        let unit =
            |unit: &str, neurons| json!({"unit": unit, "price": usd(neurons), "currency": "USD"});
        let mut price = vec![unit("per M input tokens", self.rates.input)];
        if self.task == Task::Generation {
            // Calls are held to a grammar, so any model can make them.
            list.push(property("function_calling", json!("true")));
            price.push(unit("per M output tokens", self.rates.output));
        }
        list.push(property("price", json!(price)));
        list
    }

    /// As `format=openrouter` has it: dollars a token, as texts.
    pub fn openrouter(&self) -> Value {
        let usd = |neurons: f64| rounded(neurons * USD_PER_NEURON / 1e6).to_string();
        let (output, parameters): (&str, &[&str]) = match self.task {
            Task::Generation => (
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
            Task::Embeddings => ("embeddings", &[]),
            Task::Classification => ("rerank", &[]),
        };
        json!({
            "id": self.name,
            "name": self.name,
            "created": 0,
            "description": self.description,
            "context_length": self.context,
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
        json!({"id": self.name, "object": "model", "created": 0, "owned_by": self.author()})
    }

    /// What it takes and gives, as JSON Schema.
    pub fn schema(&self) -> Value {
        schema::of(self.task)
    }
}

/// Without the noise of binary fractions.
fn rounded(value: f64) -> f64 {
    format!("{value:.12}").parse().unwrap_or(value)
}

impl Task {
    pub const ALL: [Task; 3] = [Task::Generation, Task::Embeddings, Task::Classification];

    /// With the original's own ids.
    pub fn describe(self) -> Value {
        let (id, description) = match self {
            Task::Generation => (
                "c329a1f9-323d-4e91-b2aa-582dd4188d34",
                "Writes text that goes on from a prompt or a conversation",
            ),
            Task::Embeddings => (
                "0137cdcf-162a-4108-94f2-1ca59e8c65ee",
                "Turns texts into vectors that lie close where meanings do",
            ),
            Task::Classification => (
                "19606750-23ed-4371-aab2-c20349b53a60",
                "Scores texts, for example how well they answer a query",
            ),
        };
        json!({"id": id, "name": self.name(), "description": description})
    }

    pub fn name(self) -> &'static str {
        match self {
            Task::Generation => "Text Generation",
            Task::Embeddings => "Text Embeddings",
            Task::Classification => "Text Classification",
        }
    }

    /// By its name, slug or id, as clients ask for it.
    pub fn is_called(self, word: &str) -> bool {
        word.eq_ignore_ascii_case(self.name())
            || word.eq_ignore_ascii_case(self.slug())
            || self.describe()["id"] == word
    }
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
            assert!(Task::Generation.is_called(word) && !Task::Embeddings.is_called(word));
        }
    }
}
