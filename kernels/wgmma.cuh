// The products of a warpgroup: PTX wrappers for sm_90a.
//
// NOTES: wgmma runs on its own time. Between its issue and its wait nobody may touch its sums or overwrite its
// tiles; ordinary writes of a tile (cp.async is one) need a fence.proxy.async before the barrier behind which it
// is read. The wait takes the sums as operands, so that no compiler moves their use before it.
#pragma once

#include "common.cuh"

constexpr int kWarpgroup = 128;
// Rows of a product of one warpgroup; each warp holds 16 of them.
constexpr int kWgmmaM = 64;

// Shows this thread's writes of shared memory, and those it has waited for, to wgmma.
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Before the first wgmma behind any other access to its sums.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// A tile with k innermost, rows of 128 bytes in the 128-byte swizzle (common.cuh's of eight chunks), from a
// multiple of 1024 bytes on. 32 bytes further are 16 further k. The leading offset means nothing here; the
// stride is that of eight rows.
__device__ __forceinline__ unsigned long long wgmma_descriptor(uint address) {
    constexpr unsigned long long kSwizzle128 = 1ull << 62;
    constexpr unsigned long long kStride = 1024ull / 16 << 32;
    constexpr unsigned long long kLeading = 1ull << 16;
    return kSwizzle128 | kStride | kLeading | (address & 0x3ffff) / 16;
}

// The 64 sums of a lane as operands.
#define WGMMA_FOUR(d, j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define WGMMA_SIXTEEN(d, j)                                   \
    WGMMA_FOUR(d, j), WGMMA_FOUR(d, j + 1),           \
        WGMMA_FOUR(d, j + 2), WGMMA_FOUR(d, j + 3)
#define WGMMA_SUMS(d)                                         \
    WGMMA_SIXTEEN(d, 0), WGMMA_SIXTEEN(d, 4),         \
        WGMMA_SIXTEEN(d, 8), WGMMA_SIXTEEN(d, 12)

// d += a * b with a [64, 16] and b [16, 128], both in shared memory with k innermost. Each warp has 16 rows, and of
// every eight columns what mma_m16n8k16 has.
__device__ __forceinline__ void wgmma_m64n128k16(float (&d)[16][4], unsigned long long a,
                                                 unsigned long long b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, 1, 1, 1, 0, 0;"
        : WGMMA_SUMS(d)
        : "l"(a), "l"(b)
        : "memory");
}

// Waits for all committed products, whose sums are d.
__device__ __forceinline__ void wgmma_wait(float (&d)[16][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : WGMMA_SUMS(d)::"memory");
}
