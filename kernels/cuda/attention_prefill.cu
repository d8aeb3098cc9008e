// Attention of runs of rows over paged memory: prompts of any lengths in one launch, grouped heads, causal.
//
// grid (tiles, kv heads). A tile is 16 queries of one run and kv head, a query being a row's one head of the group: query q of
// a run is row q / group, head q % group. Tiles are listed by the host, ragged runs leave no block without work. Positions are
// taken in chunks at fixed places with an online softmax, so a row's sums follow from its position alone; a chunk that a row
// does not see changes no bit of it.
#include "paged.cuh"

constexpr int PREFILL_THREADS = 128;
constexpr int QUERIES = 16;
// Threads that share a query; they are neighbours in one warp.
constexpr int SHARERS = PREFILL_THREADS / QUERIES;

// What a launch says of its runs and tiles.
struct Runs {
    const int* tile_runs;       // the run of each tile
    const int* tile_queries;    // its first query in that run
    const int* row_starts;      // rows row_starts[r]..row_starts[r + 1] are run r's
    const int* first_positions; // of each run's first row
    const int* table_starts;    // where each run's block table begins
    const int* tables;
};

static __device__ __forceinline__ float sharers_max(float value) {
#pragma unroll
    for (int apart = SHARERS / 2; apart > 0; apart /= 2) value = fmaxf(value, __shfl_xor_sync(WHOLE_WARP, value, apart));
    return value;
}

static __device__ __forceinline__ float sharers_sum(float value) {
#pragma unroll
    for (int apart = SHARERS / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(WHOLE_WARP, value, apart);
    return value;
}

template <typename T, int MOST_DIM, int CHUNK>
static __device__ __forceinline__ void attend(T* out, const T* queries, const T* layer, Runs runs, int heads, int kv_heads,
                                              int head_dim, int stride, int out_stride, Scores rules) {
    constexpr int LEN = Word<T>::LEN, PITCH = MOST_DIM + 1;
    SHARED(float, query, QUERIES * PITCH);
    // Keys of a chunk [dim][position], then its values [position][dim].
    SHARED(float, chunk, CHUNK * MOST_DIM);
    SHARED(float, weights, QUERIES * CHUNK);
    const Word<T>* words = reinterpret_cast<const Word<T>*>(layer);
    const int group = heads / kv_heads, kv_head = blockIdx.y;
    const int run = runs.tile_runs[blockIdx.x], first_query = runs.tile_queries[blockIdx.x];
    const int first_row = runs.row_starts[run], rows = runs.row_starts[run + 1] - first_row;
    const int first_position = runs.first_positions[run];
    const int* table = runs.tables + runs.table_starts[run];
    const int last_query = min(first_query + QUERIES, rows * group) - 1;

    for (int i = threadIdx.x; i < QUERIES * head_dim; i += PREFILL_THREADS) {
        const int number = first_query + i / head_dim, row = first_row + number / group;
        const int column = (kv_head * group + number % group) * head_dim + i % head_dim;
        query[i / head_dim * PITCH + i % head_dim] =
            number <= last_query ? widen(queries[(long long)row * stride + column]) : 0.0f;
    }
    const int mine = threadIdx.x / SHARERS, lane = threadIdx.x % SHARERS;
    const int number = first_query + mine;
    const bool is_query = number <= last_query;
    const int position = first_position + number / group;
    const int first_seen = rules.first_seen(position);
    // What any query of the tile sees. Blocks outside may be others' by now, and are not read.
    const int start = rules.first_seen(first_position + first_query / group);
    const int end = first_position + last_query / group + 1;

    float highest = negative_infinity(), total = 0.0f;
    float sums[MOST_DIM / SHARERS] = {};
    for (int chunk_start = start / CHUNK * CHUNK; chunk_start < end; chunk_start += CHUNK) {
        __syncthreads();
        for (int i = threadIdx.x; i < CHUNK * head_dim / LEN; i += PREFILL_THREADS) {
            const int place = i % CHUNK, dim = i / CHUNK * LEN, seen = chunk_start + place;
            Word<T> word = {};
            if (seen >= start && seen < end) {
                const Head<const Word<T>> head(words, table[seen / BLOCK_TOKENS], kv_heads, kv_head, head_dim);
                word = head.key(dim, seen % BLOCK_TOKENS);
            }
#pragma unroll
            for (int j = 0; j < LEN; j++) chunk[(dim + j) * CHUNK + place] = widen(word.values[j]);
        }
        __syncthreads();

        float scores[CHUNK / SHARERS] = {};
        for (int dim = 0; dim < head_dim; dim++) {
            const float value = query[mine * PITCH + dim];
#pragma unroll
            for (int i = 0; i < CHUNK / SHARERS; i++) scores[i] += value * chunk[dim * CHUNK + lane + i * SHARERS];
        }
        float chunk_highest = negative_infinity();
#pragma unroll
        for (int i = 0; i < CHUNK / SHARERS; i++) {
            const int seen = chunk_start + lane + i * SHARERS;
            const bool is_seen = is_query && seen >= first_seen && seen <= position;
            scores[i] = is_seen ? rules.bend(scores[i]) : negative_infinity();
            chunk_highest = fmaxf(chunk_highest, scores[i]);
        }
        const float now_highest = fmaxf(highest, sharers_max(chunk_highest));
        // A query that has seen nothing yet has no highest score to subtract.
        const bool has_seen = now_highest > negative_infinity();
        const float factor = has_seen ? expf(highest - now_highest) : 1.0f;
        float chunk_total = 0.0f;
#pragma unroll
        for (int i = 0; i < CHUNK / SHARERS; i++) {
            const float weight = has_seen ? expf(scores[i] - now_highest) : 0.0f;
            weights[mine * CHUNK + lane + i * SHARERS] = weight;
            chunk_total += weight;
        }
        total = total * factor + sharers_sum(chunk_total);
        highest = now_highest;
        __syncthreads();

        for (int i = threadIdx.x; i < CHUNK / LEN * head_dim; i += PREFILL_THREADS) {
            const int place = i / head_dim * LEN, dim = i % head_dim, seen = chunk_start + place;
            Word<T> word = {};
            if (seen + LEN > start && seen < end) {
                const Head<const Word<T>> head(words, table[seen / BLOCK_TOKENS], kv_heads, kv_head, head_dim);
                word = head.value(seen % BLOCK_TOKENS, dim);
            }
            // What lies past the end was never written, and nothing times that may be anything.
#pragma unroll
            for (int j = 0; j < LEN; j++)
                chunk[(place + j) * MOST_DIM + dim] = seen + j >= start && seen + j < end ? widen(word.values[j]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < MOST_DIM / SHARERS; i++) {
            const int dim = lane + i * SHARERS;
            if (dim >= head_dim) break;
            float sum = sums[i] * factor;
#pragma unroll
            for (int place = 0; place < CHUNK; place++) sum += weights[mine * CHUNK + place] * chunk[place * MOST_DIM + dim];
            sums[i] = sum;
        }
    }
    if (!is_query) return;
    T* row = out + (long long)(first_row + number / group) * out_stride + (kv_head * group + number % group) * head_dim;
#pragma unroll
    for (int i = 0; i < MOST_DIM / SHARERS; i++) {
        const int dim = lane + i * SHARERS;
        if (dim < head_dim) narrow(sums[i] / total, row[dim]);
    }
}

// Heads of up to `dim` values. A chunk of the widest is half as long: shared memory is what they run out of.
#define DEFINE(name, T, dim, CHUNK)                                                                                            \
    KERNEL(PREFILL_THREADS, attention_prefill_##name##_d##dim, T* out, const T* queries, const T* layer,                      \
           const int* tile_runs, const int* tile_queries, const int* row_starts, const int* first_positions,                  \
           const int* table_starts, const int* tables, int heads, int kv_heads, int head_dim, int stride, int out_stride,     \
           float scale, int window, float soft_cap) {                                                                          \
        attend<T, dim, CHUNK>(out, queries, layer,                                                                             \
                              Runs{tile_runs, tile_queries, row_starts, first_positions, table_starts, tables}, heads,         \
                              kv_heads, head_dim, stride, out_stride, Scores{scale, window, soft_cap});                        \
    }
DEFINE(f32, float, 64, 32) DEFINE(f32, float, 128, 32) DEFINE(f32, float, 256, 16)
DEFINE(f16, f16, 64, 32) DEFINE(f16, f16, 128, 32) DEFINE(f16, f16, 256, 16)
DEFINE(bf16, bf16, 64, 32) DEFINE(bf16, bf16, 128, 32) DEFINE(bf16, bf16, 256, 16)
