// SGMV, first half: partial[split][row][r] = the sum over one split of k of A[r] x[row], for ragged segments.
//
// grid (splits of k, row tiles of the longest segment, segments). A segment with no matrix (null) or no rows costs its blocks
// an exit. The splits are summed by sgmv_expand, in order.
#include "lora.cuh"

// What lies in shared memory at a time; rows of it are one longer, so that reads down a column meet different banks.
constexpr int STEP = 64;
constexpr int PITCH = STEP + 1;

template <typename T, int RANK>
static __device__ __forceinline__ void shrink(float* partial, const T* x, const T* const* a, const int* starts, int rows, int k,
                                              int x_stride) {
    SHARED(float, x_tile, LORA_ROWS * PITCH);
    SHARED(float, a_tile, RANK * PITCH);
    const int segment = blockIdx.z;
    const int first = starts[segment] + blockIdx.y * LORA_ROWS;
    const int end = starts[segment + 1];
    const T* matrix = a[segment];
    if (matrix == nullptr || first >= end) return;

    const int tile_row = threadIdx.x / 8, lane = threadIdx.x % 8;
    const int split_start = blockIdx.x * LORA_SPLIT;
    const int split_end = min(k, split_start + LORA_SPLIT);
    float sums[RANK / 8] = {};
    for (int start = split_start; start < split_end; start += STEP) {
        __syncthreads();
        for (int i = threadIdx.x; i < LORA_ROWS * STEP; i += LORA_THREADS) {
            const int row = first + i / STEP, column = start + i % STEP;
            const bool is_there = row < end && column < split_end;
            x_tile[i / STEP * PITCH + i % STEP] = is_there ? widen(x[(long long)row * x_stride + column]) : 0.0f;
        }
        for (int i = threadIdx.x; i < RANK * STEP; i += LORA_THREADS) {
            const int column = start + i % STEP;
            a_tile[i / STEP * PITCH + i % STEP] = column < split_end ? widen(matrix[(long long)(i / STEP) * k + column]) : 0.0f;
        }
        __syncthreads();
#pragma unroll 8
        for (int i = 0; i < STEP; i++) {
            const float value = x_tile[tile_row * PITCH + i];
#pragma unroll
            for (int r = 0; r < RANK / 8; r++) sums[r] += value * a_tile[(lane + 8 * r) * PITCH + i];
        }
    }
    const int row = first + tile_row;
    if (row >= end) return;
    float* out = partial + ((long long)blockIdx.x * rows + row) * RANK;
#pragma unroll
    for (int r = 0; r < RANK / 8; r++) out[lane + 8 * r] = sums[r];
}

#define DEFINE(name, T, rank)                                                                                                  \
    KERNEL(LORA_THREADS, sgmv_shrink_##name##_r##rank, float* partial, const T* x, const T* const* a, const int* starts,      \
           int rows, int k, int x_stride) {                                                                                    \
        shrink<T, rank>(partial, x, a, starts, rows, k, x_stride);                                                             \
    }
FOR_EACH_LORA(DEFINE)
