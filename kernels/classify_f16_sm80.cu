// logits[i, label] = rows[i] . weight[label] + bias[label], in f32
//
// Grid (num_rows * num_labels / 4) rounded up, block 128: a warp makes one logit. Rows are `width` halves, a
// multiple of 8. A null `bias` is none. For the one or few labels of a head; more are a matrix product.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(128)
classify_f16_sm80(const __half* __restrict__ rows, const __half* __restrict__ weight,
                  const float* __restrict__ bias, float* __restrict__ logits, int num_rows,
                  int num_labels, int width) {
    const long long at =
        static_cast<long long>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    if (at >= static_cast<long long>(num_rows) * num_labels) {
        return;
    }
    const long long row = at / num_labels;
    const int label = static_cast<int>(at - row * num_labels);
    const __half* lhs = row_of(rows, row, width);
    const __half* rhs = row_of(weight, label, width);

    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    float sum = 0.0f;
    for (int column = lane * kVector; column < width; column += kWarp * kVector) {
        float x[kVector];
        float w[kVector];
        load_halves(x, lhs + column);
        load_halves(w, rhs + column);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            sum = fmaf(x[i], w[i], sum);
        }
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        logits[at] = sum + (bias == nullptr ? 0.0f : bias[label]);
    }
}
