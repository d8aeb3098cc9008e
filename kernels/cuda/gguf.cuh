// The quantised blocks of GGUF files, value by value, field by field as ggml defines them.
#pragma once
#include "common.cuh"

typedef unsigned char byte;

// Blocks are whole pairs of bytes, and no more aligned than that.
static __device__ __forceinline__ float half_at(const byte* bytes) {
    f16 value;
    value.bits = (unsigned short)(bytes[0] | bytes[1] << 8);
    return widen(value);
}

static __device__ __forceinline__ int nibble(const byte* pairs, int i) { return pairs[i % 16] >> (i / 16 * 4) & 15; }

static __device__ __forceinline__ int bit(const byte* bits, int i) { return bits[i / 8] >> (i % 8) & 1; }

struct Q4_0 {
    static constexpr int LEN = 32, BYTES = 18;
    static __device__ __forceinline__ float value(const byte* block, int i) {
        return half_at(block) * (float)(nibble(block + 2, i) - 8);
    }
};

struct Q4_1 {
    static constexpr int LEN = 32, BYTES = 20;
    static __device__ __forceinline__ float value(const byte* block, int i) {
        return half_at(block) * (float)nibble(block + 4, i) + half_at(block + 2);
    }
};

struct Q5_0 {
    static constexpr int LEN = 32, BYTES = 22;
    static __device__ __forceinline__ float value(const byte* block, int i) {
        return half_at(block) * (float)((nibble(block + 6, i) | bit(block + 2, i) << 4) - 16);
    }
};

struct Q5_1 {
    static constexpr int LEN = 32, BYTES = 24;
    static __device__ __forceinline__ float value(const byte* block, int i) {
        return half_at(block) * (float)(nibble(block + 8, i) | bit(block + 4, i) << 4) + half_at(block + 2);
    }
};

struct Q8_0 {
    static constexpr int LEN = 32, BYTES = 34;
    static __device__ __forceinline__ float value(const byte* block, int i) {
        return half_at(block) * (float)(signed char)block[2 + i];
    }
};

// d, dmin, twelve bytes of 6-bit scales and minima, one of each for 32 values: the head of Q4_K and Q5_K.
static __device__ __forceinline__ float scaled(const byte* block, int part, int quant) {
    const byte* packed = block + 4;
    int scale, minimum;
    if (part < 4) {
        scale = packed[part] & 63;
        minimum = packed[part + 4] & 63;
    } else {
        scale = (packed[part + 4] & 15) | packed[part - 4] >> 6 << 4;
        minimum = packed[part + 4] >> 4 | packed[part] >> 6 << 4;
    }
    return half_at(block) * (float)scale * (float)quant - half_at(block + 2) * (float)minimum;
}

struct Q4_K {
    static constexpr int LEN = 256, BYTES = 144;
    static __device__ __forceinline__ float value(const byte* block, int i) {
        const int part = i / 32;
        return scaled(block, part, block[16 + part / 2 * 32 + i % 32] >> (part % 2 * 4) & 15);
    }
};

struct Q5_K {
    static constexpr int LEN = 256, BYTES = 176;
    static __device__ __forceinline__ float value(const byte* block, int i) {
        const int part = i / 32;
        const int fifth = block[16 + i % 32] >> part & 1;
        return scaled(block, part, (block[48 + part / 2 * 32 + i % 32] >> (part % 2 * 4) & 15) | fifth << 4);
    }
};

struct Q6_K {
    static constexpr int LEN = 256, BYTES = 210;
    static __device__ __forceinline__ float value(const byte* block, int i) {
        const int half = i / 128, quarter = i % 128 / 32, place = i % 32;
        const int low = block[64 * half + quarter % 2 * 32 + place] >> (quarter / 2 * 4) & 15;
        const int high = block[128 + 32 * half + place] >> (2 * quarter) & 3;
        return half_at(block + 208) * (float)(signed char)block[192 + i / 16] * (float)((low | high << 4) - 32);
    }
};

// Writes the kernels of a family for each format and element type.
#define FOR_EACH_FORMAT(DEFINE)                                                                                                \
    FOR_EACH_TYPE(DEFINE, q4_0, Q4_0) FOR_EACH_TYPE(DEFINE, q4_1, Q4_1) FOR_EACH_TYPE(DEFINE, q5_0, Q5_0)                      \
    FOR_EACH_TYPE(DEFINE, q5_1, Q5_1) FOR_EACH_TYPE(DEFINE, q8_0, Q8_0) FOR_EACH_TYPE(DEFINE, q4_k, Q4_K)                      \
    FOR_EACH_TYPE(DEFINE, q5_k, Q5_K) FOR_EACH_TYPE(DEFINE, q6_k, Q6_K)
#define FOR_EACH_TYPE(DEFINE, format, Format)                                                                                  \
    DEFINE(format, Format, f32, float) DEFINE(format, Format, f16, f16) DEFINE(format, Format, bf16, bf16)
