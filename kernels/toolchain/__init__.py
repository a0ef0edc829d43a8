"""The pinned CUDA compilers, unpacked below target/ and called with fixed flags."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

KERNELS = pathlib.Path(__file__).resolve().parent.parent
PTX = KERNELS / "ptx"
CACHE = KERNELS.parent / "target" / "cuda-toolchain"

# The oldest ISA that knows cp.async and m16n8k16, so that drivers since CUDA 11.0 load the files. A driver
# refuses PTX that is newer than itself, and nvcc labels its output with its own newest.
PTX_ISA = "7.0"
NVCC_FLAGS = ["-O3", "-std=c++17", "-arch=compute_80", "-ptx"]


def fail(message):
    sys.exit(f"{sys.argv[0]}: {message}")


def install(name):
    """Installs the wheels of toolchain/<name>.txt once for each content of that file."""
    pins = KERNELS / "toolchain" / f"{name}.txt"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()[:16]
    root = CACHE / f"{name}-{digest}"
    if not root.exists():
        partial = root.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes",
                   "--only-binary=:all:", "--disable-pip-version-check",
                   "--root-user-action=ignore", "--target", partial, "-r", pins]
        if subprocess.run(command).returncode:
            fail(f"pip could not install {pins}")
        partial.rename(root)
    return root / "nvidia"


def cuda13():
    return install("cuda13") / "cu13"


def ptxas12():
    return install("cuda12") / "cuda_nvcc" / "bin" / "ptxas"


def tool(name):
    """A program of the 13.x toolkit."""
    return cuda13() / "bin" / name


def environment():
    """nvcc looks for cicc on the path."""
    root = cuda13()
    path = f"{root / 'bin'}:{root / 'nvvm' / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path}


def sources(names=()):
    """The kernels, all or those named."""
    found = sorted(KERNELS.glob("*.cu"))
    unknown = set(names) - {source.stem for source in found}
    if unknown:
        fail(f"no such kernel: {', '.join(sorted(unknown))}")
    return [source for source in found if not names or source.stem in names]


def budgets():
    with open(KERNELS / "toolchain" / "budgets.toml", "rb") as file:
        return tomllib.load(file)


def compile_ptx(source):
    """The PTX of one kernel, the same bytes in every folder and on every day."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "out.ptx")
        command = [tool("nvcc"), *NVCC_FLAGS, "-o", out, source.name]
        done = subprocess.run(command, cwd=source.parent, env=environment(), capture_output=True, text=True)
        sys.stderr.write(done.stderr)
        if done.returncode:
            fail(f"nvcc refuses {source.name}")
        text = out.read_text()
    return relabel(source, text)


def relabel(source, text):
    """Replaces nvcc's header, which names its build, and the ISA."""
    lines = [line for line in text.splitlines() if not line.startswith("//")]
    body = "\n".join(lines).strip() + "\n"
    body, count = re.subn(r"^\.version \S+$", f".version {PTX_ISA}", body, count=1, flags=re.M)
    if count != 1:
        fail(f"{source.name}: the PTX has no .version")
    entries = re.findall(r"\.entry (\w+)", body)
    if entries != [source.stem]:
        fail(f"{source.name}: a file holds one kernel of its own name, not {entries}")
    return f"// Made by kernels/build from kernels/{source.name}; do not edit.\n{body}"
