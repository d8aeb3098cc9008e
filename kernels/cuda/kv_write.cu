// Keys and values of a step's rows into their blocks.
//
// grid (rows, kv heads). slots[row] is block * 16 + place, or -1 for a row that is not kept. Memory is one layer's, zero
// when new: the padding of values is never written.
#include "paged.cuh"

constexpr int WRITE_THREADS = 64;

template <typename T>
static __device__ __forceinline__ void write(T* layer, const T* rows, const int* slots, int stride, int key_column,
                                             int value_column, int head_dim) {
    const int place = slots[blockIdx.x];
    if (place < 0) return;
    const int slot = place % BLOCK_TOKENS, kv_head = blockIdx.y;
    const Head<Word<T>> head(reinterpret_cast<Word<T>*>(layer), place / BLOCK_TOKENS, gridDim.y, kv_head, head_dim);
    const T* row = rows + (long long)blockIdx.x * stride + kv_head * head_dim;
    constexpr int LEN = Word<T>::LEN;
    for (int i = threadIdx.x; i < head_dim; i += WRITE_THREADS) {
        head.key(i / LEN * LEN, slot).values[i % LEN] = row[key_column + i];
        // Half a word may be another row's: each writes its own number and nothing beside it.
        head.value(slot / LEN * LEN, i).values[slot % LEN] = row[value_column + i];
    }
}

#define DEFINE(name, T)                                                                                                        \
    KERNEL(WRITE_THREADS, kv_write_##name, T* layer, const T* rows, const int* slots, int stride, int key_column,             \
           int value_column, int head_dim) {                                                                                   \
        write<T>(layer, rows, slots, stride, key_column, value_column, head_dim);                                              \
    }
DEFINE(f32, float) DEFINE(f16, f16) DEFINE(bf16, bf16)
