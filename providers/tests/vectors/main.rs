//! Replies in the shapes the providers document, and what must be read from them. None of this was recorded:
//! each reply is written by hand from the public description of its format, which the test names.
//!
//! Every reply is read whole, cut in two at every byte, and one byte at a time; the readings must be equal.

mod anthropic;
mod bedrock;
mod chat;
mod framing;
mod gemini;
mod hosted;
mod media;
mod outcome;
mod random;
mod responses;
mod support;
