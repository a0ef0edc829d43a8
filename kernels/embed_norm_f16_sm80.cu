// out[t] = norm(word[input_ids[t]] + type[type_ids[t]] + position[position_ids[t]])
//
// Grid (num_tokens), block as norm.cuh says. A null `types` or `positions` table is left out. Tables and
// `out` are rows of `width` halves, a multiple of 8; gamma and beta are floats.
//
// NOTES: ids are not checked against the tables here; the host has done it when it laid out the batch.
#include "norm.cuh"

extern "C" __global__ void __launch_bounds__(kMaxNormThreads, 1)
embed_norm_f16_sm80(const uint* __restrict__ input_ids, const uint* __restrict__ type_ids,
                    const uint* __restrict__ position_ids, const __half* __restrict__ words,
                    const __half* __restrict__ types, const __half* __restrict__ positions,
                    const float* __restrict__ gamma, const float* __restrict__ beta, float eps,
                    int width, __half* __restrict__ out) {
    __shared__ float partial[kWarp];
    const int token = static_cast<int>(blockIdx.x);
    const NormRow row = norm_row(width);

    float x[kVector] = {};
    if (row.active) {
        load_halves(x, row_of(words, input_ids[token], width) + row.column);
        if (types != nullptr) {
            add_halves(x, row_of(types, type_ids[token], width) + row.column);
        }
        if (positions != nullptr) {
            add_halves(x, row_of(positions, position_ids[token], width) + row.column);
        }
    }
    layer_norm(x, row, width, gamma, beta, eps, partial);
    if (row.active) {
        store_halves(row_of(out, token, width) + row.column, x);
    }
}
