"""Environment variables that make a version of MindSpore fast on the CPU; processes set them before they load it."""

import importlib.util
import os
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ALLOCATOR = "libjemalloc.so.2"
INSTRUCTIONS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # the newest instructions that oneDNN may use; the second is the older name


def cpu_variables() -> dict[str, str]:
    """Variables for a process that computes on the CPU, without those that the user has set."""
    return {**instruction_variables(), **({"LD_PRELOAD": found} if (found := allocator_file()) and "LD_PRELOAD" not in os.environ else {})}


def instruction_variables() -> dict[str, str]:
    """Variable that holds oneDNN to AVX2 with MindSpore 2.9 and later; a process may set it after the load too, before it computes.

    MindSpore passes images and weights to oneDNN in plain layout (NCHW, OIHW). For these oneDNN 3 has, with AVX-512, a convolution that is
    reordered to NHWC; since no fast one there takes plain weights, its reference code does the work, 60 to 200 times slower. Without
    AVX-512 it is not chosen, and the matrix products of MindSpore 2.8's oneDNN 2.2 do it.
    Source: `jit_uni_ncsp_convolution_fwd_t` in src/cpu/x64/jit_uni_ncsp_convolution.cpp, https://github.com/uxlfoundation/oneDNN
    """
    wanted = mindspore_version() >= (2, 9) and not any(name in os.environ for name in INSTRUCTIONS)
    return {INSTRUCTIONS[0]: "AVX2"} if wanted else {}


def prepare_process() -> None:
    """Set the variables of a process that is about to load MindSpore itself, without a job: only errors in its log, and instructions."""
    os.environ.setdefault("GLOG_v", "3")
    os.environ.update(instruction_variables())


@cache
def mindspore_version() -> tuple[int, ...]:
    """First two numbers of the version of MindSpore that is installed, without loading it; empty if there is none."""
    try:
        return tuple(map(int, version("mindspore").split(".")[:2]))
    except PackageNotFoundError:
        return ()


@cache
def allocator_file() -> str | None:
    """Path of the memory allocator jemalloc that MindSpore 2.8's package for Linux has: with it, compiling a net takes a quarter less time.

    Those of 2.9 and 2.10 have none, and the system's must not take its place: with any jemalloc and the two threads of `jobs/cpu.py` that
    dispatch operators, 2.10 computed wrong gradients from the 13th step of a segmentation on, every time, and right ones without it.
    """
    if sys.platform != "linux":
        return None
    spec = importlib.util.find_spec("mindspore")
    own = [Path(folder, "lib", ALLOCATOR) for folder in (spec and spec.submodule_search_locations) or ()]
    return next((str(file) for file in own if file.is_file()), None)
