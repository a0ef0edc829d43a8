// Softmax attention within each sequence of a packed batch, in the manner of FlashAttention-2.
//
// A block takes 64 queries of one head of one sequence; a warp takes 16 of them, so no sum crosses warps.
// Keys and values pass in tiles of 64 through two cp.async stages, in the sequence's order and cut at
// multiples of 64 of the sequence's own positions: batch mates change no bit. Softmax is in base 2; the query
// projection carries the factor log2(e) / sqrt(head_dim).
//
// NOTES: scores of keys outside the sequence or the window are -inf, and a tile of only such keys leaves the
// maximum at -inf: exponents subtract `safe`, never -inf from -inf.
#pragma once

#include "common.cuh"

// A row of `qkv` is [num_heads queries | num_kv_heads keys | num_kv_heads values] of kDim halves each.
// A block of `items` is (sequence, tile of 64 queries); sequence 0xffffffff ends the block, so that a captured
// graph may launch more blocks than the batch fills. Query t sees the keys from t - left to t + right;
// no bound is 1 << 30 (positions stay far below, so the sums do not overflow).
struct AttentionArgs {
    const __half* qkv;
    const uint* cu_seqlens;
    const uint2* items;
    __half* out;
    int num_heads, num_kv_heads;
    int qkv_stride, out_stride;
    int left, right;
    // 1: the first token of each sequence alone asks, and `out` has a row for each sequence.
    int first_only;
};

template <int kDim>
struct Attention {
    static constexpr int BLOCK_Q = 64;
    static constexpr int BLOCK_KV = 64;
    static constexpr int kThreads = 128;
    static constexpr int kRowsWarp = BLOCK_Q / (kThreads / kWarp);
    static constexpr int kChunks = kDim / kVector;
    static constexpr int kUnits = BLOCK_KV * kChunks;  // 16-byte units of a tile.
    static constexpr int kStepsQK = kDim / 16;
    static constexpr int kStepsPV = BLOCK_KV / 16;
    static constexpr int kTilesKV = BLOCK_KV / 8;
    static constexpr int kTilesDim = kDim / 8;

    static_assert(BLOCK_Q == BLOCK_KV, "queries borrow the tile of a value stage");
    static_assert(kRowsWarp == 16, "a warp owns one row of mma tiles");
    static_assert(kDim % 32 == 0, "Invalid head size");

    // One warp's sixteen queries; of each pair, the second is eight rows below the first.
    struct State {
        uint q[kStepsQK][4];
        float out[kTilesDim][4];
        float max[2];
        float sum[2];
    };

    // The keys that a row of queries may see: from `first` to before `end`.
    struct Range {
        int first, end;
    };

    static __device__ __forceinline__ void score(float (&s)[kTilesKV][4], const State& state,
                                                 uint keys) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
        for (int step = 0; step < kStepsQK; ++step) {
            const uint address = keys + static_cast<uint>(swizzle<kChunks>(
                lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2)) * 16;
#pragma unroll
            for (int j = 0; j < kTilesKV / 2; ++j) {
                uint k[4];
                ldmatrix_x4(k, address + j * 16 * kChunks * 16);
                mma_m16n8k16(s[2 * j], state.q[step], k[0], k[1]);
                mma_m16n8k16(s[2 * j + 1], state.q[step], k[2], k[3]);
            }
        }
    }

    // The keys that the queries from `query` on for `num` rows see, in the union or in the intersection.
    static __device__ __forceinline__ Range any(const AttentionArgs& args, int query, int num,
                                                int len) {
        return {query - args.left, min(query + num + args.right, len)};
    }

    static __device__ __forceinline__ Range all(const AttentionArgs& args, int query, int num,
                                                int len) {
        return {query + num - 1 - args.left, min(query + args.right + 1, len)};
    }

    // `seen` is what this lane's upper row sees, counted from its first key of the tile.
    static __device__ __forceinline__ void mask(float (&s)[kTilesKV][4], Range seen, int limit) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            // The lower row's range lies eight keys further, but ends with the sequence.
            const int first = seen.first + 8 * h;
            const int end = min(seen.end + 8 * h, limit);
#pragma unroll
            for (int j = 0; j < kTilesKV; ++j) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    if (j * 8 + i < first || j * 8 + i >= end) {
                        s[j][2 * h + i] = negative_infinity();
                    }
                }
            }
        }
    }

    // Turns scores into weights relative to the new maximum and rescales what is summed so far.
    static __device__ __forceinline__ void softmax(float (&s)[kTilesKV][4], State& state) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float max = state.max[h];
#pragma unroll
            for (int j = 0; j < kTilesKV; ++j) {
                max = fmaxf(max, fmaxf(s[j][2 * h], s[j][2 * h + 1]));
            }
            // A row lies in the four lanes of a quad.
            max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 1));
            max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 2));
            const float safe = max == negative_infinity() ? 0.0f : max;
            const float scale = ex2(state.max[h] - safe);
            state.max[h] = max;

            float sum = state.sum[h] * scale;
#pragma unroll
            for (int j = 0; j < kTilesKV; ++j) {
                s[j][2 * h] = ex2(s[j][2 * h] - safe);
                s[j][2 * h + 1] = ex2(s[j][2 * h + 1] - safe);
                sum += s[j][2 * h] + s[j][2 * h + 1];
            }
            // This lane's columns only; the quad is added once, at the end.
            state.sum[h] = sum;
#pragma unroll
            for (int j = 0; j < kTilesDim; ++j) {
                state.out[j][2 * h] *= scale;
                state.out[j][2 * h + 1] *= scale;
            }
        }
    }

    // out += weights * values. The accumulators of two score tiles are the A fragment of one k step.
    static __device__ __forceinline__ void mix(State& state, const float (&s)[kTilesKV][4],
                                               uint values) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        // The row's tile of sixteen is a multiple of the swizzle's period.
        uint addresses[kTilesDim / 2];
#pragma unroll
        for (int j = 0; j < kTilesDim / 2; ++j) {
            addresses[j] = values + static_cast<uint>(
                swizzle<kChunks>(lane % 16, j * 2 + lane / 16)) * 16;
        }
#pragma unroll
        for (int step = 0; step < kStepsPV; ++step) {
            const float* lo = s[2 * step];
            const float* hi = s[2 * step + 1];
            const uint p[4] = {to_half2(lo[0], lo[1]), to_half2(lo[2], lo[3]),
                               to_half2(hi[0], hi[1]), to_half2(hi[2], hi[3])};
#pragma unroll
            for (int j = 0; j < kTilesDim / 2; ++j) {
                uint v[4];
                ldmatrix_x4_trans(v, addresses[j] + step * 16 * kChunks * 16);
                mma_m16n8k16(state.out[2 * j], p, v[0], v[1]);
                mma_m16n8k16(state.out[2 * j + 1], p, v[2], v[3]);
            }
        }
    }

    // Divides by the sums and writes this warp's rows through its own part of shared memory.
    static __device__ __forceinline__ void write_out(State& state, __half* out, int stride,
                                                     int num_rows) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        uint4* rows = smem + static_cast<int>(threadIdx.x) / kWarp * kRowsWarp * kChunks;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float sum = state.sum[h];
            sum += __shfl_xor_sync(kFullMask, sum, 1);
            sum += __shfl_xor_sync(kFullMask, sum, 2);
            // A query that sees no key at all gives zeros.
            const float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
            const int row = h * 8 + lane / 4;
#pragma unroll
            for (int j = 0; j < kTilesDim; ++j) {
                reinterpret_cast<uint*>(rows + swizzle<kChunks>(row, j))[lane % 4] =
                    to_half2(state.out[j][2 * h] * scale, state.out[j][2 * h + 1] * scale);
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kRowsWarp * kChunks / kWarp; ++i) {
            const int unit = i * kWarp + lane;
            const int row = unit / kChunks;
            const int chunk = unit % kChunks;
            if (row < num_rows) {
                *reinterpret_cast<uint4*>(row_of(out, row, stride) + chunk * kVector) =
                    rows[swizzle<kChunks>(row, chunk)];
            }
        }
    }

    static __device__ __forceinline__ void run(const AttentionArgs& args) {
        const uint num_heads = static_cast<uint>(args.num_heads);
        const uint2 item = args.items[blockIdx.x / num_heads];
        if (item.x == 0xffffffffu) {
            return;
        }
        const int head = static_cast<int>(blockIdx.x % num_heads);
        const int kv_head = head / (args.num_heads / args.num_kv_heads);
        const uint begin = args.cu_seqlens[item.x];
        const int len = static_cast<int>(args.cu_seqlens[item.x + 1] - begin);
        const int num_queries = args.first_only != 0 ? min(len, 1) : len;
        const int first_query = static_cast<int>(item.y) * BLOCK_Q;
        if (first_query >= num_queries) {
            return;
        }
        const __half* rows = row_of(args.qkv, begin, args.qkv_stride);
        const __half* queries = rows + head * kDim;
        const __half* keys = rows + (args.num_heads + kv_head) * kDim;
        const __half* values = keys + args.num_kv_heads * kDim;

        // The block's keys, in whole tiles of the sequence.
        const int last_query = min(first_query + BLOCK_Q, num_queries) - 1;
        const int first_tile = max(first_query - args.left, 0) / BLOCK_KV;
        const int end_tile = (min(last_query + args.right + 1, len) + BLOCK_KV - 1) / BLOCK_KV;

        const uint base = shared_address(smem);
        const auto stage = [&](int tile) {
            return base + (tile - first_tile) % 2 * 2 * kUnits * 16;
        };
        const auto fetch = [&](int tile) {
            copy_rows<BLOCK_KV, kChunks, kThreads>(stage(tile), keys, tile * BLOCK_KV, len,
                                                   args.qkv_stride);
            copy_rows<BLOCK_KV, kChunks, kThreads>(stage(tile) + kUnits * 16, values,
                                                   tile * BLOCK_KV, len, args.qkv_stride);
            cp_async_commit();
        };

        // Queries land where the second tile's values will, and live in registers from then on.
        const uint query_tile = base + 3 * kUnits * 16;
        copy_rows<BLOCK_Q, kChunks, kThreads>(query_tile, queries, first_query, num_queries,
                                              args.qkv_stride);
        fetch(first_tile);
        cp_async_wait<0>();
        __syncthreads();

        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        const int warp_row = static_cast<int>(threadIdx.x) / kWarp * kRowsWarp;
        State state = {};
        state.max[0] = state.max[1] = negative_infinity();
#pragma unroll
        for (int step = 0; step < kStepsQK; ++step) {
            ldmatrix_x4(state.q[step], query_tile + static_cast<uint>(swizzle<kChunks>(
                warp_row + lane % 16, step * 2 + lane / 16)) * 16);
        }

        const int warp_query = first_query + warp_row;
        const int num_rows = num_queries - warp_query;
        for (int tile = first_tile; tile < end_tile; ++tile) {
            // This tile has landed for all threads, and all have left the one before.
            cp_async_wait<0>();
            __syncthreads();
            if (tile + 1 < end_tile) {
                fetch(tile + 1);
            }
            const int first_key = tile * BLOCK_KV;
            const int end_key = first_key + BLOCK_KV;
            // Warps without queries or without keys here only help to copy.
            const Range some = any(args, warp_query, kRowsWarp, len);
            if (num_rows > 0 && first_key < some.end && end_key > some.first) {
                float s[kTilesKV][4] = {};
                score(s, state, stage(tile));
                const Range whole = all(args, warp_query, kRowsWarp, len);
                if (first_key < whole.first || end_key > whole.end) {
                    const int query = warp_query + lane / 4;
                    const int key = first_key + lane % 4 * 2;
                    mask(s, {query - args.left - key, query + args.right + 1 - key}, len - key);
                }
                softmax(s, state);
                mix(state, s, stage(tile) + kUnits * 16);
            }
        }

        // Write out: shared memory becomes the rows of the output.
        __syncthreads();
        if (num_rows > 0) {
            const long long out_row = args.first_only != 0 ? item.x : begin + warp_query;
            write_out(state, row_of(args.out, out_row, args.out_stride) + head * kDim,
                      args.out_stride, num_rows);
        }
    }
};
