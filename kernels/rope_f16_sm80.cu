// Rotates the query and key heads of each row of qkv in place: rotary position embedding, halves form
//
// For head h, pair i < head_dim / 2 and angle a = position * inverse_frequency[i]:
//     lo, hi = x[i], x[i + head_dim / 2];  x[i] = lo cos a - hi sin a;  x[i + head_dim / 2] = hi cos a + lo sin a
// The host gives cos and sin as tables [num_positions, head_dim / 2] in f32, made in f64: f32 angles near 8,000
// lie 5e-4 apart. Rows are [query heads | key heads | value heads]; `num_rotated` counts the first two.
// Rotation commutes with the factor that attention asks of queries, which may stay in their weights.
//
// Any grid, block 256: a thread rotates eight pairs. head_dim is a multiple of 16, qkv_stride of 8.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
rope_f16_sm80(__half* qkv, const uint* __restrict__ position_ids, const float* __restrict__ cosines,
              const float* __restrict__ sines, int num_rows, int num_rotated, int head_dim,
              int qkv_stride) {
    const int half = head_dim / 2;
    const int vectors = half / kVector;
    const long long row_vectors = static_cast<long long>(num_rotated) * vectors;
    const long long count = num_rows * row_vectors;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long at = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; at < count;
         at += step) {
        const long long row = at / row_vectors;
        const int in_row = static_cast<int>(at - row * row_vectors);
        const int head = in_row / vectors;
        const int pair = in_row % vectors * kVector;
        __half* x = row_of(qkv, row, qkv_stride) + head * head_dim + pair;

        float lo[kVector];
        float hi[kVector];
        float cosine[kVector];
        float sine[kVector];
        load_halves(lo, x);
        load_halves(hi, x + half);
        load_floats(cosine, row_of(cosines, position_ids[row], half) + pair);
        load_floats(sine, row_of(sines, position_ids[row], half) + pair);
        float new_lo[kVector];
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            new_lo[i] = lo[i] * cosine[i] - hi[i] * sine[i];
            hi[i] = hi[i] * cosine[i] + lo[i] * sine[i];
        }
        store_halves(x, new_lo);
        store_halves(x + half, hi);
    }
}
