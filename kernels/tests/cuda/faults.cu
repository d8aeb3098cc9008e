// Kernels with the mistakes that the emulation is there to find.
#include "common.cuh"

// Thread i reads what its neighbour may not have written yet.
KERNEL(64, race, int* out) {
    SHARED(int, values, 64);
    values[threadIdx.x] = (int)threadIdx.x;
    out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
}

// The same with the barrier that was missing.
KERNEL(64, no_race, int* out) {
    SHARED(int, values, 64);
    values[threadIdx.x] = (int)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
}

KERNEL(64, half_a_block_at_a_barrier, int* out) {
    if (threadIdx.x < 32) __syncthreads();
    out[threadIdx.x] = 1;
}

KERNEL(64, two_barriers, int* out) {
    if (threadIdx.x < 7) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = 1;
}

KERNEL(64, half_a_warp_shuffles, float* out) {
    float value = 1.0f;
    if (threadIdx.x % 32 < 16) value = warp_sum(value);
    out[threadIdx.x] = value;
}

KERNEL(64, past_shared_memory, int* out) {
    SHARED(int, values, 64);
    values[threadIdx.x + 1] = 1;
    out[threadIdx.x] = 1;
}

// The first block leaves a value behind that the second must not find.
KERNEL(64, never_written, float* out) {
    SHARED(float, values, 64);
    out[blockIdx.x * 64 + threadIdx.x] = values[threadIdx.x];
    values[threadIdx.x] = 1.0f;
}

KERNEL(64, sums, float* out) {
    SHARED(float, waiting, 2);
    out[threadIdx.x] = block_sum<2>((float)threadIdx.x, waiting);
}
