// out[i] = the first row of sequence i, or the mean of its rows
//
// Grid (num_sequences), block of width / 8 threads rounded up to whole warps, at most 512. Each thread adds
// eight columns over the rows in their order, in f32. A sequence without rows gives zeros. Rows are `width`
// halves, a multiple of 8.
#include "common.cuh"

// The order of `enum Pooling` in src/engine/mod.rs.
enum Pooling { kCls, kMean };

__device__ __forceinline__ void add(float (&sum)[kVector], const uint4& row) {
    float x[kVector];
    to_floats(x, row);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        sum[i] += x[i];
    }
}

extern "C" __global__ void __launch_bounds__(512, 1)
pool_f16_sm80(const __half* __restrict__ hidden, const uint* __restrict__ cu_seqlens, int width,
              int pooling, __half* __restrict__ out) {
    const uint begin = cu_seqlens[blockIdx.x];
    const int len = static_cast<int>(cu_seqlens[blockIdx.x + 1] - begin);
    const int num_rows = pooling == kCls ? min(len, 1) : len;
    const int column = static_cast<int>(threadIdx.x) * kVector;
    if (column >= width) {
        return;
    }
    const __half* from = row_of(hidden, begin, width) + column;
    float sum[kVector] = {};
    // Four loads are under way at once; the additions stay in the rows' order.
    constexpr int kAhead = 4;
    int row = 0;
    for (; row + kAhead <= num_rows; row += kAhead) {
        uint4 ahead[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            ahead[i] = *reinterpret_cast<const uint4*>(row_of(from, row + i, width));
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            add(sum, ahead[i]);
        }
    }
    for (; row < num_rows; ++row) {
        add(sum, *reinterpret_cast<const uint4*>(row_of(from, row, width)));
    }
    const float scale = num_rows > 1 ? 1.0f / static_cast<float>(num_rows) : 1.0f;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        sum[i] *= scale;
    }
    store_halves(row_of(out, blockIdx.x, width) + column, sum);
}
