"""Another version of MindSpore as an installation announces it, to a new interpreter: nothing of it is loaded."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def announce(folder: Path, version: str, allocator: bool = False) -> Path:
    """Write what tells Python that this version is installed below `folder`."""
    facts = folder / f"mindspore-{version}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mindspore\nVersion: {version}\n")
    (folder / "mindspore" / "lib").mkdir(parents=True)
    (folder / "mindspore" / "__init__.py").write_text("raise RuntimeError('expected that nobody loads this')\n")
    if allocator:
        (folder / "mindspore" / "lib" / "libjemalloc.so.2").write_bytes(b"")
    return folder


def ask(place: Path, code: str, **variables: str) -> str:
    """What `code` prints in an interpreter that finds the version announced at `place`."""
    ours = {name: value for name, value in os.environ.items() if name not in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "LD_PRELOAD")}
    paths = os.pathsep.join(map(str, (place, ROOT, ROOT / "tests")))
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env={**ours, "PYTHONPATH": paths, **variables}, capture_output=True, text=True, check=True
    ).stdout.strip()
