"""What the assembler makes of a kernel: its instructions, its main loop, and how long each pipe works on it.

The main loop is the innermost loop with the most tensor-core products: every instruction from its label to the
branch back, predicated-off ones and blocks behind a branch included, so a share is never better than the truth.

The cycles are throughputs on paper, not measurements: no latency, no cache, no memory, no clock. They are those
of a multiprocessor of four quarters with one warp each, for one iteration:

  issue   one instruction a cycle a quarter
  tensor  m16n8k16 is 2,048 multiply-adds. Dense f16 multiply-adds a cycle a multiprocessor: A100 1,024 (A100
          whitepaper), L4 512 (121 TFLOP/s over 58 multiprocessors at 2.04 GHz), H100 2,048 by wgmma (H100
          whitepaper), of which mma.sync was measured to reach 62.9% (arXiv 2402.13499)
  fma, alu, mufu
          results a cycle a multiprocessor, CUDA C++ Programming Guide, "Throughput of Native Arithmetic
          Instructions", columns 8.0, 8.9 and 9.0: f32 64, 128, 128; int32, compare, minimum, logic, conversion
          to f16, vote 64; exp2 and its like 16. IMAD counts as f32 hardware at 64, IMAD.WIDE as two.
  shared  128 bytes a cycle, all quarters together; copies to it (LDGSTS) as well as fragment loads (LDSM) and
          shuffles (32 lanes a cycle)
"""

import dataclasses
import re
import subprocess

import toolchain

LANES = 32
QUARTERS = 4
SHARED_BYTES = 128
PIPES = ("issue", "tensor", "fma", "alu", "mufu", "shared")

FP32 = {"FADD", "FMUL", "FFMA"}
HALF2 = {"HADD2", "HMUL2", "HFMA2"}
ALU = {"CS2R", "F2FP", "FMNMX", "FSEL", "FSETP", "IADD3", "IMNMX", "ISETP", "LEA", "LOP3", "MOV", "P2R", "PLOP3",
       "PRMT", "R2P", "R2UR", "SEL", "SHF", "VOTE", "VIMNMX", "VIADD", "VIADDMNMX",
       "VOTEU"}
MUFU = {"MUFU", "F2F", "F2I", "I2F", "POPC"}
# Only issued, or waiting for what is not modelled.
OTHER = {"BAR", "BRA", "BREAK", "BSSY", "BSYNC", "CALL", "DEPBAR", "EXIT", "LDC", "LDG", "LDGDEPBAR", "LDL", "NOP",
         "S2R", "S2UR", "STG", "STL", "WARPSYNC", "YIELD"}


@dataclasses.dataclass
class Gpu:
    arch: str
    tensor_fma: float  # A cycle a multiprocessor.
    fp32: int
    half2: int


GPUS = {
    "A100": Gpu("sm_80", 1024, 64, 256),
    "H100": Gpu("sm_90a", 2048 * 0.629, 128, 256),
    "L4": Gpu("sm_89", 512, 128, 128),
}


@dataclasses.dataclass
class Instruction:
    guard: str
    opcode: str
    operands: str

    @property
    def name(self):
        return self.opcode.split(".")[0]

    @property
    def never(self):
        """Issued, but false for every lane."""
        return self.guard in ("@!PT", "@!UPT")


@dataclasses.dataclass
class Usage:
    registers: int
    static_bytes: int
    stack_bytes: int
    spill_bytes: int
    code: list
    loop: list  # The main loop; empty without tensor-core products.
    skipped: int  # Instructions of the loop that one of its own branches may jump over.


def assemble(path, arch, folder):
    """One kernel's resources and instructions on one architecture; a text if the assembler refuses it."""
    cubin = f"{folder}/{path.stem}.{arch}.cubin"
    done = subprocess.run(
        [toolchain.tool("ptxas"), "-v", "-O3", f"-arch={arch}", "-o", cubin, path],
        capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip()

    def number(pattern):
        found = re.search(pattern, done.stderr)
        return int(found[1]) if found else 0

    text = subprocess.run([toolchain.tool("nvdisasm"), "-c", cubin],
                          capture_output=True, text=True, check=True).stdout
    code, loop, skipped = read(text)
    return Usage(registers=number(r"Used (\d+) registers"),
                 static_bytes=number(r"(\d+) bytes smem"),
                 stack_bytes=number(r"(\d+) bytes stack frame"),
                 spill_bytes=number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
                 code=code,
                 loop=loop,
                 skipped=skipped)


def read(text):
    """All instructions, the main loop, and how many of its instructions a branch within it may skip."""
    code, labels = [], {}
    for line in text.splitlines():
        if label := re.match(r"\.(L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+ )?\s*([A-Z][A-Za-z0-9_.]*)(.*)", line):
            code.append(Instruction((found[1] or "").strip(), found[2], found[3]))
    jumps = []
    for at, instruction in enumerate(code):
        target = re.search(r"\.(L_x_\d+)", instruction.operands)
        if instruction.name == "BRA" and target:
            jumps.append((at, labels[target[1]]))
    loops = [(target, at + 1) for at, target in jumps if target <= at]
    innermost = [loop for loop in loops if not any(
        other != loop and loop[0] <= other[0] and other[1] <= loop[1] for other in loops)]
    begin, end = max(innermost, key=lambda loop: count(code[loop[0]:loop[1]], "HMMA"), default=(0, 0))
    if not count(code[begin:end], "HMMA"):
        return code, [], 0
    skipped = {i for at, target in jumps if begin <= at < target < end for i in range(at + 1, target)}
    return code, code[begin:end], len(skipped)


def count(code, name):
    return sum(instruction.name == name for instruction in code)


def share(usage):
    """Tensor-core products of the main loop's instructions."""
    return count(usage.loop, "HMMA") / len(usage.loop)


def shared_cycles(instruction):
    """Of the pipe that the four quarters share."""
    name, opcode = instruction.name, instruction.opcode
    if name == "SHFL":
        return 1
    if name == "LDSM":
        lane_bytes = 16 if opcode.endswith(".4") else 8 if opcode.endswith(".2") else 4
    else:
        lane_bytes = 16 if ".128" in opcode else 8 if ".64" in opcode else 4
    return lane_bytes * LANES / SHARED_BYTES


def cycles(loop, gpu):
    """Cycles of each pipe for one iteration of `loop` by four warps, one on each quarter."""
    total = dict.fromkeys(PIPES, 0.0)
    total["issue"] = len(loop)
    quarter = LANES * QUARTERS  # Divided by results a cycle a multiprocessor: cycles of a quarter.
    for instruction in loop:
        name = instruction.name
        if instruction.never or name in OTHER or (name.startswith("U") and name[1:2].isalpha()):
            continue
        if name == "HMMA":
            if not instruction.opcode.startswith("HMMA.16816.F32"):
                toolchain.fail(f"no throughput is known of {instruction.opcode}")
            total["tensor"] += 16 * 8 * 16 * QUARTERS / gpu.tensor_fma
        elif name in FP32:
            total["fma"] += quarter / gpu.fp32
        elif name in HALF2:
            total["fma"] += 2 * quarter / gpu.half2
        elif name == "IMAD":
            total["fma"] += quarter / 64 * (2 if ".WIDE" in instruction.opcode else 1)
        elif name in ALU:
            total["alu"] += quarter / 64
        elif name in MUFU:
            total["mufu"] += quarter / 16
        elif name in ("LDSM", "LDS", "STS", "LDGSTS", "SHFL"):
            total["shared"] += QUARTERS * shared_cycles(instruction)
        else:
            toolchain.fail(f"no pipe is known of {instruction.opcode}")
    return total
