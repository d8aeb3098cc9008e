// y = x W for a few rows: a warp a column, each weight decoded once for up to four rows.
//
// grid (columns / 4, rows / 4, rounded up). W is as its file has it: `columns` rows of k values in blocks. For rows that decode: what bounds
// them is reading W. A row's sums do not depend on how many it is with.
#include "gguf.cuh"

constexpr int ROWS_THREADS = 128;
constexpr int ROWS = 4;

template <typename Format, typename T>
static __device__ __forceinline__ void multiply(T* y, const T* x, const byte* weights, int rows, int columns, int k, int x_stride,
                                                int y_stride) {
    const int column = blockIdx.x * (ROWS_THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first_row = blockIdx.y * ROWS;
    // Whole warps: no lane waits for one that left.
    if (column >= columns) return;
    const byte* block = weights + (long long)column * (k / Format::LEN) * Format::BYTES;
    float sums[ROWS] = {};
    for (int start = 0; start < k; start += Format::LEN, block += Format::BYTES) {
#pragma unroll
        for (int i = lane; i < Format::LEN; i += 32) {
            const float weight = Format::value(block, i);
#pragma unroll
            for (int row = 0; row < ROWS; row++)
                if (first_row + row < rows) sums[row] += weight * widen(x[(long long)(first_row + row) * x_stride + start + i]);
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        const float sum = warp_sum(sums[row]);
        if (lane == 0 && first_row + row < rows) narrow(sum, y[(long long)(first_row + row) * y_stride + column]);
    }
}

#define DEFINE(format, Format, name, T)                                                                                        \
    KERNEL(ROWS_THREADS, quantized_rows_##format##_##name, T* y, const T* x, const byte* weights, int rows, int columns,      \
           int k, int x_stride, int y_stride) {                                                                                \
        multiply<Format, T>(y, x, weights, rows, columns, k, x_stride, y_stride);                                              \
    }
FOR_EACH_FORMAT(DEFINE)
