//! The model's own chat template: Jinja as Transformers runs it.
//!
//! A template comes with the model file, from outside: it gets fuel, not trust. It can reach nothing but the messages.

use crate::error::EngineError;
use crate::request::Message;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};

/// Jinja instructions a template may take. A chat of a thousand messages takes about fifty thousand.
const FUEL: u64 = 10_000_000;

pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles the template; `bos` and `eos` are the texts of those tokens.
    pub(crate) fn new(
        source: &str,
        bos: &str,
        eos: &str,
    ) -> Result<ChatTemplate, minijinja::Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_template_owned("chat", source.to_owned())?;
        Ok(ChatTemplate {
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        })
    }

    /// The prompt text, ending where the model is to go on.
    pub(crate) fn render(&self, messages: &[Message]) -> Result<String, EngineError> {
        let messages: Value = messages
            .iter()
            .map(|message| {
                context! { role => message.role.as_str(), content => message.content.as_str() }
            })
            .collect();
        let rendered = self.environment.get_template("chat").and_then(|template| {
            template.render(context! {
                messages => messages,
                add_generation_prompt => true,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
            })
        });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message::new(role, content)
    }

    #[test]
    fn python_methods_and_block_trimming_work_as_in_transformers() {
        let source = "{% for message in messages %}\n    {%- if message['role'].startswith('u') %}\n[{{ message.content.strip() }}]\n    {%- endif %}\n{% endfor %}{{ eos_token }}";
        let template = ChatTemplate::new(source, "<s>", "</s>").expect("a valid template");
        let text = template.render(&[message("user", "  hi "), message("assistant", "x")]);
        assert_eq!(text.as_deref(), Ok("[hi]</s>"));
    }

    #[test]
    fn a_refusing_or_endless_template_is_the_requests_error() {
        let template = ChatTemplate::new("{{ raise_exception('roles must alternate') }}", "", "")
            .expect("a valid template");
        let error = template.render(&[]).expect_err("it raises");
        assert!(
            error.to_string().contains("roles must alternate"),
            "{error}"
        );
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        let template = ChatTemplate::new(endless, "", "").expect("a valid template");
        assert!(template.render(&[]).is_err());
    }
}
