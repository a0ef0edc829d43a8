// Late interaction with documents as int8 vectors of 96 and an f32 scale for each. Grid (num_pairs), block 128,
// 12288 bytes of dynamic shared memory. Vectors of another size are padded with zeros by the host, which change
// no similarity.
#include "maxsim_i8.cuh"

using Documents = MaxSim<ByteTokens<96>>;

extern "C" __global__ void __launch_bounds__(Documents::kThreads)
maxsim_i8_d96_sm80(const __half* queries, const uint* cu_queries, const signed char* docs,
                    const float* scales, const uint* cu_docs, const uint2* pairs, float* scores) {
    Documents::run({queries, cu_queries, docs, scales, cu_docs, pairs, scores});
}
