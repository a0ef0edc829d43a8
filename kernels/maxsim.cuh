// Late interaction: score = sum over query tokens of the maximum over document tokens of query . document
//
// A block makes one score. Tiles of 64 document tokens pass through two cp.async stages and are never stored as
// similarities; each warp keeps, in registers, the maxima of 32 query tokens over its 16 tokens of every tile.
// A maximum has no order, and the sum over query tokens has a fixed one. `Tokens` tells how document tokens are
// stored and multiplied: HalfTokens here, ByteTokens in maxsim_i8.cuh.
//
// NOTES: fmaxf skips NaN, so a NaN token is silently no maximum. The host refuses a score that is -inf.
#pragma once

#include "common.cuh"

// Rows of `queries` and `docs` are kDim elements, one after another; cu_* mark where each begins. A block of
// `pairs` is (query, document); query 0xffffffff ends the block. `scales` are of ByteTokens alone.
struct MaxSimArgs {
    const __half* queries;
    const uint* cu_queries;
    const void* docs;
    const float* scales;
    const uint* cu_docs;
    const uint2* pairs;
    float* scores;
};

// The fragments of 32 query tokens: for each step of 16 columns, two rows of mma tiles.
template <int kSteps>
using QueryFragments = uint[2][kSteps][4];

// Similarities of 32 query tokens with a warp's 16 document tokens: of each pair of rows that a lane holds, the
// second is eight below.
using Similarities = float[2][2][4];

template <int kDimension>
struct HalfTokens {
    static constexpr int kDim = kDimension;
    static constexpr int kChunks = kDim / kVector;  // Of a document's row.
    static constexpr int kSteps = kDim / 16;
    static constexpr int kQueryUnits = 32 * kChunks;
    static constexpr bool kScaled = false;

    // Brings queries from row `first` on to registers, by way of shared memory at `tile`.
    template <int kThreads>
    static __device__ __forceinline__ void load_queries(QueryFragments<kSteps>& q, uint tile,
                                                        const __half* queries, int first, int len) {
        using Copy = TileCopy<32, kChunks, kThreads>;
        Copy::copy(tile, Copy::source(queries, kDim), first, len, kDim);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int step = 0; step < kSteps; ++step) {
                ldmatrix_x4(q[i][step], tile + static_cast<uint>(swizzle<kChunks>(
                    i * 16 + lane % 16, step * 2 + lane / 16)) * 16);
            }
        }
    }

    // `doc` is the warp's first row of the tile.
    static __device__ __forceinline__ void multiply(Similarities& s, const QueryFragments<kSteps>& q,
                                                    uint tile, int doc) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            uint d[4];
            ldmatrix_x4(d, tile + static_cast<uint>(swizzle<kChunks>(
                doc + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2)) * 16);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                mma_m16n8k16(s[i][0], q[i][step], d[0], d[1]);
                mma_m16n8k16(s[i][1], q[i][step], d[2], d[3]);
            }
        }
    }
};

template <class Tokens>
struct MaxSim {
    static constexpr int BLOCK_Q = 32;
    static constexpr int BLOCK_DOC = 64;
    static constexpr int kThreads = 128;
    static constexpr int kWarps = kThreads / kWarp;
    static constexpr int kUnitsDoc = BLOCK_DOC * Tokens::kChunks;

    static_assert(BLOCK_DOC == kWarps * 16, "a warp owns sixteen document tokens of a tile");
    static_assert(BLOCK_Q == kWarp, "a lane adds one query token");
    using Docs = TileCopy<BLOCK_DOC, Tokens::kChunks, kThreads>;

    // The document token, from the warp's first on, of this lane's similarity `at` of column tile `j`.
    static __device__ __forceinline__ int token(int j, int at) {
        return j * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + at % 2;
    }

    // Folds the similarities with this warp's tokens of the tile into `max`; `kWhole` if all are there.
    template <bool kWhole>
    static __device__ __forceinline__ void fold(float (&max)[2][2],
                                                const QueryFragments<Tokens::kSteps>& q, uint tile,
                                                const float* scales, int first_doc, int len) {
        const int warp_doc = static_cast<int>(threadIdx.x) / kWarp * 16;
        const int doc = first_doc + warp_doc;
        float scale[2][2] = {{1.0f, 1.0f}, {1.0f, 1.0f}};
        if (Tokens::kScaled) {
            // Asked for before the products and used behind them.
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int at = 0; at < 2; ++at) {
                    const int row = doc + token(j, at);
                    scale[j][at] = kWhole || row < len ? scales[row] : 0.0f;
                }
            }
        }
        Similarities s = {};
        Tokens::multiply(s, q, tile, warp_doc);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int at = 0; at < 4; ++at) {
                    // Zeros behind the document's end are no similarities.
                    if (kWhole || doc + token(j, at) < len) {
                        const float value =
                            Tokens::kScaled ? s[i][j][at] * scale[j][at % 2] : s[i][j][at];
                        max[i][at / 2] = fmaxf(max[i][at / 2], value);
                    }
                }
            }
        }
    }

    // The maxima of a quad, then of the warps, into `maxima`.
    static __device__ __forceinline__ void gather(float (&maxima)[kWarps][BLOCK_Q],
                                                  const float (&max)[2][2]) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        const int warp = static_cast<int>(threadIdx.x) / kWarp;
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
        // Rows are copied as halves, whatever they hold.
        constexpr int kStride = Tokens::kChunks * kVector;
        const __half* query = row_of(args.queries, begin_query, Tokens::kDim);
        const __half* doc = Docs::source(
            row_of(static_cast<const __half*>(args.docs), begin_doc, kStride), kStride);
        const float* scales = Tokens::kScaled ? args.scales + begin_doc : nullptr;
        const int num_tiles = (doc_len + BLOCK_DOC - 1) / BLOCK_DOC;
        const uint query_tile = shared_address(smem);
        const auto stage = [&](int tile) {
            return query_tile + (Tokens::kQueryUnits + tile % 2 * kUnitsDoc) * 16;
        };
        const auto fetch = [&](int tile) {
            Docs::copy(stage(tile), doc, tile * BLOCK_DOC, doc_len, kStride);
            cp_async_commit();
        };
        // This tile has landed for all threads, and all have left the one before.
        const auto arrive = [] {
            cp_async_wait<0>();
            __syncthreads();
        };

        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        const bool adds = threadIdx.x < kWarp;
        // Lane `i` of warp 0 adds query tokens i, i + 32, ...
        float sum = 0.0f;
        for (int first_query = 0; first_query < query_len; first_query += BLOCK_Q) {
            fetch(0);
            QueryFragments<Tokens::kSteps> q;
            Tokens::template load_queries<kThreads>(q, query_tile, query, first_query, query_len);
            const float none = negative_infinity();
            float max[2][2] = {{none, none}, {none, none}};
            // Main loop: whole tiles with a whole one behind.
            int tile = 0;
#pragma unroll 1
            for (; tile < doc_len / BLOCK_DOC - 1; ++tile) {
                arrive();
                Docs::copy_whole(stage(tile + 1), doc, (tile + 1) * BLOCK_DOC, kStride);
                cp_async_commit();
                fold<true>(max, q, stage(tile), scales, tile * BLOCK_DOC, doc_len);
            }
#pragma unroll 1
            for (; tile < num_tiles; ++tile) {
                arrive();
                if (tile + 1 < num_tiles) {
                    fetch(tile + 1);
                }
                fold<false>(max, q, stage(tile), scales, tile * BLOCK_DOC, doc_len);
            }
            gather(maxima, max);
            if (adds && first_query + lane < query_len) {
                float m = maxima[0][lane];
#pragma unroll
                for (int other = 1; other < kWarps; ++other) {
                    m = fmaxf(m, maxima[other][lane]);
                }
                sum += m;
            }
        }
        if (adds) {
            sum = warp_sum(sum);
            if (lane == 0) {
                args.scores[blockIdx.x] = sum;
            }
        }
    }
};
