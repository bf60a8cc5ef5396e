"""Audit of the nets of a run for Ascend, without such a device: a process compiles their graphs, and the records say what Ascend has."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from spnas_core.ascend.graph_text import read_operators
from spnas_core.ascend.nets import AuditedNet, CompileRequest
from spnas_core.ascend.records import installed_records
from spnas_core.ascend.verdict import PrimitiveRow, judge
from spnas_core.errors import JobError

ROOT = Path(__file__).parents[2]
SAVING = {  # of MindSpore: save graphs as texts, that of the pass validate alone, and compile them anew
    "MS_DEV_SAVE_GRAPHS": "1",
    "MS_DEV_DUMP_IR_PASSES": "validate",
    "MS_COMPILER_CACHE_ENABLE": "0",
    "GLOG_v": "3",
    "OMP_NUM_THREADS": "1",
}


def audit(nets: Sequence[AuditedNet], target: str = "Ascend") -> list[PrimitiveRow]:
    """Rows of all primitives in the graphs of the nets; JobError where the process that compiles them fails."""
    records = installed_records()
    graphs = {}
    with tempfile.TemporaryDirectory(prefix="spnas-audit-") as folder:
        request = CompileRequest(nets=tuple(nets), target=target, folder=folder)
        path = Path(folder, "request.json")
        path.write_text(request.model_dump_json())
        _compile(path)
        for number, net in enumerate(nets):
            for kind in net.kinds:
                graphs[f"{kind} of {net.arch}"] = read_operators(Path(folder, f"{number}-{kind}.ir").read_text())
    return judge(graphs, records)


def _compile(request: Path) -> None:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, **SAVING, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", "spnas_core.ascend.compiling", str(request)]
    done = subprocess.run(command, env=variables, cwd=request.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise JobError("crashed", f"the graphs were not compiled, exit status {done.returncode}: {said}")


def table_text(rows: Sequence[PrimitiveRow]) -> str:
    """Rows as aligned text: primitive, count, dtypes, supported or not, and where it was looked up."""
    cells = [("primitive", "count", "dtypes", "Ascend", "looked up in")]
    cells += [(row.name, str(row.count), " ".join(row.dtypes), "no" if row.gaps else "yes", row.found) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, (*widths, 0), strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)
