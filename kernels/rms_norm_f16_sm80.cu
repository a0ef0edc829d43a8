// out = x / sqrt(mean(x^2) + eps) * gamma with x = hidden + update, and where `sum` is not null, sum = x
//
// Grid (num_rows), block as norm.cuh says. A null `update` is none. Rows are `width` halves, a multiple of 8.
//
// NOTES: out or sum may be hidden: a thread reads its columns before it writes them. So no __restrict__.
#include "norm.cuh"

extern "C" __global__ void __launch_bounds__(kMaxNormThreads, 1)
rms_norm_f16_sm80(const __half* hidden, const __half* update, const float* gamma, float eps,
                  int width, __half* sum, __half* out) {
    __shared__ float partial[kWarp];
    const long long token = blockIdx.x;
    const NormRow row = norm_row(width);

    float x[kVector] = {};
    load_sum(x, row, hidden, update, token, width);
    if (row.active && sum != nullptr) {
        store_halves(row_of(sum, token, width) + row.column, x);
    }
    const float square = block_sum(sum_of_squares(x), partial) / static_cast<float>(width);
    const float scale = 1.0f / sqrtf(square + eps);
    if (row.active) {
        float g[kVector];
        load_floats(g, gamma + row.column);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            x[i] *= scale * g[i];
        }
        store_halves(row_of(out, token, width) + row.column, x);
    }
}
