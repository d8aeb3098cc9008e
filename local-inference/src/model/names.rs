//! What a decoder's tensors are called, in each kind of file.

use super::LoadError;
use crate::weights::{ModelFiles, WeightsError};

/// Names without `.weight` and `.bias`, empty where no model of the table has such a tensor.
pub(crate) struct Names {
    pub embedding: &'static str,
    pub head: &'static str,
    pub output_norm: &'static str,
    /// What stands before a layer's number. The names below follow the number and a dot.
    pub layers: &'static str,
    pub attention_norm: &'static str,
    pub qkv: QkvNames,
    pub query_norm: &'static str,
    pub key_norm: &'static str,
    pub attention_output: &'static str,
    pub attention_post_norm: &'static str,
    pub feed_forward_norm: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub feed_forward_post_norm: &'static str,
}

pub(crate) struct QkvNames {
    /// All three in one matrix: the query heads, the key heads, the value heads.
    pub fused: &'static str,
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
}

pub(crate) const GGUF: Names = Names {
    embedding: "token_embd",
    head: "output",
    output_norm: "output_norm",
    layers: "blk.",
    attention_norm: "attn_norm",
    qkv: QkvNames {
        fused: "attn_qkv",
        query: "attn_q",
        key: "attn_k",
        value: "attn_v",
    },
    query_norm: "attn_q_norm",
    key_norm: "attn_k_norm",
    attention_output: "attn_output",
    attention_post_norm: "post_attention_norm",
    feed_forward_norm: "ffn_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
    feed_forward_post_norm: "post_ffw_norm",
};

pub(crate) const LLAMA: Names = Names {
    embedding: "embed_tokens",
    head: "lm_head",
    output_norm: "norm",
    layers: "layers.",
    attention_norm: "input_layernorm",
    qkv: QkvNames {
        fused: "",
        query: "self_attn.q_proj",
        key: "self_attn.k_proj",
        value: "self_attn.v_proj",
    },
    query_norm: "self_attn.q_norm",
    key_norm: "self_attn.k_norm",
    attention_output: "self_attn.o_proj",
    attention_post_norm: "",
    feed_forward_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    feed_forward_post_norm: "",
};

/// Gemma from the second on: norms before and behind.
pub(crate) const POST_NORMED: Names = Names {
    attention_post_norm: "post_attention_layernorm",
    feed_forward_norm: "pre_feedforward_layernorm",
    feed_forward_post_norm: "post_feedforward_layernorm",
    ..LLAMA
};

pub(crate) const PHI: Names = Names {
    output_norm: "final_layernorm",
    attention_output: "self_attn.dense",
    feed_forward_norm: "",
    gate: "",
    up: "mlp.fc1",
    down: "mlp.fc2",
    ..LLAMA
};

pub(crate) const FALCON: Names = Names {
    embedding: "word_embeddings",
    output_norm: "ln_f",
    layers: "h.",
    qkv: QkvNames {
        fused: "self_attention.query_key_value",
        query: "",
        key: "",
        value: "",
    },
    attention_output: "self_attention.dense",
    feed_forward_norm: "",
    gate: "",
    up: "mlp.dense_h_to_4h",
    down: "mlp.dense_4h_to_h",
    ..LLAMA
};

/// A table and what stands before its names in one model's files.
pub(crate) struct NamesInFile {
    pub names: &'static Names,
    prefix: String,
}

impl NamesInFile {
    /// A decoder alone has `model.` before its names, one inside a larger model more; the embedding's name shows which.
    pub(crate) fn find(
        names: &'static Names,
        files: &ModelFiles,
    ) -> Result<NamesInFile, LoadError> {
        let prefix = match files {
            ModelFiles::Gguf(_) => String::new(),
            ModelFiles::Folder(folder) => {
                let suffix = format!("{}.weight", names.embedding);
                let prefixes = folder.names().filter_map(|name| name.strip_suffix(&suffix));
                let shortest = prefixes.min_by_key(|prefix| (prefix.len(), *prefix));
                shortest
                    .ok_or(WeightsError::Missing(suffix.clone()))?
                    .to_owned()
            }
        };
        Ok(NamesInFile { names, prefix })
    }

    pub(crate) fn embedding(&self) -> String {
        format!("{}{}", self.prefix, self.names.embedding)
    }

    pub(crate) fn output_norm(&self) -> String {
        format!("{}{}", self.prefix, self.names.output_norm)
    }

    /// The head stands beside the decoder, not in it.
    pub(crate) fn head(&self) -> String {
        let outer = ["model.", "transformer."]
            .iter()
            .find_map(|inner| self.prefix.strip_suffix(inner))
            .unwrap_or(&self.prefix);
        format!("{outer}{}", self.names.head)
    }

    /// The name of a layer's tensor.
    pub(crate) fn in_layer(&self, layer: usize, name: &str) -> String {
        format!("{}{}{layer}.{name}", self.prefix, self.names.layers)
    }
}
