"""MindSpore's own records of what Ascend supports, read from the files of the installed package without loading it.

- Kernels: `lib/plugin/libmindspore_ops_ascend.so` has a class for each primitive with an aclnn kernel of CANN: ``AddAscend``, or
  ``AclnnExpKernelMod`` (macro MS_ACLNN_COMMON_KERNEL_FACTORY_REG). Their names are among the type names (Itanium C++ ABI, section 5.1).
- Adapters: `lib/plugin/ascend/libmindspore_ascend_res_manager.so` has an ``OpAdapter<czNAME>`` for each operator of CANN's graph engine
  that a primitive is translated to; primitives without an aclnn kernel run through it.
- AICPU kernels: `ops/_op_impl/aicpu/*.py`, with the dtypes they take.
- Views: `lib/libmindspore_ops_host.so`; they change shape and strides on the host and launch nothing.
- Documents: "Supported Platforms" in the docstring of the primitive's class.

Sources: https://gitee.com/mindspore/mindspore, mindspore/ops/kernel/ascend and mindspore/ccsrc/plugin/res_manager/ascend/op_adapter.
"""

import ast
import importlib.metadata
import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from spnas_core.errors import UserError

KERNELS, ADAPTERS, VIEWS, AICPU = (
    "lib/plugin/libmindspore_ops_ascend.so",
    "lib/plugin/ascend/libmindspore_ascend_res_manager.so",
    "lib/libmindspore_ops_host.so",
    "ops/_op_impl/aicpu",
)
DOCUMENTS = ("ops/operations", "ops/auto_generate", "ops/function")
OTHER_NAMES = {  # of a primitive in the aclnn kernels or in CANN's graph engine (MS_ACLNN_KERNEL_FACTORY_REG, REG_ADPT_DESC)
    "BCEWithLogitsLoss": "BinaryCrossEntropyWithLogits",
    "Gather": "GatherV2",
    "GatherDGradV2": "GatherDGrad",
    "SmoothL1Loss": "SmoothL1LossV2",
    "SmoothL1LossGrad": "SmoothL1LossGradV2",
    "Stack": "Pack",
    "Unstack": "Unpack",
}
_DTYPES = {
    "BOOL": "Bool", "I8": "Int8", "I16": "Int16", "I32": "Int32", "I64": "Int64", "U8": "UInt8", "U16": "UInt16", "U32": "UInt32",
    "U64": "UInt64", "F16": "Float16", "F32": "Float32", "F64": "Float64", "C64": "Complex64", "C128": "Complex128",
}  # fmt: skip
_CLASS = re.compile(rb"(?<=\x00)N9mindspore6kernel(\w+)E(?=\x00)")
_ADAPTER = re.compile(rb"OpAdapterINS1_(\d+)cz(\w+)")
_PART = re.compile(r"(\d+)(.*)")
_KERNEL = re.compile(r"Aclnn(\w+)KernelMod|(\w+)AclnnKernelMod|(\w+)Ascend")
_REFERENCE = re.compile(r"Refer to :func:`mindspore\.ops\.(\w+)`")
_PLATFORMS = re.compile(r"Supported Platforms:\s*\n?\s*((?:``\w+``[ ,]*)+)")


@dataclass(frozen=True)
class Records:
    """Records of one version: names of primitives by kind of record, of AICPU kernels their dtypes, of documents the platforms."""

    version: str
    kernels: frozenset[str]
    adapters: frozenset[str]
    views: frozenset[str]
    aicpu: Mapping[str, frozenset[str]]
    platforms: Mapping[str, tuple[str, ...]]

    def places(self, primitive: str) -> tuple[str, ...]:
        """Kinds of record that have a kernel of Ascend for `primitive`, that MindSpore prefers first."""
        names = {primitive, OTHER_NAMES.get(primitive, primitive)}
        kinds = {"aclnn kernel": self.kernels, "view": self.views, "graph engine": self.adapters, "AICPU kernel": self.aicpu}
        return tuple(kind for kind, found in kinds.items() if not names.isdisjoint(found))


@cache
def installed_records() -> Records:
    """Read the records of the installed MindSpore; UserError where its package lacks them, as those built for one device alone do."""
    spec = importlib.util.find_spec("mindspore")
    folder = Path(*(spec and spec.submodule_search_locations) or ("mindspore",))
    if missing := [name for name in (KERNELS, ADAPTERS, VIEWS, AICPU) if not (folder / name).exists()]:
        raise UserError(f"{folder}: expected MindSpore's package with what it has for Ascend, got none with {missing[0]}")
    return Records(
        importlib.metadata.version("mindspore"),
        frozenset(kernel_names((folder / KERNELS).read_bytes())),
        frozenset(adapter_names((folder / ADAPTERS).read_bytes())),
        frozenset(view_names((folder / VIEWS).read_bytes())),
        aicpu_dtypes(path.read_text() for path in sorted((folder / AICPU).glob("*.py"))),
        documented_platforms(path.read_text() for place in DOCUMENTS for path in sorted((folder / place).rglob("*.py"))),
    )


def kernel_names(library: bytes) -> Iterator[str]:
    """Primitives with a class of an aclnn kernel among the type names of a library; those of PyNative mode alone do not count."""
    for name in _class_names(library):
        if "pyboost" not in name and (found := _KERNEL.fullmatch(name[-1])):
            yield found[1] or found[2] or found[3]


def view_names(library: bytes) -> Iterator[str]:
    """Primitives with a class of a view among the type names of a library."""
    return (name[-1].removesuffix("View") for name in _class_names(library) if name[-1].endswith("View"))


def adapter_names(library: bytes) -> Iterator[str]:
    """Operators of the graph engine with an adapter among the type names of a library."""
    return (found[2][: int(found[1]) - 2].decode() for found in _ADAPTER.finditer(library))


def _class_names(library: bytes) -> Iterator[list[str]]:
    """Names of the classes of namespace mindspore::kernel, split at the colons: ``3add9AddAscend`` is add::AddAscend."""
    for found in _CLASS.finditer(library):
        rest, parts = found[1].decode(), []
        while part := _PART.match(rest):
            size = int(part[1])
            parts.append(part[2][:size])
            rest = part[2][size:]
        if parts:
            yield parts


def aicpu_dtypes(sources: Iterable[str]) -> dict[str, frozenset[str]]:
    """Dtypes of the AICPU kernels that Python sources register, by primitive."""
    found: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        names = re.findall(r'AiCPURegOp\(\s*"(\w+)"', source)
        for name in names:
            found[name] |= {_DTYPES[one] for one in re.findall(r"DataType\.([A-Z]+\d*)_", source) if one in _DTYPES}
    return {name: frozenset(dtypes) for name, dtypes in found.items()}


def documented_platforms(sources: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Platforms that docstrings in Python sources name, by class or function; a docstring without may refer to a function's."""
    found: dict[str, tuple[str, ...]] = {}
    referred: dict[str, str] = {}
    for source in sources:
        for node in ast.parse(source).body:
            text = (ast.get_docstring(node) or "") if isinstance(node, ast.ClassDef | ast.FunctionDef) else ""
            if match := _PLATFORMS.search(text):
                found[node.name] = tuple(re.findall(r"``(\w+)``", match[1]))  # type: ignore[attr-defined]
            elif match := _REFERENCE.search(text):
                referred[node.name] = match[1]  # type: ignore[attr-defined]
    return {**{name: found[other] for name, other in referred.items() if other in found}, **found}
