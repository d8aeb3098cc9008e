//! How tokens are chosen, how many answers there are, and which fields are refused.

use local_inference::SamplingParams;
use serde_json::{Map, Value};

use super::tools::{refuse_functions, short};
use crate::backend::local::fault::Fault;
use crate::backend::local::values::{
    Object, asks, mismatch, number, present, seed, switch, text, texts, whole,
};

/// Alternatives told with a token in a chat; more is refused.
const MAX_TOP_LOGPROBS: f64 = 20.0;
/// The same in a legacy completion, whose API has its own bound.
const MAX_COMPLETION_LOGPROBS: f64 = 5.0;

pub(super) fn sampling(object: &Object, is_native: bool) -> Result<SamplingParams, Fault> {
    let defaults = SamplingParams::default();
    let or = |value: Option<f64>, default: f32| value.map_or(default, |value| value as f32);
    let most = f64::from(u32::MAX);
    // Newer OpenAI clients send only the longer names.
    let mut max_tokens = None;
    for field in ["max_output_tokens", "max_completion_tokens", "max_tokens"] {
        max_tokens = max_tokens.or(whole(object, field, 1.0, most)?);
    }
    let top_k = match is_native {
        true => whole(object, "top_k", 1.0, 50.0)?.unwrap_or(0),
        // vLLM's extension: 0 and -1 keep all tokens.
        false => number(object, "top_k", -1.0, most)?.map_or(0, |value| value.max(0.0) as u64),
    };
    Ok(SamplingParams {
        max_tokens: max_tokens.map(|tokens| tokens as u32),
        temperature: or(
            number(object, "temperature", 0.0, 5.0)?,
            defaults.temperature,
        ),
        top_p: or(number(object, "top_p", 0.0, 2.0)?, defaults.top_p),
        top_k: top_k as u32,
        min_p: or(number(object, "min_p", 0.0, 1.0)?, defaults.min_p),
        repetition_penalty: or(
            number(object, "repetition_penalty", 0.0, 2.0)?,
            defaults.repetition_penalty,
        ),
        frequency_penalty: or(
            number(object, "frequency_penalty", -2.0, 2.0)?,
            defaults.frequency_penalty,
        ),
        presence_penalty: or(
            number(object, "presence_penalty", -2.0, 2.0)?,
            defaults.presence_penalty,
        ),
        seed: seed(object)?,
        stop: texts(object, "stop")?,
        ignore_eos: switch(object, "ignore_eos")?,
    })
}

/// `n`. A `best_of` that asks for no more than is answered asks for nothing.
pub(super) fn choices(object: &Object, most: u32) -> Result<u32, Fault> {
    let most = f64::from(most.max(1));
    let choices = whole(object, "n", 1.0, most)?.unwrap_or(1);
    match present(object, "best_of").map(Value::as_u64) {
        Some(Some(best)) if best <= choices => {}
        Some(_) => return Err(Fault::unsupported("best_of")),
        None => {}
    }
    Ok(choices as u32)
}

/// `logprobs` switches them on, `top_logprobs` says how many beside.
pub(super) fn chat_logprobs(object: &Object) -> Result<Option<u32>, Fault> {
    let top = whole(object, "top_logprobs", 0.0, MAX_TOP_LOGPROBS)?;
    match switch(object, "logprobs")? {
        true => Ok(Some(top.unwrap_or(0) as u32)),
        false if top.unwrap_or(0) > 0 => Err(Fault::input(
            "top_logprobs",
            "'/top_logprobs' needs '/logprobs' to be true",
        )),
        false => Ok(None),
    }
}

/// A count; 0 is the chosen tokens alone.
pub(super) fn completion_logprobs(object: &Object) -> Result<Option<u32>, Fault> {
    if present(object, "logprobs") == Some(&Value::Bool(false)) {
        return Ok(None);
    }
    let top = whole(object, "logprobs", 0.0, MAX_COMPLETION_LOGPROBS)?;
    Ok(top.map(|top| top as u32))
}

/// Streams tell usage unless asked not to, as the original does.
pub(super) fn is_usage_wanted(object: &Object) -> bool {
    match present(object, "stream_options") {
        Some(Value::Object(options)) => options.get("include_usage") != Some(&Value::Bool(false)),
        _ => true,
    }
}

pub(super) fn reject_if_busy(object: &Object) -> Result<bool, Fault> {
    match present(object, "options") {
        Some(Value::Object(options)) => switch(options, "rejectIfBusy"),
        _ => Ok(false),
    }
}

/// An adapter's id or name; an empty one asks for none.
pub(super) fn lora(object: &Object) -> Result<Option<String>, Fault> {
    let name = text(object, "lora")?.filter(|name| !name.is_empty());
    Ok(name.map(str::to_owned))
}

/// Variables of the model's template. Effort switches thinking off, in templates that know how; what is between is the
/// model's own affair.
pub(super) fn template_options(object: &Object) -> Result<Map<String, Value>, Fault> {
    let mut options = match present(object, "chat_template_kwargs") {
        None => Map::new(),
        Some(Value::Object(options)) => options.clone(),
        Some(other) => return Err(mismatch("chat_template_kwargs", other, "object")),
    };
    let effort = match (object.get("reasoning_effort"), present(object, "reasoning")) {
        (Some(effort), _) => Some(effort),
        (None, Some(Value::Object(reasoning))) => reasoning.get("effort").filter(|e| !e.is_null()),
        (None, _) => None,
    };
    let is_off = match effort {
        None => false,
        // Null is off in the native API.
        Some(Value::Null) => true,
        Some(Value::String(word)) => match word.as_str() {
            "none" => true,
            "minimal" | "low" | "medium" | "high" | "xhigh" => false,
            other => {
                let text = format!(
                    "'/reasoning_effort': '{}' not in 'none, minimal, low, medium, high, xhigh'",
                    short(other)
                );
                return Err(Fault::input("reasoning_effort", text));
            }
        },
        Some(other) => return Err(mismatch("reasoning_effort", other, "string")),
    };
    if is_off {
        options
            .entry("enable_thinking")
            .or_insert(Value::Bool(false));
    }
    Ok(options)
}

/// Fields whose meaning is known and cannot be given, in every form. Ignoring them would answer another question
/// than the one asked.
const ALWAYS: &[&str] = &[
    "image",
    "audio",
    "logit_bias",
    "prediction",
    "web_search_options",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "stop_token_ids",
    "use_beam_search",
];
pub(super) const NATIVE: &[&str] = &["logprobs", "top_logprobs"];
pub(super) const CHAT: &[&str] = &[];
pub(super) const COMPLETION: &[&str] = &["echo", "suffix", "top_logprobs", "tools"];
pub(super) const RESPONSES: &[&str] = &[
    "store",
    "previous_response_id",
    "conversation",
    "background",
    "prompt",
];

pub(super) fn refuse_unsupported(object: &Object, also: &[&str]) -> Result<(), Fault> {
    for field in ALWAYS.iter().chain(also) {
        if present(object, field).is_some_and(asks) {
            return Err(Fault::unsupported(field));
        }
    }
    let is_native = also == NATIVE;
    if is_native {
        // One answer is all this form has room for. Its `functions` are code of the caller's, never run here.
        choices(object, 1)?;
        return Ok(());
    }
    refuse_functions(object)
}
