// Late interaction with vectors of 64. Grid (num_pairs), block 128, 20480 bytes of dynamic shared memory.
// Vectors of another size are padded with zeros by the host, which change no similarity.
#include "maxsim.cuh"

extern "C" __global__ void __launch_bounds__(MaxSim<HalfTokens<64>>::kThreads)
maxsim_f16_d64_sm80(const __half* queries, const uint* cu_queries, const __half* docs,
                    const uint* cu_docs, const uint2* pairs, float* scores) {
    MaxSim<HalfTokens<64>>::run({queries, cu_queries, docs, nullptr, cu_docs, pairs, scores});
}
