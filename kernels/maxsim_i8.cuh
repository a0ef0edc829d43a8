// Document tokens of MaxSim as int8 with one f32 scale a token; queries stay f16.
//
// A lane turns the bytes of its fragment into halves, which hold every int8 exactly, and the f16 products and f32
// sums are those of HalfTokens; the scale multiplies the sum. So the only error beside that of f16 documents is
// the documents' own: with scale = max |d| / 127, one similarity is off by at most |q|_1 scale / 2, a
// score by the sum of that over its query tokens. Queries as int8 too (mma.m16n8k32.s8) would double the
// products a cycle and add an error of that size again; the kernel waits for memory, not for products.
//
// NOTES: a fragment's lane holds four neighbouring bytes of a row, where mma wants two pairs of columns eight
// apart. The order of columns within a product's 16 is free, so the queries' fragments take the same four.
#pragma once

#include "maxsim.cuh"

template <int kDimension>
struct ByteTokens {
    static constexpr int kDim = kDimension;
    static constexpr int kChunks = kDim / 16;
    static constexpr int kSteps = kDim / 16;
    static constexpr int kQueryUnits = 0;
    static constexpr bool kScaled = true;

    static_assert(kSteps % 2 == 0, "a fragment load covers two steps");

    // Straight from global memory: with its columns in this order no ldmatrix loads a fragment.
    template <int kThreads>
    static __device__ __forceinline__ void load_queries(QueryFragments<kSteps>& q, uint /*tile*/,
                                                        const __half* queries, int first, int len) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = first + i * 16 + h * 8 + lane / 4;
                const __half* src = row_of(queries, row < len ? row : 0, kDim) + lane % 4 * 4;
#pragma unroll
                for (int step = 0; step < kSteps; ++step) {
                    const uint2 four = *reinterpret_cast<const uint2*>(src + step * 16);
                    q[i][step][h] = row < len ? four.x : 0;
                    q[i][step][h + 2] = row < len ? four.y : 0;
                }
            }
        }
    }

    // Two pairs of halves from four int8. 0x6400 + u is the half 1024 + u.
    static __device__ __forceinline__ void to_half4(uint (&pairs)[2], uint bytes) {
        const uint biased = bytes ^ 0x80808080u;
        const __half2 bias = __float2half2_rn(1024.0f + 128.0f);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint raised = __byte_perm(biased, 0x64646464u, i == 0 ? 0x4140 : 0x4342);
            const __half2 pair = __hsub2(*reinterpret_cast<const __half2*>(&raised), bias);
            pairs[i] = *reinterpret_cast<const uint*>(&pair);
        }
    }

    static __device__ __forceinline__ void multiply(Similarities& s, const QueryFragments<kSteps>& q,
                                                    uint tile, int doc) {
        const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
        for (int step = 0; step < kSteps; step += 2) {
            // Of tokens 0 to 7 this step and the next, then of tokens 8 to 15.
            uint d[4];
            ldmatrix_x4(d, tile + static_cast<uint>(swizzle<kChunks>(
                doc + lane / 16 * 8 + lane % 8, step + lane / 8 % 2)) * 16);
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                uint pairs[2];
                to_half4(pairs, d[part]);
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    mma_m16n8k16(s[i][part / 2], q[i][step + part % 2], pairs[0], pairs[1]);
                }
            }
        }
    }
};
