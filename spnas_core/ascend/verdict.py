"""Judgement of the operators of a graph by the records: what Ascend has of each, and every gap in one line."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spnas_core.ascend.graph_text import Operator
from spnas_core.ascend.records import Records

# They order a graph, hold values together or choose a subgraph: the compiler and the host's runtime resolve them on every device.
STRUCTURE = frozenset(("Depend", "Load", "MakeTuple", "Partial", "Return", "Switch", "TupleGetItem", "UpdateState", "call"))
ON_HOST = frozenset(("Custom", "CustomExt", "PyExecute", "PyFunc", "PyInterpret"))  # they run Python, or a kernel of the user's
NOT_ON_CORES = frozenset(("Complex64", "Complex128", "Float64"))  # AI cores have no such numbers: AICPU kernels emulate them
EVERYWHERE = frozenset(("Bool", "Float16", "Float32", "Int32"))  # what CANN's operators for AI cores take
WRONG = {  # operators that Ascend has and that a net must not use there
    "NMSWithMask": "it takes float16 alone on the first Ascend 910, which rounds coordinates from 2,048 px on; see models/suppression.py"
}


@dataclass(frozen=True)
class PrimitiveRow:
    """One primitive of the graphs: how often it is there, dtypes of its tensors, kinds of record that have it, platforms documented."""

    name: str
    count: int
    dtypes: tuple[str, ...]
    places: tuple[str, ...]
    platforms: tuple[str, ...] | None
    gaps: tuple[str, ...]

    @property
    def found(self) -> str:
        """Where it was looked up, and what is there."""
        documented = () if self.platforms is None else (f"documented for {' '.join(self.platforms)}",)
        return ", ".join((*self.places, *documented)) or "no record"


def judge(graphs: Mapping[str, Iterable[Operator]], records: Records) -> list[PrimitiveRow]:
    """One row for each primitive of the graphs, by name; gaps name the graph and the place in it."""
    by_name: dict[str, list[tuple[str, Operator]]] = defaultdict(list)
    for graph, operators in graphs.items():
        for operator in operators:
            by_name[operator.name].append((graph, operator))
    return [_row(name, found, records) for name, found in sorted(by_name.items())]


def _row(name: str, found: list[tuple[str, Operator]], records: Records) -> PrimitiveRow:
    dtypes = tuple(sorted({dtype for _, operator in found for dtype in operator.dtypes}))
    structure = ("structure of the graph",) if name in STRUCTURE else ()
    places, platforms = structure or records.places(name), records.platforms.get(name)
    gaps = [_line(name, found[0], what) for what in _faults(name, records)]
    if dynamic := [one for one in found if one[1].dynamic]:
        shape = next(shape for shape in dynamic[0][1].shapes if min(shape, default=0) < 0)
        gaps.append(_line(name, dynamic[0], f"a shape that is unknown before it runs, {shape}"))
    faulty = {dtype: what for dtype in dtypes if not structure and (what := _dtype_fault(name, dtype, records))}
    gaps += [_line(name, next(one for one in found if dtype in one[1].dtypes), what) for dtype, what in faulty.items()]
    return PrimitiveRow(name, len(found), dtypes, places, platforms, tuple(gaps))


def _faults(name: str, records: Records) -> list[str]:
    """Say what keeps a primitive from Ascend, whatever its dtypes and shapes."""
    if name in STRUCTURE:
        return []
    if name in ON_HOST:
        return ["it runs on the host"]
    if name in WRONG:
        return [WRONG[name]]
    platforms = records.platforms.get(name)
    if platforms is not None and "Ascend" not in platforms:
        return [f"MindSpore {records.version} documents it for {', '.join(platforms)} alone"]
    return [] if records.places(name) else [f"MindSpore {records.version} has no kernel of it for Ascend"]


def _dtype_fault(name: str, dtype: str, records: Records) -> str | None:
    """Say what keeps a dtype of a primitive from Ascend: a view computes nothing, of AICPU kernels the dtypes are on record."""
    if dtype in NOT_ON_CORES:
        return f"{dtype}, which AI cores do not compute with"
    places = records.places(name)
    if dtype in EVERYWHERE or "view" in places or dtype in records.aicpu.get(name, ()):
        return None
    return f"{dtype}, which no record has for it"


def _line(name: str, found: tuple[str, Operator], what: str) -> str:
    graph, operator = found
    return f"{name}: {graph}: {operator.scope or 'no scope'}: {what}"
