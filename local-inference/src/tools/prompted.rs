//! Tools for models whose chat template has no place for them: told in the system message, asked for as [`super::ToolFormat::Json`].

use crate::request::{Message, Tool};
use serde_json::{Map, Value};

/// What the model is told: which functions there are and how to ask for one.
pub(crate) fn system_text(tools: &[Tool]) -> String {
    let mut text = String::from(
        "You can use functions. To use one, answer with nothing but a JSON object of this form:\n\
         {\"name\": \"<name of the function>\", \"arguments\": {<its arguments>}}\n\
         When no function helps, answer in plain words. The functions are:\n",
    );
    for tool in tools {
        text += &described(tool).to_string();
        text.push('\n');
    }
    text
}

fn described(tool: &Tool) -> Value {
    let mut described = Map::new();
    described.insert("name".to_owned(), Value::from(tool.name.as_str()));
    if let Some(description) = &tool.description {
        described.insert("description".to_owned(), Value::from(description.as_str()));
    }
    if !tool.parameters.is_null() {
        described.insert("parameters".to_owned(), tool.parameters.clone());
    }
    Value::Object(described)
}

/// The chat in words such a template knows: the tools stand in the system message, calls are the text they were asked for by,
/// results are said by the user.
pub(crate) fn messages(messages: &[Message], tools: &[Tool]) -> Vec<Message> {
    let mut told: Vec<Message> = messages.iter().map(in_words).collect();
    if tools.is_empty() {
        return told;
    }
    let text = system_text(tools);
    match told.first_mut() {
        Some(first) if first.role == "system" => {
            first.content = format!("{}\n\n{text}", first.content);
        }
        _ => told.insert(0, Message::new("system", text)),
    }
    told
}

fn in_words(message: &Message) -> Message {
    if message.role == "tool" {
        let of = message.name.as_deref().unwrap_or("the function");
        let text = format!("Result of {of}: {}", message.content);
        return Message::new("user", text);
    }
    let mut content = message.content.clone();
    for call in &message.tool_calls {
        if !content.is_empty() {
            content.push('\n');
        }
        let name = Value::from(call.name.as_str());
        // Arguments a caller garbled are shown as they are.
        content += &format!("{{\"name\": {name}, \"arguments\": {}}}", call.arguments);
    }
    Message::new(message.role.clone(), content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::ToolCall;
    use serde_json::json;

    #[test]
    fn a_chat_with_calls_becomes_one_without() {
        let tool = Tool {
            name: "add".to_owned(),
            description: Some("adds".to_owned()),
            parameters: json!({"type": "object"}),
        };
        let chat = [
            Message::new("system", "Be kind."),
            Message::new("user", "1+2?"),
            Message {
                tool_calls: vec![ToolCall {
                    id: "x".to_owned(),
                    name: "add".to_owned(),
                    arguments: r#"{"a":1}"#.to_owned(),
                }],
                ..Message::new("assistant", "")
            },
            Message {
                name: Some("add".to_owned()),
                ..Message::new("tool", "3")
            },
        ];
        let told = messages(&chat, std::slice::from_ref(&tool));
        assert!(
            told[0]
                .content
                .starts_with("Be kind.\n\nYou can use functions.")
        );
        assert!(told[0].content.ends_with(
            "{\"name\":\"add\",\"description\":\"adds\",\"parameters\":{\"type\":\"object\"}}\n"
        ));
        assert_eq!(told[2].content, r#"{"name": "add", "arguments": {"a":1}}"#);
        assert_eq!(
            (told[3].role.as_str(), told[3].content.as_str()),
            ("user", "Result of add: 3")
        );
        assert_eq!(messages(&chat[1..2], &[tool])[0].role, "system");
        assert_eq!(messages(&chat[..2], &[]), chat[..2]);
    }
}
