// y = x W for many rows: tiles of 32 rows and 64 columns, weights decoded into shared memory 32 of k at a time.
//
// grid (columns / 64, rows / 32, rounded up). W is as its file has it: `columns` rows of k values in blocks. For prompts. The sum of a value runs over k
// in order, whatever the tile.
#include "gguf.cuh"

constexpr int MATMUL_THREADS = 128;
constexpr int TILE_ROWS = 32, TILE_COLUMNS = 64, TILE_K = 32;
// One longer, so that reads down a column meet different banks.
constexpr int PITCH = TILE_K + 1;

template <typename Format, typename T>
static __device__ __forceinline__ void multiply(T* y, const T* x, const byte* weights, int rows, int columns, int k, int x_stride,
                                                int y_stride) {
    SHARED(float, x_tile, TILE_ROWS * PITCH);
    SHARED(float, weight_tile, TILE_COLUMNS * PITCH);
    const int first_row = blockIdx.y * TILE_ROWS, first_column = blockIdx.x * TILE_COLUMNS;
    // A thread has 4 neighbouring rows and every 16th column.
    const int own_row = threadIdx.x / 16 * 4, own_column = threadIdx.x % 16;
    const long long row_bytes = (long long)(k / Format::LEN) * Format::BYTES;
    float sums[4][4] = {};
    for (int start = 0; start < k; start += TILE_K) {
        const byte* blocks = weights + (long long)(start / Format::LEN) * Format::BYTES;
        const int in_block = start % Format::LEN;
        __syncthreads();
        for (int i = threadIdx.x; i < TILE_ROWS * TILE_K; i += MATMUL_THREADS) {
            const int row = first_row + i / TILE_K;
            x_tile[i / TILE_K * PITCH + i % TILE_K] =
                row < rows ? widen(x[(long long)row * x_stride + start + i % TILE_K]) : 0.0f;
        }
        for (int i = threadIdx.x; i < TILE_COLUMNS * TILE_K; i += MATMUL_THREADS) {
            const int column = first_column + i / TILE_K;
            weight_tile[i / TILE_K * PITCH + i % TILE_K] =
                column < columns ? Format::value(blocks + column * row_bytes, in_block + i % TILE_K) : 0.0f;
        }
        __syncthreads();
#pragma unroll 8
        for (int i = 0; i < TILE_K; i++) {
            float values[4], columns_here[4];
#pragma unroll
            for (int j = 0; j < 4; j++) values[j] = x_tile[(own_row + j) * PITCH + i];
#pragma unroll
            for (int j = 0; j < 4; j++) columns_here[j] = weight_tile[(own_column + 16 * j) * PITCH + i];
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int c = 0; c < 4; c++) sums[r][c] += values[r] * columns_here[c];
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int row = first_row + own_row + r, column = first_column + own_column + 16 * c;
            if (row < rows && column < columns) narrow(sums[r][c], y[(long long)row * y_stride + column]);
        }
}

#define DEFINE(format, Format, name, T)                                                                                        \
    KERNEL(MATMUL_THREADS, quantized_matmul_##format##_##name, T* y, const T* x, const byte* weights, int rows, int columns,  \
           int k, int x_stride, int y_stride) {                                                                                \
        multiply<Format, T>(y, x, weights, rows, columns, k, x_stride, y_stride);                                              \
    }
FOR_EACH_FORMAT(DEFINE)
