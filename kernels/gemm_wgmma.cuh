// gemm.cuh's product on sm_90a: the same arguments and write-out, wgmma in place of mma.sync.
//
// Two warpgroups of 64 rows each share a tile of 128 x 128. A pipeline of kNumStages stages, filled by cp.async in
// the 128-byte swizzle, feeds both factors from shared memory. Every element is one sum over k in steps of 16
// from k = 0, for every m: a row's bits depend on nothing but the row and the weights. They need not be those of
// the mma.sync tiles, as nobody documents the order inside a step.
#pragma once

#include "gemm.cuh"
#include "wgmma.cuh"

struct GemmWgmma {
    static constexpr int BLOCK_M = 128;
    static constexpr int BLOCK_N = 128;
    static constexpr int BLOCK_K = 64;
    static constexpr int kNumStages = 3;
    static constexpr int kThreads = BLOCK_M / kWgmmaM * kWarpgroup;
    static constexpr int kChunks = BLOCK_K / kVector;
    static constexpr int kRowBytes = BLOCK_K * 2;
    static constexpr uint kTileBytes = BLOCK_M * kRowBytes;
    static constexpr uint kStageBytes = kTileBytes + BLOCK_N * kRowBytes;
    // The swizzle is of addresses: its pattern begins at multiples of 1024 bytes.
    static constexpr uint kAlign = 1024;

    // Warps of 16 x 128: what a warp of a warpgroup holds, so the write-out is the same.
    using Layout = Gemm<BLOCK_M, BLOCK_N, BLOCK_K, BLOCK_M / 16, 1, kNumStages>;

    static constexpr int kRowsPerCopy = kThreads / kChunks;
    static constexpr int kCopies = BLOCK_M / kRowsPerCopy;
    static_assert(BLOCK_M == BLOCK_N, "one Source serves both factors");
    static_assert(kChunks == 8 && kRowsPerCopy % 8 == 0, "eight lanes copy a row of 128 bytes");

    // The rows of one factor that this thread copies. Past the end it copies row 0 again: what comes of it is never
    // written.
    struct Source {
        const __half* rows[kCopies];

        __device__ __forceinline__ Source(const __half* base, int first, int count, int stride) {
#pragma unroll
            for (int i = 0; i < kCopies; ++i) {
                const int row = first + static_cast<int>(threadIdx.x) / kChunks + i * kRowsPerCopy;
                rows[i] = row_of(base, row < count ? row : 0, stride);
            }
        }

        __device__ __forceinline__ void copy(uint tile, int column, int bytes) const {
            const int row = static_cast<int>(threadIdx.x) / kChunks;
            const int chunk = static_cast<int>(threadIdx.x) % kChunks;
            const uint dst = tile + static_cast<uint>(swizzle<kChunks>(row, chunk)) * 16;
#pragma unroll
            for (int i = 0; i < kCopies; ++i) {
                cp_async_16(dst + i * kRowsPerCopy * kRowBytes, rows[i] + column, bytes);
            }
        }
    };

    static __device__ __forceinline__ void multiply(float (&sums)[16][4], uint x, uint weight) {
        const unsigned long long a = wgmma_descriptor(x);
        const unsigned long long b = wgmma_descriptor(weight);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < BLOCK_K / 16; ++step) {
            // Descriptors count 16 bytes: a step is 16 halves.
            wgmma_m64n128k16(sums, a + step * 2, b + step * 2);
        }
        wgmma_commit();
    }

    static __device__ __forceinline__ void run(const GemmArgs& args) {
        // The same in all lanes, which the compiler cannot see: descriptors belong in uniform registers.
        const int warp = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x) / kWarp, 0);
        const int block_m = static_cast<int>(blockIdx.y) * BLOCK_M;
        const int block_n = static_cast<int>(blockIdx.x) * BLOCK_N;
        const int num_tiles = (args.k + BLOCK_K - 1) / BLOCK_K;
        const uint base = (shared_address(smem) + kAlign - 1) / kAlign * kAlign;
        const uint rows = static_cast<uint>(warp / (kWarpgroup / kWarp)) * kWgmmaM * kRowBytes;

        const Source x(args.x, block_m, args.m, args.x_stride);
        const Source weight(args.weight, block_n, args.n, args.weight_stride);
        const auto fetch = [&](int tile) {
            if (tile < num_tiles) {
                const int column =
                    tile * BLOCK_K + static_cast<int>(threadIdx.x) % kChunks * kVector;
                const int left = args.k - column;
                const int bytes = min(max(left, 0), kVector) * 2;
                const uint stage = base + tile % kNumStages * kStageBytes;
                x.copy(stage, left > 0 ? column : 0, bytes);
                weight.copy(stage + kTileBytes, left > 0 ? column : 0, bytes);
            }
            // Past the last tile the group is empty, so that the count of groups stays the tile's.
            cp_async_commit();
        };

        // Fill the pipeline.
#pragma unroll
        for (int tile = 0; tile < kNumStages - 1; ++tile) {
            fetch(tile);
        }

        float sums[1][16][4] = {};
#pragma unroll 1
        for (int tile = 0; tile < num_tiles; ++tile) {
            // The tile has landed for all threads, and all have multiplied the one before.
            cp_async_wait<kNumStages - 2>();
            fence_proxy_async();
            __syncthreads();
            const uint stage = base + tile % kNumStages * kStageBytes;
            multiply(sums[0], stage + rows, stage + kTileBytes);
            // Into the stage of the tile before, while this one multiplies.
            fetch(tile + kNumStages - 1);
            wgmma_wait(sums[0]);
        }

        // Write out: the stages become the slices.
        cp_async_wait<0>();
        __syncthreads();
        Layout::write_out(args, sums, block_m + warp * 16, block_n);
    }
};
