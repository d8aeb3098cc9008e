//! Rotary positions: three generations of `config.json`, and GGUF's keys.

use crate::model::LoadError;
use crate::model::header::{Header, key};
use kernels::{RopeLayout, RopeScaling, RopeSpec};
use serde_json::{Map, Value};

/// The rotation most layers use. `config.json` says it as `rope_theta` and `rope_scaling`, or since Transformers 5 as
/// `rope_parameters`.
pub(super) fn read(
    header: &Header<'_>,
    head_dim: usize,
    layout: RopeLayout,
    default_base: f32,
) -> Result<RopeSpec, LoadError> {
    let parameters = header
        .config("rope_parameters")
        .or_else(|| header.config("rope_scaling"))
        .and_then(Value::as_object);
    read_from(header, parameters, head_dim, layout, default_base)
}

/// The same from `parameters`, where a header has several.
pub(super) fn read_from(
    header: &Header<'_>,
    parameters: Option<&Map<String, Value>>,
    head_dim: usize,
    layout: RopeLayout,
    default_base: f32,
) -> Result<RopeSpec, LoadError> {
    let inside = |name: &str| parameters.and_then(|p| p.get(name)).and_then(Value::as_f64);
    let base = match inside("rope_theta") {
        Some(base) => base as f32,
        None => header
            .float(key("rope_theta", "rope.freq_base"))?
            .unwrap_or(default_base),
    };
    let rotary_dim = match header.size(key("", "rope.dimension_count"))? {
        Some(length) => length,
        None => match inside("partial_rotary_factor") {
            Some(factor) => (head_dim as f64 * factor) as usize,
            None => match header.float(key("partial_rotary_factor", ""))? {
                Some(factor) => (f64::from(factor) * head_dim as f64) as usize,
                None => head_dim,
            },
        },
    };
    if rotary_dim == 0 || rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
        return Err(header.wrong(key("partial_rotary_factor", "rope.dimension_count")));
    }
    if !base.is_finite() || base <= 1.0 {
        return Err(header.wrong(key("rope_theta", "rope.freq_base")));
    }
    Ok(RopeSpec {
        rotary_dim,
        base,
        layout,
        scaling: match header.is_gguf() {
            true => gguf_scaling(header)?,
            false => config_scaling(header, parameters)?,
        },
    })
}

fn config_scaling(
    header: &Header<'_>,
    parameters: Option<&Map<String, Value>>,
) -> Result<RopeScaling, LoadError> {
    let Some(parameters) = parameters else {
        return Ok(RopeScaling::None);
    };
    let kind = parameters
        .get("rope_type")
        .or_else(|| parameters.get("type"))
        .and_then(Value::as_str)
        .unwrap_or("default");
    let number = |name: &'static str| {
        parameters
            .get(name)
            .and_then(Value::as_f64)
            .filter(|value| value.is_finite() && *value > 0.0)
            .map(|value| value as f32)
            .ok_or_else(|| header.wrong(key(name, "")))
    };
    Ok(match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear {
            factor: number("factor")?,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor")?,
            low: number("low_freq_factor")?,
            high: number("high_freq_factor")?,
            original: number("original_max_position_embeddings")? as usize,
        },
        other => return Err(LoadError::Unsupported(format!("rope scaling `{other}`"))),
    })
}

fn gguf_scaling(header: &Header<'_>) -> Result<RopeScaling, LoadError> {
    let factor = key("", "rope.scaling.factor");
    match header.gguf_text("rope.scaling.type") {
        None | Some("none") => Ok(RopeScaling::None),
        Some("linear") => match header.float(factor)? {
            Some(value) if value > 0.0 => Ok(RopeScaling::Linear { factor: value }),
            _ => Err(header.wrong(factor)),
        },
        Some(other) => Err(LoadError::Unsupported(format!("rope scaling `{other}`"))),
    }
}
