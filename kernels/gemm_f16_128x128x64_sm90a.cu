// The linear layer's tile for many rows on sm_90a: 128 x 128 outputs, two warpgroups of 64 x 128.
//
// Grid (n / 128, m / 128) rounded up, block 256, 99,328 bytes of dynamic shared memory (3 stages of 32 KiB, and up
// to 1 KiB before the first: two blocks fit the 228 KiB of a multiprocessor). Columns run fastest, so the blocks in
// flight share the rows of x. The arguments are those of GemmArgs, one by one.
#include "gemm_wgmma.cuh"

extern "C" __global__ void __launch_bounds__(GemmWgmma::kThreads, 2)
gemm_f16_128x128x64_sm90a(const __half* x, const __half* weight, const float* bias,
                          const __half* residual, __half* out, int m, int n, int k, int x_stride,
                          int weight_stride, int residual_stride, int out_stride, int epilogue) {
    GemmWgmma::run({x, weight, bias, residual, out, m, n, k, x_stride, weight_stride, residual_stride,
                    out_stride, epilogue});
}
