//! A request's bytes to what the engine is asked.

mod chat;
mod embed;
mod format;
mod params;
mod responses;
mod tools;

use local_inference::catalogue::Task;
use local_inference::{GenerateRequest, OutputFormat, Priority, Prompt, ToolChoice};
use serde_json::Value;

use super::LocalEndpoint;
use super::fault::Fault;
use super::reply::{Form, Shape};
use super::values::{Object, mismatch, present, switch, text};
pub(super) use embed::{Embed, EmbedForm, Rerank};
pub(super) use responses::Echo;

/// Answers to one request, over all its prompts. Each takes a running place of the engine; more is refused.
const MAX_CHOICES: u32 = 8;
/// Prompts of one legacy completion; more is refused, since each takes a running place.
const MAX_PROMPTS: usize = 8;

/// A request understood.
#[derive(Debug)]
pub(super) enum Asked {
    Generate(Box<Generate>),
    Embed(Embed),
    Rerank(Rerank),
    Queue(Queue),
    /// How a batch stands, by its id.
    Poll(String),
}

/// Requests to be answered when there is time.
#[derive(Debug)]
pub(super) struct Queue {
    pub model: String,
    pub requests: Vec<Object>,
}

#[derive(Debug)]
pub(super) struct Generate {
    /// One for each prompt, alike but for that.
    pub requests: Vec<GenerateRequest>,
    pub form: Form,
    pub is_stream: bool,
    /// Tool calls of an answer that are told.
    pub max_calls: u32,
    /// The fine-tune to answer with, by id or name.
    pub lora: Option<String>,
}

/// What holds for a request whatever it asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'g> {
    pub endpoint: &'g LocalEndpoint,
    /// Who shares the engine fairly with others: the account.
    pub tenant: &'g str,
    /// The caller does not wait for the answer.
    pub is_queued: bool,
}

impl Asked {
    /// For the limits: which model, and what it is to do. `None`: none is asked anything now.
    pub(super) fn work(&self) -> Option<(Task, &str)> {
        match self {
            Asked::Generate(asked) => {
                let first = asked.requests.first()?;
                Some((Task::TextGeneration, &first.model))
            }
            Asked::Embed(asked) => Some((Task::TextEmbeddings, &asked.model)),
            Asked::Rerank(asked) => Some((Task::TextClassification, &asked.model)),
            Asked::Queue(_) | Asked::Poll(_) => None,
        }
    }
}

impl Generate {
    /// Takes a place only where nobody else wants it.
    pub(super) fn give_way(&mut self) {
        for request in &mut self.requests {
            request.reject_if_busy = true;
            request.priority = Priority::Background;
        }
    }
}

pub(super) fn read(ground: Ground<'_>, body: &[u8]) -> Result<Asked, Fault> {
    read_object(ground, &object(body)?)
}

pub(super) fn read_object(ground: Ground<'_>, object: &Object) -> Result<Asked, Fault> {
    let model = model(ground.endpoint, object)?;
    match ground.endpoint {
        LocalEndpoint::Run { .. } => {
            if let Some(asked) = queued(ground, &model, object)? {
                return Ok(asked);
            }
            match embed::native(&model, object)? {
                Some(asked) => without_adapter(&model, object, asked),
                None => native(ground, model, object),
            }
        }
        LocalEndpoint::ChatCompletions => chat(ground, model, object),
        LocalEndpoint::Completions => completions(ground, model, object),
        LocalEndpoint::Responses => responses::read(ground, model, object),
        LocalEndpoint::Embeddings => {
            let asked = embed::openai(&model, object)?;
            without_adapter(&model, object, asked)
        }
        // Answered without looking at the body.
        LocalEndpoint::Models => Err(Fault::internal("a list of models has no input")),
    }
}

/// Models that make vectors or rankings take none.
fn without_adapter(model: &str, object: &Object, asked: Asked) -> Result<Asked, Fault> {
    match params::lora(object)? {
        None => Ok(asked),
        Some(_) => Err(Fault::no_adapters(model)),
    }
}

/// A batch, or a question after one.
fn queued(ground: Ground<'_>, model: &str, object: &Object) -> Result<Option<Asked>, Fault> {
    if let Some(id) = text(object, "request_id")? {
        return Ok(Some(Asked::Poll(id.to_owned())));
    }
    if !ground.is_queued {
        return match object.contains_key("requests") {
            true => Err(Fault::input(
                "requests",
                "'/requests' is taken with the query `queueRequest=true`",
            )),
            false => Ok(None),
        };
    }
    let requests = match present(object, "requests") {
        // One request alone is a batch of one.
        None => vec![object.clone()],
        Some(Value::Array(values)) => {
            check_length("requests", values.is_empty())?;
            let request = |(index, value): (usize, &Value)| match value {
                Value::Object(request) => Ok(request.clone()),
                other => Err(mismatch(&format!("requests/{index}"), other, "object")),
            };
            let requests: Result<_, Fault> = values.iter().enumerate().map(request).collect();
            requests?
        }
        Some(other) => return Err(mismatch("requests", other, "array")),
    };
    Ok(Some(Asked::Queue(Queue {
        model: model.to_owned(),
        requests,
    })))
}

pub(super) fn object(body: &[u8]) -> Result<Object, Fault> {
    if body.iter().all(u8::is_ascii_whitespace) {
        let text = "Request is missing headers or body: body";
        return Err(Fault::new(3003, 400, text));
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

pub(super) fn model(endpoint: &LocalEndpoint, object: &Object) -> Result<String, Fault> {
    let named = match endpoint {
        LocalEndpoint::Run { model } if !model.is_empty() => model,
        _ => text(object, "model")?.ok_or_else(|| missing("model"))?,
    };
    let name = named.strip_prefix("workers-ai/").unwrap_or(named);
    Ok(name.to_owned())
}

pub(super) fn missing(field: &str) -> Fault {
    Fault::input(
        field,
        format_args!("required properties at '/' are '{field}'"),
    )
}

/// Neither form of a request for text.
pub(super) fn neither() -> Fault {
    Fault::input(
        "prompt",
        "oneOf at '/' not met, 0 matches: required properties at '/' are 'prompt', required properties at '/' are 'messages'",
    )
}

fn native(ground: Ground<'_>, model: String, object: &Object) -> Result<Asked, Fault> {
    let prompt = native_prompt(object)?;
    params::refuse_unsupported(object, params::NATIVE)?;
    let request = GenerateRequest {
        sampling: params::sampling(object, true)?,
        ..request(ground, model, prompt, object)?
    };
    let form = Form {
        shape: Shape::Native,
        is_usage_wanted: true,
        is_json: request.format != OutputFormat::Text,
    };
    generate(vec![request], form, object)
}

fn chat(ground: Ground<'_>, model: String, object: &Object) -> Result<Asked, Fault> {
    let messages = chat::messages(object)?.ok_or_else(|| missing("messages"))?;
    params::refuse_unsupported(object, params::CHAT)?;
    let request = GenerateRequest {
        sampling: params::sampling(object, false)?,
        choices: params::choices(object, MAX_CHOICES)?,
        top_logprobs: params::chat_logprobs(object)?,
        ..request(ground, model, Prompt::Messages(messages), object)?
    };
    let form = Form {
        shape: Shape::Chat,
        is_usage_wanted: params::is_usage_wanted(object),
        is_json: false,
    };
    generate(vec![request], form, object)
}

fn completions(ground: Ground<'_>, model: String, object: &Object) -> Result<Asked, Fault> {
    let prompts = completion_prompts(object)?;
    params::refuse_unsupported(object, params::COMPLETION)?;
    let choices = params::choices(object, MAX_CHOICES / prompts.len() as u32)?;
    let sampling = params::sampling(object, false)?;
    let top_logprobs = params::completion_logprobs(object)?;
    let requests = prompts.into_iter().map(|prompt| {
        Ok(GenerateRequest {
            sampling: sampling.clone(),
            choices,
            top_logprobs,
            ..request(ground, model.clone(), prompt, object)?
        })
    });
    let form = Form {
        shape: Shape::Completion,
        is_usage_wanted: params::is_usage_wanted(object),
        is_json: false,
    };
    generate(requests.collect::<Result<_, Fault>>()?, form, object)
}

/// What the forms of text generation share.
fn request(
    ground: Ground<'_>,
    model: String,
    prompt: Prompt,
    object: &Object,
) -> Result<GenerateRequest, Fault> {
    let tools = tools::tools(object)?;
    let tool_choice = tools::choice(object, &tools)?;
    Ok(GenerateRequest {
        format: format::of(object)?,
        // A model that may not call is not told what it could have called.
        tools: match tool_choice {
            ToolChoice::None => Vec::new(),
            _ => tools,
        },
        tool_choice,
        template_options: params::template_options(object)?,
        tenant: ground.tenant.to_owned(),
        reject_if_busy: params::reject_if_busy(object)?,
        ..GenerateRequest::new(model, prompt)
    })
}

fn generate(requests: Vec<GenerateRequest>, form: Form, object: &Object) -> Result<Asked, Fault> {
    Ok(Asked::Generate(Box::new(Generate {
        requests,
        form,
        is_stream: switch(object, "stream")?,
        max_calls: tools::max_calls(object)?,
        lora: params::lora(object)?,
    })))
}

fn native_prompt(object: &Object) -> Result<Prompt, Fault> {
    let is_raw = switch(object, "raw")?;
    if let Some(messages) = chat::messages(object)? {
        if !is_raw {
            return Ok(Prompt::Messages(messages));
        }
        // Not said anywhere what this means; the caller has put the template's marks into the contents.
        let contents: Vec<String> = messages
            .into_iter()
            .map(|message| message.content)
            .collect();
        return Ok(Prompt::Text {
            text: contents.join("\n"),
            raw: true,
        });
    }
    let Some(prompt) = text(object, "prompt")? else {
        return Err(neither());
    };
    check_length("prompt", prompt.is_empty())?;
    Ok(Prompt::Text {
        text: prompt.to_owned(),
        raw: is_raw,
    })
}

/// One text, one list of token ids, or a list of either.
fn completion_prompts(object: &Object) -> Result<Vec<Prompt>, Fault> {
    let values = match present(object, "prompt") {
        None => return Err(missing("prompt")),
        Some(Value::Array(values)) => values,
        Some(one) => return Ok(vec![completion_prompt(one)?]),
    };
    check_length("prompt", values.is_empty())?;
    if values.iter().all(Value::is_number) {
        return Ok(vec![tokens(values)?]);
    }
    if values.len() > MAX_PROMPTS {
        let text = format!("'/prompt' must hold at most {MAX_PROMPTS} prompts");
        return Err(Fault::input("prompt", text));
    }
    values.iter().map(completion_prompt).collect()
}

fn completion_prompt(value: &Value) -> Result<Prompt, Fault> {
    match value {
        Value::String(text) => {
            check_length("prompt", text.is_empty())?;
            Ok(Prompt::Text {
                text: text.clone(),
                raw: true,
            })
        }
        Value::Array(values) => tokens(values),
        other => Err(mismatch("prompt", other, "string")),
    }
}

fn tokens(values: &[Value]) -> Result<Prompt, Fault> {
    check_length("prompt", values.is_empty())?;
    let token = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| mismatch("prompt", value, "token id"))
    };
    let ids: Result<Vec<u32>, Fault> = values.iter().map(token).collect();
    Ok(Prompt::Tokens(ids?))
}

fn check_length(field: &str, is_empty: bool) -> Result<(), Fault> {
    match is_empty {
        true => Err(Fault::input(
            field,
            format_args!("Length of '/{field}' must be >= 1 not met"),
        )),
        false => Ok(()),
    }
}
