// SGMV, second half: y[row] += B v[row], with v the sum of the shrink's splits in their order, for ragged segments.
//
// grid (128 columns, row tiles of the longest segment, segments). Rows without an adapter are not touched.
#include "lora.cuh"

template <typename T, int RANK>
static __device__ __forceinline__ void expand(T* y, const float* partial, const T* const* b, const int* starts, int splits,
                                              int rows, int columns, int y_stride) {
    SHARED(float, v, LORA_ROWS * RANK);
    const int segment = blockIdx.z;
    const int first = starts[segment] + blockIdx.y * LORA_ROWS;
    const int tile_rows = min(LORA_ROWS, starts[segment + 1] - first);
    const T* matrix = b[segment];
    if (matrix == nullptr || tile_rows <= 0) return;

    for (int i = threadIdx.x; i < tile_rows * RANK; i += LORA_THREADS) {
        float sum = 0.0f;
        for (int split = 0; split < splits; split++)
            sum += partial[((long long)split * rows + first) * RANK + i];
        v[i] = sum;
    }
    __syncthreads();
    const int column = blockIdx.x * LORA_THREADS + threadIdx.x;
    if (column >= columns) return;
    float weights[RANK];
    load_expand_row<T, RANK>(matrix + (long long)column * RANK, weights);
    for (int row = 0; row < tile_rows; row++) {
        float sum = 0.0f;
#pragma unroll
        for (int r = 0; r < RANK; r++) sum += v[row * RANK + r] * weights[r];
        T* out = y + (long long)(first + row) * y_stride + column;
        narrow(widen(*out) + sum, *out);
    }
}

#define DEFINE(name, T, rank)                                                                                                  \
    KERNEL(LORA_THREADS, sgmv_expand_##name##_r##rank, T* y, const float* partial, const T* const* b, const int* starts,      \
           int splits, int rows, int columns, int y_stride) {                                                                  \
        expand<T, rank>(y, partial, b, starts, splits, rows, columns, y_stride);                                               \
    }
FOR_EACH_LORA(DEFINE)
