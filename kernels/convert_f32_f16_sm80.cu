// out[i] = f16(x[i]), rounded to nearest even; past 65504 it is infinite. Any grid, block 256.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
convert_f32_f16_sm80(const float* __restrict__ x, __half* __restrict__ out, long long count) {
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const long long vectors = count / kVector;
    for (long long at = first; at < vectors; at += step) {
        float v[kVector];
        load_floats(v, x + at * kVector);
        store_halves(out + at * kVector, v);
    }
    for (long long at = vectors * kVector + first; at < count; at += step) {
        out[at] = __float2half_rn(x[at]);
    }
}
