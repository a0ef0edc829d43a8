"""Compiles the kernels below with Triton to PTX, with no GPU: triton==3.9.0.

Triton's output runs on hardware every day. That it gives right results here shows that the emulator
means by ldmatrix, mma, cp.async and wgmma what the hardware means: it was written by other people.
"""

import pathlib
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def matmul(a, b, c, M, N, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c[M, N] = a[M, K] @ b[K, N]: f16 in, f16 out, f32 sums, guarded edges."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    ks = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, K, BK):
        k = start + ks
        left = tl.load(a + rows[:, None] * K + k[None, :], mask=rows[:, None] < M, other=0.0)
        right = tl.load(b + k[:, None] * N + columns[None, :], mask=columns[None, :] < N, other=0.0)
        total = tl.dot(left, right, total)
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(c + rows[:, None] * N + columns[None, :], total.to(tl.float16), mask=inside)


@triton.jit
def matmul_transposed(a, b, c, M, N, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c[M, N] = a[K, M]^T @ b[N, K]^T: the other layout of both factors. M is a multiple of BM."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    ks = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, K, BK):
        k = start + ks
        left = tl.load(a + k[None, :] * M + rows[:, None])
        right = tl.load(b + columns[None, :] * K + k[:, None], mask=columns[None, :] < N, other=0.0)
        total = tl.dot(left, right, total)
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(c + rows[:, None] * N + columns[None, :], total.to(tl.float16), mask=inside)


@triton.jit
def attention(q, k, v, out, L, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """One head, rows of D values: online softmax over key blocks, the last one masked."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    ds = tl.arange(0, D)
    queries = tl.load(q + rows[:, None] * D + ds[None, :], mask=rows[:, None] < L, other=0.0)
    top = tl.full((BM,), -1.0e30, dtype=tl.float32)
    weight = tl.zeros((BM,), dtype=tl.float32)
    total = tl.zeros((BM, D), dtype=tl.float32)
    for start in range(0, L, BN):
        columns = start + tl.arange(0, BN)
        inside = columns[None, :] < L
        keys = tl.load(k + columns[None, :] * D + ds[:, None], mask=inside, other=0.0)
        scores = tl.where(inside, tl.dot(queries, keys) * scale, -1.0e30)
        higher = tl.maximum(top, tl.max(scores, 1))
        share = tl.exp(scores - higher[:, None])
        shrink = tl.exp(top - higher)
        weight = weight * shrink + tl.sum(share, 1)
        values = tl.load(v + columns[:, None] * D + ds[None, :], mask=columns[:, None] < L, other=0.0)
        total = tl.dot(share.to(tl.float16), values, total * shrink[:, None])
        top = higher
    total = total / weight[:, None]
    tl.store(out + rows[:, None] * D + ds[None, :], total.to(tl.float16), mask=rows[:, None] < L)


@triton.jit
def layer_norm(x, gain, bias, out, N, eps, BLOCK: tl.constexpr):
    """One row a program, across all warps of the block."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < N
    value = tl.load(x + row * N + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, 0) / N
    centred = tl.where(inside, value - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / N + eps)
    result = centred * scale * tl.load(gain + at, mask=inside) + tl.load(bias + at, mask=inside)
    tl.store(out + row * N + at, result, mask=inside)


HALF, FLOAT, INT = "*fp16", "*fp32", "i32"
# For each architecture named; on sm_90 the products become wgmma, fed by cp.async.
KERNELS = {
    "matmul": (
        [80, 90],
        matmul,
        dict(a=HALF, b=HALF, c=HALF, M=INT, N=INT),
        dict(K=96, BM=64, BN=64, BK=32),
        dict(num_warps=4, num_stages=3),
    ),
    # Two warpgroups, tiles wider than a swizzle pattern.
    "matmul_wide": (
        [90],
        matmul,
        dict(a=HALF, b=HALF, c=HALF, M=INT, N=INT),
        dict(K=192, BM=128, BN=128, BK=64),
        dict(num_warps=8, num_stages=3),
    ),
    "matmul_transposed": (
        [90],
        matmul_transposed,
        dict(a=HALF, b=HALF, c=HALF, M=INT, N=INT),
        dict(K=64, BM=128, BN=32, BK=16),
        dict(num_warps=4, num_stages=3),
    ),
    "attention": (
        [80, 90],
        attention,
        dict(q=HALF, k=HALF, v=HALF, out=HALF, L=INT, scale="fp32"),
        dict(D=64, BM=64, BN=32),
        dict(num_warps=4, num_stages=2),
    ),
    "layer_norm": (
        [80],
        layer_norm,
        dict(x=FLOAT, gain=FLOAT, bias=FLOAT, out=FLOAT, N=INT, eps="fp32"),
        dict(BLOCK=512),
        dict(num_warps=4),
    ),
}


def generate(name, architecture, function, types, constants, options):
    signature = {p: types.get(p, "constexpr") for p in function.arg_names}
    # Pointers are promised to be multiples of 16, as every allocation is: only then does Triton
    # use cp.async and 16-byte accesses.
    aligned = [("tt.divisibility", 16)]
    attrs = {(i,): aligned for i, p in enumerate(function.arg_names) if types.get(p, "")[:1] == "*"}
    # So are the lengths of rows.
    for size in {matmul: ["N"], matmul_transposed: ["M", "N"]}.get(function, []):
        attrs[(function.arg_names.index(size),)] = aligned
    source = ASTSource(function, signature, constants, attrs)
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options=options)
    ptx = compiled.asm["ptx"]
    # Debug sections name the generating machine's paths.
    ptx = re.sub(r"\s*\.section[^{]*\{[^}]*\}", "", ptx, flags=re.S)
    ptx = re.sub(r"^\s*\.(file|loc)\b.*\n", "", ptx, flags=re.M)
    ptx = re.sub(r"[ \t]+$", "", re.sub(r"//.*", "", ptx), flags=re.M)
    ptx = re.sub(r"\n{2,}", "\n", ptx).strip() + "\n"
    shared = compiled.metadata.shared
    path = pathlib.Path(__file__).parent / f"{name}_sm{architecture}.ptx"
    path.write_text(f"// Triton {triton.__version__}; shared memory {shared} bytes; see generate.py\n{ptx}")
    print(path.name, shared, compiled.metadata.num_warps)


def main():
    for name, (architectures, *kernel) in KERNELS.items():
        for architecture in architectures:
            generate(name, architecture, *kernel)


main()
