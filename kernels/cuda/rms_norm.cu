// out[row] = x / rms(x) * weight over rows of `columns`; where `residual` is given it is added to x first, and the sum kept in x.
//
// grid (rows, parts of a row), one block each: a row has one part, or as many as it has heads with a norm of their own, part p
// beginning at p * columns. Sums are f32, their order follows from `columns` alone. Weights are f32; a model that means 1 + w adds the 1 before.
#include "common.cuh"

constexpr int NORM_THREADS = 256;

template <typename T>
static __device__ __forceinline__ void norm(T* out, T* x, const T* residual, const float* weight, int columns, int x_stride,
                                            int out_stride, float epsilon) {
    SHARED(float, waiting, NORM_THREADS / 32);
    T* row = x + (long long)blockIdx.x * x_stride + (long long)blockIdx.y * columns;
    const long long out_start = (long long)blockIdx.x * out_stride + (long long)blockIdx.y * columns;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < columns; i += NORM_THREADS) {
        if (residual != nullptr) {
            // What is kept is what later layers read: the norm is taken of the rounded sum.
            narrow(widen(row[i]) + widen(residual[(long long)blockIdx.x * x_stride + blockIdx.y * columns + i]), row[i]);
        }
        const float value = widen(row[i]);
        squares += value * value;
    }
    const float sum = block_sum<NORM_THREADS / 32>(squares, waiting);
    const float scale = rsqrtf(sum / (float)columns + epsilon);
    // Each thread reads what itself has written.
    for (int i = threadIdx.x; i < columns; i += NORM_THREADS) narrow(widen(row[i]) * scale * weight[i], out[out_start + i]);
}

#define DEFINE(name, T)                                                                                                        \
    KERNEL(NORM_THREADS, rms_norm_##name, T* out, T* x, const T* residual, const float* weight, int columns, int x_stride,    \
           int out_stride, float epsilon) {                                                                                    \
        norm<T>(out, x, residual, weight, columns, x_stride, out_stride, epsilon);                                             \
    }
DEFINE(f32, float) DEFINE(f16, f16) DEFINE(bf16, bf16)
