// Norms each head of queries and of keys in place: x = x / sqrt(mean(x^2) + eps) * gamma
//
// Rows are [query heads | key heads | value heads]; values stay. Gammas are floats, one for the queries' heads and
// one for the keys'. Grid (num_rows * (num_heads + num_kv_heads) / 4) rounded up, block 128: a warp takes a head.
// head_dim is a multiple of 8 and at most 256, qkv_stride a multiple of 8.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(128)
head_norm_f16_sm80(__half* qkv, const float* __restrict__ query_gamma,
                   const float* __restrict__ key_gamma, float eps, int num_rows, int num_heads,
                   int num_kv_heads, int head_dim, int qkv_stride) {
    const long long at =
        static_cast<long long>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    const int heads = num_heads + num_kv_heads;
    if (at >= static_cast<long long>(num_rows) * heads) {
        return;
    }
    const long long row = at / heads;
    const int head = static_cast<int>(at - row * heads);
    const int column = static_cast<int>(threadIdx.x) % kWarp * kVector;
    __half* from = row_of(qkv, row, qkv_stride) + head * head_dim + column;

    float x[kVector] = {};
    if (column < head_dim) {
        load_halves(x, from);
    }
    float square = 0.0f;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        square = fmaf(x[i], x[i], square);
    }
    square = warp_sum(square) / static_cast<float>(head_dim);
    const float scale = 1.0f / sqrtf(square + eps);
    if (column < head_dim) {
        float g[kVector];
        load_floats(g, (head < num_heads ? query_gamma : key_gamma) + column);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            x[i] *= scale * g[i];
        }
        store_halves(from, x);
    }
}
