//! Model files, read in place.

pub(crate) mod gguf;
