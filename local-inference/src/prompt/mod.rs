//! Text to token ids before the queue, token ids to text after it.

pub(crate) mod chat_template;
pub(crate) mod detokenizer;
pub(crate) mod stop;
pub(crate) mod tokenizer;
