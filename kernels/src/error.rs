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
}
