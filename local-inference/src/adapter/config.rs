//! `adapter_config.json`, as PEFT writes it: what of it changes the arithmetic, and what of it we do not compute.

use super::AdapterError;
use regex::Regex;
use serde_json::{Map, Value};

/// PEFT writes a kilobyte or two. A longer one is refused unread.
const MAX_CONFIG_BYTES: usize = 1024 * 1024;
/// Alphas are small numbers of the order of the rank; what is far beyond would only make infinities.
const MAX_ALPHA: f64 = 1e6;

/// How strongly each module's product counts, and which modules there are.
#[derive(Debug)]
pub(crate) struct AdapterConfig {
    rank: usize,
    alpha: f64,
    /// Divided by the rank's root instead of the rank.
    is_rank_stabilised: bool,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    targets: Targeted,
}

#[derive(Debug)]
enum Targeted {
    /// Ends of module names.
    Names(Vec<String>),
    /// The whole module name matches.
    Pattern(Regex),
}

impl AdapterConfig {
    pub(crate) fn parse(bytes: &[u8]) -> Result<AdapterConfig, AdapterError> {
        if bytes.len() > MAX_CONFIG_BYTES {
            return fault(format!(
                "has {} bytes, at most {MAX_CONFIG_BYTES} are read",
                bytes.len()
            ));
        }
        let object: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| AdapterError::Config(format!("is no JSON object: {error}")))?;
        let kind = object.get("peft_type").and_then(Value::as_str);
        if let Some(kind) = kind.filter(|kind| *kind != "LORA") {
            return fault(format!("`peft_type` is `{kind}`, only `LORA` is served"));
        }
        refuse_others(&object)?;
        Ok(AdapterConfig {
            rank: rank("r", object.get("r").unwrap_or(&Value::Null))?,
            alpha: alpha(
                "lora_alpha",
                object.get("lora_alpha").unwrap_or(&Value::Null),
            )?,
            is_rank_stabilised: flag(&object, "use_rslora"),
            ranks: patterns(&object, "rank_pattern", rank)?,
            alphas: patterns(&object, "alpha_pattern", alpha)?,
            targets: targets(object.get("target_modules"))?,
        })
    }

    /// The rank its tensors must have. `module` is a whole name, `model.layers.0.self_attn.q_proj`.
    pub(crate) fn rank_of(&self, module: &str) -> usize {
        found(&self.ranks, module).unwrap_or(self.rank)
    }

    /// What its product is multiplied by.
    pub(crate) fn scale_of(&self, module: &str) -> f32 {
        let rank = self.rank_of(module) as f64;
        let alpha = found(&self.alphas, module).unwrap_or(self.alpha);
        let divisor = if self.is_rank_stabilised {
            rank.sqrt()
        } else {
            rank
        };
        (alpha / divisor) as f32
    }

    /// Whether `target_modules` names it.
    pub(crate) fn is_target(&self, module: &str) -> bool {
        match &self.targets {
            // Files may leave out what stands before the layers.
            Targeted::Names(names) => {
                let mut names = names.iter();
                names.any(|name| ends_with(module, name) || ends_with(name, module))
            }
            Targeted::Pattern(pattern) => pattern.is_match(module),
        }
    }

    /// The highest rank it asks for.
    pub(crate) fn highest_rank(&self) -> usize {
        let named = self.ranks.iter().map(|(_, rank)| *rank);
        named.fold(self.rank, usize::max)
    }
}

/// Whether `name` is all of the module's name, or what follows one of its dots.
fn ends_with(module: &str, name: &str) -> bool {
    module
        .strip_suffix(name)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn fault<T>(text: String) -> Result<T, AdapterError> {
    Err(AdapterError::Config(text))
}

fn flag(object: &Map<String, Value>, key: &str) -> bool {
    object.get(key) == Some(&Value::Bool(true))
}

/// Everything PEFT can do that would change the answer and is not computed here.
fn refuse_others(object: &Map<String, Value>) -> Result<(), AdapterError> {
    for (key, what) in [
        ("use_dora", "train without DoRA"),
        ("fan_in_fan_out", "the base's matrices are not transposed"),
        ("use_qalora", "train without QA-LoRA"),
        (
            "lora_bias",
            "train without biases on the adapter's own matrices",
        ),
    ] {
        if flag(object, key) {
            return fault(format!("`{key}` is not served: {what}"));
        }
    }
    match object.get("bias") {
        None | Some(Value::Null) => {}
        Some(Value::String(bias)) if bias == "none" => {}
        Some(bias) => return fault(format!("`bias` is {bias}, only \"none\" is served")),
    }
    for (key, what) in [
        (
            "modules_to_save",
            "whole modules are not replaced, train with LoRA alone",
        ),
        ("layer_replication", "layers are not repeated"),
        (
            "trainable_token_indices",
            "tokens' own embeddings are not replaced",
        ),
        (
            "target_parameters",
            "name modules in `target_modules` instead",
        ),
        ("megatron_config", "only Transformers' layers are known"),
    ] {
        let is_set = match object.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            Some(_) => true,
        };
        if is_set {
            return fault(format!("`{key}` is not served: {what}"));
        }
    }
    Ok(())
}

fn rank(key: &str, value: &Value) -> Result<usize, AdapterError> {
    match value.as_u64() {
        Some(rank) if (1..=u64::from(u16::MAX)).contains(&rank) => Ok(rank as usize),
        _ => fault(format!("`{key}` is {value}, it must be a rank from 1 on")),
    }
}

fn alpha(key: &str, value: &Value) -> Result<f64, AdapterError> {
    match value.as_f64() {
        Some(alpha) if alpha.abs() <= MAX_ALPHA => Ok(alpha),
        _ => fault(format!(
            "`{key}` is {value}, it must be a number up to {MAX_ALPHA}"
        )),
    }
}

/// Names or regular expressions of modules' ends, with a value each.
fn patterns<T>(
    object: &Map<String, Value>,
    key: &str,
    read: impl Fn(&str, &Value) -> Result<T, AdapterError>,
) -> Result<Vec<(Regex, T)>, AdapterError> {
    let empty = Map::new();
    let map = match object.get(key) {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(map)) => map,
        Some(other) => return fault(format!("`{key}` is {other}, it must be an object")),
    };
    map.iter()
        .map(|(name, value)| {
            let place = format!("{key}.{name}");
            let pattern = compile(&place, &format!(r"^(.*\.)?({name})$"))?;
            Ok((pattern, read(&place, value)?))
        })
        .collect()
}

fn found<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    let mut patterns = patterns.iter();
    patterns
        .find(|(pattern, _)| pattern.is_match(module))
        .map(|(_, value)| *value)
}

fn targets(value: Option<&Value>) -> Result<Targeted, AdapterError> {
    match value {
        Some(Value::Array(list)) if !list.is_empty() => {
            let names = list.iter().map(|name| name.as_str().map(str::to_owned));
            match names.collect() {
                Some(names) => Ok(Targeted::Names(names)),
                None => fault("`target_modules` must be a list of names".to_owned()),
            }
        }
        // What PEFT was asked for, before it knew the modules.
        Some(Value::String(all)) if all == "all-linear" => {
            Ok(Targeted::Pattern(compile("target_modules", "")?))
        }
        Some(Value::String(pattern)) => Ok(Targeted::Pattern(compile(
            "target_modules",
            &format!(r"^(?:{pattern})$"),
        )?)),
        other => {
            let other = other.unwrap_or(&Value::Null);
            fault(format!(
                "`target_modules` is {other}, it must name the modules"
            ))
        }
    }
}

/// A pattern of a stranger: the library bounds its size, and matching takes time linear in the name.
fn compile(place: &str, pattern: &str) -> Result<Regex, AdapterError> {
    Regex::new(pattern)
        .map_err(|error| AdapterError::Config(format!("`{place}` is no pattern: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(change: Value) -> Result<AdapterConfig, String> {
        let mut config = json!({
            "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "bias": "none",
            "fan_in_fan_out": false, "use_dora": false, "modules_to_save": null, "rank_pattern": {},
        });
        let changes = change.as_object().expect("an object").clone();
        config.as_object_mut().expect("an object").extend(changes);
        AdapterConfig::parse(config.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn ranks_and_scales_follow_their_patterns() {
        let config = parse(json!({
            "rank_pattern": {"q_proj": 4, r"layers\.1\.self_attn\.v_proj": 2},
            "alpha_pattern": {"v_proj": 32},
        }))
        .expect("a usual one");
        let values = |module: &str| (config.rank_of(module), config.scale_of(module));
        assert_eq!(values("layers.0.self_attn.q_proj"), (4, 4.0));
        assert_eq!(values("layers.0.self_attn.v_proj"), (8, 4.0));
        assert_eq!(values("layers.1.self_attn.v_proj"), (2, 16.0));
        assert_eq!(values("layers.1.mlp.up_proj"), (8, 2.0));
        assert_eq!(config.highest_rank(), 8);
        let config = parse(json!({"use_rslora": true, "r": 16})).expect("a usual one");
        assert_eq!(config.scale_of("x"), 4.0);
    }

    #[test]
    fn targets_are_names_or_a_pattern() {
        let named = parse(json!({})).expect("a usual one");
        assert!(named.is_target("layers.0.self_attn.q_proj"));
        assert!(!named.is_target("layers.0.self_attn.seq_proj"));
        let whole = json!({"target_modules": ["model.layers.0.self_attn.q_proj"]});
        let whole = parse(whole).expect("a list");
        assert!(whole.is_target("layers.0.self_attn.q_proj"));
        assert!(!whole.is_target("layers.1.self_attn.q_proj"));
        let pattern = r"model\.layers\.[01]\..*(q|k)_proj";
        let pattern = parse(json!({"target_modules": pattern})).expect("a pattern");
        assert!(pattern.is_target("model.layers.1.self_attn.k_proj"));
        assert!(!pattern.is_target("model.layers.2.self_attn.k_proj"));
        let all = parse(json!({"target_modules": "all-linear"})).expect("all of them");
        assert!(all.is_target("layers.2.mlp.up_proj"));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (change, word) in [
            (json!({"use_dora": true}), "DoRA"),
            (json!({"bias": "all"}), "`bias` is \"all\""),
            (json!({"modules_to_save": ["lm_head"]}), "`modules_to_save`"),
            (json!({"r": 0}), "`r` is 0"),
            (json!({"r": null}), "`r` is null"),
            (json!({"lora_alpha": 1e9}), "`lora_alpha`"),
            (json!({"peft_type": "IA3"}), "`IA3`"),
            (json!({"target_modules": []}), "`target_modules` is []"),
            (json!({"target_modules": "(("}), "no pattern"),
            (json!({"rank_pattern": {"q": -1}}), "`rank_pattern.q` is -1"),
            (json!({"fan_in_fan_out": true}), "fan_in_fan_out"),
        ] {
            let error = parse(change.clone()).expect_err("not served");
            assert!(error.starts_with("adapter_config.json: "), "{error}");
            assert!(error.contains(word), "{change}: {error}");
        }
        assert!(AdapterConfig::parse(b"[]").is_err());
    }
}
