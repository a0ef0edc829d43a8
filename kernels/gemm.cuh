// out[m, n] = act(x[m, k] * weight[n, k]^T + bias[n]) + residual[m, n]
//
// One block makes a tile of BLOCK_M x BLOCK_N; a pipeline of kNumStages cp.async stages feeds ldmatrix and
// m16n8k16, which add in f32. Every element is one sum over k in steps of 16 from k = 0, in every tile and
// for every m: no split over k, so a row's bits depend on nothing but the row and the weights.
#pragma once

#include "common.cuh"

// The order of `enum Epilogue` in src/engine/mod.rs.
enum Epilogue { kBias, kBiasGelu, kBiasGeluTanh, kBiasRelu, kBiasTanh };

// Pointers are 16-byte aligned, strides count halves and are multiples of 8. A null `bias` or `residual` is
// none. `residual` may be `out`.
struct GemmArgs {
    const __half* x;
    const __half* weight;
    const float* bias;
    const __half* residual;
    __half* out;
    int m, n, k;
    int x_stride, weight_stride, residual_stride, out_stride;
    int epilogue;
};

template <int BLOCK_M, int BLOCK_N, int BLOCK_K, int kWarpsM, int kWarpsN, int kNumStages>
struct Gemm {
    static constexpr int kThreads = kWarpsM * kWarpsN * kWarp;
    static constexpr int WARP_M = BLOCK_M / kWarpsM;
    static constexpr int WARP_N = BLOCK_N / kWarpsN;
    static constexpr int kChunks = BLOCK_K / kVector;
    static constexpr int kUnitsX = BLOCK_M * kChunks;  // 16-byte units of a tile.
    static constexpr int kUnitsStage = kUnitsX + BLOCK_N * kChunks;
    static constexpr uint kStageBytes = kUnitsStage * 16;
    static constexpr int kSteps = BLOCK_K / 16;
    static constexpr int kTilesM = WARP_M / 16;
    static constexpr int kTilesN = WARP_N / 8;
    // The write-out passes f32 through shared memory, 32 columns of a warp at a time.
    static constexpr int kSliceN = 32;
    static constexpr int kSliceUnits = WARP_M * kSliceN / 4;

    static_assert(WARP_M % 16 == 0 && WARP_N % kSliceN == 0, "Invalid warp tile");
    static_assert(kSliceUnits * kThreads / kWarp <= kNumStages * kUnitsStage, "write-out fits");

    // What this thread copies of one operand's next tile. Past the end it copies the block's first row again:
    // what comes of it is never written, and a select for each copy would burden the main loop.
    template <int kRows>
    struct Source {
        using Copy = TileCopy<kRows, kChunks, kThreads>;
        const __half* rows[Copy::kRounds];
        uint tile;

        __device__ __forceinline__ Source(const __half* base, int first, int count, int stride,
                                          uint tile)
            : tile(tile) {
#pragma unroll
            for (int i = 0; i < Copy::kRounds; ++i) {
                const int row = first + Copy::row(threadIdx.x) + i * Copy::kRowsAtOnce;
                rows[i] = row_of(base, row < count ? row : first, stride) +
                          Copy::chunk(threadIdx.x) * kVector;
            }
        }

        // Copies the tile `columns` further on, which lies wholly within the rows.
        __device__ __forceinline__ void copy(uint stage, int columns) const {
#pragma unroll
            for (int i = 0; i < Copy::kRounds; ++i) {
#pragma unroll
                for (int c = 0; c < Copy::kParts; ++c) {
                    cp_async_16(tile + stage + Copy::target(threadIdx.x, i, c),
                                rows[i] + columns + c * Copy::kLanes * kVector);
                }
            }
        }

        // Copies what there is of the next tile, `left` columns before the rows end at `k`.
        __device__ __forceinline__ void copy_rest(uint stage, int left, int k) const {
#pragma unroll
            for (int c = 0; c < Copy::kParts; ++c) {
                const int ahead = c * Copy::kLanes * kVector;
                const int halves = left - Copy::chunk(threadIdx.x) * kVector - ahead;
                const int bytes = min(max(halves, 0), kVector) * 2;
                // With nothing left, the row's first column is a valid address.
                const int column = halves > 0 ? ahead : ahead + halves - k;
#pragma unroll
                for (int i = 0; i < Copy::kRounds; ++i) {
                    cp_async_16(tile + stage + Copy::target(threadIdx.x, i, c), rows[i] + column,
                                bytes);
                }
            }
        }

        __device__ __forceinline__ void advance(int columns) {
#pragma unroll
            for (int i = 0; i < Copy::kRounds; ++i) {
                rows[i] += columns;
            }
        }
    };

    struct Fragments {
        uint x[kTilesM][4];
        uint weight[kTilesN / 2][4];  // Two column tiles each.
    };

    // Where this lane's rows of the fragments lie in a stage, for each k step.
    struct Lane {
        uint x[kSteps];
        uint weight[kSteps];

        __device__ __forceinline__ Lane(uint base, int row_x, int row_weight) {
            const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
            for (int step = 0; step < kSteps; ++step) {
                x[step] = base + static_cast<uint>(swizzle<kChunks>(
                    row_x + lane % 16, step * 2 + lane / 16)) * 16;
                weight[step] = base + kUnitsX * 16 + static_cast<uint>(swizzle<kChunks>(
                    row_weight + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2)) * 16;
            }
        }

        __device__ __forceinline__ void load(Fragments& f, uint stage, int step) const {
#pragma unroll
            for (int i = 0; i < kTilesM; ++i) {
                ldmatrix_x4(f.x[i], x[step] + stage + i * 16 * kChunks * 16);
            }
#pragma unroll
            for (int j = 0; j < kTilesN / 2; ++j) {
                ldmatrix_x4(f.weight[j], weight[step] + stage + j * 16 * kChunks * 16);
            }
        }
    };

    static __device__ __forceinline__ void multiply(float (&sums)[kTilesM][kTilesN][4],
                                                    const Fragments& f) {
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
            for (int j = 0; j < kTilesN; ++j) {
                mma_m16n8k16(sums[i][j], f.x[i], f.weight[j / 2][j % 2 * 2],
                             f.weight[j / 2][j % 2 * 2 + 1]);
            }
        }
    }

    // === Write-out ===

    // The unit of half `half` of eight floats `vector` of a slice's row. Both the pairs that mma leaves in a
    // lane and the vectors read back touch all banks evenly.
    static __device__ __forceinline__ int slice_unit(int row, int vector, int half) {
        return row * (kSliceN / 4) + (half ^ (row & 1)) * 4 + (vector ^ (row & 3));
    }

    static __device__ __forceinline__ void activate(float (&v)[kVector], int epilogue) {
        switch (epilogue) {
        case kBiasGelu:
#pragma unroll
            for (int i = 0; i < kVector; ++i) v[i] = gelu_erf(v[i]);
            break;
        case kBiasGeluTanh:
#pragma unroll
            for (int i = 0; i < kVector; ++i) v[i] = gelu_tanh(v[i]);
            break;
        case kBiasRelu:
#pragma unroll
            for (int i = 0; i < kVector; ++i) v[i] = fmaxf(v[i], 0.0f);
            break;
        case kBiasTanh:
#pragma unroll
            for (int i = 0; i < kVector; ++i) v[i] = tanhf(v[i]);
            break;
        default:
            break;
        }
    }

    // Eight neighbours of one row: bias, activation and residual in f32, one rounding.
    static __device__ __forceinline__ void write(const GemmArgs& args, float (&v)[kVector], int row,
                                                 int column) {
        const bool whole = column + kVector <= args.n;
        float bias[kVector] = {};
        float residual[kVector] = {};
        const __half* from =
            args.residual == nullptr ? nullptr
                                     : row_of(args.residual, row, args.residual_stride) + column;
        __half* to = row_of(args.out, row, args.out_stride) + column;
        if (whole) {
            if (args.bias != nullptr) load_floats(bias, args.bias + column);
            if (from != nullptr) load_halves(residual, from);
        } else {
#pragma unroll
            for (int i = 0; i < kVector; ++i) {
                if (column + i < args.n) {
                    if (args.bias != nullptr) bias[i] = args.bias[column + i];
                    if (from != nullptr) residual[i] = __half2float(from[i]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            v[i] += bias[i];
        }
        activate(v, args.epilogue);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            v[i] += residual[i];
        }
        if (whole) {
            store_halves(to, v);
        } else {
#pragma unroll
            for (int i = 0; i < kVector; ++i) {
                if (column + i < args.n) to[i] = __float2half_rn(v[i]);
            }
        }
    }

    static __device__ __forceinline__ void write_out(const GemmArgs& args,
                                                     const float (&sums)[kTilesM][kTilesN][4],
                                                     int first_row, int first_column) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
        float4* slice =
            reinterpret_cast<float4*>(smem) + static_cast<int>(threadIdx.x) / kWarp * kSliceUnits;
#pragma unroll
        for (int part = 0; part < WARP_N / kSliceN; ++part) {
#pragma unroll
            for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
                for (int j = 0; j < kSliceN / 8; ++j) {
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        const float* sum = sums[i][part * (kSliceN / 8) + j] + h * 2;
                        const int unit = slice_unit(i * 16 + h * 8 + lane / 4, j, lane % 4 / 2);
                        reinterpret_cast<float2*>(slice + unit)[lane % 2] =
                            make_float2(sum[0], sum[1]);
                    }
                }
            }
            __syncwarp();
#pragma unroll 1
            for (int at = lane; at < WARP_M * (kSliceN / kVector); at += kWarp) {
                const int row = at / (kSliceN / kVector);
                const int vector = at % (kSliceN / kVector);
                const int column = first_column + part * kSliceN + vector * kVector;
                if (first_row + row < args.m && column < args.n) {
                    const float4 lo = slice[slice_unit(row, vector, 0)];
                    const float4 hi = slice[slice_unit(row, vector, 1)];
                    float v[kVector] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
                    write(args, v, first_row + row, column);
                }
            }
            // The next slice overwrites this one.
            __syncwarp();
        }
    }

    // The products of the tile in `stage`: a step's fragments are loaded while the step before it multiplies,
    // and `refill` copies into the stage that the barrier of the tile before freed.
    template <class Refill>
    static __device__ __forceinline__ void turn(float (&sums)[kTilesM][kTilesN][4],
                                                Fragments (&fragments)[2], const Lane& lane,
                                                uint stage, uint next, const Refill& refill) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            if (step + 1 < kSteps) {
                lane.load(fragments[(step + 1) % 2], stage, step + 1);
            } else {
                // The next stage has landed for all threads, and all have read this one's last fragments.
                cp_async_wait<kNumStages - 2>();
                __syncthreads();
                lane.load(fragments[(step + 1) % 2], next, 0);
            }
            if (step == 0) {
                refill();
            }
            multiply(sums, fragments[step % 2]);
        }
    }

    // Adds up the products of the block's rows of x and the weight; leaves no copy under way.
    static __device__ __forceinline__ void sum_up(float (&sums)[kTilesM][kTilesN][4],
                                                  Source<BLOCK_M>& x, Source<BLOCK_N>& weight,
                                                  const Lane& lane, int k) {
        const int num_tiles = (k + BLOCK_K - 1) / BLOCK_K;
        const auto fetch = [&](int tile, uint stage) {
            if (tile < num_tiles) {
                x.copy_rest(stage, k - tile * BLOCK_K, k);
                weight.copy_rest(stage, k - tile * BLOCK_K, k);
                x.advance(BLOCK_K);
                weight.advance(BLOCK_K);
            }
            // Past the last tile the group is empty, so that the count of groups stays the tile's.
            cp_async_commit();
        };

        // Fill the pipeline.
#pragma unroll
        for (int tile = 0; tile < kNumStages - 1; ++tile) {
            fetch(tile, tile * kStageBytes);
        }
        cp_async_wait<kNumStages - 2>();
        __syncthreads();
        Fragments fragments[2];
        lane.load(fragments[0], 0, 0);

        // Main loop: once round the stages, as long as all that it copies is whole.
        const int num_rounds = max(k / BLOCK_K - kNumStages + 1, 0) / kNumStages;
#pragma unroll 1
        for (int round = 0; round < num_rounds; ++round) {
#pragma unroll
            for (int s = 0; s < kNumStages; ++s) {
                const uint next = (s + 1) % kNumStages * kStageBytes;
                turn(sums, fragments, lane, s * kStageBytes, next, [&] {
                    const uint stage = (s + kNumStages - 1) % kNumStages * kStageBytes;
                    x.copy(stage, s * BLOCK_K);
                    weight.copy(stage, s * BLOCK_K);
                    cp_async_commit();
                });
            }
            x.advance(kNumStages * BLOCK_K);
            weight.advance(kNumStages * BLOCK_K);
        }

        // The last tiles. Behind the very last, a turn reads its stage once more rather than branch.
#pragma unroll 1
        for (int tile = num_rounds * kNumStages; tile < num_tiles; ++tile) {
            const uint stage = tile % kNumStages * kStageBytes;
            const int next = tile + 1 < num_tiles ? tile + 1 : tile;
            turn(sums, fragments, lane, stage, next % kNumStages * kStageBytes, [&] {
                const int ahead = tile + kNumStages - 1;
                fetch(ahead, ahead % kNumStages * kStageBytes);
            });
        }
        cp_async_wait<0>();
    }

    static __device__ __forceinline__ void run(const GemmArgs& args) {
        const int warp = static_cast<int>(threadIdx.x) / kWarp;
        const int warp_m = warp / kWarpsN * WARP_M;
        const int warp_n = warp % kWarpsN * WARP_N;
        const int block_m = static_cast<int>(blockIdx.y) * BLOCK_M;
        const int block_n = static_cast<int>(blockIdx.x) * BLOCK_N;
        const uint base = shared_address(smem);

        Source<BLOCK_M> x(args.x, block_m, args.m, args.x_stride, base);
        Source<BLOCK_N> weight(args.weight, block_n, args.n, args.weight_stride, base + kUnitsX * 16);
        float sums[kTilesM][kTilesN][4] = {};
        sum_up(sums, x, weight, Lane(base, warp_m, warp_n), args.k);

        // Write out: the stages become the slices.
        __syncthreads();
        write_out(args, sums, block_m + warp_m, block_n + warp_n);
    }
};
