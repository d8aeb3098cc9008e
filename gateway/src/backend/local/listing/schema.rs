//! Inputs and outputs of each task as JSON Schema: what is read, with its bounds.

use local_inference::catalogue::Task;
use serde_json::{Value, json};

pub(super) fn of(task: Task) -> Value {
    match task {
        Task::TextGeneration => json!({"input": generation_input(), "output": generation_output()}),
        Task::TextEmbeddings => json!({"input": embeddings_input(), "output": embeddings_output()}),
        Task::TextClassification => json!({"input": ranking_input(), "output": ranking_output()}),
    }
}

fn generation_input() -> Value {
    let mut prompt = sampling();
    prompt["prompt"] = json!({"type": "string", "minLength": 1, "description": "The input text."});
    prompt["raw"] = json!({"type": "boolean", "default": false, "description": "Take the prompt as it is, without the chat template."});
    let mut messages = sampling();
    messages["messages"] = json!({
        "type": "array", "minItems": 1, "description": "The conversation so far.",
        "items": {
            "type": "object", "required": ["role"],
            "properties": {
                "role": {"type": "string", "description": "system, user, assistant or tool."},
                "content": {"description": "A text, or parts of type text."},
                "tool_calls": {"type": "array", "description": "Calls the assistant asked for."},
                "tool_call_id": {"type": "string", "description": "The call a tool message answers."},
                "name": {"type": "string", "description": "The function a tool message answers for."},
            },
        },
    });
    messages["tools"] = json!({
        "type": "array", "description": "Functions the model may ask for, flat or wrapped in `function`.",
        "items": {"type": "object"},
    });
    messages["tool_choice"] =
        json!({"description": "auto, none, required, or a function by name.", "default": "auto"});
    let form = |title: &str, properties: Value, required: &str| json!({"title": title, "type": "object", "properties": properties, "required": [required]});
    json!({"type": "object", "oneOf": [
        form("Prompt", prompt, "prompt"),
        form("Messages", messages, "messages"),
        {
            "title": "Batch", "type": "object", "required": ["requests"],
            "properties": {"requests": {"type": "array", "items": {"type": "object"}, "description": "With the query queueRequest=true."}},
        },
    ]})
}

fn sampling() -> Value {
    let number = |low: f64, high: f64, about: &str| json!({"type": "number", "minimum": low, "maximum": high, "description": about});
    json!({
        "stream": {"type": "boolean", "default": false, "description": "Answer with server-sent events."},
        "max_tokens": {"type": "integer", "minimum": 1, "default": 256, "description": "Longest answer, in tokens."},
        "temperature": {"type": "number", "minimum": 0, "maximum": 5, "default": 0.6, "description": "0 takes the likeliest token each time."},
        "top_p": number(0.0, 2.0, "Keep the likeliest tokens that together reach this probability."),
        "top_k": {"type": "integer", "minimum": 1, "maximum": 50, "description": "Keep this many of the likeliest tokens."},
        "min_p": number(0.0, 1.0, "Keep tokens at least this fraction as likely as the likeliest."),
        "seed": {"type": "integer", "description": "Equal seeds give equal answers."},
        "repetition_penalty": number(0.0, 2.0, "Makes tokens seen before less likely."),
        "frequency_penalty": number(-2.0, 2.0, "Taken off for each occurrence in the answer."),
        "presence_penalty": number(-2.0, 2.0, "Taken off once for a token that occurs."),
        "stop": {"description": "The answer ends before the first of these texts."},
        "response_format": {
            "type": "object", "description": "The form of the answer, held token by token.",
            "properties": {"type": {"type": "string", "enum": ["text", "json_object", "json_schema"]}, "json_schema": {}},
        },
        "lora": {"type": "string", "description": "A fine-tune of this model to answer with, by id or name."},
        "guided_json": {"description": "A JSON Schema of the answer."},
        "chat_template_kwargs": {"type": "object", "description": "Variables of the chat template."},
        "reasoning_effort": {"type": ["string", "null"], "description": "none or null switches thinking off, where the model can."},
    })
}

fn usage() -> Value {
    let count = || json!({"type": "integer"});
    json!({"type": "object", "properties": {
        "prompt_tokens": count(), "completion_tokens": count(), "total_tokens": count(),
        "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": count()}},
    }})
}

fn generation_output() -> Value {
    let call = json!({"type": "object", "properties": {"name": {"type": "string"}, "arguments": {"type": "object"}}});
    json!({"oneOf": [
        {
            "type": "object", "contentType": "application/json", "required": ["response"],
            "properties": {
                "response": {"description": "The text; a value when JSON was asked for; null beside calls."},
                "tool_calls": {"type": "array", "items": call},
                "finish_reason": {"type": "string", "enum": ["stop", "length", "tool_calls"]},
                "usage": usage(),
            },
        },
        {"type": "string", "contentType": "text/event-stream", "format": "binary"},
    ]})
}

fn embeddings_input() -> Value {
    json!({
        "type": "object", "required": ["text"],
        "properties": {
            "text": {"oneOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 100},
            ]},
            "pooling": {"type": "string", "enum": ["mean", "cls"], "description": "How token vectors become one."},
        },
    })
}

fn embeddings_output() -> Value {
    json!({
        "type": "object", "contentType": "application/json",
        "properties": {
            "shape": {"type": "array", "items": {"type": "number"}},
            "data": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            "pooling": {"type": "string", "enum": ["mean", "cls"]},
            "usage": usage(),
        },
    })
}

fn ranking_input() -> Value {
    json!({
        "type": "object", "required": ["query", "contexts"],
        "properties": {
            "query": {"type": "string", "minLength": 1},
            "contexts": {
                "type": "array", "minItems": 1, "maxItems": 100,
                "items": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
            },
            "top_k": {"type": "integer", "minimum": 1, "description": "Give only so many of the best."},
        },
    })
}

fn ranking_output() -> Value {
    let rank = json!({"type": "object", "properties": {"id": {"type": "integer"}, "score": {"type": "number"}}});
    json!({
        "type": "object", "contentType": "application/json",
        "properties": {"response": {"type": "array", "items": rank}, "usage": usage()},
    })
}
