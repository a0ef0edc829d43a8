// What the kernels share: one wrapper for each PTX instruction, swizzled tiles, vectors, reductions.
//
// NOTES: the sources compile under nvcc 13, NVRTC 12.9 and 13, and clang 19. So: no host code, no INFINITY,
// and `extern __shared__` only here (a second declaration becomes a second symbol under NVRTC).
#pragma once

#include <cuda_fp16.h>

using uint = unsigned int;

// Dynamic shared memory of the one kernel in the file. A tile in it begins at a multiple of 128 bytes.
extern __shared__ __align__(128) uint4 smem[];

constexpr uint kFullMask = 0xffffffffu;
constexpr int kWarp = 32;
// Halves in a 16-byte vector. Rows of activations and weights begin at multiples of it.
constexpr int kVector = 8;

// NVRTC has neither INFINITY nor a builtin for it.
__device__ __forceinline__ float negative_infinity() {
    return __int_as_float(static_cast<int>(0xff800000u));
}

// === PTX ===

// NOTES: volatile and the memory clobber keep the order of copies, barriers and fragment loads; the
// compiler does not know that ldmatrix reads what cp.async wrote.

__device__ __forceinline__ uint shared_address(const void* ptr) {
    return static_cast<uint>(__cvta_generic_to_shared(ptr));
}

// Copies 16 bytes past L1; the `16 - bytes` behind the source's end become zeros. With 0 bytes nothing is
// read, but the address must still be a valid one.
__device__ __forceinline__ void cp_async_16(uint dst, const void* src, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes)
                 : "memory");
}

// The same of 16 bytes that are there.
__device__ __forceinline__ void cp_async_16(uint dst, const void* src) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
}

__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `kPending` of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Waits for `kThreads` threads of the block, wherever in the code they wait.
template <int kThreads>
__device__ __forceinline__ void barrier() {
    asm volatile("bar.sync 0, %0;" ::"n"(kThreads) : "memory");
}

// Four 8x8 matrices; lane `i` gives the address of row `i % 8` of matrix `i / 8`.
__device__ __forceinline__ void ldmatrix_x4(uint (&r)[4], uint address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint (&r)[4], uint address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// d += a * b with a [16, 16], b [16, 8]. Lane `i` holds of d: rows `i / 4` and `i / 4 + 8`, columns
// `i % 4 * 2` and the next.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint (&a)[4], uint b0, uint b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d = a * b + c.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint (&a)[4], uint b0, uint b1,
                                             const float (&c)[4]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
}

// 2^x within 2 ulp; 2^-inf is 0. (tanh.approx has no wrapper: its error of 2^-11 doubles that of an fp16.)
__device__ __forceinline__ float ex2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1/x within 1 ulp; 1/inf is 0.
__device__ __forceinline__ float rcp(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The same number, but as if new: what is computed from it holds no register through a loop around it.
__device__ __forceinline__ uint anew(uint x) {
    uint y;
    asm volatile("mov.b32 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// The thread's number, read from its special register here.
__device__ __forceinline__ int thread_anew() {
    int x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

// === Rows and swizzled tiles ===

// Rows times width passes 2^31 at 700,000 tokens of width 3072.
template <typename T>
__device__ __forceinline__ T* row_of(T* base, long long row, int stride) {
    return base + row * stride;
}

// The 16-byte unit where chunk `chunk` of row `row` lies in a tile of rows of `kChunks` units. The eight
// rows that one ldmatrix phase reads at the same chunk fall in eight different bank groups.
template <int kChunks>
__device__ __forceinline__ int swizzle(int row, int chunk) {
    static_assert(kChunks % 2 == 0, "a row is a multiple of 32 bytes");
    // Rows of 128 bytes start at the same bank; rows of 64 or 192 bytes at two in turn, of 96 bytes at four.
    return row * kChunks + (kChunks % 8 == 0   ? chunk ^ (row & 7)
                            : kChunks % 4 == 0 ? chunk ^ ((row >> 1) & 3)
                                               : chunk ^ ((row >> 2) & 1));
}

// The address of a chunk `chunks` behind the one at `address`. The number of that one and `chunks` must have no bit
// in common: then the swizzle of the sum is the sum's.
template <int kChunks>
__device__ __forceinline__ uint along(uint address, int chunks) {
    constexpr int kSwizzled = kChunks % 8 == 0 ? 7 : kChunks % 4 == 0 ? 3 : 1;
    return (address ^ static_cast<uint>(chunks & kSwizzled) * 16) + (chunks & ~kSwizzled) * 16;
}

// How a block copies a tile of `kRows` rows of `kChunks` chunks: four lanes take 64 bytes of a row at a time, of
// rows of 96 bytes two lanes 32. Eight lanes that write at once fill all banks: neighbours of 64, 96 or 192
// bytes, or two rows of 128 bytes whose swizzles differ in the upper bit.
template <int kRows, int kChunks, int kThreads>
struct TileCopy {
    static constexpr int kLanes = kChunks % 4 == 0 ? 4 : 2;
    static constexpr int kRowsAtOnce = kThreads / kLanes;
    static constexpr int kRounds = kRows / kRowsAtOnce;
    static constexpr int kParts = kChunks / kLanes;
    // So the swizzle of a thread's first row serves all its rows.
    static_assert(kRowsAtOnce % 8 == 0 && kRows % kRowsAtOnce == 0, "Invalid tile");

    static __device__ __forceinline__ int row(int thread) {
        const int quad = thread / kLanes;
        return kChunks % 8 == 0 ? quad / 8 * 8 + quad % 2 * 4 + quad / 2 % 4 : quad;
    }

    static __device__ __forceinline__ int chunk(int thread) {
        return thread % kLanes;
    }

    // Bytes from the tile's begin to where this thread's chunk of round `i` and part `c` goes.
    static __device__ __forceinline__ uint target(int thread, int i, int c) {
        const uint first = static_cast<uint>(swizzle<kChunks>(row(thread), chunk(thread))) * 16;
        return along<kChunks>(first, c * kLanes) + i * kRowsAtOnce * kChunks * 16;
    }

    // Where this thread's chunk of a tile at row 0 begins; the copies below start from there.
    static __device__ __forceinline__ const __half* source(const __half* base, int stride) {
        return row_of(base, row(threadIdx.x), stride) + chunk(threadIdx.x) * kVector;
    }

    // Rows from `first` on; those at `len` and behind become zeros.
    static __device__ __forceinline__ void copy(uint tile, const __half* source, int first, int len,
                                                int stride) {
        const int thread = thread_anew();
#pragma unroll 1
        for (int i = 0; i < kRounds; ++i) {
            const int at = first + i * kRowsAtOnce;
            const bool inside = at + row(thread) < len;
            const __half* src = row_of(source, inside ? at : -row(thread), stride);
#pragma unroll
            for (int c = 0; c < kParts; ++c) {
                cp_async_16(tile + target(thread, i, c), src + c * kLanes * kVector, inside ? 16 : 0);
            }
        }
    }

    // The same of rows that are all there.
    static __device__ __forceinline__ void copy_whole(uint tile, const __half* source, int first,
                                                      int stride) {
        const __half* src = row_of(source, first, stride);
#pragma unroll
        for (int i = 0; i < kRounds; ++i) {
#pragma unroll
            for (int c = 0; c < kParts; ++c) {
                cp_async_16(tile + target(threadIdx.x, i, c), src + c * kLanes * kVector);
            }
            src = row_of(src, kRowsAtOnce, stride);
        }
    }
};

// === Vectors ===

__device__ __forceinline__ float2 to_float2(uint pair) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

__device__ __forceinline__ uint to_half2(float lo, float hi) {
    const __half2 pair = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<const uint*>(&pair);
}

__device__ __forceinline__ void to_floats(float (&x)[kVector], const uint4& v) {
    const uint words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 pair = to_float2(words[i]);
        x[2 * i] = pair.x;
        x[2 * i + 1] = pair.y;
    }
}

__device__ __forceinline__ uint4 to_halves(const float (&x)[kVector]) {
    return make_uint4(to_half2(x[0], x[1]), to_half2(x[2], x[3]), to_half2(x[4], x[5]),
                      to_half2(x[6], x[7]));
}

__device__ __forceinline__ void load_halves(float (&x)[kVector], const __half* ptr) {
    to_floats(x, *reinterpret_cast<const uint4*>(ptr));
}

__device__ __forceinline__ void store_halves(__half* ptr, const float (&x)[kVector]) {
    *reinterpret_cast<uint4*>(ptr) = to_halves(x);
}

__device__ __forceinline__ void load_floats(float (&x)[kVector], const float* ptr) {
    const float4 lo = reinterpret_cast<const float4*>(ptr)[0];
    const float4 hi = reinterpret_cast<const float4*>(ptr)[1];
    x[0] = lo.x, x[1] = lo.y, x[2] = lo.z, x[3] = lo.w;
    x[4] = hi.x, x[5] = hi.y, x[6] = hi.z, x[7] = hi.w;
}

__device__ __forceinline__ void store_floats(float* ptr, const float (&x)[kVector]) {
    reinterpret_cast<float4*>(ptr)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4*>(ptr)[1] = make_float4(x[4], x[5], x[6], x[7]);
}

// === Reductions ===

// A butterfly: every lane gets the same bits, in an order that no data changes.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(kFullMask, x, offset);
    }
    return x;
}

// The sum over a block of whole warps, at most 32 of them. `partial` has a float for each warp.
__device__ __forceinline__ float block_sum(float x, float* partial) {
    x = warp_sum(x);
    const int num_warps = static_cast<int>(blockDim.x) / kWarp;
    if (num_warps == 1) {
        return x;
    }
    // The sum before this one may still be read.
    __syncthreads();
    if (threadIdx.x % kWarp == 0) {
        partial[threadIdx.x / kWarp] = x;
    }
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < num_warps; ++warp) {
        sum += partial[warp];
    }
    return sum;
}

// === Activations ===

constexpr float kLog2E = 1.44269504088896341f;

__device__ __forceinline__ float sigmoid(float x) {
    return rcp(1.0f + ex2(-kLog2E * x));
}

__device__ __forceinline__ float gelu_erf(float x) {
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

// (1 + tanh(u)) / 2 is the sigmoid of 2u, which does not cancel where tanh is near -1.
__device__ __forceinline__ float gelu_tanh(float x) {
    const float u = 0.79788456080286536f * (x + 0.044715f * x * x * x);
    return x * sigmoid(2.0f * u);
}

// base + cap * tanh(x / cap). The latter is cap - 2 cap / (1 + e^(2 x / cap)): near 0 off by some 2^-23 of the cap,
// far below what a weight of attention loses as f16.
__device__ __forceinline__ float soft_cap(float x, float cap, float base) {
    const float below = rcp(1.0f + ex2(2.0f * kLog2E * rcp(cap) * x));
    return fmaf(-2.0f * cap, below, cap + base);
}
