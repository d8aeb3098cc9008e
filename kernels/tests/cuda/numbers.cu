// Conversions, one value a thread.
#include "common.cuh"

KERNEL(128, convert, const float* in, f16* halves, bf16* brains, float* back) {
    const int i = blockIdx.x * 128 + threadIdx.x;
    narrow(in[i], halves[i]);
    narrow(in[i], brains[i]);
    back[i] = widen(halves[i]);
}
