//! The forms models were asked in before they came with templates, by the names the original API gave them.
//!
//! Roles a form does not know are left out. A space at the very end is left to the model: its first token brings it.

use crate::request::Message;

/// What becomes of system messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    Marked(&'static str, &'static str),
    /// Only the first of them.
    FirstMarked(&'static str, &'static str),
    /// The latest before the first user message goes into that, a space between.
    InFirstUser,
    Dropped,
}

struct Marks {
    name: &'static str,
    begin: &'static str,
    system: System,
    user: (&'static str, &'static str),
    /// Stands before a user message that follows a system message, in place of `user.0`.
    user_after_system: Option<&'static str>,
    assistant: (&'static str, &'static str),
    /// Further roles.
    others: &'static [(&'static str, &'static str, &'static str)],
    end: &'static str,
}

const PLAIN: Marks = Marks {
    name: "bare",
    begin: "",
    system: System::InFirstUser,
    user: ("", ""),
    user_after_system: None,
    assistant: (" ", " "),
    others: &[],
    end: "",
};

const IM_SYSTEM: System = System::Marked("<|im_start|>system\n", "<|im_end|>\n");

/// One form a name. Those of SQLCoder and Llama Guard are no marks around messages and stand below.
const FORMS: &[Marks] = &[
    PLAIN,
    Marks {
        name: "llama2",
        system: System::Marked("[INST] <<SYS>>\n", "\n<</SYS>>\n\n"),
        user: ("<s>[INST] ", " [/INST]"),
        user_after_system: Some(""),
        assistant: (" ", "</s>"),
        ..PLAIN
    },
    Marks {
        name: "mistral-instruct",
        system: System::Marked("<s>[INST] ", " "),
        user: ("[INST] ", " [/INST]"),
        user_after_system: Some(""),
        assistant: (" ", "</s>"),
        ..PLAIN
    },
    Marks {
        name: "inst",
        user: ("[INST] ", " [/INST]"),
        ..PLAIN
    },
    Marks {
        name: "llama3",
        begin: "<|begin_of_text|>",
        system: System::FirstMarked(
            "<|start_header_id|>system<|end_header_id|>\n\n",
            "<|eot_id|>",
        ),
        user: ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant: (
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|eot_id|>",
        ),
        end: "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ..PLAIN
    },
    Marks {
        name: "chatml",
        system: IM_SYSTEM,
        user: ("<|im_start|>user\n", "<|im_end|>\n"),
        assistant: ("<|im_start|>assistant\n", "<|im_end|>\n"),
        end: "<|im_start|>assistant\n",
        ..PLAIN
    },
    Marks {
        name: "hermes2-pro",
        system: IM_SYSTEM,
        user: ("<|im_start|>user\n", "<|im_end|>\n"),
        assistant: ("<|im_start|>assistant\n", "<|im_end|>\n"),
        others: &[
            (
                "tool_query",
                "<|im_start|>assistant\n<tool_call>\n",
                "</tool_call><|im_end|>\n",
            ),
            (
                "tool_response",
                "<|im_start|>tool\n<tool_response>\n",
                "</tool_response>\n<|im_end|>\n",
            ),
        ],
        end: "<|im_start|>assistant\n",
        ..PLAIN
    },
    Marks {
        name: "gemma",
        system: System::Dropped,
        user: ("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant: ("<start_of_turn>model\n", "<end_of_turn>\n"),
        end: "<start_of_turn>model\n",
        ..PLAIN
    },
    Marks {
        name: "zephyr",
        system: System::Marked("<s><|system|>\n", "</s>\n"),
        user: ("<|user|>\n", "</s>\n"),
        assistant: ("<|assistant|>\n", "</s>\n"),
        end: "<|assistant|>\n",
        ..PLAIN
    },
    Marks {
        name: "tinyllama",
        system: System::Marked("<|system|>\n", "</s>\n"),
        user: ("<|user|>\n", "</s>\n"),
        assistant: ("<|assistant|>\n", "</s>\n"),
        end: "<|assistant|>\n",
        ..PLAIN
    },
    Marks {
        name: "openchat",
        user: ("GPT4 User: ", "<|end_of_turn|>"),
        assistant: ("GPT4 Assistant: ", "<|end_of_turn|>"),
        end: "GPT4 Assistant:",
        ..PLAIN
    },
    Marks {
        name: "openchat-alt",
        user: ("<s>Human: ", "<|end_of_turn|>"),
        assistant: ("Assistant: ", "<|end_of_turn|>"),
        end: "Assistant:",
        ..PLAIN
    },
    Marks {
        name: "starling",
        user: ("GPT4 Correct User: ", "<|end_of_turn|>"),
        assistant: ("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        others: &[
            ("code_user", "Code User: ", "<|end_of_turn|>"),
            ("code_assistant", "Code Assistant: ", "<|end_of_turn|>"),
        ],
        end: "GPT4 Correct Assistant:",
        ..PLAIN
    },
    Marks {
        name: "deepseek",
        system: System::Marked("", "\n"),
        user: ("### Instruction:\n", "\n"),
        assistant: ("### Response:\n", "\n"),
        end: "### Response:\n",
        ..PLAIN
    },
    Marks {
        name: "orca-hashes",
        system: System::Marked("### System:\n", "\n\n"),
        user: ("### User:\n", "\n\n"),
        assistant: ("### Assistant:\n", "\n\n"),
        end: "### Assistant:\n\n",
        ..PLAIN
    },
    Marks {
        name: "falcon",
        system: System::Marked("", "\n"),
        user: ("User: ", "\n"),
        assistant: ("Assistant: ", "\n"),
        end: "Assistant:",
        ..PLAIN
    },
    // A lone prompt is a question and brings its own end.
    Marks {
        name: PHI_2,
        system: System::Dropped,
        user: ("User: ", "\n"),
        assistant: ("Assistant: ", "\n"),
        others: &[("question", "Instruct: ", "\nOutput:")],
        end: "Assistant:",
        ..PLAIN
    },
];

const PHI_2: &str = "phi-2";
const SQLCODER: &str = "sqlcoder";
const LLAMA_GUARD: &str = "llama-guard";

/// What Llama Guard 3 was trained to tell apart, in its order: S1, S2 and so on.
const HAZARDS: [&str; 14] = [
    "Violent Crimes",
    "Non-Violent Crimes",
    "Sex Crimes",
    "Child Exploitation",
    "Defamation",
    "Specialized Advice",
    "Privacy",
    "Intellectual Property",
    "Indiscriminate Weapons",
    "Hate",
    "Self-Harm",
    "Sexual Content",
    "Elections",
    "Code Interpreter Abuse",
];

#[derive(Clone, Copy)]
enum Kind {
    Marks(&'static Marks),
    SqlCoder,
    LlamaGuard,
}

/// One of the forms.
#[derive(Clone, Copy)]
pub(crate) struct Named(Kind);

impl Named {
    pub(crate) fn find(name: &str) -> Option<Named> {
        let kind = match name {
            SQLCODER => Kind::SqlCoder,
            LLAMA_GUARD => Kind::LlamaGuard,
            _ => Kind::Marks(FORMS.iter().find(|form| form.name == name)?),
        };
        Some(Named(kind))
    }

    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        let marks = FORMS.iter().map(|form| form.name);
        marks.chain([SQLCODER, LLAMA_GUARD])
    }

    /// The role of a prompt that is no chat.
    pub(super) fn prompt_role(self) -> &'static str {
        match self.0 {
            Kind::Marks(marks) if marks.name == PHI_2 => "question",
            _ => "user",
        }
    }

    pub(super) fn render(self, messages: &[Message]) -> String {
        match self.0 {
            Kind::Marks(marks) => marks.render(messages),
            Kind::SqlCoder => sqlcoder(messages),
            Kind::LlamaGuard => llama_guard(messages),
        }
    }
}

impl Marks {
    fn render(&self, messages: &[Message]) -> String {
        let mut out = self.begin.to_owned();
        let mut system = None;
        let (mut systems, mut users) = (0, 0);
        let mut before = "";
        for message in messages {
            let text = message.content.as_str();
            match message.role.as_str() {
                "system" => {
                    systems += 1;
                    system = Some(text);
                    match self.system {
                        System::Marked(open, close) => out.extend([open, text, close]),
                        System::FirstMarked(open, close) if systems == 1 => {
                            out.extend([open, text, close]);
                        }
                        _ => {}
                    }
                }
                "user" => {
                    users += 1;
                    let follows_system = before == "system";
                    let open = self.user_after_system.filter(|_| follows_system);
                    out.push_str(open.unwrap_or(self.user.0));
                    if let Some(system) = system.filter(|_| users == 1)
                        && self.system == System::InFirstUser
                    {
                        out.extend([system, " "]);
                    }
                    out.extend([text, self.user.1]);
                }
                "assistant" => out.extend([self.assistant.0, text, self.assistant.1]),
                role => {
                    let other = self.others.iter().find(|(name, ..)| *name == role);
                    if let Some((_, open, close)) = other {
                        out.extend([open, text, close]);
                    }
                }
            }
            before = message.role.as_str();
        }
        // Only the question of phi-2 has its end in its own marks.
        if before != "question" {
            out.push_str(self.end);
        }
        out
    }
}

/// The last message of that role.
fn last<'a>(messages: &'a [Message], role: &str) -> &'a str {
    let found = messages.iter().rev().find(|message| message.role == role);
    found.map_or("", |message| message.content.as_str())
}

/// The user asks, the system message is the database's schema.
fn sqlcoder(messages: &[Message]) -> String {
    let (question, schema) = (last(messages, "user"), last(messages, "system"));
    format!(
        "### Task\nGenerate a SQL query to answer [QUESTION]{question}[/QUESTION]\n\n\
         ### Database Schema\nThe query will run on a database with the following schema:\n{schema}\n\n\
         ### Answer\nGiven the database schema, here is the SQL query that [QUESTION]{question}[/QUESTION]\n[SQL]"
    )
}

/// The form Llama Guard 3 was trained with: the last message is judged in the light of those before it.
fn llama_guard(messages: &[Message]) -> String {
    let turns = messages
        .iter()
        .filter_map(|message| match message.role.as_str() {
            "user" => Some(("User", message)),
            "assistant" => Some(("Agent", message)),
            _ => None,
        });
    let turns: Vec<(&str, &Message)> = turns.collect();
    let judged = turns.last().map_or("User", |(role, _)| role);
    let hazards: String = HAZARDS
        .iter()
        .zip(1..)
        .map(|(hazard, number)| format!("S{number}: {hazard}.\n"))
        .collect();
    let chat: String = turns
        .iter()
        .map(|(role, message)| format!("{role}: {}\n\n", message.content.trim()))
        .collect();
    format!(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n\
         Task: Check if there is unsafe content in '{judged}' messages in conversations according our safety policy \
         with the below categories.\n\n\
         <BEGIN UNSAFE CONTENT CATEGORIES>\n{hazards}<END UNSAFE CONTENT CATEGORIES>\n\n\
         <BEGIN CONVERSATION>\n\n{chat}<END CONVERSATION>\n\n\
         Provide your safety assessment for ONLY THE LAST {judged} message in the above conversation:\n \
         - First line must read 'safe' or 'unsafe'.\n \
         - If unsafe, a second line must include a comma-separated list of violated categories.\
         <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
}
