//! What can be wrong with the weights a kernel is asked to pack.

/// A matrix that cannot be packed. Shapes inside a step are our own business and asserted instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error(
        "matrix of {columns} x {k} has a row length that is not a positive multiple of {block}"
    )]
    RowLength {
        columns: usize,
        k: usize,
        block: usize,
    },
    #[error("matrix of {columns} x {k} needs {expected} bytes, got {actual}")]
    ByteLength {
        columns: usize,
        k: usize,
        expected: usize,
        actual: usize,
    },
    #[error("adapter of rank {rank}; kernels take ranks of 1 to {most}")]
    LoraRank { rank: usize, most: usize },
    #[error("adapter matrix {name} of {rows} x {width} needs {expected} values, got {actual}")]
    LoraLength {
        name: &'static str,
        rows: usize,
        width: usize,
        expected: usize,
        actual: usize,
    },
}
