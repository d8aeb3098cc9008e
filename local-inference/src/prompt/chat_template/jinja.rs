//! One compiled Jinja template, with the variables, functions and filters Transformers gives templates.

use super::{history, python};
use crate::error::EngineError;
use crate::request::{Message, Tool};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, Value};
use serde_json::Map;

/// Jinja instructions a template may take. A chat of a thousand messages takes about fifty thousand.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat";

pub(super) struct Jinja {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    /// At least one.
    shapes: Vec<history::Shape>,
}

impl Jinja {
    pub(super) fn new(source: &str, bos: &str, eos: &str) -> Result<Jinja, minijinja::Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_filter("indent", indent);
        environment.add_test("iterable", is_iterable);
        environment.add_template_owned(NAME, without_generation_tags(source))?;
        Ok(Jinja {
            environment,
            source: source.to_owned(),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            shapes: history::Shape::guesses(source),
        })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// With calls among the messages, as many ways as it takes until the template accepts one; the first refusal otherwise.
    pub(super) fn render(
        &self,
        messages: &[Message],
        tools: &[Tool],
        options: &Map<String, serde_json::Value>,
    ) -> Result<String, EngineError> {
        let first = self.render_in(self.shapes[0], messages, tools, options);
        let longest = messages.iter().map(|message| message.tool_calls.len());
        let longest = longest.max().unwrap_or_default();
        let error = match first {
            Err(error) if longest > 0 => error,
            result => return result,
        };
        for shape in &self.shapes {
            if let Ok(text) = self.render_in(*shape, messages, tools, options) {
                return Ok(text);
            }
        }
        if longest > 1 {
            // Llama 3.1's takes one call a message.
            return self.render(&history::one_call_each(messages), tools, options);
        }
        Err(error)
    }

    fn render_in(
        &self,
        shape: history::Shape,
        messages: &[Message],
        tools: &[Tool],
        options: &Map<String, serde_json::Value>,
    ) -> Result<String, EngineError> {
        let tools = match tools {
            // As Transformers has it: defined, and none.
            [] => Value::from(()),
            tools => tools.iter().map(history::tool).collect(),
        };
        let options = options
            .iter()
            .map(|(name, value)| (name.clone(), python::value(value)));
        let ours = [
            ("messages", history::values(messages, shape)),
            ("tools", tools),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(true)),
            ("bos_token", Value::from(self.bos.as_str())),
            ("eos_token", Value::from(self.eos.as_str())),
        ];
        // The later ones win: an option cannot take a variable of ours.
        let ours = ours.map(|(name, value)| (name.to_owned(), value));
        let context = Value::from_pairs(options.chain(ours));
        let rendered = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(context));
        // What a template refuses (roles out of order, say) is something the caller can change.
        rendered.map_err(|error| EngineError::Invalid {
            field: "messages",
            reason: format!(
                "do not fit the model's chat template: {}",
                error
                    .detail()
                    .map_or_else(|| error.kind().to_string(), str::to_owned)
            ),
        })
    }
}

fn raise_exception(text: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
}

/// This moment, in local time.
fn strftime_now(format: String) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

fn tojson(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let separators: Option<Vec<String>> = options.get("separators")?;
    let style = python::Style {
        indent: options.get("indent")?,
        separators: separators.and_then(|pair| <[String; 2]>::try_from(pair).ok()),
        is_ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        sorts_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    Ok(style.json(value))
}

/// Keeps a line break at the end, as Jinja does.
fn indent(text: String, width: Option<usize>, options: Kwargs) -> Result<String, minijinja::Error> {
    let width = match width {
        Some(width) => width,
        None => options.get::<Option<usize>>("width")?.unwrap_or(4),
    };
    let is_first = options.get::<Option<bool>>("first")?.unwrap_or(false);
    let is_blank = options.get::<Option<bool>>("blank")?.unwrap_or(false);
    options.assert_all_used()?;
    let margin = " ".repeat(width);
    let mut out = String::with_capacity(text.len());
    for (at, line) in text.split('\n').enumerate() {
        let has_margin = if at == 0 {
            is_first
        } else {
            is_blank || !line.is_empty()
        };
        if at > 0 {
            out.push('\n');
        }
        if has_margin {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Python walks through texts and objects too, and not through `none`.
fn is_iterable(value: &Value) -> bool {
    let kind = value.kind();
    matches!(
        kind,
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    )
}

/// `{% generation %}` marks, for training, what the model itself wrote. Here it becomes a branch always taken, which keeps
/// the tag's effect on white space.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        match tag[2..end].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()) {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}
