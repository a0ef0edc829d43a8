// out[t] = act(x[t, 0..width]) * x[t, width..2 * width]
//
// Any grid, block 256: threads stride over vectors of eight. Rows of x are `2 * width` halves, rows of out
// `width`, a multiple of 8. The activated half comes first; the host orders the weight's rows so.
#include "common.cuh"

enum Activation { kGeluErf, kGeluTanh, kSilu, kRelu };

extern "C" __global__ void __launch_bounds__(256)
gated_activation_f16_sm80(const __half* __restrict__ x, __half* __restrict__ out, int num_rows,
                          int width, int activation) {
    const int vectors = width / kVector;
    const long long count = static_cast<long long>(num_rows) * vectors;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long at = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; at < count;
         at += step) {
        const long long row = at / vectors;
        const int column = static_cast<int>(at - row * vectors) * kVector;
        const __half* from = row_of(x, row, 2 * width) + column;
        float gate[kVector];
        float up[kVector];
        load_halves(gate, from);
        load_halves(up, from + width);
        switch (activation) {
        case kGeluErf:
#pragma unroll
            for (int i = 0; i < kVector; ++i) gate[i] = gelu_erf(gate[i]);
            break;
        case kGeluTanh:
#pragma unroll
            for (int i = 0; i < kVector; ++i) gate[i] = gelu_tanh(gate[i]);
            break;
        case kSilu:
#pragma unroll
            for (int i = 0; i < kVector; ++i) gate[i] = gate[i] * sigmoid(gate[i]);
            break;
        default:
#pragma unroll
            for (int i = 0; i < kVector; ++i) gate[i] = fmaxf(gate[i], 0.0f);
            break;
        }
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            gate[i] *= up[i];
        }
        store_halves(row_of(out, row, width) + column, gate);
    }
}
