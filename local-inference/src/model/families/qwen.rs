//! Qwen 1.5, 2 and 2.5 (biases on query, key and value), and Qwen 3 (head norms instead).

use super::{Defaults, RMS_EPSILON, WINDOW, base, listed_windows};
use crate::model::LoadError;
use crate::model::header::{Header, key};
use crate::model::spec::DecoderSpec;

pub(super) fn read(header: &Header<'_>) -> Result<DecoderSpec, LoadError> {
    let defaults = Defaults {
        // Qwen 3's class has its own; its files always say it.
        head_dim: (header.architecture() == "qwen3" && !header.is_gguf()).then_some(128),
        ..Defaults::default()
    };
    let mut spec = base(header, RMS_EPSILON, &defaults)?;
    spec.has_head_norms = header.architecture() == "qwen3";
    // Headers name a window that is switched off.
    if header.flag("use_sliding_window") == Some(true) {
        let window = header.size(WINDOW)?;
        let first = header.size(key("max_window_layers", ""))?.unwrap_or(0);
        let listed = listed_windows(header, spec.layers.len())?;
        for (index, layer) in spec.layers.iter_mut().enumerate() {
            let is_windowed = match &listed {
                Some(listed) => listed[index],
                None => index >= first,
            };
            layer.window = window.filter(|_| is_windowed);
        }
    }
    Ok(spec)
}
