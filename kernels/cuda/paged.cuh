// Where a key and a value lie in paged memory; the layout is that of the CPU (src/ops/kv.rs), so that blocks can be copied.
//
//   memory of a layer = [block][kv head] of: keys   [head_dim / n][16]         of words of n values
//                                            values [16 / n][padded head_dim]
//
// A block holds 16 positions. A word is one f32 (n = 1) or two numbers of 16 bits (n = 2): neighbouring dimensions of a key,
// neighbouring positions of a value. Threads that take neighbouring positions of a key, or neighbouring dimensions of a value, read
// neighbouring words. Rows of values are padded to 16 dimensions.
#pragma once
#include "common.cuh"

constexpr int BLOCK_TOKENS = 16;

// What is read at once.
template <typename T> struct alignas(4) Word {
    static constexpr int LEN = 4 / sizeof(T);
    T values[LEN];
};

static __device__ __forceinline__ int padded_dim(int head_dim) { return (head_dim + 15) / 16 * 16; }

// One head of one block, in words that may be written or not.
template <typename W> struct Head {
    W* keys;
    W* values;
    int padded;

    __device__ __forceinline__ Head(W* layer, int block, int kv_heads, int kv_head, int head_dim) : padded(padded_dim(head_dim)) {
        const long long words = BLOCK_TOKENS / W::LEN * (head_dim + padded);
        keys = layer + ((long long)block * kv_heads + kv_head) * words;
        values = keys + BLOCK_TOKENS / W::LEN * head_dim;
    }
    // Dimensions `dim`.. of the key at `slot`; `dim` is a multiple of the word's values.
    __device__ __forceinline__ W& key(int dim, int slot) const { return keys[dim / W::LEN * BLOCK_TOKENS + slot]; }
    // Dimension `dim` of the values at `slot`..; `slot` is a multiple of the word's values.
    __device__ __forceinline__ W& value(int slot, int dim) const { return values[slot / W::LEN * padded + dim]; }
};

// How scores become weights. A window or a cap of 0 is none.
struct Scores {
    float scale;
    int window;
    float soft_cap;

    __device__ __forceinline__ float bend(float dot) const {
        const float score = dot * scale;
        return soft_cap > 0.0f ? soft_cap * tanhf(score / soft_cap) : score;
    }
    // The first position that a row at `position` sees.
    __device__ __forceinline__ int first_seen(int position) const { return window > 0 ? max(0, position + 1 - window) : 0; }
};
