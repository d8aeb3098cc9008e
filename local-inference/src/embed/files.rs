//! An encoder's folder, read and checked.

use super::Pooling;
use candle_core::safetensors::SliceSafetensors;
use candle_core::{DType, Device, Tensor};
use kernels::Activation;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::{PostProcessor, Tokenizer, TruncationParams, TruncationStrategy};

#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error("`{path}`: {error}")]
    Read { path: String, error: std::io::Error },
    #[error("`{path}` is not JSON: {error}")]
    Json {
        path: String,
        error: serde_json::Error,
    },
    #[error("`{path}`: `{field}` {reason}")]
    Field {
        path: &'static str,
        field: &'static str,
        reason: String,
    },
    #[error("tokenizer.json: {0}")]
    Tokenizer(tokenizers::Error),
    #[error("weights: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// What becomes of a text's token vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Pool {
        usual: Pooling,
        normalise: bool,
    },
    /// The sequence classifier with one label.
    Score,
}

/// The shape of an encoder; all counts at least 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spec {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub intermediate: usize,
    pub norm_epsilon: f64,
    pub activation: Activation,
    /// Rows of the position table.
    pub positions: usize,
    /// RoBERTa counts from behind the padding token's id and gives padding tokens that id itself; BERT counts from 0.
    pub position_padding: Option<u32>,
    pub types: usize,
    pub vocabulary: usize,
    pub head: Head,
}

pub(super) struct Folder {
    path: PathBuf,
    pub spec: Spec,
    /// Tokens of a text that are read.
    pub window: usize,
}

const CONFIG: &str = "config.json";

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Folder, FilesError> {
        let config = read_json(&path.join(CONFIG))?;
        let modules = optional_json(&path.join("modules.json"))?;
        let pooling = optional_json(&path.join("1_Pooling/config.json"))?;
        let limits = optional_json(&path.join("sentence_bert_config.json"))?;
        let spec = spec(&config, modules.as_ref(), pooling.as_ref())?;
        let offset = spec
            .position_padding
            .map_or(0, |padding| padding as usize + 1);
        let mut window = spec.positions - offset;
        if let Some(limit) = limits
            .as_ref()
            .and_then(|value| value["max_seq_length"].as_u64())
        {
            window = window.min((limit as usize).max(1));
        }
        Ok(Folder {
            path: path.to_owned(),
            spec,
            window,
        })
    }

    /// The folder's tokenizer, cutting texts at the window.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, FilesError> {
        let mut tokenizer = Tokenizer::from_file(self.path.join("tokenizer.json"))
            .map_err(FilesError::Tokenizer)?;
        let words = tokenizer.get_vocab_size(true);
        if words > self.spec.vocabulary {
            return Err(field(
                "vocab_size",
                format!(
                    "is {}, the tokenizer has {words} tokens",
                    self.spec.vocabulary
                ),
            ));
        }
        let added = |is_pair| {
            let processor = tokenizer.get_post_processor();
            processor.map_or(0, |processor| processor.added_tokens(is_pair))
        };
        if self.window <= added(true) {
            return Err(field(
                "max_position_embeddings",
                format!("leaves a window of {} tokens", self.window),
            ));
        }
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(TruncationParams {
                max_length: self.window,
                strategy: TruncationStrategy::LongestFirst,
                ..TruncationParams::default()
            }))
            .map_err(FilesError::Tokenizer)?;
        Ok(tokenizer)
    }

    /// Hands the weights to `build` while their file is mapped.
    pub(super) fn with_weights<T>(
        &self,
        device: &Device,
        build: impl FnOnce(&Weights<'_>) -> Result<T, FilesError>,
    ) -> Result<T, FilesError> {
        let path = self.path.join("model.safetensors");
        let read = |error| FilesError::Read {
            path: path.display().to_string(),
            error,
        };
        let file = std::fs::File::open(&path).map_err(read)?;
        let bytes = crate::weights::map(&file).map_err(read)?;
        let tensors = SliceSafetensors::new(&bytes)?;
        let prefix = ["", "bert.", "roberta."]
            .into_iter()
            .find(|prefix| tensors.get(&format!("{prefix}{PROBE}")).is_ok())
            .unwrap_or_default();
        build(&Weights {
            tensors,
            prefix,
            device,
        })
    }
}

/// Every encoder here has it, under one of a few prefixes.
const PROBE: &str = "embeddings.word_embeddings.weight";

pub(super) struct Weights<'a> {
    tensors: SliceSafetensors<'a>,
    prefix: &'static str,
    device: &'a Device,
}

impl Weights<'_> {
    /// A tensor of the encoder, as f32.
    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, FilesError> {
        self.load(&format!("{}{name}", self.prefix), shape)
    }

    /// A tensor beside the encoder, as f32.
    pub(super) fn load(&self, name: &str, shape: &[usize]) -> Result<Tensor, FilesError> {
        let found = self.tensors.get(name)?;
        if found.shape() != shape {
            let text = format!(
                "`{name}` has shape {:?} instead of {shape:?}",
                found.shape()
            );
            return Err(candle_core::Error::Msg(text).into());
        }
        let tensor = self.tensors.load(name, self.device)?;
        Ok(tensor.to_dtype(DType::F32)?)
    }
}

fn field(field: &'static str, reason: String) -> FilesError {
    FilesError::Field {
        path: CONFIG,
        field,
        reason,
    }
}

fn read_json(path: &Path) -> Result<Value, FilesError> {
    let text = std::fs::read(path).map_err(|error| FilesError::Read {
        path: path.display().to_string(),
        error,
    })?;
    serde_json::from_slice(&text).map_err(|error| FilesError::Json {
        path: path.display().to_string(),
        error,
    })
}

fn optional_json(path: &Path) -> Result<Option<Value>, FilesError> {
    match path.exists() {
        true => read_json(path).map(Some),
        false => Ok(None),
    }
}

fn spec(
    config: &Value,
    modules: Option<&Value>,
    pooling: Option<&Value>,
) -> Result<Spec, FilesError> {
    let architecture = config["architectures"][0].as_str().unwrap_or_default();
    let (is_roberta, head) = match architecture {
        "BertModel" => (false, pool(modules, pooling)?),
        "XLMRobertaModel" => (true, pool(modules, pooling)?),
        "XLMRobertaForSequenceClassification" => (true, Head::Score),
        other => {
            let reason = format!(
                "is `{other}`: BertModel, XLMRobertaModel and XLMRobertaForSequenceClassification are supported"
            );
            return Err(field("architectures", reason));
        }
    };
    let activation = match config["hidden_act"].as_str().unwrap_or("gelu") {
        "gelu" => Activation::GeluErf,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "silu" | "swish" => Activation::Silu,
        other => {
            return Err(field(
                "hidden_act",
                format!("is `{other}`: gelu, gelu_new, gelu_pytorch_tanh and silu are supported"),
            ));
        }
    };
    let kind = config["position_embedding_type"]
        .as_str()
        .unwrap_or("absolute");
    if kind != "absolute" {
        return Err(field(
            "position_embedding_type",
            format!("is `{kind}`: only absolute is supported"),
        ));
    }
    if head == Head::Score && labels(config) != 1 {
        return Err(field(
            "id2label",
            format!("names {} labels: a reranker has one", labels(config)),
        ));
    }
    let norm_epsilon = config["layer_norm_eps"].as_f64().unwrap_or(1e-12);
    let padding = config["pad_token_id"]
        .as_u64()
        .unwrap_or(1)
        .min(u64::from(u32::MAX)) as u32;
    let spec = Spec {
        layers: count(config, "num_hidden_layers")?,
        hidden: count(config, "hidden_size")?,
        heads: count(config, "num_attention_heads")?,
        intermediate: count(config, "intermediate_size")?,
        norm_epsilon,
        activation,
        positions: count(config, "max_position_embeddings")?,
        position_padding: is_roberta.then_some(padding),
        types: count(config, "type_vocab_size")?,
        vocabulary: count(config, "vocab_size")?,
        head,
    };
    if !spec.hidden.is_multiple_of(spec.heads) {
        return Err(field(
            "hidden_size",
            format!("{} is not a multiple of {} heads", spec.hidden, spec.heads),
        ));
    }
    if spec
        .position_padding
        .is_some_and(|padding| spec.positions <= padding as usize + 1)
    {
        return Err(field(
            "max_position_embeddings",
            format!("is {}, too few", spec.positions),
        ));
    }
    Ok(spec)
}

/// Labels the configuration names, two when it names none, as in Transformers.
fn labels(config: &Value) -> usize {
    let named = config["id2label"].as_object().map(serde_json::Map::len);
    let counted = config["num_labels"].as_u64().map(|labels| labels as usize);
    named.or(counted).unwrap_or(2)
}

fn count(config: &Value, name: &'static str) -> Result<usize, FilesError> {
    // Far above any model, low enough that products of a few of them do not overflow.
    const MOST: u64 = 1 << 24;
    match config[name].as_u64() {
        Some(value @ 1..=MOST) => Ok(value as usize),
        Some(value) => Err(field(name, format!("is {value}, expected 1 to {MOST}"))),
        None => Err(field(name, "is missing".to_owned())),
    }
}

/// What sentence-transformers would do behind the encoder; without its files the mean, normalised.
fn pool(modules: Option<&Value>, pooling: Option<&Value>) -> Result<Head, FilesError> {
    let mut normalise = true;
    if let Some(modules) = modules.and_then(Value::as_array) {
        let kinds: Vec<&str> = modules
            .iter()
            .filter_map(|module| module["type"].as_str()?.rsplit('.').next())
            .collect();
        if let Some(other) = kinds
            .iter()
            .find(|kind| !["Transformer", "Pooling", "Normalize"].contains(kind))
        {
            return Err(FilesError::Field {
                path: "modules.json",
                field: "type",
                reason: format!("is `{other}`: Transformer, Pooling and Normalize are supported"),
            });
        }
        normalise = kinds.contains(&"Normalize");
    }
    let usual = match pooling {
        None => Pooling::Mean,
        Some(pooling) => {
            let is_on = |name: &str| pooling[name].as_bool() == Some(true);
            let named = pooling["pooling_mode"].as_str();
            match (
                is_on("pooling_mode_mean_tokens") || named == Some("mean"),
                is_on("pooling_mode_cls_token") || named == Some("cls"),
            ) {
                (true, false) => Pooling::Mean,
                (false, true) => Pooling::Cls,
                _ => {
                    return Err(FilesError::Field {
                        path: "1_Pooling/config.json",
                        field: "pooling_mode",
                        reason: "is neither mean nor cls".to_owned(),
                    });
                }
            }
        }
    };
    Ok(Head::Pool { usual, normalise })
}
