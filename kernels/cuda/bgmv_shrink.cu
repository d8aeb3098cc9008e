// BGMV, first half: v[row][r] = A[r] x[row], an adapter a row.
//
// grid (RANK / 4, rows), one warp for each value of v. adapters[row] is an index into `a`, or -1. Rows of x and A are read 16
// bytes at a time: k and x_stride are multiples of 16 bytes.
#include "lora.cuh"

template <typename T, int RANK>
static __device__ __forceinline__ void shrink(float* v, const T* x, const T* const* a, const int* adapters, int k, int x_stride) {
    const int row = blockIdx.y;
    const int adapter = adapters[row];
    if (adapter < 0) return;
    const int r = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    const Pack<T>* weights = reinterpret_cast<const Pack<T>*>(a[adapter] + (long long)r * k);
    const Pack<T>* values = reinterpret_cast<const Pack<T>*>(x + (long long)row * x_stride);
    float sum = 0.0f;
#pragma unroll 2
    for (int i = lane; i < k / Pack<T>::LEN; i += 32) {
        const Pack<T> weight = weights[i], value = values[i];
#pragma unroll
        for (int j = 0; j < Pack<T>::LEN; j++) sum += widen(weight.values[j]) * widen(value.values[j]);
    }
    sum = warp_sum(sum);
    if (lane == 0) v[(long long)row * RANK + r] = sum;
}

#define DEFINE(name, T, rank)                                                                                                  \
    KERNEL(LORA_THREADS, bgmv_shrink_##name##_r##rank, float* v, const T* x, const T* const* a, const int* adapters, int k,   \
           int x_stride) {                                                                                                     \
        shrink<T, rank>(v, x, a, adapters, k, x_stride);                                                                       \
    }
FOR_EACH_LORA(DEFINE)
