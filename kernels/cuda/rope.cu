// Turns the first rotary_dim values of each head in place, heads of queries and keys alike.
//
// grid (rows, heads), a thread a pair. `table` has for each position rotary_dim / 2 cosines, then as many sines, as the CPU's
// table has them: angles are computed once on the host, in f64. `pairs` is 0 where i turns with i + rotary_dim / 2, and 1
// where 2i turns with 2i + 1.
#include "common.cuh"

constexpr int ROPE_THREADS = 64;

template <typename T>
static __device__ __forceinline__ void turn(T* x, const int* positions, const float* table, int stride, int head_dim,
                                            int rotary_dim, int pairs) {
    const int half = rotary_dim / 2;
    const float* cosines = table + (long long)positions[blockIdx.x] * rotary_dim;
    T* head = x + (long long)blockIdx.x * stride + blockIdx.y * head_dim;
    for (int i = threadIdx.x; i < half; i += ROPE_THREADS) {
        T* first = head + (pairs ? 2 * i : i);
        T* second = head + (pairs ? 2 * i + 1 : i + half);
        const float a = widen(*first), b = widen(*second), cosine = cosines[i], sine = cosines[half + i];
        narrow(a * cosine - b * sine, *first);
        narrow(a * sine + b * cosine, *second);
    }
}

#define DEFINE(name, T)                                                                                                        \
    KERNEL(ROPE_THREADS, rope_##name, T* x, const int* positions, const float* table, int stride, int head_dim,               \
           int rotary_dim, int pairs) {                                                                                        \
        turn<T>(x, positions, table, stride, head_dim, rotary_dim, pairs);                                                     \
    }
DEFINE(f32, float) DEFINE(f16, f16) DEFINE(bf16, bf16)
