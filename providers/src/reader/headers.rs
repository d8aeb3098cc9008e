//! What only response headers tell: ids, and usage of replies whose body has none.

use crate::{Dialect, Usage};

use super::ReplyHead;

/// Facts taken from the head, for the end of the reply.
#[derive(Debug, Default)]
pub(super) struct HeaderFacts {
    pub usage: Option<Usage>,
    pub response_id: Option<String>,
    pub model: Option<String>,
}

impl HeaderFacts {
    pub fn read(dialect: Dialect, head: &ReplyHead<'_>) -> HeaderFacts {
        let text = |name: &str| (head.header)(name).filter(|value| !value.is_empty());
        let (id, model) = match dialect {
            Dialect::BedrockConverse | Dialect::BedrockInvoke => ("x-amzn-requestid", None),
            Dialect::Elevenlabs => ("request-id", None),
            Dialect::Deepgram => ("dg-request-id", text("dg-model-name")),
            Dialect::Fal => ("x-fal-request-id", None),
            _ => ("", None),
        };
        HeaderFacts {
            usage: usage(dialect, head),
            response_id: if id.is_empty() { None } else { text(id) },
            model,
        }
    }

    /// Joins these facts with the body's usage, which wins where both speak.
    pub fn join(self, dialect: Dialect, told: Option<Usage>) -> Option<Usage> {
        let Some(mut usage) = told else {
            return self.usage;
        };
        if let Some(header) = self.usage {
            // Fireworks tells cached tokens nowhere else, and they are part of the body's own count.
            if dialect == Dialect::OpenAiChat && usage.cache_read.is_none() {
                usage.cache_read = header.cache_read;
                usage.fill_in_plain();
            }
            usage.fill_gaps(header);
        }
        Some(usage)
    }
}

fn usage(dialect: Dialect, head: &ReplyHead<'_>) -> Option<Usage> {
    let number = |name: &str| {
        let value = (head.header)(name)?;
        let value = value.trim().parse::<f64>().ok()?;
        (value.is_finite() && value >= 0.0).then_some(value)
    };
    let count = |name: &str| number(name).map(|value| value.round() as u64);
    let mut usage = match dialect {
        Dialect::BedrockInvoke => super::bedrock::exclusive(
            count("x-amzn-bedrock-input-token-count"),
            count("x-amzn-bedrock-output-token-count"),
            count("x-amzn-bedrock-cache-read-input-token-count"),
            count("x-amzn-bedrock-cache-write-input-token-count"),
            [None, None],
        ),
        Dialect::Elevenlabs => Usage {
            characters: count("character-cost"),
            ..Usage::default()
        },
        Dialect::Deepgram => Usage {
            characters: count("dg-char-count"),
            ..Usage::default()
        },
        Dialect::Tgi => Usage {
            in_total: count("x-prompt-tokens"),
            out_total: count("x-generated-tokens"),
            characters: count("x-compute-characters"),
            seconds: number("x-compute-time"),
            ..Usage::default()
        },
        Dialect::OpenAiChat => Usage {
            in_total: count("fireworks-prompt-tokens"),
            cache_read: count("fireworks-cached-prompt-tokens"),
            ..Usage::default()
        },
        _ => return None,
    };
    usage.fill_in_plain();
    (usage != Usage::default()).then_some(usage)
}
