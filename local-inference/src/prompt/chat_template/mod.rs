//! From a chat to the text a model goes on from: by the Jinja template it comes with, as Transformers runs it, or by one of
//! the forms known by name, for models that come with none.
//!
//! A template comes with the model file, from outside: it gets fuel, not trust. It can reach nothing but the chat and the clock.

mod history;
mod jinja;
mod named;
mod python;

#[cfg(test)]
mod tests;

use super::tokenizer::Tokenizer;
use crate::error::EngineError;
use crate::request::{Message, Tool};
use crate::tools::{ToolFormat, prompted, uses_tools};
use crate::weights::gguf::Gguf;
use jinja::Jinja;
pub(crate) use named::Named;
use serde_json::{Map, Value};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("chat template: {0}")]
    Syntax(#[from] minijinja::Error),
    #[error("cannot read `{name}`: {cause}")]
    Read { name: String, cause: String },
}

enum Form {
    Own {
        usual: Box<Jinja>,
        /// For requests with tools, where the model has one of its own for them.
        tool_use: Option<Box<Jinja>>,
    },
    Named(Named),
}

pub(crate) struct ChatTemplate {
    form: Form,
    /// Put before a prompt that is no chat.
    system: Option<String>,
}

impl ChatTemplate {
    /// Compiles the template; `bos` and `eos` are the texts of those tokens.
    pub(crate) fn new(
        source: &str,
        bos: &str,
        eos: &str,
    ) -> Result<ChatTemplate, minijinja::Error> {
        Ok(ChatTemplate {
            form: Form::Own {
                usual: Box::new(Jinja::new(source, bos, eos)?),
                tool_use: None,
            },
            system: None,
        })
    }

    pub(crate) fn named(named: Named) -> ChatTemplate {
        ChatTemplate {
            form: Form::Named(named),
            system: None,
        }
    }

    /// The template in a GGUF header; `None` where there is none.
    pub(crate) fn from_gguf(
        file: &Gguf,
        tokenizer: &Tokenizer,
    ) -> Result<Option<ChatTemplate>, TemplateError> {
        let usual = file.text("tokenizer.chat_template").ok();
        let tool_use = file.text("tokenizer.chat_template.tool_use").ok();
        ChatTemplate::own(usual, tool_use, tokenizer)
    }

    /// The template in a model's folder: `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`, the first that has one.
    pub(crate) fn from_folder(
        folder: &Path,
        tokenizer: &Tokenizer,
    ) -> Result<Option<ChatTemplate>, TemplateError> {
        if let Some(usual) = read(folder, "chat_template.jinja")? {
            let tool_use = read(folder, "additional_chat_templates/tool_use.jinja")?;
            return ChatTemplate::own(Some(&usual), tool_use.as_deref(), tokenizer);
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let Some(text) = read(folder, name)? else {
                continue;
            };
            let config: Value = serde_json::from_str(&text).map_err(|error| {
                let cause = error.to_string();
                TemplateError::Read {
                    name: folder.join(name).display().to_string(),
                    cause,
                }
            })?;
            let (usual, tool_use) = match &config["chat_template"] {
                Value::Array(list) => (among(list, "default"), among(list, "tool_use")),
                text => (text.as_str(), None),
            };
            if usual.is_some() {
                return ChatTemplate::own(usual, tool_use, tokenizer);
            }
        }
        Ok(None)
    }

    fn own(
        usual: Option<&str>,
        tool_use: Option<&str>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<ChatTemplate>, TemplateError> {
        let compile = |source: &str| {
            Jinja::new(source, tokenizer.bos_text(), tokenizer.eos_text()).map(Box::new)
        };
        let Some(usual) = usual else {
            return Ok(None);
        };
        Ok(Some(ChatTemplate {
            form: Form::Own {
                usual: compile(usual)?,
                tool_use: tool_use.map(compile).transpose()?,
            },
            system: None,
        }))
    }

    /// A system message for prompts that are no chat.
    pub(crate) fn with_system(mut self, system: Option<String>) -> ChatTemplate {
        self.system = system;
        self
    }

    /// How the model writes its calls.
    pub(crate) fn tool_format(&self, tokenizer: &Tokenizer) -> ToolFormat {
        match &self.form {
            Form::Own { usual, tool_use } => {
                let source = tool_use.as_ref().unwrap_or(usual).source();
                ToolFormat::detect(source, |name| tokenizer.token(name).is_some())
            }
            Form::Named(_) => ToolFormat::Json,
        }
    }

    /// The chat a lone prompt stands for.
    pub(crate) fn chat_of(&self, prompt: String) -> Vec<Message> {
        let role = match &self.form {
            Form::Named(named) => named.prompt_role(),
            Form::Own { .. } => "user",
        };
        let system = self.system.as_ref();
        let system = system.map(|text| Message::new("system", text.clone()));
        system
            .into_iter()
            .chain([Message::new(role, prompt)])
            .collect()
    }

    /// The prompt text, ending where the model is to go on. `options` are further variables of the template. Tools are put
    /// into words for a template that has no place for them.
    pub(crate) fn render(
        &self,
        messages: &[Message],
        tools: &[Tool],
        options: &Map<String, Value>,
    ) -> Result<String, EngineError> {
        let (usual, tool_use) = match &self.form {
            Form::Named(named) => {
                return Ok(named.render(&prompted::messages(messages, tools)));
            }
            Form::Own { usual, tool_use } => (usual, tool_use),
        };
        let template = match tool_use {
            Some(tool_use) if !tools.is_empty() => tool_use,
            _ => usual,
        };
        if !uses_tools(template.source()) {
            return template.render(&prompted::messages(messages, tools), &[], options);
        }
        template.render(&history::with_calls_read(messages), tools, options)
    }
}

/// The template of that name in a list of several.
fn among<'a>(list: &'a [Value], name: &str) -> Option<&'a str> {
    let found = list.iter().find(|entry| entry["name"] == name);
    found.and_then(|entry| entry["template"].as_str())
}

/// The text of a file; `None` where there is none.
fn read(folder: &Path, name: &str) -> Result<Option<String>, TemplateError> {
    match std::fs::read_to_string(folder.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TemplateError::Read {
            name: folder.join(name).display().to_string(),
            cause: error.to_string(),
        }),
    }
}
