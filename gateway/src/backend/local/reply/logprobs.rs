//! Log-probabilities in OpenAI's two forms.

use std::collections::BTreeMap;

use local_inference::TokenLogprob;
use serde::Serialize;

/// Of a chat: an object a token.
#[derive(Serialize)]
pub(super) struct ChatLogprobs<'a> {
    content: Vec<Token<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
pub(super) struct Token<'a> {
    #[serde(flatten)]
    chosen: Alternative<'a>,
    top_logprobs: Vec<Alternative<'a>>,
}

/// `token` shows what of a character the bytes hold; only `bytes` can be put together.
#[derive(Serialize)]
struct Alternative<'a> {
    token: String,
    logprob: f32,
    bytes: &'a [u8],
}

impl<'a> Alternative<'a> {
    fn new(bytes: &'a [u8], logprob: f32) -> Alternative<'a> {
        Alternative {
            token: shown(bytes),
            logprob,
            bytes,
        }
    }
}

/// `None` where nothing was asked for: the wire then says null.
pub(super) fn chat(logprobs: &[TokenLogprob]) -> Option<ChatLogprobs<'_>> {
    (!logprobs.is_empty()).then(|| ChatLogprobs {
        content: tokens(logprobs),
        refusal: None,
    })
}

pub(super) fn tokens(logprobs: &[TokenLogprob]) -> Vec<Token<'_>> {
    let mut tokens = Vec::with_capacity(logprobs.len());
    for told in logprobs {
        let top = told.top.iter();
        tokens.push(Token {
            chosen: Alternative::new(&told.bytes, told.logprob),
            top_logprobs: top
                .map(|(_, bytes, logprob)| Alternative::new(bytes, *logprob))
                .collect(),
        });
    }
    tokens
}

/// Of a legacy completion: columns.
#[derive(Serialize, Default)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<BTreeMap<String, f32>>,
    text_offset: Vec<usize>,
}

/// `offset`: characters of the answer told before; moved on.
pub(super) fn completion(
    logprobs: &[TokenLogprob],
    offset: &mut usize,
) -> Option<CompletionLogprobs> {
    if logprobs.is_empty() {
        return None;
    }
    let mut columns = CompletionLogprobs::default();
    for told in logprobs {
        let token = shown(&told.bytes);
        let mut top: BTreeMap<String, f32> = told
            .top
            .iter()
            .map(|(_, bytes, logprob)| (shown(bytes), *logprob))
            .collect();
        // The chosen one is always among them, likely or not.
        top.insert(token.clone(), told.logprob);
        columns.text_offset.push(*offset);
        *offset += token.chars().count();
        columns.tokens.push(token);
        columns.token_logprobs.push(told.logprob);
        columns.top_logprobs.push(top);
    }
    Some(columns)
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
