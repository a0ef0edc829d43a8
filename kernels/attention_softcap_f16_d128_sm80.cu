// Attention with soft-capped scores (Gemma 2) and heads of 128. Grid (num_items * num_heads), block 128; heads run
// fastest, so the blocks in flight share rows of qkv. 32,768 bytes of dynamic shared memory.
#include "attention.cuh"

extern "C" __global__ void __launch_bounds__(Attention<128, true>::kThreads, 3)
attention_softcap_f16_d128_sm80(const __half* qkv, const uint* cu_seqlens, const uint2* items,
                                __half* out, int num_heads, int num_kv_heads, int qkv_stride,
                                int out_stride, int left, int right, int first_only,
                                const uint* key_lens, float cap) {
    Attention<128, true>::run({qkv, cu_seqlens, items, out, num_heads, num_kv_heads, qkv_stride,
                             out_stride, left, right, first_only, key_lens, cap});
}
