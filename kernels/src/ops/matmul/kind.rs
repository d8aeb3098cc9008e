//! The weight formats with a kernel, by the names their files give them.

/// How a file stores the values of a matrix: GGUF blocks, or plain little-endian numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightKind {
    F32,
    F16,
    Bf16,
    /// 4 bits; f16 scale per 32.
    Q4_0,
    /// 4 bits; f16 scale and minimum per 32.
    Q4_1,
    /// 5 bits; f16 scale per 32.
    Q5_0,
    /// 5 bits; f16 scale and minimum per 32.
    Q5_1,
    /// 8 bits; f16 scale per 32.
    Q8_0,
    /// 4 bits; 6-bit scale and minimum per 32, f16 factors of both per 256.
    Q4K,
    /// 5 bits; 6-bit scale and minimum per 32, f16 factors of both per 256.
    Q5K,
    /// 6 bits; 8-bit scale per 16, f16 factor per 256.
    Q6K,
}

impl WeightKind {
    /// Every kind, for tests and tables.
    pub const ALL: [WeightKind; 11] = [
        WeightKind::F32,
        WeightKind::F16,
        WeightKind::Bf16,
        WeightKind::Q4_0,
        WeightKind::Q4_1,
        WeightKind::Q5_0,
        WeightKind::Q5_1,
        WeightKind::Q8_0,
        WeightKind::Q4K,
        WeightKind::Q5K,
        WeightKind::Q6K,
    ];

    /// Values in a block of the file; a row is whole blocks.
    pub fn block_len(self) -> usize {
        match self {
            WeightKind::F32 | WeightKind::F16 | WeightKind::Bf16 => 1,
            WeightKind::Q4_0
            | WeightKind::Q4_1
            | WeightKind::Q5_0
            | WeightKind::Q5_1
            | WeightKind::Q8_0 => 32,
            WeightKind::Q4K | WeightKind::Q5K | WeightKind::Q6K => 256,
        }
    }

    /// Bytes of a block of the file.
    pub fn block_bytes(self) -> usize {
        match self {
            WeightKind::F32 => 4,
            WeightKind::F16 | WeightKind::Bf16 => 2,
            WeightKind::Q4_0 => 18,
            WeightKind::Q4_1 => 20,
            WeightKind::Q5_0 => 22,
            WeightKind::Q5_1 => 24,
            WeightKind::Q8_0 => 34,
            WeightKind::Q4K => 144,
            WeightKind::Q5K => 176,
            WeightKind::Q6K => 210,
        }
    }

    /// Whether products take activations in 8 bits.
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}
