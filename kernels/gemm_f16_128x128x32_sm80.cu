// The linear layer's tile for many rows: 128 x 128 outputs, four warps of 64 x 64.
//
// Grid (n / 128, m / 128) rounded up, block 128, 49,152 bytes of dynamic shared memory (3 stages of 16 KiB:
// the most that needs no opt-in, and two blocks fit the 100 KiB of sm_86 and sm_89). Columns run fastest, so
// the blocks in flight share the rows of x. The arguments are those of GemmArgs, one by one.
#include "gemm.cuh"

using Tile = Gemm<128, 128, 32, 2, 2, 3>;

extern "C" __global__ void __launch_bounds__(Tile::kThreads, 2)
gemm_f16_128x128x32_sm80(const __half* x, const __half* weight, const float* bias,
                         const __half* residual, __half* out, int m, int n, int k, int x_stride,
                         int weight_stride, int residual_stride, int out_stride, int epilogue) {
    Tile::run({x, weight, bias, residual, out, m, n, k, x_stride, weight_stride, residual_stride,
               out_stride, epilogue});
}
