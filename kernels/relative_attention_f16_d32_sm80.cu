// Attention that counts distances (DeBERTa), with heads of 32. Grid (num_items * num_heads), block 128; heads run
// fastest, so the blocks in flight share rows of qkv. 26,624 bytes of dynamic shared memory.
#include "relative_attention.cuh"

extern "C" __global__ void __launch_bounds__(RelativeAttention<32>::kThreads, 3)
relative_attention_f16_d32_sm80(const __half* qkv, const uint* cu_seqlens, const uint2* items,
                                __half* out, int num_heads, int qkv_stride, int out_stride,
                                int first_only, const uint* key_lens, const __half* keys,
                                const __half* queries, const uint* buckets, int num_buckets,
                                int max_length) {
    RelativeAttention<32>::run({qkv, cu_seqlens, items, out, num_heads, qkv_stride, out_stride,
                               first_only, key_lens, keys, queries, buckets, num_buckets,
                               max_length});
}
