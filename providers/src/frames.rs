//! What to write behind a reply that broke off, so that the caller's own client raises instead of taking the
//! rest for the whole. Clients differ: some look at the event's name only, some at the JSON only, one insists
//! that `error` comes first. After the frame the connection must be aborted, since several clients read none.

use crate::eventstream;
use crate::{Dialect, Framing};

/// The frame, or nothing where none can be written: documents, bare bytes, and an event stream that broke inside
/// a frame. `is_mid_event`: the caller holds bytes of an event that has not ended. `code` is our own error code.
///
/// Comments and keep-alives are never written, and nothing may follow the frame.
pub fn error_frame(
    dialect: Dialect,
    framing: Framing,
    is_mid_event: bool,
    code: &str,
    message: &str,
    request_id: &str,
) -> Vec<u8> {
    let says = Words {
        code: quote(code),
        message: quote(message),
        request_id: quote(request_id),
    };
    match framing {
        Framing::Json | Framing::Binary => Vec::new(),
        Framing::Sse if dialect == Dialect::Opaque => Vec::new(),
        Framing::Sse => {
            // A broken event must end first, or it would swallow the frame. Anthropic's clients take the last
            // name of an event, so theirs becomes the error and is raised as one.
            let start = match (is_mid_event, dialect) {
                (false, _) => "",
                (true, Dialect::Anthropic) => "\n",
                (true, _) => "\n\n",
            };
            format!("{start}{}", says.event(dialect)).into_bytes()
        }
        Framing::JsonArray => {
            let end = if is_mid_event { "\n" } else { "" };
            format!("{end},{}]", says.google()).into_bytes()
        }
        Framing::JsonLines => {
            let start = if is_mid_event { "\n" } else { "" };
            format!("{start}{}\n", says.line(dialect)).into_bytes()
        }
        Framing::EventStream if is_mid_event => Vec::new(),
        Framing::EventStream => eventstream::encode(
            &[
                // A name the clients' models know; others lose their message.
                (":exception-type", "modelStreamErrorException"),
                (":content-type", "application/json"),
                (":message-type", "exception"),
            ],
            format!("{{\"message\":{}}}", says.message).as_bytes(),
        ),
    }
}

/// What is to be said, as JSON strings.
struct Words {
    code: String,
    message: String,
    request_id: String,
}

impl Words {
    fn event(&self, dialect: Dialect) -> String {
        let Words {
            code,
            message,
            request_id,
        } = self;
        let openai = self.openai();
        match dialect {
            Dialect::Perplexity | Dialect::Fal => {
                format!("event: error\ndata: {{\"error\":{openai}}}\n\n")
            }
            Dialect::OpenRouter => format!(
                "data: {{\"id\":{request_id},\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":\"\",\
                 \"error\":{{\"code\":502,\"message\":{message},\"metadata\":{{\"error_type\":{code}}}}},\
                 \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"\"}},\"finish_reason\":\"error\"}}]}}\n\n"
            ),
            // Both live shapes in one: flat for the typed reader, nested for the one that raises.
            Dialect::OpenAiResponses | Dialect::OpenAiMedia => format!(
                "event: error\ndata: {{\"type\":\"error\",\"sequence_number\":0,\"code\":{code},\"message\":{message},\
                 \"param\":null,\"error\":{openai}}}\n\n"
            ),
            Dialect::Anthropic => format!(
                "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"api_error\",\"message\":{message}}},\
                 \"request_id\":{request_id}}}\n\n"
            ),
            Dialect::Gemini => format!("data: {}\n\n", self.google()),
            Dialect::GeminiInteractions => format!(
                "event: error\ndata: {{\"event_type\":\"error\",\"error\":{{\"code\":{code},\"message\":{message}}}}}\n\n"
            ),
            Dialect::CohereV2 => format!(
                "event: message-end\ndata: {{\"type\":\"message-end\",\"delta\":{{\"finish_reason\":\"ERROR\",\
                 \"error\":{message}}}}}\n\n"
            ),
            Dialect::CohereV1 => format!("data: {}\n\n", self.line(dialect)),
            Dialect::Mistral => format!(
                "event: conversation.response.error\ndata: {{\"type\":\"conversation.response.error\",\
                 \"message\":{message},\"code\":502}}\n\n"
            ),
            Dialect::Tgi => {
                format!("data:{{\"error\":{message},\"error_type\":\"incomplete_generation\"}}\n\n")
            }
            Dialect::Replicate => format!(
                "event: error\nid: gw-1\ndata: {{\"detail\":{message}}}\n\n\
                 event: done\nid: gw-2\ndata: {{\"reason\":\"error\"}}\n\n"
            ),
            // The provider's own clients read `errors`, OpenAI's read `error`.
            Dialect::WorkersAi => format!(
                "data: {{\"errors\":[{{\"message\":{message},\"code\":{code}}}],\"error\":{openai}}}\n\n"
            ),
            Dialect::Cartesia => format!(
                "event: error\ndata: {{\"type\":\"error\",\"done\":true,\"status_code\":502,\"error\":{message}}}\n\n"
            ),
            _ => format!("data: {{\"error\":{openai}}}\n\n"),
        }
    }

    fn line(&self, dialect: Dialect) -> String {
        let message = &self.message;
        match dialect {
            Dialect::CohereV1 => format!(
                "{{\"is_finished\":true,\"event_type\":\"stream-end\",\"finish_reason\":\"ERROR\",\"error\":{message}}}"
            ),
            _ => format!("{{\"error\":{message}}}"),
        }
    }

    fn openai(&self) -> String {
        let Words { code, message, .. } = self;
        format!(
            "{{\"message\":{message},\"type\":\"upstream_error\",\"code\":{code},\"param\":null}}"
        )
    }

    /// One client tests that the object begins with `error`, another that the code is a number.
    fn google(&self) -> String {
        let message = &self.message;
        format!("{{\"error\":{{\"code\":503,\"message\":{message},\"status\":\"UNAVAILABLE\"}}}}")
    }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Progress, ReplyHead, ReplyReader, sse};

    fn frame(dialect: Dialect, is_mid_event: bool) -> String {
        let frame = error_frame(
            dialect,
            Framing::Sse,
            is_mid_event,
            "cut",
            "it \"broke\"\n",
            "r1",
        );
        String::from_utf8(frame).expect("frames are text")
    }

    #[test]
    fn every_event_frame_is_json_in_one_line() {
        for dialect in Dialect::ALL {
            let text = frame(dialect, false);
            let mut decoder = sse::Decoder::default();
            let mut count = 0;
            decoder.push(text.as_bytes(), &mut |event| {
                count += 1;
                let read = serde_json::from_slice::<serde_json::Value>(event.data);
                assert!(read.is_ok(), "{dialect}: {text}");
            });
            assert_eq!(count == 0, dialect == Dialect::Opaque, "{dialect}");
            assert!(
                !decoder.is_mid_event(),
                "{dialect}: no blank line at the end"
            );
            assert_eq!(decoder.stray_lines(), 0, "{dialect}: {text}");
        }
    }

    #[test]
    fn our_own_reader_takes_every_frame_for_a_failure() {
        let head = ReplyHead {
            status: 200,
            content_type: Some("text/event-stream"),
            content_encoding: None,
            header: &|_| None,
        };
        for dialect in Dialect::ALL {
            let has_sse = !matches!(
                dialect,
                Dialect::Opaque
                    | Dialect::BedrockConverse
                    | Dialect::BedrockInvoke
                    | Dialect::Ollama
                    | Dialect::Elevenlabs
                    | Dialect::Deepgram
                    | Dialect::Ideogram
            );
            if !has_sse {
                continue;
            }
            let mut reader = ReplyReader::new(dialect, true, &head);
            reader.push(frame(dialect, false).as_bytes());
            assert!(matches!(reader.progress(), Progress::Error(_)), "{dialect}");
        }
    }

    #[test]
    fn the_published_shapes() {
        assert_eq!(
            frame(Dialect::OpenAiChat, false),
            "data: {\"error\":{\"message\":\"it \\\"broke\\\"\\n\",\"type\":\"upstream_error\",\"code\":\"cut\",\"param\":null}}\n\n"
        );
        assert!(frame(Dialect::Gemini, false).starts_with("data: {\"error\":{\"code\":503,"));
        assert!(frame(Dialect::Anthropic, true).starts_with("\nevent: error\ndata: {"));
        assert!(frame(Dialect::OpenAiChat, true).starts_with("\n\ndata: {"));
        let array = error_frame(Dialect::Gemini, Framing::JsonArray, false, "c", "m", "r");
        let whole = format!("[{{}}{}", String::from_utf8_lossy(&array));
        let whole: serde_json::Value = serde_json::from_str(&whole).expect("an array again");
        assert_eq!(whole[1]["error"]["code"], 503);
    }

    #[test]
    fn an_exception_frame_is_whole_and_named() {
        let frame = error_frame(
            Dialect::BedrockConverse,
            Framing::EventStream,
            false,
            "c",
            "m",
            "r",
        );
        let mut decoder = eventstream::Decoder::default();
        let mut seen = Vec::new();
        decoder.push(&frame, &mut |frame| {
            seen.push(frame.header(":exception-type").map(str::to_owned));
            assert_eq!(frame.header(":message-type"), Some("exception"));
            assert_eq!(frame.payload(), b"{\"message\":\"m\"}");
        });
        assert_eq!(seen, [Some("modelStreamErrorException".to_owned())]);
        assert_eq!(decoder.fault(), None);
    }

    #[test]
    fn nothing_where_nothing_can_be_written() {
        for framing in [Framing::Json, Framing::Binary] {
            assert!(error_frame(Dialect::OpenAiChat, framing, false, "c", "m", "r").is_empty());
        }
        let inside = error_frame(
            Dialect::BedrockInvoke,
            Framing::EventStream,
            true,
            "c",
            "m",
            "r",
        );
        assert!(inside.is_empty());
    }
}
