// Softmax attention whose scores count distances (DeBERTa): q k + q keys[b] + k queries[b], with b the bucket of the
// query's position less the key's. In base 2, as the other attention.
//
// A block takes 64 queries of one head of one sequence, a warp 16 of them. Keys and values pass in tiles of 32, cut at
// multiples of 32 of the sequence's own positions: batch mates change no bit. A warp's queries lie at 47 distances from
// the keys of a tile. Their vectors are brought to shared memory by distance, not by bucket, and multiplied with the
// warp's queries ([16, 48]) and with the tile's keys ([48, 32]). Of these products each pair of tokens takes one
// element, which lie along diagonals: they are written to where their pair has its score, in a slice of shared memory
// that the warp has for itself, and added from there. Nothing of them ever leaves the multiprocessor.
//
// A block needs the vectors of 96 distances a tile, 64 of which it has from the tile before: they lie in a ring of
// three groups of 32, and each tile brings the group before them.
//
// NOTES: a slice's rows are 40 floats long: then the scores read from it meet no bank twice, and those written along
// diagonals at most two.
#pragma once

#include "common.cuh"

// A row of `qkv` is [queries | keys | values], num_heads of kDim halves each. `items`, `key_lens` and `first_only` are
// those of AttentionArgs. `keys` and `queries` are [num_heads, num_buckets, kDim]; `buckets` are those of the
// distances from 1 - max_length to max_length - 1. Farther ones, which only rows behind a sequence's end have, count
// as those.
struct RelativeArgs {
    const __half* qkv;
    const uint* cu_seqlens;
    const uint2* items;
    __half* out;
    int num_heads;
    int qkv_stride, out_stride;
    int first_only;
    const uint* key_lens;
    const __half* keys;
    const __half* queries;
    const uint* buckets;
    int num_buckets, max_length;
};

template <int kDim>
struct RelativeAttention {
    static constexpr int BLOCK_Q = 64;
    static constexpr int BLOCK_KV = 32;
    static constexpr int kThreads = 128;
    static constexpr int kRowsWarp = 16;
    static constexpr int kChunks = kDim / kVector;
    static constexpr int kSteps = kDim / 16;
    static constexpr int kTilesKV = BLOCK_KV / 8;
    static constexpr int kTilesDim = kDim / 8;
    static constexpr int kRowBytes = kDim * 2;
    // Distances between a warp's queries and a tile's keys, in steps of 16 rows of vectors.
    static constexpr int kStepsFar = (kRowsWarp + BLOCK_KV) / 16;
    // Groups of vectors in a ring, each for as many distances as a tile has keys.
    static constexpr int kGroups = (BLOCK_Q + BLOCK_KV) / BLOCK_KV;
    static constexpr int kGroupBytes = BLOCK_KV * kRowBytes;
    static constexpr int kRingSteps = kGroups * BLOCK_KV / 16;
    static constexpr int kSliceStride = 40;
    static constexpr int kSliceBytes = kRowsWarp * kSliceStride * 4;
    // The slices begin where the queries lay.
    static constexpr int kSlicesBytes = BLOCK_Q / kRowsWarp * kSliceBytes;
    static constexpr uint kOnes = 0x3c003c00u;  // Two halves of 1.

    static_assert(kDim * BLOCK_Q * 2 <= kSlicesBytes, "Queries and rows to write fit the slices");
    static_assert(BLOCK_Q / kRowsWarp * kWarp == kThreads, "Invalid block size");
    using Copy = TileCopy<BLOCK_KV, kChunks, kThreads>;
    static_assert(Copy::kRounds == 1, "A thread copies parts of one row");

    // One warp's 16 queries.
    struct State {
        uint q[kSteps][4];
        float out[kTilesDim][4];
        // Sums of weights, in every column the same.
        float sum[4];
        // The largest score so far of this lane's two rows.
        float max[2];
    };

    using Scores = float[kTilesKV][4];

    // Addresses in shared memory, and what fills them.
    struct Feed {
        const RelativeArgs& args;
        const __half* keys;  // From Copy::source.
        const __half* far_keys;  // The head's vectors.
        const __half* far_queries;
        uint key_tile, value_tile, key_ring, query_ring;
        int num_keys;

        __device__ __forceinline__ void copy_keys(int tile) const {
            Copy::copy(key_tile, keys, tile * BLOCK_KV, num_keys, args.qkv_stride);
        }

        __device__ __forceinline__ void copy_values(int tile) const {
            Copy::copy(value_tile, keys + args.num_heads * kDim, tile * BLOCK_KV, num_keys,
                       args.qkv_stride);
        }

        // The vectors of 32 distances from 32 * group on, into a slot of the rings.
        __device__ __forceinline__ void copy_group(int group, int slot) const {
            const int thread = static_cast<int>(threadIdx.x);
            const int distance = group * BLOCK_KV + Copy::row(thread);
            const int farthest = args.max_length - 1;
            const int at = min(max(distance, -farthest), farthest) + farthest;
            const int from = static_cast<int>(args.buckets[at]) * kDim + Copy::chunk(thread) * kVector;
#pragma unroll
            for (int c = 0; c < Copy::kParts; ++c) {
                const uint to = slot * kGroupBytes + Copy::target(thread, 0, c);
                const int chunk = c * Copy::kLanes * kVector;
                cp_async_16(key_ring + to, far_keys + from + chunk);
                cp_async_16(query_ring + to, far_queries + from + chunk);
            }
        }

        // What was copied has landed for all threads, and all have left what they read.
        __device__ __forceinline__ void arrive() const {
            cp_async_wait<0>();
            __syncthreads();
        }
    };

    // Where a lane's rows of fragments lie in a tile: as a factor from the left or transposed, and from the right.
    struct Lane {
        uint left, right;

        __device__ __forceinline__ Lane() {
            const int lane = static_cast<int>(threadIdx.x) % kWarp;
            left = static_cast<uint>(swizzle<kChunks>(lane % 16, lane / 16)) * 16;
            right = static_cast<uint>(swizzle<kChunks>(lane / 16 * 8 + lane % 8, lane / 8 % 2)) * 16;
        }
    };

    // sums += rows * keys, 16 columns of both.
    static __device__ __forceinline__ void multiply_keys(Scores& sums, const uint (&rows)[4], uint key,
                                                         int step) {
#pragma unroll
        for (int j = 0; j < kTilesKV / 2; ++j) {
            uint k[4];
            ldmatrix_x4(k, along<kChunks>(key, step * 2) + j * 16 * kRowBytes);
            mma_m16n8k16(sums[2 * j], rows, k[0], k[1]);
            mma_m16n8k16(sums[2 * j + 1], rows, k[2], k[3]);
        }
    }

    // The tile's scores. The products with vectors pass through `slice`; `ring` is the place of the 16 vectors of the
    // warp's least distances.
    static __device__ __forceinline__ void score(Scores& s, const State& state, const Feed& feed,
                                                 const Lane& lane, float* slice, int ring) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            multiply_keys(s, state.q[step], feed.key_tile + lane.right, step);
        }
        // Found anew for each tile, rather than kept in registers: where elements go, and whether.
        const int thread = thread_anew();
        const int row = thread % kWarp / 4;
        const int column = thread % 4 * 2;
#pragma unroll 1
        for (int far = 0; far < kStepsFar; ++far) {
            const uint vectors = feed.key_ring + lane.right + turn(ring + far) * 16 * kRowBytes;
            float sums[2][4] = {};
#pragma unroll
            for (int step = 0; step < kSteps; ++step) {
                uint v[4];
                ldmatrix_x4(v, along<kChunks>(vectors, step * 2));
                mma_m16n8k16(sums[0], state.q[step], v[0], v[1]);
                mma_m16n8k16(sums[1], state.q[step], v[2], v[3]);
            }
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int at = 0; at < 4; ++at) {
                    const int query = row + at / 2 * 8;
                    const int key = BLOCK_KV + query - (far * 16 + n * 8 + column + at % 2);
                    if (key >= 0 && key < BLOCK_KV) {
                        slice[query * kSliceStride + key] = sums[n][at];
                    }
                }
            }
        }
        add(s, slice, row, column);
#pragma unroll 1
        for (int far = 0; far < kStepsFar; ++far) {
            const uint vectors = feed.query_ring + lane.left + turn(ring + far) * 16 * kRowBytes;
            Scores sums = {};
#pragma unroll
            for (int step = 0; step < kSteps; ++step) {
                uint v[4];
                ldmatrix_x4(v, along<kChunks>(vectors, step * 2));
                multiply_keys(sums, v, feed.key_tile + lane.right, step);
            }
#pragma unroll
            for (int j = 0; j < kTilesKV; ++j) {
#pragma unroll
                for (int at = 0; at < 4; ++at) {
                    const int key = j * 8 + column + at % 2;
                    const int query = far * 16 + row + at / 2 * 8 + key - BLOCK_KV;
                    if (query >= 0 && query < kRowsWarp) {
                        slice[query * kSliceStride + key] = sums[j][at];
                    }
                }
            }
        }
        add(s, slice, row, column);
    }

    // The place in the ring of the 16 vectors that are `step` behind its begin.
    static __device__ __forceinline__ uint turn(int step) {
        return static_cast<uint>(step < kRingSteps ? step : step - kRingSteps);
    }

    // Adds what the warp wrote to its slice, and lets it be written anew.
    static __device__ __forceinline__ void add(Scores& s, const float* slice, int row, int column) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < kTilesKV; ++j) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float2 pair = *reinterpret_cast<const float2*>(
                    slice + (row + h * 8) * kSliceStride + j * 8 + column);
                s[j][2 * h] += pair.x;
                s[j][2 * h + 1] += pair.y;
            }
        }
        __syncwarp();
    }

    // Gives -inf to the keys of the tile from the `num`th on.
    static __device__ __forceinline__ void mask(Scores& s, int num) {
        const int column = thread_anew() % 4 * 2;
#pragma unroll
        for (int j = 0; j < kTilesKV; ++j) {
#pragma unroll
            for (int at = 0; at < 4; ++at) {
                if (j * 8 + column + at % 2 >= num) {
                    s[j][at] = negative_infinity();
                }
            }
        }
    }

    // Scores become weights relative to the largest so far, and sums follow it. Every row sees the sequence's first
    // key in the first tile, so no reference is -inf.
    static __device__ __forceinline__ void weigh(Scores& s, State& state) {
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
            const float scale = ex2(state.max[h] - max);
            state.max[h] = max;
#pragma unroll
            for (int at = 2 * h; at < 2 * h + 2; ++at) {
                state.sum[at] *= scale;
#pragma unroll
                for (int j = 0; j < kTilesKV; ++j) {
                    s[j][at] = ex2(s[j][at] - max);
                }
#pragma unroll
                for (int j = 0; j < kTilesDim; ++j) {
                    state.out[j][at] *= scale;
                }
            }
        }
    }

    // out += weights * values and sum += weights * ones. The weights of two tiles are the A fragment of a step.
    static __device__ __forceinline__ void mix(State& state, const Scores& s, uint value) {
#pragma unroll
        for (int step = 0; step < BLOCK_KV / 16; ++step) {
            const auto& lo = s[2 * step];
            const auto& hi = s[2 * step + 1];
            const uint p[4] = {to_half2(lo[0], lo[1]), to_half2(lo[2], lo[3]), to_half2(hi[0], hi[1]),
                               to_half2(hi[2], hi[3])};
            mma_m16n8k16(state.sum, p, kOnes, kOnes);
#pragma unroll
            for (int j = 0; j < kTilesDim / 2; ++j) {
                uint v[4];
                ldmatrix_x4_trans(v, along<kChunks>(value, j * 2) + step * 16 * kRowBytes);
                mma_m16n8k16(state.out[2 * j], p, v[0], v[1]);
                mma_m16n8k16(state.out[2 * j + 1], p, v[2], v[3]);
            }
        }
    }

    // Divides by the sums and writes the warp's rows through its slice.
    static __device__ __forceinline__ void write_out(const State& state, float* slice, __half* out,
                                                     int stride, int num_rows) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        uint4* rows = reinterpret_cast<uint4*>(slice);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float scale = rcp(state.sum[2 * h]);
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

    static __device__ __forceinline__ void run(const RelativeArgs& args) {
        const uint num_heads = static_cast<uint>(args.num_heads);
        const uint2 item = args.items[blockIdx.x / num_heads];
        if (item.x == 0xffffffffu) {
            return;
        }
        const int head = static_cast<int>(blockIdx.x % num_heads);
        const uint begin = args.cu_seqlens[item.x];
        const int len = static_cast<int>(args.cu_seqlens[item.x + 1] - begin);
        const int num_queries = args.first_only != 0 ? min(len, 1) : len;
        const int first_query = static_cast<int>(item.y) * BLOCK_Q;
        if (first_query >= num_queries) {
            return;
        }
        const int num_keys = static_cast<int>(args.key_lens[item.x]);
        const int num_tiles = (num_keys + BLOCK_KV - 1) / BLOCK_KV;
        const int stride = args.qkv_stride;
        const __half* rows = row_of(args.qkv, begin, stride) + head * kDim;
        const long long far = static_cast<long long>(head) * args.num_buckets * kDim;
        const uint query_tile = shared_address(smem);
        const uint key_tile = query_tile + kSlicesBytes;
        const uint value_tile = key_tile + kGroupBytes;
        const uint key_ring = value_tile + kGroupBytes;
        const Feed feed{args,
                        Copy::source(rows + args.num_heads * kDim, stride),
                        args.keys + far,
                        args.queries + far,
                        key_tile,
                        value_tile,
                        key_ring,
                        key_ring + kGroups * kGroupBytes,
                        num_keys};

        using CopyQ = TileCopy<BLOCK_Q, kChunks, kThreads>;
        CopyQ::copy(query_tile, CopyQ::source(rows, stride), first_query, num_queries, stride);
        feed.copy_keys(0);
        // Between the first query and the last key of a tile, as a multiple of 32; it is at least -1.
        int group = first_query / BLOCK_KV - 1;
        int slot = (group + kGroups) % kGroups;
#pragma unroll 1
        for (int i = 0; i < kGroups; ++i) {
            feed.copy_group(group + i, (slot + i) % kGroups);
        }
        cp_async_commit();
        feed.arrive();

        const int warp = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x) / kWarp, 0);
        const int num_rows = num_queries - first_query - warp * kRowsWarp;
        const Lane lane;
        float* slice = reinterpret_cast<float*>(smem) + warp * (kSliceBytes / 4);
        State state = {};
        state.max[0] = state.max[1] = negative_infinity();
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            ldmatrix_x4(state.q[step], along<kChunks>(query_tile + lane.left, step * 2) +
                                           warp * kRowsWarp * kRowBytes);
        }
        // The slices overwrite the queries.
        __syncthreads();
#pragma unroll 1
        for (int tile = 0; tile < num_tiles; ++tile) {
            feed.copy_values(tile);
            cp_async_commit();
            Scores s = {};
            // A warp without queries only helps to copy.
            if (num_rows > 0) {
                score(s, state, feed, lane, slice, turn(slot * (BLOCK_KV / 16) + warp));
                if (num_keys - tile * BLOCK_KV < BLOCK_KV) {
                    mask(s, num_keys - tile * BLOCK_KV);
                }
                weigh(s, state);
            }
            feed.arrive();
            --group;
            slot = slot == 0 ? kGroups - 1 : slot - 1;
            if (tile + 1 < num_tiles) {
                feed.copy_keys(tile + 1);
                feed.copy_group(group, slot);
                cp_async_commit();
            }
            if (num_rows > 0) {
                mix(state, s, value_tile + lane.left);
            }
            feed.arrive();
        }
        if (num_rows > 0) {
            const uint first_row = begin + static_cast<uint>(first_query + warp * kRowsWarp);
            const long long out_row = args.first_only != 0 ? item.x : first_row;
            write_out(state, slice, row_of(args.out, out_row, args.out_stride) + head * kDim,
                      args.out_stride, num_rows);
        }
    }
};
