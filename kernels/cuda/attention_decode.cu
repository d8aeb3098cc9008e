// Attention of single rows over paged memory, positions split over blocks: one row of each sequence, grouped heads.
//
// grid (rows, kv heads x chunks of a group's heads, splits of the longest row). Splits lie at multiples of SPLIT, so what is
// summed with what follows from a row's position alone. Each leaves [highest score, total, weighted values] of each head in
// `partial` [row][head][split][2 + head_dim]; attention_combine joins them in order. A split a row does not see
// costs its blocks an exit, and its part is neither written nor read.
#include "paged.cuh"

constexpr int DECODE_THREADS = 128;
constexpr int SPLIT = 256;
constexpr int MOST_DIM = 256;

template <typename T, int HEADS>
static __device__ __forceinline__ void attend(float* partial, const T* queries, const T* layer, const int* rows,
                                              const int* positions, const int* table_starts, const int* tables, int heads,
                                              int kv_heads, int head_dim, int stride, Scores rules) {
    constexpr int LEN = Word<T>::LEN;
    SHARED(float, query, HEADS * MOST_DIM);
    SHARED(float, weights, HEADS * SPLIT);
    SHARED(float, waiting, HEADS * DECODE_THREADS);
    const Word<T>* words = reinterpret_cast<const Word<T>*>(layer);
    const int group = heads / kv_heads, chunks = (group + HEADS - 1) / HEADS;
    const int kv_head = blockIdx.y / chunks, first_in_group = blockIdx.y % chunks * HEADS;
    const int count = min(HEADS, group - first_in_group), first_head = kv_head * group + first_in_group;
    const int position = positions[blockIdx.x];
    const int split_start = blockIdx.z * SPLIT;
    const int start = max(split_start, rules.first_seen(position)), end = min(split_start + SPLIT, position + 1);
    if (start >= end) return;
    const int* table = tables + table_starts[blockIdx.x];

    const T* row = queries + (long long)rows[blockIdx.x] * stride + first_head * head_dim;
    for (int i = threadIdx.x; i < HEADS * head_dim; i += DECODE_THREADS) {
        const int head = i / head_dim;
        query[head * MOST_DIM + i % head_dim] = head < count ? widen(row[i]) : 0.0f;
    }
    __syncthreads();

    // Scores: a thread a position.
    for (int i = threadIdx.x; i < SPLIT; i += DECODE_THREADS) {
        const int seen = split_start + i;
        float sums[HEADS] = {};
        if (seen >= start && seen < end) {
            const Head<const Word<T>> head(words, table[seen / BLOCK_TOKENS], kv_heads, kv_head, head_dim);
            for (int dim = 0; dim < head_dim; dim += LEN) {
                const Word<T> word = head.key(dim, seen % BLOCK_TOKENS);
#pragma unroll
                for (int j = 0; j < LEN; j++) {
                    const float key = widen(word.values[j]);
#pragma unroll
                    for (int h = 0; h < HEADS; h++) sums[h] += query[h * MOST_DIM + dim + j] * key;
                }
            }
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            weights[h * SPLIT + i] = seen >= start && seen < end ? rules.bend(sums[h]) : negative_infinity();
    }
    __syncthreads();

    // Weights: a warp a head. At least one position is seen, so the highest score is a number.
    const long long part = 2 + head_dim;
    float* out = partial + (((long long)blockIdx.x * heads + first_head) * gridDim.z + blockIdx.z) * part;
    const long long head_pitch = gridDim.z * part;
    for (int h = threadIdx.x / 32; h < count; h += DECODE_THREADS / 32) {
        const int lane = threadIdx.x % 32;
        float highest = negative_infinity(), total = 0.0f;
        for (int i = lane; i < SPLIT; i += 32) highest = fmaxf(highest, weights[h * SPLIT + i]);
        highest = warp_max(highest);
        for (int i = lane; i < SPLIT; i += 32) {
            const float weight = expf(weights[h * SPLIT + i] - highest);
            weights[h * SPLIT + i] = weight;
            total += weight;
        }
        total = warp_sum(total);
        if (lane == 0) {
            out[h * head_pitch] = highest;
            out[h * head_pitch + 1] = total;
        }
    }
    __syncthreads();

    // Values: a thread a dimension; where a head has fewer than there are threads, several share one and take every so many positions.
    int width = 32;
    while (width < head_dim && width < DECODE_THREADS) width *= 2;
    const int sharers = DECODE_THREADS / width, share = threadIdx.x / width;
    for (int first_dim = 0; first_dim < head_dim; first_dim += width) {
        const int dim = first_dim + threadIdx.x % width;
        float sums[HEADS] = {};
        for (int seen = start / LEN * LEN + share * LEN; seen < end && dim < head_dim; seen += sharers * LEN) {
            const Head<const Word<T>> head(words, table[seen / BLOCK_TOKENS], kv_heads, kv_head, head_dim);
            const Word<T> word = head.value(seen % BLOCK_TOKENS, dim);
#pragma unroll
            for (int j = 0; j < LEN; j++) {
                // What lies past the end was never written, and nothing times that may be anything.
                if (seen + j < start || seen + j >= end) continue;
                const float value = widen(word.values[j]);
#pragma unroll
                for (int h = 0; h < HEADS; h++)
                    if (h < count) sums[h] += weights[h * SPLIT + seen + j - split_start] * value;
            }
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) waiting[h * DECODE_THREADS + threadIdx.x] = sums[h];
        __syncthreads();
        for (int h = share; h < count && dim < head_dim; h += sharers) {
            float sum = 0.0f;
            for (int i = 0; i < sharers; i++) sum += waiting[h * DECODE_THREADS + i * width + threadIdx.x % width];
            out[h * head_pitch + 2 + dim] = sum;
        }
        // No barrier: where there is a second round, threads share nothing, and each reads what itself has written.
    }
}

// Joins the splits of a row in order. grid (rows, heads).
template <typename T>
static __device__ __forceinline__ void combine(T* out, const float* partial, const int* rows, const int* positions, int splits,
                                               int head_dim, int out_stride, Scores rules) {
    const int position = positions[blockIdx.x];
    const int first = rules.first_seen(position) / SPLIT, end = position / SPLIT + 1;
    const int part = 2 + head_dim;
    const float* parts = partial + ((long long)blockIdx.x * gridDim.y + blockIdx.y) * splits * part;
    float highest = negative_infinity(), total = 0.0f;
    for (int i = first; i < end; i++) highest = fmaxf(highest, parts[i * part]);
    for (int i = first; i < end; i++) total += parts[i * part + 1] * expf(parts[i * part] - highest);
    T* row = out + (long long)rows[blockIdx.x] * out_stride + blockIdx.y * head_dim;
    for (int dim = threadIdx.x; dim < head_dim; dim += DECODE_THREADS) {
        float sum = 0.0f;
        for (int i = first; i < end; i++) sum += parts[i * part + 2 + dim] * expf(parts[i * part] - highest);
        narrow(sum / total, row[dim]);
    }
}

#define DEFINE(name, T, HEADS)                                                                                                 \
    KERNEL(DECODE_THREADS, attention_decode_##name##_h##HEADS, float* partial, const T* queries, const T* layer,              \
           const int* rows, const int* positions, const int* table_starts, const int* tables, int heads, int kv_heads,        \
           int head_dim, int stride, float scale, int window, float soft_cap) {                                                \
        attend<T, HEADS>(partial, queries, layer, rows, positions, table_starts, tables, heads, kv_heads, head_dim, stride,   \
                         Scores{scale, window, soft_cap});                                                                     \
    }
DEFINE(f32, float, 1) DEFINE(f32, float, 4) DEFINE(f32, float, 8)
DEFINE(f16, f16, 1) DEFINE(f16, f16, 4) DEFINE(f16, f16, 8)
DEFINE(bf16, bf16, 1) DEFINE(bf16, bf16, 4) DEFINE(bf16, bf16, 8)

#define DEFINE_COMBINE(name, T)                                                                                                \
    KERNEL(DECODE_THREADS, attention_combine_##name, T* out, const float* partial, const int* rows, const int* positions,     \
           int splits, int head_dim, int out_stride, int window) {                                                             \
        combine<T>(out, partial, rows, positions, splits, head_dim, out_stride, Scores{1.0f, window, 0.0f});                   \
    }
DEFINE_COMBINE(f32, float) DEFINE_COMBINE(f16, f16) DEFINE_COMBINE(bf16, bf16)
