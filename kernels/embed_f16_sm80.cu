// out[t] = words[input_ids[t]]
//
// Gathers rows of any table: of activations, too, where sequences share some.
//
// Any grid, block 256: threads stride over vectors of eight. The table and `out` are rows of `width` halves, a
// multiple of 8.
//
// NOTES: ids are not checked against the table here; the host has done it when it laid out the batch.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
embed_f16_sm80(const uint* __restrict__ input_ids, const __half* __restrict__ words, int num_rows,
               int width, __half* __restrict__ out) {
    const int vectors = width / kVector;
    const long long count = static_cast<long long>(num_rows) * vectors;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long at = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; at < count;
         at += step) {
        const long long row = at / vectors;
        const int column = static_cast<int>(at - row * vectors) * kVector;
        const __half* from = row_of(words, input_ids[row], width) + column;
        *reinterpret_cast<uint4*>(row_of(out, row, width) + column) =
            *reinterpret_cast<const uint4*>(from);
    }
}
