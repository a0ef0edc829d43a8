// Late interaction: score = sum over query tokens of the maximum over document tokens of query . document
//
// A block makes one score. Tiles of 64 document tokens pass through two cp.async stages and are never stored as
// similarities; each warp keeps, in registers, the maxima of 32 query tokens over its 16 tokens of every tile.
// A maximum has no order, and the sum over query tokens has a fixed one.
//
// NOTES: fmaxf skips NaN, so a NaN token is silently no maximum. The host refuses a score that is -inf.
#pragma once

#include "common.cuh"

// Rows of `queries` and `docs` are kDim halves, one after another; cu_* mark where each begins. A block of
// `pairs` is (query, document); query 0xffffffff ends the block.
struct MaxSimArgs {
    const __half* queries;
    const uint* cu_queries;
    const __half* docs;
    const uint* cu_docs;
    const uint2* pairs;
    float* scores;
};

template <int kDim>
struct MaxSim {
    static constexpr int BLOCK_Q = 32;
    static constexpr int BLOCK_DOC = 64;
    static constexpr int kThreads = 128;
    static constexpr int kWarps = kThreads / kWarp;
    static constexpr int kChunks = kDim / kVector;
    static constexpr int kUnitsDoc = BLOCK_DOC * kChunks;
    static constexpr int kUnitsQuery = BLOCK_Q * kChunks;
    static constexpr int kSteps = kDim / 16;

    static_assert(BLOCK_DOC == kWarps * 16, "a warp owns sixteen document tokens of a tile");
    static_assert(BLOCK_Q == kWarp, "a lane adds one query token");

    using Docs = TileCopy<BLOCK_DOC, kChunks, kThreads>;
    using Queries = TileCopy<BLOCK_Q, kChunks, kThreads>;

    // The similarities of 32 query tokens with this warp's 16 tokens of a tile, folded into `max`: of each
    // pair of query rows that a lane holds, the second is eight rows below.
    static __device__ __forceinline__ void fold(float (&max)[2][2], const uint (&q)[2][kSteps][4],
                                                uint tile, int first_doc, int len) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        const int warp_doc = static_cast<int>(threadIdx.x) / kWarp * 16;
        float s[2][2][4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            uint d[4];
            ldmatrix_x4(d, tile + static_cast<uint>(swizzle<kChunks>(
                warp_doc + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2)) * 16);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                mma_m16n8k16(s[i][0], q[i][step], d[0], d[1]);
                mma_m16n8k16(s[i][1], q[i][step], d[2], d[3]);
            }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int at = 0; at < 4; ++at) {
                    // Zeros behind the document's end are no similarities.
                    if (first_doc + warp_doc + j * 8 + lane % 4 * 2 + at % 2 < len) {
                        max[i][at / 2] = fmaxf(max[i][at / 2], s[i][j][at]);
                    }
                }
            }
        }
    }

    static __device__ __forceinline__ void run(const MaxSimArgs& args) {
        __shared__ float maxima[kWarps][BLOCK_Q];
        const uint2 pair = args.pairs[blockIdx.x];
        if (pair.x == 0xffffffffu) {
            return;
        }
        const uint begin_query = args.cu_queries[pair.x];
        const uint begin_doc = args.cu_docs[pair.y];
        const int query_len = static_cast<int>(args.cu_queries[pair.x + 1] - begin_query);
        const int doc_len = static_cast<int>(args.cu_docs[pair.y + 1] - begin_doc);
        if (doc_len == 0) {
            // A document without tokens is similar to nothing.
            if (threadIdx.x == 0) {
                args.scores[blockIdx.x] = 0.0f;
            }
            return;
        }
        const __half* query = row_of(args.queries, begin_query, kDim);
        const __half* doc = row_of(args.docs, begin_doc, kDim);
        const int num_tiles = (doc_len + BLOCK_DOC - 1) / BLOCK_DOC;
        const uint query_tile = shared_address(smem);
        const auto stage = [&](int tile) {
            return query_tile + (kUnitsQuery + tile % 2 * kUnitsDoc) * 16;
        };
        const auto fetch = [&](int tile) {
            Docs::copy(stage(tile), Docs::source(doc, kDim), tile * BLOCK_DOC, doc_len, kDim);
            cp_async_commit();
        };

        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        const int warp = static_cast<int>(threadIdx.x) / kWarp;
        // Lane `i` of warp 0 adds query tokens i, i + 32, ...
        float sum = 0.0f;
        for (int first_query = 0; first_query < query_len; first_query += BLOCK_Q) {
            // The first tiles; queries live in registers from then on.
            Queries::copy(query_tile, Queries::source(query, kDim), first_query, query_len, kDim);
            fetch(0);
            cp_async_wait<0>();
            __syncthreads();
            uint q[2][kSteps][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int step = 0; step < kSteps; ++step) {
                    ldmatrix_x4(q[i][step], query_tile + static_cast<uint>(swizzle<kChunks>(
                        i * 16 + lane % 16, step * 2 + lane / 16)) * 16);
                }
            }

            const float none = negative_infinity();
            float max[2][2] = {{none, none}, {none, none}};
            for (int tile = 0; tile < num_tiles; ++tile) {
                // This tile has landed for all threads, and all have left the one before.
                cp_async_wait<0>();
                __syncthreads();
                if (tile + 1 < num_tiles) {
                    fetch(tile + 1);
                }
                fold(max, q, stage(tile), tile * BLOCK_DOC, doc_len);
            }

            // The maximum over a quad, then over the warps.
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    float m = max[i][h];
                    m = fmaxf(m, __shfl_xor_sync(kFullMask, m, 1));
                    m = fmaxf(m, __shfl_xor_sync(kFullMask, m, 2));
                    if (lane % 4 == 0) {
                        maxima[warp][i * 16 + h * 8 + lane / 4] = m;
                    }
                }
            }
            // Also lets the next round of queries overwrite the tiles.
            __syncthreads();
            if (warp == 0 && first_query + lane < query_len) {
                float m = maxima[0][lane];
#pragma unroll
                for (int other = 1; other < kWarps; ++other) {
                    m = fmaxf(m, maxima[other][lane]);
                }
                sum += m;
            }
        }
        if (warp == 0) {
            sum = warp_sum(sum);
            if (lane == 0) {
                args.scores[blockIdx.x] = sum;
            }
        }
    }
};
