//! A request's bytes to what the engine is asked.

use local_inference::{GenerateRequest, Prompt, SamplingParams};
use serde_json::Value;

use super::LocalEndpoint;
use super::fault::Fault;
use super::input_chat::messages;
use super::reply::Shape;
use super::values::{Object, asks, mismatch, number, present, seed, switch, text, texts, whole};

/// A request understood.
#[derive(Debug)]
pub(super) struct Asked {
    pub request: GenerateRequest,
    pub shape: Shape,
    pub is_stream: bool,
    /// Streams tell usage unless asked not to, as the original does.
    pub is_usage_wanted: bool,
}

pub(super) fn read(endpoint: &LocalEndpoint, body: &[u8]) -> Result<Asked, Fault> {
    if let LocalEndpoint::Unsupported(what) = endpoint {
        let text = format!(
            "No such model: `{what}` is not served by the local engine; `/v1/chat/completions`, `/v1/completions` and `/run/{{model}}` are"
        );
        return Err(Fault::new(5007, 400, text));
    }
    let object = object(body)?;
    let model = model(endpoint, &object)?;
    let is_stream = switch(&object, "stream")?;
    let shape = match endpoint {
        LocalEndpoint::Run { .. } => Shape::Native,
        LocalEndpoint::ChatCompletions => Shape::Chat,
        _ => Shape::Completion,
    };
    refuse_unsupported(&object, is_stream)?;
    let prompt = match shape {
        Shape::Native => native_prompt(&object)?,
        Shape::Chat => Prompt::Messages(messages(&object)?.ok_or_else(|| missing("messages"))?),
        Shape::Completion => Prompt::Text {
            text: completion_prompt(&object)?,
            raw: true,
        },
    };
    let request = GenerateRequest {
        sampling: sampling(&object, shape)?,
        reject_if_busy: reject_if_busy(&object)?,
        ..GenerateRequest::new(model, prompt)
    };
    let is_usage_wanted = match present(&object, "stream_options") {
        Some(Value::Object(options)) => options.get("include_usage") != Some(&Value::Bool(false)),
        _ => true,
    };
    Ok(Asked {
        request,
        shape,
        is_stream,
        is_usage_wanted,
    })
}

fn object(body: &[u8]) -> Result<Object, Fault> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Fault::new(
            3003,
            400,
            "Request is missing headers or body: body",
        ));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(mismatch("", &other, "object")),
        Err(error) => {
            let text = format!("Bad input: Error: the body is not valid JSON: {error}");
            Err(Fault::new(5006, 400, text))
        }
    }
}

fn model(endpoint: &LocalEndpoint, object: &Object) -> Result<String, Fault> {
    let named = match endpoint {
        LocalEndpoint::Run { model } if !model.is_empty() => model,
        _ => text(object, "model")?.ok_or_else(|| missing("model"))?,
    };
    Ok(named
        .strip_prefix("workers-ai/")
        .unwrap_or(named)
        .to_owned())
}

fn missing(field: &str) -> Fault {
    Fault::input(
        field,
        format_args!("required properties at '/' are '{field}'"),
    )
}

fn native_prompt(object: &Object) -> Result<Prompt, Fault> {
    let is_raw = switch(object, "raw")?;
    if let Some(messages) = messages(object)? {
        if !is_raw {
            return Ok(Prompt::Messages(messages));
        }
        // Not said anywhere what this means; the caller has put the template's marks into the contents.
        let text = messages
            .into_iter()
            .map(|message| message.content)
            .collect();
        return Ok(Prompt::Text { text, raw: true });
    }
    let Some(prompt) = text(object, "prompt")? else {
        return Err(Fault::input(
            "prompt",
            "oneOf at '/' not met, 0 matches: required properties at '/' are 'prompt', required properties at '/' are 'messages'",
        ));
    };
    check_length("prompt", prompt)?;
    Ok(Prompt::Text {
        text: prompt.to_owned(),
        raw: is_raw,
    })
}

fn completion_prompt(object: &Object) -> Result<String, Fault> {
    let prompts = texts(object, "prompt")?;
    match prompts.as_slice() {
        [] => Err(missing("prompt")),
        [prompt] => {
            check_length("prompt", prompt)?;
            Ok(prompt.clone())
        }
        _ => Err(Fault::input(
            "prompt",
            "'/prompt' must hold one text: send one request for each",
        )),
    }
}

fn check_length(field: &str, text: &str) -> Result<(), Fault> {
    match text.is_empty() {
        true => Err(Fault::input(
            field,
            format_args!("Length of '/{field}' must be >= 1 not met"),
        )),
        false => Ok(()),
    }
}

fn sampling(object: &Object, shape: Shape) -> Result<SamplingParams, Fault> {
    let defaults = SamplingParams::default();
    let is_native = shape == Shape::Native;
    let or = |value: Option<f64>, default: f32| value.map_or(default, |value| value as f32);
    let most = f64::from(u32::MAX);
    // Newer OpenAI clients send only the longer name.
    let max_tokens = match whole(object, "max_completion_tokens", 1.0, most)? {
        Some(tokens) => Some(tokens),
        None => whole(object, "max_tokens", 1.0, most)?,
    };
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

fn reject_if_busy(object: &Object) -> Result<bool, Fault> {
    match present(object, "options") {
        Some(Value::Object(options)) => switch(options, "rejectIfBusy"),
        _ => Ok(false),
    }
}

/// Fields whose meaning this engine knows and cannot give. Ignoring them would answer another question than the one asked.
fn refuse_unsupported(object: &Object, is_stream: bool) -> Result<(), Fault> {
    if present(object, "lora").is_some_and(asks) {
        let text = "The model does not support LoRa inference";
        return Err(Fault {
            param: Some("lora".to_owned()),
            ..Fault::new(5005, 405, text)
        });
    }
    let is_plain_text = |format: &Value| {
        format.get("type").and_then(Value::as_str) == Some("text") || !asks(format)
    };
    let wants_format =
        present(object, "response_format").is_some_and(|format| !is_plain_text(format));
    if wants_format || present(object, "guided_json").is_some_and(asks) {
        let field = if wants_format {
            "response_format"
        } else {
            "guided_json"
        };
        let fault = match is_stream {
            true => Fault::new(
                5023,
                400,
                "JSON Schema mode is not supported with stream mode.",
            ),
            false => Fault::new(5025, 400, "This model doesn't support JSON Schema."),
        };
        return Err(Fault {
            param: Some(field.to_owned()),
            ..fault
        });
    }
    const REFUSED: [&str; 17] = [
        "tools",
        "functions",
        "function_call",
        "image",
        "audio",
        "requests",
        "request_id",
        "queueRequest",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "echo",
        "suffix",
        "prediction",
        "web_search_options",
        "chat_template_kwargs",
        "guided_regex",
    ];
    for field in REFUSED {
        if present(object, field).is_some_and(asks) {
            return Err(Fault::unsupported(field));
        }
    }
    let is_harmless = |field: &str, values: &[&str]| {
        let value = present(object, field);
        value.is_none_or(|value| value.as_str().is_some_and(|text| values.contains(&text)))
    };
    for (field, harmless) in [
        ("tool_choice", &["none", "auto"][..]),
        ("reasoning_effort", &["none"][..]),
    ] {
        if !is_harmless(field, harmless) {
            return Err(Fault::unsupported(field));
        }
    }
    for field in ["n", "best_of"] {
        if present(object, field).is_some_and(|count| count.as_f64() != Some(1.0)) {
            return Err(Fault::input(field, format_args!("'/{field}' must be <= 1")));
        }
    }
    Ok(())
}
