// Host emulation of the part of CUDA C that our kernels use, so that their source runs where no GPU is.
//
// A fiber for each thread of a block; blocks run one after another. A fiber runs until a barrier or a shuffle, and the order of
// fibers, warps and blocks is drawn from a seed: what depends on it is a race, and shows as results that differ between
// seeds. Shared memory is poisoned when a block begins. Stricter than a GPU: a barrier that only some threads reach, or
// that threads reach at different lines, is a fault even where the hardware would get away with it. What it cannot show:
// races between instructions of one stretch without barriers, memory order, and speed.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict

using std::max;
using std::min;

struct dim3 { unsigned x, y, z; };

namespace emulate {

enum class State { ready, block_barrier, warp_barrier, done, faulted };

struct Thread {
    // Where it goes on. A context only starts it: switching those asks the kernel for the signal mask each time.
    jmp_buf place;
    ucontext_t start;
    dim3 index;
    unsigned number;
    State state;
    int line;
    // Two, used in turn: one barrier a shuffle is enough, since nobody writes a slot twice before all have read it.
    uint64_t slots[2];
    unsigned turn;
};

inline dim3 grid_size, block_size, block_index;
inline std::vector<Thread> threads;
inline Thread* current;
inline jmp_buf scheduler;
inline ucontext_t creator;
inline void (*body)(void**);
inline void** arguments;
inline char fault[256];

// Leaves the fiber until the scheduler comes back to it.
__attribute__((noinline)) inline void leave(State state) {
    current->state = state;
    if (!_setjmp(current->place)) _longjmp(scheduler, 1);
}

__attribute__((noinline)) inline void enter(Thread& thread) {
    current = &thread;
    if (!_setjmp(scheduler)) _longjmp(thread.place, 1);
    current = nullptr;
}

// Ends the launch with a message; the fiber that calls is never resumed.
inline void fail(const char* format, ...) {
    if (!fault[0]) {
        va_list list;
        va_start(list, format);
        vsnprintf(fault, sizeof fault, format, list);
        va_end(list);
    }
    if (current) leave(State::faulted);
}

inline void wait(State state, int line) {
    current->line = line;
    leave(state);
}

// Shared memory of one declaration. Static, as only one block runs at a time.
struct Poisoned {
    void* bytes;
    size_t size;
    Poisoned* next;
    static inline Poisoned* first;
    Poisoned(void* bytes, size_t size) : bytes(bytes), size(size), next(first) {
        first = this;
        poison();
    }
    // All ones: not a number as f32, -1 as an int.
    void poison() { memset(bytes, 0xff, size); }
};

template <typename T, size_t COUNT> struct SharedArray {
    T values[COUNT];
    Poisoned poisoned{values, sizeof values};
    T& operator[](long long index) {
        if (index < 0 || index >= (long long)COUNT) fail("shared index %lld of %zu", index, COUNT);
        return values[index];
    }
};

struct Entry {
    const char* name;
    unsigned threads;
    void (*call)(void**);
    Entry* next;
    static inline Entry* first;
    Entry(const char* name, unsigned threads, void (*call)(void**)) : name(name), threads(threads), call(call), next(first) {
        first = this;
    }
};

template <typename... A, size_t... I>
void apply_each(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}
template <typename... A> void apply(void (*kernel)(A...), void** arguments) {
    apply_each(kernel, arguments, std::index_sequence_for<A...>());
}

// A fiber runs its thread of one block after another.
inline void run_thread() {
    Thread* me = current;
    if (!_setjmp(me->place)) swapcontext(&me->start, &creator);
    for (;;) {
        body(arguments);
        leave(State::done);
    }
}

struct Random {
    uint64_t state;
    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    void shuffle(std::vector<unsigned>& order) {
        for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[next() % i]);
    }
};

// Lets go the threads from `first` to `end` if all wait at one barrier of that kind; a barrier not all can reach is a fault.
inline bool release(unsigned first, unsigned end, State kind) {
    const char* name = kind == State::block_barrier ? "block" : "warp";
    unsigned waiting = 0, done = 0;
    int line = 0;
    for (unsigned i = first; i < end; i++) {
        done += threads[i].state == State::done;
        if (threads[i].state != kind) continue;
        if (waiting++ && threads[i].line != line)
            fail("barrier divergence: threads of one %s wait at lines %d and %d", name, line, threads[i].line);
        line = threads[i].line;
    }
    if (waiting && waiting + done == end - first && done)
        fail("barrier divergence: %u threads of a %s left before line %d, where %u wait", done, name, line, waiting);
    if (fault[0] || waiting != end - first) return false;
    for (unsigned i = first; i < end; i++) threads[i].state = State::ready;
    return true;
}

// Runs the ready threads from `first` to `end`, in an order of the seed's, and lets them go on together if all of them wait
// for each other. Answers whether any ran.
inline bool run_warp(unsigned first, unsigned end, Random& random, bool is_permuted) {
    bool has_run = false;
    std::vector<unsigned> order;
    for (unsigned i = first; i < end; i++) order.push_back(i);
    if (is_permuted) random.shuffle(order);
    for (unsigned i : order) {
        if (threads[i].state != State::ready) continue;
        enter(threads[i]);
        has_run = true;
        if (fault[0]) return true;
    }
    if (has_run) release(first, end, State::warp_barrier);
    return has_run;
}

// By seed 0 warps go side by side. By others one is drawn each time, so that some are far ahead: what they do too early, for
// want of a barrier, is seen by those behind.
inline void run_block(Random& random, bool is_permuted) {
    for (Poisoned* shared = Poisoned::first; shared; shared = shared->next) shared->poison();
    const unsigned count = (unsigned)threads.size(), warps = (count + 31) / 32;
    for (;;) {
        bool has_run = false;
        const unsigned drawn = is_permuted ? (unsigned)(random.next() % warps) : 0;
        for (unsigned i = 0; i < warps && !(is_permuted && has_run); i++) {
            const unsigned first = (drawn + i) % warps * 32;
            has_run |= run_warp(first, min(count, first + 32), random, is_permuted);
            if (fault[0]) return;
        }
        if (has_run) continue;
        if (release(0, count, State::block_barrier)) continue;
        if (fault[0]) return;
        bool is_done = true;
        for (Thread& thread : threads) is_done &= thread.state == State::done;
        if (!is_done) fail("barrier divergence: some threads wait for their warp and others for their block");
        return;
    }
}

inline void launch(void (*call)(void**), dim3 grid, dim3 block, uint64_t seed, void** parameters) {
    constexpr size_t STACK = 64 << 10;
    const unsigned count = block.x * block.y * block.z;
    grid_size = grid, block_size = block, body = call, arguments = parameters, fault[0] = 0, current = nullptr;
    char* stacks = (char*)mmap(nullptr, STACK * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stacks == MAP_FAILED) return fail("no memory for %u stacks", count);
    threads.resize(count);
    Random random{seed};
    std::vector<unsigned> blocks(grid.x * grid.y * grid.z);
    for (unsigned i = 0; i < blocks.size(); i++) blocks[i] = i;
    if (seed) random.shuffle(blocks);
    for (unsigned i = 0; i < count; i++) {
        Thread& thread = threads[i];
        thread.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        thread.number = i;
        getcontext(&thread.start);
        thread.start.uc_stack.ss_sp = stacks + STACK * i;
        thread.start.uc_stack.ss_size = STACK;
        thread.start.uc_link = nullptr;
        makecontext(&thread.start, run_thread, 0);
        current = &thread;
        swapcontext(&creator, &thread.start);
        current = nullptr;
    }
    for (unsigned number : blocks) {
        block_index = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
        for (Thread& thread : threads) thread.state = State::ready, thread.turn = 0;
        run_block(random, seed != 0);
        if (fault[0]) break;
    }
    munmap(stacks, STACK * count);
}

// What lane `from` of the caller's warp passes in the same shuffle.
template <typename T> T exchange(T value, unsigned from, int line) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    Thread* me = current;
    const unsigned turn = me->turn++ % 2, source = (me->number & ~31u) + from;
    if (source >= threads.size()) fail("shuffle from lane %u, which the block does not have (line %d)", from, line);
    memcpy(&me->slots[turn], &value, sizeof value);
    wait(State::warp_barrier, line);
    memcpy(&value, &threads[source].slots[turn], sizeof value);
    return value;
}

}  // namespace emulate

#define threadIdx (emulate::current->index)
#define blockIdx emulate::block_index
#define blockDim emulate::block_size
#define gridDim emulate::grid_size
#define __syncthreads() emulate::wait(emulate::State::block_barrier, __LINE__)
#define __syncwarp() emulate::wait(emulate::State::warp_barrier, __LINE__)
#define __shfl_xor_sync(mask, value, apart) emulate::exchange(value, emulate::current->number % 32 ^ (unsigned)(apart), __LINE__)
#define __shfl_sync(mask, value, from) emulate::exchange(value, (unsigned)(from) % 32, __LINE__)

inline float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, sizeof value); return value; }
inline unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, sizeof bits); return bits; }
inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }

// The one door of the library that a test loads. Sizes are the grid's and the block's; answers null, or what went wrong.
extern "C" __attribute__((visibility("default"))) const char* emulate_launch(const char* name, const unsigned* sizes,
                                                                            uint64_t seed, void** arguments) {
    for (emulate::Entry* entry = emulate::Entry::first; entry; entry = entry->next) {
        if (strcmp(entry->name, name)) continue;
        if (entry->threads != sizes[3] * sizes[4] * sizes[5]) {
            snprintf(emulate::fault, sizeof emulate::fault, "%s takes blocks of %u threads", name, entry->threads);
            return emulate::fault;
        }
        emulate::launch(entry->call, {sizes[0], sizes[1], sizes[2]}, {sizes[3], sizes[4], sizes[5]}, seed, arguments);
        return emulate::fault[0] ? emulate::fault : nullptr;
    }
    snprintf(emulate::fault, sizeof emulate::fault, "no kernel %s", name);
    return emulate::fault;
}
