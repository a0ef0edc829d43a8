// A norm over one row that a block holds in registers, eight columns a thread.
//
// The host launches blockDim.x = width / 8 rounded up to whole warps, so the order of a sum depends on the
// width alone. Two passes over registers: the variance of E[x^2] - E[x]^2 cancels, that of x - mean does not.
#pragma once

#include "common.cuh"

constexpr int kMaxNormThreads = 512;  // Width 4096.

struct NormRow {
    int column;   // The first of this thread's eight columns.
    bool active;  // Whether the row has them; the last warp may stand past the end.
};

__device__ __forceinline__ NormRow norm_row(int width) {
    const int column = static_cast<int>(threadIdx.x) * kVector;
    return {column, column < width};
}

__device__ __forceinline__ float sum_of(const float (&x)[kVector]) {
    return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}

__device__ __forceinline__ float sum_of_squares(const float (&x)[kVector]) {
    float squares[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        squares[i] = x[i] * x[i];
    }
    return sum_of(squares);
}

__device__ __forceinline__ void add_halves(float (&x)[kVector], const __half* ptr) {
    float y[kVector];
    load_halves(y, ptr);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        x[i] += y[i];
    }
}

// x = hidden + update in f32; zeros past the row. A null `update` is none.
__device__ __forceinline__ void load_sum(float (&x)[kVector], const NormRow& row,
                                         const __half* hidden, const __half* update,
                                         long long token, int width) {
    if (row.active) {
        load_halves(x, row_of(hidden, token, width) + row.column);
        if (update != nullptr) {
            add_halves(x, row_of(update, token, width) + row.column);
        }
    }
}

// x = (x - mean) / sqrt(variance + eps) * gamma + beta. Threads past the row pass zeros. A null `beta` is
// none. Every thread of the block calls this.
__device__ __forceinline__ void layer_norm(float (&x)[kVector], const NormRow& row, int width,
                                           const float* gamma, const float* beta, float eps,
                                           float* partial) {
    const float mean = block_sum(sum_of(x), partial) / static_cast<float>(width);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        x[i] = row.active ? x[i] - mean : 0.0f;
    }
    const float variance = block_sum(sum_of_squares(x), partial) / static_cast<float>(width);
    const float scale = 1.0f / sqrtf(variance + eps);
    if (row.active) {
        float g[kVector];
        float b[kVector] = {};
        load_floats(g, gamma + row.column);
        if (beta != nullptr) {
            load_floats(b, beta + row.column);
        }
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            x[i] = x[i] * scale * g[i] + b[i];
        }
    }
}
