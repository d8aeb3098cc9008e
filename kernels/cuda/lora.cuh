// What the four LoRA kernels share: y += B (A x), with A [RANK, k] and B [columns, RANK], the scale folded into B.
//
// Rank classes are 8, 16, 32 and 64: a matrix of another rank is padded with zeros to the next one, and one launch has one
// class. SGMV, for the rows of prompts, takes segments: rows starts[s]..starts[s + 1] have the adapter of segment s. BGMV, for rows that
// decode, takes an adapter a row. Which of them a row goes to follows from what the row is, never from its neighbours, so
// that its result does not depend on them. The names and the split of k are those of Punica (arXiv 2310.18547); no
// atomics, so sums are the same in every run.
#pragma once
#include "common.cuh"

// Rows a block of SGMV takes, and threads of every LoRA block.
constexpr int LORA_ROWS = 16;
constexpr int LORA_THREADS = 128;
// How much of k one block of the shrink sums. Fixed, so that a row's sums follow from k alone.
constexpr int LORA_SPLIT = 512;

// One row of B in registers.
template <typename T, int RANK>
static __device__ __forceinline__ void load_expand_row(const T* row, float (&values)[RANK]) {
    const Pack<T>* packs = reinterpret_cast<const Pack<T>*>(row);
#pragma unroll
    for (int i = 0; i < RANK / Pack<T>::LEN; i++) {
        const Pack<T> pack = packs[i];
#pragma unroll
        for (int j = 0; j < Pack<T>::LEN; j++) values[i * Pack<T>::LEN + j] = widen(pack.values[j]);
    }
}

// Writes the kernels of a family for each element type and rank class.
#define FOR_EACH_LORA(DEFINE)                                                                                                  \
    DEFINE(f32, float, 8) DEFINE(f32, float, 16) DEFINE(f32, float, 32) DEFINE(f32, float, 64)                                 \
    DEFINE(f16, f16, 8) DEFINE(f16, f16, 16) DEFINE(f16, f16, 32) DEFINE(f16, f16, 64)                                         \
    DEFINE(bf16, bf16, 8) DEFINE(bf16, bf16, 16) DEFINE(bf16, bf16, 32) DEFINE(bf16, bf16, 64)
