//! Attention memory: one pool of blocks a model, each of 16 positions of all layers.

mod block_pool;

pub(crate) use block_pool::BlockPool;
