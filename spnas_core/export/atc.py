"""Ascend's compiler ATC: its command for each graph of `cut.py`, and a run of it where it is installed.

Options: https://www.hiascend.com/document/detail/zh/canncommercial/latest/devaids/atctool/atlasatc_16_0039.html; names of SoCs:
https://www.hiascend.com/document/detail/zh/canncommercial/900/programug/graphdevg/atlasag_25_0080.html
"""

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from spnas_core.errors import JobError, UserError

ATC_FILE = "atc.sh"
_SOC = re.compile(r"Ascend\d{3}\w*", re.ASCII)  # Ascend and npu-smi's name, 310P3, or chip and NPU name, 910_9391
_ONNX = 5  # ATC's number of the framework
_LINES = 3  # of ATC's output in a message
Commands = Mapping[str, Sequence[str]]  # of each graph


class Graphed(Protocol):
    """Graph to compile: the name, shape and layout (as ATC calls it) of its only input."""

    @property
    def given(self) -> str:
        """Name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""

    @property
    def layout(self) -> str:
        """NCHW, or ND for any other."""


def check_soc(name: str) -> str:
    """Return the name of a SoC as ATC takes it; UserError for one that cannot be."""
    if not _SOC.fullmatch(name):
        raise UserError(f"--soc: expected Ascend and what npu-smi info shows, such as Ascend310P3 or Ascend910_9391, got {name!r}")
    return name


def atc_commands(parts: Mapping[str, Graphed], soc: str) -> Commands:
    """Command of each graph, which makes NAME.om of NAME.onnx, both in the current folder."""

    def words(name: str, part: Graphed) -> list[str]:
        shape = f"{part.given}:{','.join(map(str, part.shape))}"
        options = {"model": f"{name}.onnx", "framework": _ONNX, "output": name, "soc_version": soc, "input_format": part.layout}
        return ["atc", *(f"--{option}={value}" for option, value in {**options, "input_shape": shape}.items())]

    return {name: words(name, part) for name, part in parts.items()}


def atc_script(commands: Commands) -> bytes:
    """Shell script of all commands."""
    return "\n".join(("#!/bin/sh", "set -e", 'cd "$(dirname "$0")"', *map(shlex.join, commands.values()), "")).encode()


def read_script(content: bytes) -> Commands:
    """Commands of a script that `atc_script` has written."""
    lines = [shlex.split(line) for line in content.decode().splitlines() if line.startswith("atc ")]
    return {Path(words[1].partition("=")[2]).stem: words for words in lines}


def compile_parts(files: Mapping[str, bytes]) -> dict[str, bytes] | None:
    """Run ATC on the exported `files` as their script says; returns the NAME.om files, None where ATC is not on PATH.

    JobError, one line with ATC's last lines, if it fails or leaves no file.
    """
    if not (program := shutil.which("atc")):
        return None
    made = {}
    with tempfile.TemporaryDirectory(prefix="spnas-atc-") as folder:
        for name, words in read_script(files[ATC_FILE]).items():
            Path(folder, f"{name}.onnx").write_bytes(files[f"{name}.onnx"])
            done = subprocess.run(
                [program, *words[1:]],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
            path = Path(folder, f"{name}.om")
            if done.returncode or not path.exists():
                last = " | ".join([line.strip() for line in done.stdout.splitlines() if line.strip()][-_LINES:]) or "it said nothing"
                raise JobError("crashed", f"{shlex.join(words)}: expected {path.name}, got exit status {done.returncode}: {last}")
            made[path.name] = path.read_bytes()
    return made
