//! Texts to be embedded, and contexts to be ranked.

use local_inference::Pooling;
use serde_json::Value;

use super::{Asked, missing};
use crate::backend::local::fault::Fault;
use crate::backend::local::values::{Object, mismatch, present, text, whole};

/// Texts of one request; more is refused, as by the original's models.
const MAX_TEXTS: usize = 100;

/// How the vectors are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EmbedForm {
    Native,
    /// OpenAI's list; little-endian f32 in base64 where the caller takes that.
    OpenAi {
        is_base64: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Embed {
    pub model: String,
    pub texts: Vec<String>,
    /// `None`: the model's own way.
    pub pooling: Option<Pooling>,
    /// Leading numbers of each vector that are kept, and made length 1 again.
    pub dimensions: Option<usize>,
    pub form: EmbedForm,
}

#[derive(Debug)]
pub(crate) struct Rerank {
    pub model: String,
    pub query: String,
    pub contexts: Vec<String>,
    pub top_k: Option<usize>,
}

/// The native form, if the body has the fields of one. A model of the other kind will say so itself.
pub(super) fn native(model: &str, object: &Object) -> Result<Option<Asked>, Fault> {
    let has = |field: &str| present(object, field).is_some();
    if has("prompt") || has("messages") {
        return Ok(None);
    }
    if has("contexts") {
        let contexts = contexts(object)?;
        let Some(query) = text(object, "query")? else {
            return Ok(Some(Asked::Embed(native_embed(model, contexts, object)?)));
        };
        check_text("query", query)?;
        return Ok(Some(Asked::Rerank(Rerank {
            model: model.to_owned(),
            query: query.to_owned(),
            contexts,
            top_k: whole(object, "top_k", 1.0, f64::from(u32::MAX))?.map(|top| top as usize),
        })));
    }
    // Names of newer models for the same; whether a text is a question or an answer does not show in the vectors of ours.
    for field in ["text", "documents", "queries"] {
        if has(field) {
            let texts = text_list(object, field)?;
            return Ok(Some(Asked::Embed(native_embed(model, texts, object)?)));
        }
    }
    Ok(None)
}

fn native_embed(model: &str, texts: Vec<String>, object: &Object) -> Result<Embed, Fault> {
    Ok(Embed {
        model: model.to_owned(),
        texts,
        pooling: pooling(object)?,
        dimensions: None,
        form: EmbedForm::Native,
    })
}

pub(super) fn openai(model: &str, object: &Object) -> Result<Asked, Fault> {
    if present(object, "input").is_none() {
        return Err(missing("input"));
    }
    let is_base64 = match text(object, "encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            let text = "'/encoding_format' not in 'float, base64'";
            return Err(Fault::input("encoding_format", text));
        }
    };
    let dimensions = whole(object, "dimensions", 1.0, 65_536.0)?;
    Ok(Asked::Embed(Embed {
        model: model.to_owned(),
        texts: text_list(object, "input")?,
        pooling: pooling(object)?,
        dimensions: dimensions.map(|count| count as usize),
        form: EmbedForm::OpenAi { is_base64 },
    }))
}

fn pooling(object: &Object) -> Result<Option<Pooling>, Fault> {
    match text(object, "pooling")? {
        None => Ok(None),
        Some("mean") => Ok(Some(Pooling::Mean)),
        Some("cls") => Ok(Some(Pooling::Cls)),
        Some(_) => Err(Fault::input("pooling", "'/pooling' not in 'mean, cls'")),
    }
}

fn text_list(object: &Object, field: &str) -> Result<Vec<String>, Fault> {
    let texts: Vec<String> = match present(object, field) {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(values)) => {
            let text = |value: &Value| match value {
                Value::String(text) => Ok(text.clone()),
                // Token ids belong to another model's vocabulary.
                other => Err(mismatch(field, other, "string")),
            };
            values.iter().map(text).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(mismatch(field, other, "string")),
        None => return Err(missing(field)),
    };
    check_count(field, texts.len())?;
    texts.iter().try_for_each(|text| check_text(field, text))?;
    Ok(texts)
}

fn contexts(object: &Object) -> Result<Vec<String>, Fault> {
    let values = match present(object, "contexts") {
        Some(Value::Array(values)) => values,
        Some(other) => return Err(mismatch("contexts", other, "array")),
        None => return Err(missing("contexts")),
    };
    check_count("contexts", values.len())?;
    let context = |(index, value): (usize, &Value)| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Object(fields) => match fields.get("text") {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(mismatch(&format!("contexts/{index}/text"), other, "string")),
            None => Err(Fault::input(
                "contexts",
                format_args!("required properties at '/contexts/{index}' are 'text'"),
            )),
        },
        other => Err(mismatch(&format!("contexts/{index}"), other, "object")),
    };
    values.iter().enumerate().map(context).collect()
}

fn check_count(field: &str, count: usize) -> Result<(), Fault> {
    let text = match count {
        0 => format!("Length of '/{field}' must be >= 1 not met"),
        1..=MAX_TEXTS => return Ok(()),
        _ => format!("Length of '/{field}' must be <= {MAX_TEXTS} not met"),
    };
    Err(Fault::input(field, text))
}

fn check_text(field: &str, text: &str) -> Result<(), Fault> {
    match text.is_empty() {
        true => Err(Fault::input(
            field,
            format_args!("Length of '/{field}' must be >= 1 not met"),
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<Option<Asked>, Fault> {
        native("m", body.as_object().expect("an object"))
    }

    #[test]
    fn the_fields_tell_what_is_asked() {
        let asked = read(json!({"text": "a", "pooling": "cls"})).expect("valid");
        assert!(
            matches!(asked, Some(Asked::Embed(embed)) if embed.texts == ["a"] && embed.pooling == Some(Pooling::Cls))
        );
        let asked =
            read(json!({"query": "q", "contexts": [{"text": "a"}, {"text": "b"}], "top_k": 1}))
                .expect("valid");
        assert!(
            matches!(asked, Some(Asked::Rerank(rank)) if rank.contexts == ["a", "b"] && rank.top_k == Some(1))
        );
        let asked = read(json!({"contexts": [{"text": "a"}]})).expect("valid");
        assert!(matches!(asked, Some(Asked::Embed(_))));
        assert!(read(json!({"prompt": "a"})).expect("valid").is_none());
        assert!(read(json!({})).expect("valid").is_none());
    }

    #[test]
    fn more_texts_than_the_models_take_are_refused() {
        let body = json!({"text": vec!["x"; 101]});
        let fault = read(body).expect_err("too many");
        assert!(fault.text.contains("must be <= 100"), "{}", fault.text);
        assert!(read(json!({"text": []})).is_err() && read(json!({"text": [""]})).is_err());
        assert!(read(json!({"text": "a", "pooling": "max"})).is_err());
    }
}
