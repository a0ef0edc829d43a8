// Scales each row to length one, in place; a row of zeros stays.
//
// Grid (num_rows), block as norm.cuh says. Rows are `width` halves, a multiple of 8.
#include "norm.cuh"

extern "C" __global__ void __launch_bounds__(kMaxNormThreads, 1)
normalize_f16_sm80(__half* rows, int width) {
    __shared__ float partial[kWarp];
    const NormRow row = norm_row(width);
    __half* to = row_of(rows, blockIdx.x, width) + row.column;

    float x[kVector] = {};
    if (row.active) {
        load_halves(x, to);
    }
    // Squares of f16 neither overflow f32 nor vanish in it, so no scaling is needed before.
    const float square = block_sum(sum_of_squares(x), partial);
    if (row.active && square > 0.0f) {
        const float scale = 1.0f / sqrtf(square);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            x[i] *= scale;
        }
        store_halves(to, x);
    }
}
