"""The other compilers that the sources must suit: NVRTC of both toolkits, and clang where it is installed."""

import ctypes
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import toolchain


def nvrtc(library, includes, source):
    """Compiles one source; its PTX, and the log of a refusal or a warning."""
    lib = ctypes.CDLL(str(library))
    program = ctypes.c_void_p()
    text = source.read_bytes()
    lib.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None)
    arch = toolchain.architecture(source.stem)
    options = [f"--gpu-architecture=compute_{arch}", "--std=c++17", f"-I{toolchain.KERNELS}"]
    options += [f"-I{include}" for include in includes]
    array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    status = lib.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    message = log.value.decode().strip() or (f"status {status}" if status else None)
    ptx = None
    if not status:
        lib.nvrtcGetPTXSize(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        lib.nvrtcGetPTX(program, text)
        ptx = text.value.decode()
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx, message


def clang_root():
    """A folder that clang takes for CUDA 12.9: its headers, libdevice, and two files that it only looks for."""
    nvidia = toolchain.install("cuda12")
    root = toolchain.CACHE / "clang-root"
    if not root.exists():
        partial = root.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "bin").mkdir(parents=True)
        shutil.copytree(nvidia / "cuda_runtime" / "include", partial / "include")
        for package in ("cuda_nvcc", "cuda_cccl"):
            shutil.copytree(nvidia / package / "include", partial / "include", dirs_exist_ok=True)
        shutil.copytree(nvidia / "cuda_nvcc" / "nvvm" / "libdevice", partial / "nvvm" / "libdevice")
        (partial / "bin" / "ptxas").symlink_to(toolchain.ptxas12())
        (partial / "include" / "curand_mtgp32_kernel.h").touch()
        (partial / "version.json").write_text('{"cuda": {"version": "12.9.0"}}')
        partial.rename(root)
    return root


def clang(program, source):
    """Compiles one source; its PTX, and what clang says."""
    # C++17, warnings off where clang does not know that headers are a toolkit's.
    command = [program, "-x", "cuda", "--cuda-device-only", "-std=c++17", "-O3",
               f"--cuda-gpu-arch=sm_{toolchain.architecture(source.stem)}",
               f"--cuda-path={clang_root()}", "-Wno-unknown-cuda-version", "-S", "-o", "-", source]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout, done.stderr.strip() or (f"status {done.returncode}" if done.returncode else None)


def at_hand():
    """A name and a function for each compiler."""
    new = toolchain.cuda13()
    old = toolchain.install("cuda12")
    compilers = {
        "NVRTC 13.5": lambda source: nvrtc(
            new / "lib" / "libnvrtc.so.13", [new / "include", new / "include" / "cccl"], source),
        "NVRTC 12.9": lambda source: nvrtc(
            old / "cuda_nvrtc" / "lib" / "libnvrtc.so.12",
            [old / "cuda_runtime" / "include", old / "cuda_cccl" / "include"], source),
    }
    program = shutil.which("clang++-19") or shutil.which("clang-19")
    if program:
        compilers["clang 19"] = lambda source: clang(program, source)
    else:
        print("clang 19 is not installed: not tried", file=sys.stderr)
    return compilers


def check(names):
    """Compiles the sources with every compiler at hand and runs the kernels' tests on what each makes of all of
    them; returns the number of failures."""
    failures = 0
    for name, compile_source in at_hand().items():
        with tempfile.TemporaryDirectory() as folder:
            refused = 0
            for source in toolchain.sources(names):
                ptx, message = compile_source(source)
                if message:
                    head = "\n  ".join(message.splitlines()[:4])
                    print(f"{name}, {source.name}: {head}")
                    refused += 1
                else:
                    pathlib.Path(folder, f"{source.stem}.ptx").write_text(toolchain.relabel(source, ptx))
            failures += refused
            if refused or names:
                print(f"{name}: compiled, tests not run")
                continue
            done = subprocess.run(
                ["cargo", "test", "--quiet", "-p", "simt", "--test", "kernels"],
                cwd=toolchain.KERNELS.parent, env={**os.environ, "KERNELS_PTX": folder},
                capture_output=True, text=True)
            print(f"{name}: " + ("tests pass" if done.returncode == 0 else f"tests fail\n{done.stdout}{done.stderr}"))
            failures += done.returncode != 0
    return failures
