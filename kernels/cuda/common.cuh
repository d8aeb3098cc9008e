// What every kernel uses: numbers of 16 bits, sums over a warp and a block, and how a kernel is declared.
//
// No header of the toolkit is needed, so NVRTC compiles these files with nothing beside its own library. Under EMULATE the
// words of CUDA come from emulate/cuda.h and the host's compiler builds the same source.
#pragma once

#ifdef EMULATE
#include "emulate/cuda.h"
#endif

// Stored, never computed with: sums are f32.
struct f16 { unsigned short bits; };
struct bf16 { unsigned short bits; };

#ifdef EMULATE
#include "emulate/numbers.h"
// Registered by name, so that a test finds it as the driver would.
#define KERNEL(threads, name, ...)                                                                                             \
    static void name(__VA_ARGS__);                                                                                             \
    static emulate::Entry entry_##name(#name, threads, [](void** arguments) { emulate::apply(name, arguments); });             \
    static void name(__VA_ARGS__)
// Poisoned when a block begins, and every index is checked.
#define SHARED(type, name, count) static emulate::SharedArray<type, (count)> name
#else
// 512 threads on an SM are enough: left to choose, the compiler spills to fit more of them.
#define KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads, 512 / (threads)) name(__VA_ARGS__)
#define SHARED(type, name, count) __shared__ type name[count]

static __device__ __forceinline__ float widen(f16 value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}
static __device__ __forceinline__ float widen(bf16 value) { return __uint_as_float((unsigned)value.bits << 16); }
static __device__ __forceinline__ void narrow(float value, f16& out) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
}
static __device__ __forceinline__ void narrow(float value, bf16& out) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
}
#endif

static __device__ __forceinline__ float widen(float value) { return value; }
static __device__ __forceinline__ void narrow(float value, float& out) { out = value; }

// 16 bytes of a row, read at once: the address must be a multiple of 16.
template <typename T> struct alignas(16) Pack {
    static constexpr int LEN = 16 / sizeof(T);
    T values[LEN];
};

static __device__ __forceinline__ float negative_infinity() { return __uint_as_float(0xff800000u); }

constexpr unsigned WHOLE_WARP = 0xffffffffu;

// The pairs are the same in every lane, so all lanes get the same bits.
static __device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(WHOLE_WARP, value, apart);
    return value;
}

static __device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) value = fmaxf(value, __shfl_xor_sync(WHOLE_WARP, value, apart));
    return value;
}

// The sum over a block of WARPS whole warps, in every thread. Ends with reads of `waiting`: a second sum needs a barrier first.
template <int WARPS, typename Shared> static __device__ __forceinline__ float block_sum(float value, Shared& waiting) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) waiting[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) sum += waiting[warp];
    return sum;
}
