// The linear layer's tile for few rows, where 128 x 128 would leave multiprocessors idle: 64 x 64 outputs,
// four warps of 32 x 32.
//
// Grid (n / 64, m / 64) rounded up, block 128, 49,152 bytes of dynamic shared memory (3 stages of 16 KiB).
// The same sums in the same order as gemm_f16_128x128x32_sm80, so the choice may depend on m.
#include "gemm.cuh"

using Tile = Gemm<64, 64, 64, 2, 1, 3>;

extern "C" __global__ void __launch_bounds__(Tile::kThreads, 3)
gemm_f16_64x64x64_sm80(const __half* x, const __half* weight, const float* bias,
                       const __half* residual, __half* out, int m, int n, int k, int x_stride,
                       int weight_stride, int residual_stride, int out_stride, int epilogue) {
    Tile::run({x, weight, bias, residual, out, m, n, k, x_stride, weight_stride, residual_stride,
               out_stride, epilogue});
}
