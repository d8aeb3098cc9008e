// BGMV, second half: y[row] += B v[row], an adapter a row.
//
// grid (128 columns, rows), a thread a column. adapters[row] is an index into `b`, or -1: such a row is not touched.
#include "lora.cuh"

template <typename T, int RANK>
static __device__ __forceinline__ void expand(T* y, const float* v, const T* const* b, const int* adapters, int columns,
                                              int y_stride) {
    SHARED(float, shrunk, RANK);
    const int row = blockIdx.y;
    const int adapter = adapters[row];
    if (adapter < 0) return;
    if (threadIdx.x < RANK) shrunk[threadIdx.x] = v[(long long)row * RANK + threadIdx.x];
    __syncthreads();
    const int column = blockIdx.x * LORA_THREADS + threadIdx.x;
    if (column >= columns) return;
    float weights[RANK];
    load_expand_row<T, RANK>(b[adapter] + (long long)column * RANK, weights);
    float sum = 0.0f;
#pragma unroll
    for (int r = 0; r < RANK; r++) sum += shrunk[r] * weights[r];
    T* out = y + (long long)row * y_stride + column;
    narrow(widen(*out) + sum, *out);
}

#define DEFINE(name, T, rank)                                                                                                  \
    KERNEL(LORA_THREADS, bgmv_expand_##name##_r##rank, T* y, const float* v, const T* const* b, const int* adapters,          \
           int columns, int y_stride) {                                                                                        \
        expand<T, rank>(y, v, b, adapters, columns, y_stride);                                                                 \
    }
FOR_EACH_LORA(DEFINE)
