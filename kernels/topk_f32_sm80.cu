// The k best scores of each query, best first; equal scores in the order of their positions.
//
// Grid (num_queries), block 512, no dynamic shared memory; k is at most 512. Query i's scores are those from
// cu_scores[i] to before cu_scores[i + 1]. `indices` and `values` have a row of k for each query; an index counts
// from the query's first score, and places without a score hold 0xffffffff and -inf.
//
// A block keeps the best 512 so far in the upper half of a list, fills the lower half with the next 512 scores,
// and sorts, unless none of them is better than the last kept: a pass without news costs no sort. Every key is
// different, as it ends in the position, so the order of threads decides nothing.
//
// NOTES: NaN ranks below -inf. -0 and 0 are equal.
#include "common.cuh"

constexpr int kThreads = 512;
constexpr int kKeys = 2 * kThreads;

// Larger is better: the score's bits in the order of the numbers, then the position, small ones first. 0 is none.
__device__ __forceinline__ unsigned long long key_of(float score, uint index) {
    uint bits = __float_as_uint(score + 0.0f);
    bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    bits = score == score ? bits : 0;
    return static_cast<unsigned long long>(bits) << 32 | (0xffffffffu - index);
}

__device__ __forceinline__ float score_of(unsigned long long key) {
    const uint bits = static_cast<uint>(key >> 32);
    if (bits == 0) {
        return __uint_as_float(0x7fffffffu);
    }
    return __uint_as_float((bits & 0x80000000u) != 0 ? bits & 0x7fffffffu : ~bits);
}

// Batcher's bitonic network, largest first: each thread orders one pair in each step.
__device__ __forceinline__ void sort(unsigned long long* keys) {
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
    for (int run = 2; run <= kKeys; run *= 2) {
#pragma unroll 1
        for (int distance = run / 2; distance > 0; distance /= 2) {
            const int low = thread / distance * distance * 2 + thread % distance;
            const unsigned long long a = keys[low];
            const unsigned long long b = keys[low + distance];
            const bool descends = (low & run) == 0;
            if ((a < b) == descends) {
                keys[low] = b;
                keys[low + distance] = a;
            }
            __syncthreads();
        }
    }
}

extern "C" __global__ void __launch_bounds__(kThreads)
topk_f32_sm80(const float* scores, const uint* cu_scores, uint* indices, float* values, int k) {
    __shared__ unsigned long long keys[kKeys];
    __shared__ uint news[kThreads / kWarp];
    const uint thread = threadIdx.x;
    const uint begin = cu_scores[blockIdx.x];
    const uint count = cu_scores[blockIdx.x + 1] - begin;

    keys[thread] = 0;
    __syncthreads();
    for (uint first = 0; first < count; first += kThreads) {
        const uint index = first + thread;
        const unsigned long long key =
            index < count ? key_of(scores[static_cast<size_t>(begin) + index], index) : 0;
        const uint better = __ballot_sync(kFullMask, key > keys[kThreads - 1]);
        if (thread % kWarp == 0) {
            news[thread / kWarp] = better;
        }
        keys[kThreads + thread] = key;
        __syncthreads();
        uint any = 0;
#pragma unroll
        for (int warp = 0; warp < kThreads / kWarp; ++warp) {
            any |= news[warp];
        }
        // All have read the news, and the last kept.
        __syncthreads();
        if (any != 0) {
            sort(keys);
        }
    }
    if (thread < static_cast<uint>(k)) {
        const unsigned long long key = keys[thread];
        const size_t at = static_cast<size_t>(blockIdx.x) * k + thread;
        indices[at] = key == 0 ? 0xffffffffu : 0xffffffffu - static_cast<uint>(key);
        values[at] = key == 0 ? negative_infinity() : score_of(key);
    }
}
