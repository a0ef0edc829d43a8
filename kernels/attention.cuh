// Softmax attention within each sequence of a packed batch, in the manner of FlashAttention-2.
//
// A block takes 64 queries of one head of one sequence; a warp takes 32 of them, or 16 where heads are so wide that the
// sums of more do not fit its registers. So no sum crosses warps, and each fragment of keys or values feeds four
// products, or two. Keys and values pass in tiles of 64 or 32, in the sequence's order and cut at multiples of that of
// the sequence's own positions: batch mates change no bit. While a tile's scores are made its values are copied, and
// while they are mixed the next tile's keys. Softmax is in base 2; the query projection carries the factor
// log2(e) / sqrt(head_dim).
//
// A row's weights are relative to its reference, the largest score of the first keys it saw. The products that
// make scores start from minus the reference. Only when a score passes it by more than kHeadroom, which is
// rare, does the row take a new reference and rescale what it has summed.
//
// NOTES: scores of keys outside the sequence or the window are -inf. A row that has seen no other keeps the reference
// 0, so -inf is never subtracted from -inf.
#pragma once

#include "common.cuh"

// A row of `qkv` is [num_heads queries | num_kv_heads keys | num_kv_heads values] of kDim halves each.
// A block of `items` is (sequence, tile of 64 queries); sequence 0xffffffff ends the block, so that a captured
// graph may launch more blocks than the batch fills. Of a sequence's rows the first `key_lens` are keys; those behind
// only ask. Query t sees the keys from t - left to t + right, from beyond its window the last one;
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
    // One a sequence, from 1 to its length.
    const uint* key_lens;
    // With kCapped a score s becomes cap * tanh(s / cap).
    float cap;
};

template <int kDim, bool kCapped = false>
struct Attention {
    static constexpr int BLOCK_Q = 64;
    // Scores of 64 keys beside sums of 128 columns do not fit the registers.
    static constexpr int BLOCK_KV = kDim <= 96 ? 64 : 32;
    // Sums of 256 columns for 32 rows do not fit them either; of 128 they leave none for what caps a score.
    static constexpr int kRowsWarp = kDim > (kCapped ? 96 : 128) ? 16 : 32;
    static constexpr int kThreads = BLOCK_Q / kRowsWarp * kWarp;
    static constexpr int kChunks = kDim / kVector;
    static constexpr int kStepsQK = kDim / 16;
    static constexpr int kStepsPV = BLOCK_KV / 16;
    static constexpr int kTilesQ = kRowsWarp / 16;
    static constexpr int kTilesKV = BLOCK_KV / 8;
    static constexpr int kTilesDim = kDim / 8;
    // Fragments of queries stay in registers where that costs no resident block; else each tile reads them anew.
    static constexpr bool kKeepQueries = kDim == 64 || (kDim == 256 && !kCapped);
    // A weight is at most 2^8, so f16 holds it and an f32 sum of 2^31 keys.
    static constexpr float kHeadroom = 8.0f;
    static constexpr uint kOnes = 0x3c003c00u;  // Two halves of 1.

    static_assert(kDim % 32 == 0, "Invalid head size");
    using Copy = TileCopy<BLOCK_KV, kChunks, kThreads>;

    // One warp's 32 queries, as two rows of mma tiles; of a tile's pairs, the second is eight rows down.
    struct State {
        uint q[kKeepQueries ? kStepsQK : 1][kTilesQ][4];
        float out[kTilesQ][kTilesDim][4];
        // Sums of weights, in every column the same.
        float sum[kTilesQ][4];
        // Minus the reference, as an accumulator of scores begins.
        float base[kTilesQ][4];
        // Of the warp: some row has seen no key yet.
        bool fresh;
    };

    using Scores = float[kTilesQ][kTilesKV][4];
    // Two neighbours of the row above, then of the row below.
    using Weights = uint[kTilesQ][kTilesKV][2];

    // What the block does.
    struct Work {
        uint sequence, tile;
        int head;

        __device__ __forceinline__ explicit Work(const AttentionArgs& args) {
            const uint block = anew(blockIdx.x);
            const uint num_heads = static_cast<uint>(args.num_heads);
            const uint2 item = args.items[block / num_heads];
            sequence = item.x;
            tile = item.y;
            head = static_cast<int>(block % num_heads);
        }
    };

    // The keys that a row of queries may see: from `first` to before `end`.
    struct Range {
        int first, end;
    };

    // Where this lane's row of the fragments lies: the first chunk, from which along() leads to the others.
    struct Lane {
        uint key, value;
        uint to_query;  // From `value`; the same for the whole warp.

        __device__ __forceinline__ Lane(uint queries, uint keys, uint values, int warp_row) {
            const int lane = static_cast<int>(threadIdx.x) % kWarp;
            const auto at = [](int row, int chunk) {
                return static_cast<uint>(swizzle<kChunks>(row, chunk)) * 16;
            };
            key = keys + at(lane / 16 * 8 + lane % 8, lane / 8 % 2);
            value = values + at(lane % 16, lane / 16);
            to_query = queries + warp_row * kDim * 2 - values;
        }
    };

    static __device__ __forceinline__ void load_queries(uint (&q)[kTilesQ][4], uint query, int step) {
#pragma unroll
        for (int i = 0; i < kTilesQ; ++i) {
            ldmatrix_x4(q[i], along<kChunks>(query, step * 2) + i * 16 * kChunks * 16);
        }
    }

    // Scores less the reference: each sum over the columns begins with its negative, unless it is capped first.
    static __device__ __forceinline__ void score(Scores& s, State& state, const Lane& lane,
                                                 const AttentionArgs& args) {
        float none[4] = {};
        const uint query = anew(lane.value) + lane.to_query;
        const uint key = anew(lane.key);
#pragma unroll
        for (int step = 0; step < kStepsQK; ++step) {
            auto& q = state.q[kKeepQueries ? step : 0];
            if (!kKeepQueries) {
                load_queries(q, query, step);
            }
#pragma unroll
            for (int j = 0; j < kTilesKV / 2; ++j) {
                uint k[4];
                ldmatrix_x4(k, along<kChunks>(key, step * 2) + j * 16 * kChunks * 16);
#pragma unroll
                for (int i = 0; i < kTilesQ; ++i) {
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        float(&sum)[4] = s[i][2 * j + h];
                        mma_m16n8k16(sum, q[i], k[2 * h], k[2 * h + 1],
                                     step > 0 ? sum : kCapped ? none : state.base[i]);
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; kCapped && i < kTilesQ; ++i) {
#pragma unroll
            for (int j = 0; j < kTilesKV; ++j) {
#pragma unroll
                for (int at = 0; at < 4; ++at) {
                    s[i][j][at] = soft_cap(s[i][j][at], args.cap, state.base[i][at]);
                }
            }
        }
    }

    // The keys that all the queries from `query` on for `num` rows see.
    static __device__ __forceinline__ Range all(const AttentionArgs& args, int query, int num,
                                                int len) {
        return {min(query + num - 1 - args.left, len - 1), min(query + args.right + 1, len)};
    }

    // Gives -inf to the keys of the tile from `first_key` on that the warp's queries, from `query` on, do not see.
    static __device__ __forceinline__ void mask(Scores& s, const AttentionArgs& args, int query,
                                                int first_key, int len) {
        const Range whole = all(args, query, kRowsWarp, len);
        if (first_key >= whole.first && first_key + BLOCK_KV <= whole.end) {
            return;
        }
        const int lane = thread_anew() % kWarp;
        const int key = first_key + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < kTilesQ; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                // What one row sees, counted from this lane's first key.
                const int row = query + i * 16 + h * 8 + lane / 4;
                const Range seen = all(args, row - key, 1, len - key);
#pragma unroll
                for (int j = 0; j < kTilesKV; ++j) {
#pragma unroll
                    for (int at = 0; at < 2; ++at) {
                        if (j * 8 + at < seen.first || j * 8 + at >= seen.end) {
                            s[i][j][2 * h + at] = negative_infinity();
                        }
                    }
                }
            }
        }
    }

    // Whether any score of the warp passed its row's reference by more than the headroom.
    static __device__ __forceinline__ bool passes(const Scores& s) {
        float max = negative_infinity();
#pragma unroll
        for (int i = 0; i < kTilesQ; ++i) {
#pragma unroll
            for (int j = 0; j < kTilesKV; ++j) {
#pragma unroll
                for (int at = 0; at < 4; ++at) {
                    max = fmaxf(max, s[i][j][at]);
                }
            }
        }
        return __any_sync(kFullMask, max > kHeadroom);
    }

    // Gives rows whose largest score passed the headroom, or that see their first keys, a new reference. A row
    // decides for itself, so its bits do not depend on its neighbours: one that stays is multiplied by 1.
    static __device__ __forceinline__ void rebase(Scores& s, State& state) {
        bool fresh = false;
#pragma unroll
        for (int i = 0; i < kTilesQ; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float max = negative_infinity();
#pragma unroll
                for (int j = 0; j < kTilesKV; ++j) {
                    max = fmaxf(max, fmaxf(s[i][j][2 * h], s[i][j][2 * h + 1]));
                }
                // A row lies in the four lanes of a quad.
                max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 1));
                max = fmaxf(max, __shfl_xor_sync(kFullMask, max, 2));
                // Before the first key there is nothing to rescale, and 2^-max may be infinite.
                const bool first = state.sum[i][2 * h] == 0.0f;
                const bool sees = max != negative_infinity();
                fresh |= first && !sees;
                const bool moves = max > kHeadroom || (first && sees);
                const float by = moves ? max : 0.0f;
                const float scale = moves && !first ? ex2(-max) : 1.0f;
#pragma unroll
                for (int at = 2 * h; at < 2 * h + 2; ++at) {
                    state.base[i][at] -= by;
                    state.sum[i][at] *= scale;
#pragma unroll
                    for (int j = 0; j < kTilesKV; ++j) {
                        s[i][j][at] -= by;
                    }
#pragma unroll
                    for (int j = 0; j < kTilesDim; ++j) {
                        state.out[i][j][at] *= scale;
                    }
                }
            }
        }
        state.fresh = __any_sync(kFullMask, fresh);
    }

    static __device__ __forceinline__ void weigh(Weights& weights, const Scores& s) {
#pragma unroll
        for (int i = 0; i < kTilesQ; ++i) {
#pragma unroll
            for (int j = 0; j < kTilesKV; ++j) {
                weights[i][j][0] = to_half2(ex2(s[i][j][0]), ex2(s[i][j][1]));
                weights[i][j][1] = to_half2(ex2(s[i][j][2]), ex2(s[i][j][3]));
            }
        }
    }

    // out += weights * values and sum += weights * ones. The weights of two tiles are the A fragment of a step.
    static __device__ __forceinline__ void mix(State& state, const Weights& weights, const Lane& lane) {
        const uint value = anew(lane.value);
#pragma unroll
        for (int step = 0; step < kStepsPV; ++step) {
            uint p[kTilesQ][4];
#pragma unroll
            for (int i = 0; i < kTilesQ; ++i) {
                const auto& w = weights[i];
                p[i][0] = w[2 * step][0], p[i][1] = w[2 * step][1];
                p[i][2] = w[2 * step + 1][0], p[i][3] = w[2 * step + 1][1];
                mma_m16n8k16(state.sum[i], p[i], kOnes, kOnes);
            }
#pragma unroll
            for (int j = 0; j < kTilesDim / 2; ++j) {
                uint v[4];
                ldmatrix_x4_trans(v, along<kChunks>(value, j * 2) + step * 16 * kChunks * 16);
#pragma unroll
                for (int i = 0; i < kTilesQ; ++i) {
                    mma_m16n8k16(state.out[i][2 * j], p[i], v[0], v[1]);
                    mma_m16n8k16(state.out[i][2 * j + 1], p[i], v[2], v[3]);
                }
            }
        }
    }

    // Divides by the sums and writes this warp's rows through those of its queries in shared memory, `rows`.
    static __device__ __forceinline__ void write_out(const State& state, uint4* rows, __half* out,
                                                     int stride, int num_rows) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        // The last queries have been read.
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kTilesQ; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float sum = state.sum[i][2 * h];
                // A query that sees no key at all gives zeros.
                const float scale = sum > 0.0f ? rcp(sum) : 0.0f;
                const int row = i * 16 + h * 8 + lane / 4;
#pragma unroll
                for (int j = 0; j < kTilesDim; ++j) {
                    reinterpret_cast<uint*>(rows + swizzle<kChunks>(row, j))[lane % 4] =
                        to_half2(state.out[i][j][2 * h] * scale, state.out[i][j][2 * h + 1] * scale);
                }
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

    // The block's keys, in whole tiles of the sequence.
    struct Tiles {
        int first, end;
        // Those of the main loop: all queries see them whole, and the tile behind lies within the sequence.
        int first_main, end_main;

        __device__ __forceinline__ Tiles(const AttentionArgs& args, int first_query, int num_queries,
                                         int len) {
            const int last_query = min(first_query + BLOCK_Q, num_queries) - 1;
            first = max(min(first_query - args.left, len - 1), 0) / BLOCK_KV;
            end = (min(last_query + args.right + 1, len) + BLOCK_KV - 1) / BLOCK_KV;
            const Range whole = all(args, first_query, BLOCK_Q, len);
            first_main = (max(whole.first, 0) + BLOCK_KV - 1) / BLOCK_KV;
            end_main = min(min(whole.end / BLOCK_KV, len / BLOCK_KV - 1), end - 1);
        }
    };

    // Brings keys and values to shared memory, a tile of each.
    struct Feed {
        const AttentionArgs& args;
        const __half* keys;  // From Copy::source.
        uint key_tile, value_tile;
        int len, end_tile;

        __device__ __forceinline__ const __half* values() const {
            return keys + static_cast<int>(anew(args.num_kv_heads)) * kDim;
        }

        __device__ __forceinline__ void copy_keys(int tile) const {
            if (tile < end_tile) {
                Copy::copy(key_tile, keys, tile * BLOCK_KV, len, args.qkv_stride);
                cp_async_commit();
            }
        }

        __device__ __forceinline__ void copy_values(int tile) const {
            Copy::copy(value_tile, values(), tile * BLOCK_KV, len, args.qkv_stride);
            cp_async_commit();
        }

        __device__ __forceinline__ void copy_whole_keys(int tile) const {
            Copy::copy_whole(key_tile, keys, tile * BLOCK_KV, args.qkv_stride);
            cp_async_commit();
        }

        __device__ __forceinline__ void copy_whole_values(int tile) const {
            Copy::copy_whole(value_tile, values(), tile * BLOCK_KV, args.qkv_stride);
            cp_async_commit();
        }

        // The tile just copied has landed for all threads, and all have left the other one.
        __device__ __forceinline__ void arrive() const {
            cp_async_wait<0>();
            barrier<kThreads>();
        }
    };

    // A warp without queries only helps to copy.
    static __device__ __forceinline__ void help(const Feed& feed, const Tiles& tiles) {
#pragma unroll 1
        for (int tile = tiles.first; tile < tiles.end; ++tile) {
            feed.copy_values(tile);
            feed.arrive();
            feed.copy_keys(tile + 1);
            feed.arrive();
        }
    }

    static __device__ __forceinline__ void attend(State& state, const Lane& lane, const Feed& feed,
                                                  const Tiles& tiles, int query) {
        Scores s;
        Weights weights;
        int tile = tiles.first;
#pragma unroll 1
        while (tile < tiles.end) {
            bool passed = false;
            if (!state.fresh && tile >= tiles.first_main && tile < tiles.end_main) {
                // Main loop: tiles without an edge, until a row needs a new reference.
#pragma unroll 1
                do {
                    feed.copy_whole_values(tile);
                    score(s, state, lane, feed.args);
                    passed = passes(s);
                    if (passed) {
                        break;
                    }
                    weigh(weights, s);
                    feed.arrive();
                    ++tile;
                    feed.copy_whole_keys(tile);
                    mix(state, weights, lane);
                    feed.arrive();
                } while (tile < tiles.end_main);
            }
            // Any tile, or the rest of the one that left the main loop.
            if (!passed) {
                feed.copy_values(tile);
                score(s, state, lane, feed.args);
                mask(s, feed.args, query, tile * BLOCK_KV, feed.len);
                passed = passes(s) || state.fresh;
            }
            if (passed) {
                rebase(s, state);
            }
            weigh(weights, s);
            feed.arrive();
            ++tile;
            feed.copy_keys(tile);
            mix(state, weights, lane);
            feed.arrive();
        }
    }

    static __device__ __forceinline__ void run(const AttentionArgs& args) {
        const Work work(args);
        if (work.sequence == 0xffffffffu) {
            return;
        }
        const uint begin = args.cu_seqlens[work.sequence];
        const int len = static_cast<int>(args.cu_seqlens[work.sequence + 1] - begin);
        const int num_queries = args.first_only != 0 ? min(len, 1) : len;
        const int first_query = static_cast<int>(work.tile) * BLOCK_Q;
        if (first_query >= num_queries) {
            return;
        }
        const int num_keys = static_cast<int>(args.key_lens[work.sequence]);
        const int stride = args.qkv_stride;
        const __half* rows = row_of(args.qkv, begin, stride);
        const int kv_head = work.head / (args.num_heads / args.num_kv_heads);
        const Tiles tiles(args, first_query, num_queries, num_keys);
        const uint query_tile = shared_address(smem);
        const uint key_tile = query_tile + BLOCK_Q * kDim * 2;
        const uint value_tile = key_tile + BLOCK_KV * kDim * 2;
        const Feed feed{args, Copy::source(rows + (args.num_heads + kv_head) * kDim, stride),
                        key_tile, value_tile, num_keys, tiles.end};

        using CopyQ = TileCopy<BLOCK_Q, kChunks, kThreads>;
        CopyQ::copy(query_tile, CopyQ::source(rows + work.head * kDim, stride), first_query,
                    num_queries, stride);
        feed.copy_keys(tiles.first);
        cp_async_wait<0>();
        __syncthreads();

        const int warp = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x) / kWarp, 0);
        const int warp_query = first_query + warp * kRowsWarp;
        if (warp_query >= num_queries) {
            help(feed, tiles);
            return;
        }
        const Lane lane(query_tile, key_tile, value_tile, warp * kRowsWarp);
        State state = {};
        state.fresh = true;
        if (kKeepQueries) {
#pragma unroll
            for (int step = 0; step < kStepsQK; ++step) {
                load_queries(state.q[step], lane.value + lane.to_query, step);
            }
        }
        attend(state, lane, feed, tiles, warp_query);

        // All found anew, rather than kept in registers so long.
        const Work again(args);
        const int again_warp = thread_anew() / kWarp;
        const int query = static_cast<int>(again.tile) * BLOCK_Q + again_warp * kRowsWarp;
        const uint first_row = args.cu_seqlens[again.sequence];
        const int again_len = static_cast<int>(args.cu_seqlens[again.sequence + 1] - first_row);
        const int again_rows = (args.first_only != 0 ? 1 : again_len) - query;
        const long long out_row = args.first_only != 0 ? again.sequence : first_row + query;
        write_out(state, smem + again_warp * kRowsWarp * kChunks,
                  row_of(args.out, out_row, args.out_stride) + again.head * kDim, args.out_stride,
                  again_rows);
    }
};
