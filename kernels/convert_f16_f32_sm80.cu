// out[i] = f32(x[i]), exact. Any grid, block 256.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
convert_f16_f32_sm80(const __half* __restrict__ x, float* __restrict__ out, long long count) {
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const long long vectors = count / kVector;
    for (long long at = first; at < vectors; at += step) {
        float v[kVector];
        load_halves(v, x + at * kVector);
        store_floats(out + at * kVector, v);
    }
    for (long long at = vectors * kVector + first; at < count; at += step) {
        out[at] = __half2float(x[at]);
    }
}
