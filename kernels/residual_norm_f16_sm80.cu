// out = norm(hidden + update), and where `sum` is not null, sum = hidden + update
//
// Grid (num_rows), block as norm.cuh says. BERT needs `out` alone and passes out = hidden; a pre-norm model
// also keeps the sum. A null `update` is none. The norm sees the sum in f32, before any rounding. Rows are
// `width` halves, a multiple of 8; a null `beta` is none.
//
// NOTES: out or sum may be hidden: a thread reads its columns before it writes them. So no __restrict__.
#include "norm.cuh"

extern "C" __global__ void __launch_bounds__(kMaxNormThreads, 1)
residual_norm_f16_sm80(const __half* hidden, const __half* update, const float* gamma,
                       const float* beta, float eps, int width, __half* sum, __half* out) {
    __shared__ float partial[kWarp];
    const long long token = blockIdx.x;
    const NormRow row = norm_row(width);

    float x[kVector] = {};
    load_sum(x, row, hidden, update, token, width);
    if (row.active && sum != nullptr) {
        store_halves(row_of(sum, token, width) + row.column, x);
    }
    layer_norm(x, row, width, gamma, beta, eps, partial);
    if (row.active) {
        store_halves(row_of(out, token, width) + row.column, x);
    }
}
