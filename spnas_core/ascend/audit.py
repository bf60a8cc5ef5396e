"""Audit of the nets of a run for Ascend, without such a device: a process compiles their graphs, and the records say what Ascend has."""

import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from spnas_core.ascend.graph_text import Operator, read_operators
from spnas_core.ascend.nets import AuditedNet, CompileRequest, GraphKind
from spnas_core.ascend.records import installed_records
from spnas_core.ascend.verdict import PrimitiveRow, judge
from spnas_core.errors import JobError

_ROOT = Path(__file__).parents[2]
_ERROR = re.compile(r"\w*(Error|Exception): ")
_log = logging.getLogger(__name__)
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
    graphs: dict[str, list[Operator]] = {}
    for net in nets:
        precision = " by float16" if net.recipe.mixed_precision else ""
        _log.info("compiles %s%s: %s", net.arch, precision, ", ".join(net.kinds))
        for kind, text in compile_graphs(net, target).items():  # nets of one backbone may differ in neck and head
            graphs.setdefault(f"{kind} of {net.arch}{precision}", []).extend(read_operators(text))
    return judge(graphs, records)


def compile_graphs(net: AuditedNet, target: str) -> dict[GraphKind, str]:
    """Compile the graphs of a net, built for `target`, in a process of their own; returns their texts."""
    with tempfile.TemporaryDirectory(prefix="spnas-audit-") as folder:
        request = Path(folder, "request.json")
        request.write_text(CompileRequest(net=net, target=target, folder=folder).model_dump_json())
        run_saving(["-m", "spnas_core.ascend.compiling", str(request)], folder)
        return {kind: Path(folder, f"{kind}.ir").read_text() for kind in net.kinds}


def run_saving(arguments: Sequence[str], folder: str) -> None:
    """Run Python with these arguments in `folder`, where MindSpore saves graphs; JobError with its last line where it fails."""
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, **SAVING, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run([sys.executable, *arguments], env=variables, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        named = [line for line in said if _ERROR.match(line)] or said
        raise JobError("crashed", f"the graphs were not compiled, exit status {done.returncode}: {named[-1]}")


def table_text(rows: Sequence[PrimitiveRow]) -> str:
    """Rows as aligned text: primitive, count, dtypes, supported or not, and where it was looked up."""
    cells = [("primitive", "count", "dtypes", "Ascend", "looked up in")]
    cells += [(row.name, str(row.count), " ".join(row.dtypes), "no" if row.gaps else "yes", row.found) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, (*widths, 0), strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)
