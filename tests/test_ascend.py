"""What Ascend needs of the compiled graphs, by MindSpore's records: real graphs, real gaps planted in them, and nothing wrong with ours."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nets import SIZES
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from spnas_core.ascend.audit import audit, run_saving, table_text
from spnas_core.ascend.graph_text import Operator, read_operators
from spnas_core.ascend.nets import AuditedNet, nets_of
from spnas_core.ascend.records import (
    Records,
    adapter_names,
    aicpu_dtypes,
    documented_platforms,
    installed_records,
    kernel_names,
)
from spnas_core.ascend.verdict import STRUCTURE, judge
from spnas_core.errors import JobError
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe, Reignite

NODES = """
  %0(equiv_1) = Load(%para1_w, UMonad[U]) cnode_attrs: {checkpoint: Bool(1)}
      : (<Ref[Tensor[Float32]], (4, 2, 3, 3), ref_key=w, is_parameter>, <UMonad, NoShape>) -> (<Tensor[Float32], (4, 2, 3, 3)>)
      # Fullname with scope: (Default/Load-op0)
  %1(▲CNode_2$x) = PrimFunc_Add(Tensor(shape=[1, 2], dtype=Float32, value=
[[ 0.00000000e+00 1.00000000e+00]]), %para2_x) {instance name: add}
      : (<Tensor[Float32], (1, 2), value=...>, <Tensor[Float32], (-1, 2)>) -> (<Tensor[Float32], (-1, 2)>)
      # Fullname with scope: (Default/net-Net/Add-op3)
  %2(CNode_3) = TopK(%1, I64(5)) primitive_attrs: {sorted: Bool(1)}
      : (<Tensor[Float32], (8)>, <Int64, NoShape>) -> (<Tuple[Tensor[Float32],Tensor[Int32]], TupleShape((5), (5))>)
      # Fullname with scope: (Default/TopK-op0)
  %3(CNode_4) = call @12_part_↵construct_7(%2)
      : (<Tensor[Bool], ()>) -> (<Tensor[Bool], ()>)
"""


def records(**changes: object) -> Records:
    empty: dict[str, object] = {name: frozenset() for name in ("kernels", "adapters", "views")}
    return Records(**{"version": "1", **empty, "aicpu": {}, "platforms": {}, **changes})  # type: ignore[arg-type]


def one(name: str, dtypes: Sequence[str] = ("Float32",), shapes: Sequence[tuple[int, ...]] = ((2, 3),)) -> Operator:
    return Operator(name, "Default/net", tuple(dtypes), tuple(shapes))


def gaps(operator: Operator, known: Records) -> tuple[str, ...]:
    (row,) = judge({"training of b": [operator]}, known)
    return row.gaps


def test_nodes_are_read() -> None:
    load, add, topk, call = read_operators(NODES)
    assert load == Operator("Load", "Default/Load-op0", ("Float32",), ((4, 2, 3, 3), (4, 2, 3, 3)))
    assert add == Operator("Add", "Default/net-Net/Add-op3", ("Float32",), ((1, 2), (-1, 2), (-1, 2)))
    assert topk == Operator("TopK", "Default/TopK-op0", ("Float32", "Int32"), ((8,), (5,), (5,)))
    assert call == Operator("call", "", ("Bool",), ((), ()))
    assert [found.dynamic for found in (load, add, topk, call)] == [False, True, False, False]


@pytest.mark.parametrize("text", ["  %0(a) = \n      : () -> ()\n", "  %0(a) = Add(%1)\n  %1(b) = Sub(%0)\n      : () -> ()\n"])
def test_a_node_of_another_form_is_no_node_less(text: str) -> None:
    with pytest.raises(ValueError, match=r"graph, line 1: expected a node, got '%0\(a\)"):
        read_operators(text)


def test_type_names_of_libraries_are_read() -> None:
    kernels = b"\0N9mindspore6kernel3add9AddAscendE\0N9mindspore6kernel17AclnnExpKernelModILm2EEE\0N9mindspore6kernel7pyboost9SubAscendE\0"
    assert set(kernel_names(kernels)) == {"Add", "Exp"}
    assert set(adapter_names(b"xN9mindspore6device6ascend9OpAdapterINS1_8czL2LossEEE\0")) == {"L2Loss"}
    source = 'info = AiCPURegOp("Foo").dtype_format(DataType.F32_Default, DataType.I64_Default)'
    assert aicpu_dtypes([source]) == {"Foo": frozenset({"Float32", "Int64"})}
    classes = 'class A:\n    """A.\n\n    Supported Platforms:\n        ``Ascend`` ``CPU``\n    """\n'
    other = 'class B:\n    """B.\n\n    Refer to :func:`mindspore.ops.b` for more details.\n    """\n'
    function = 'def b():\n    """B.\n\n    Supported Platforms:\n        ``CPU``\n    """\n'
    assert documented_platforms([other, classes + function]) == {"A": ("Ascend", "CPU"), "B": ("CPU",), "b": ("CPU",)}


def test_the_installed_package_has_its_records() -> None:
    """Operators whose kernels are known from MindSpore's source, and some that Ascend has not."""
    found = installed_records()
    assert found.version == "2.8.0"
    assert found.places("Exp") == ("aclnn kernel", "graph engine", "AICPU kernel")
    assert found.places("Conv2D") == ("graph engine",)
    assert found.places("BCEWithLogitsLoss") == ("aclnn kernel",)
    assert found.places("SplitWithSize") == ("aclnn kernel", "view")
    assert "Int64" in found.aicpu["GatherD"]
    assert [found.places(name) for name in ("FusedCastAdamWeightDecay", "SparseToDense", "PyFunc", "NoSuchOperator")] == [()] * 4
    assert found.platforms["Conv2D"] == found.platforms["Add"] == ("Ascend", "GPU", "CPU")
    assert found.platforms["Fmax"] == ("CPU",)


def test_gaps_are_named() -> None:
    known = records(
        kernels=frozenset({"Exp", "Shy", "NMSWithMask", "Custom"}), views=frozenset({"Flat"}),
        aicpu={"Sort": frozenset({"Float32", "Int64"})}, platforms={"Shy": ("CPU",), "Exp": ("Ascend", "CPU")},
    )  # fmt: skip
    where = "training of b: Default/net: "
    assert gaps(one("Exp"), known) == gaps(one("Sort", ["Int64"]), known) == gaps(one("Flat", ["Int64"]), known) == ()
    assert gaps(one("Depend", ["Float64"]), known) == ()
    assert gaps(one("Sin"), known) == (f"Sin: {where}MindSpore 1 has no kernel of it for Ascend",)
    assert gaps(one("Shy"), known) == (f"Shy: {where}MindSpore 1 documents it for CPU alone",)
    assert gaps(one("Custom"), known) == (f"Custom: {where}it runs on the host",)
    assert gaps(one("Exp", ["Int64"]), known) == (f"Exp: {where}Int64, which no record has for it",)
    assert gaps(one("Sort", ["Float64"]), known) == (f"Sort: {where}Float64, which AI cores do not compute with",)
    assert gaps(one("Exp", shapes=[(2, -1)]), known) == (f"Exp: {where}a shape that is unknown before it runs, (2, -1)",)
    assert "float16 alone" in gaps(one("NMSWithMask"), known)[0]


SCRIPT = """
import mindspore as ms, numpy as np
from pathlib import Path
from mindspore import Tensor, nn, ops
from spnas_core.arch import parse
from spnas_core.ascend.compiling import saved_graph
from spnas_core.models.classifier import Classifier
from spnas_core.settings.detector import Detector

class Planted(nn.Cell):
    def __init__(self):
        super().__init__()
        self.net = Classifier(parse("b_1111-1111"), Detector(base_width=4, stem="3x3"), 3)
        self.double = ops.PyFunc(lambda x: x * 2, [ms.float32], [(2, 3)], [ms.float32], [(2, 3)])

    def construct(self, images):
        x = self.net(images)
        return PLANTED

import os
os.environ["MS_DEV_SAVE_GRAPHS_PATH"] = os.getcwd()
ms.set_context(mode=ms.GRAPH_MODE)
Path("graph.txt").write_text(saved_graph(Planted().set_train(False), (np.zeros((2, 3, 32, 32), np.float32),)))
"""
PLANTS = {
    "x": (),
    "ops.fmax(x, x + 1)": ("Fmax", "documents it for CPU alone"),
    "self.double(x)": ("PyFunc", "it runs on the host"),
    "ops.nonzero(x)": ("NonZero", "a shape that is unknown before it runs, (-1, 2)"),
    "ops.NMSWithMask(0.5)(ops.concat((x, x[:, :2]), 1))[0]": ("NMSWithMask", "see models/suppression.py"),
    "ops.exp(ops.cast(x, ms.float64))": ("Exp", "Float64, which AI cores do not compute with"),
}


@pytest.mark.training
@pytest.mark.parametrize("planted", PLANTS)
def test_what_is_planted_in_a_net_is_found(planted: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace("PLANTED", planted))
    run_saving(["script.py"], str(tmp_path))
    rows = judge({"planted": read_operators((tmp_path / "graph.txt").read_text())}, installed_records())
    found = [gap for row in rows for gap in row.gaps]
    if not PLANTS[planted]:
        assert found == []
        assert {row.name for row in rows} >= {"Conv2D", "BatchNorm", "ReduceMean", "MatMul"}
        return
    name, what = PLANTS[planted]
    assert any(gap.startswith(f"{name}: planted: ") and gap.endswith(what) for gap in found), found


@pytest.mark.training
def test_doctor_looks_at_a_run_for_ascend() -> None:
    recipes = ("fine_tune", "serial.recipe", "parallel.recipe", "full_train")
    half = [word for recipe in recipes for word in ("--set", f"{recipe}.mixed_precision=true")]
    result = CliRunner().invoke(app, ["doctor", "smoke", "--target", "Ascend", "--json", "--set", "reignite.batch=2", *half])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["gaps"] == []
    rows = {row["name"]: row for row in document["operators"]}
    assert rows["SGD"]["dtypes"] == ["Float32"]
    assert rows["Conv2D"]["places"] == ["graph engine"]
    assert rows["Conv2DBackpropFilter"]["dtypes"] == ["Float16", "Float32"]
    assert rows["UpdateState"]["places"] == ["structure of the graph"]
    assert "NMSWithMask" not in rows


def test_doctor_wants_something_to_look_at() -> None:
    for words, said in (([], "RUN_OR_DATA"), (["nowhere", "--target", "Ascend"], "nowhere")):
        result = CliRunner().invoke(app, ["doctor", *words])
        assert result.exit_code == 2, result.output
        assert said in result.stderr
        assert "Traceback" not in result.stderr
    assert CliRunner().invoke(app, ["doctor", "smoke", "--target", "TPU"]).exit_code == 2


def test_a_compilation_that_fails_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise TypeError('For primitive[Add], the dtypes differ\\n\\nC++ call stack')")
    with pytest.raises(JobError) as error:
        run_saving(["script.py"], str(tmp_path))
    assert error.value.args[0] == "crashed: the graphs were not compiled, exit status 1: TypeError: For primitive[Add], the dtypes differ"


def test_nets_stand_for_a_run() -> None:
    settings = presets.load_preset("smoke", ["space.block_types=[b, r]", "full_train.mixed_precision=true"])
    nets = nets_of(settings)
    assert [(net.arch, net.recipe.mixed_precision) for net in nets] == [
        (arch, half) for arch in ("b_1111-2111_0-0", "r_1111-2111_0-0", "b_1111-2111_1-1") for half in (False, True)
    ]
    assert [len(net.kinds) for net in nets] == [4, 5] * 3


def test_a_table_says_what_was_looked_up() -> None:
    known = records(kernels=frozenset({"Exp"}), platforms={"Exp": ("Ascend", "CPU")})
    lines = table_text(judge({"a": [one("Exp"), one("Exp", ["Float16"]), one("Sin")], "b": [one("Exp")]}, known)).splitlines()
    assert lines[0].split() == ["primitive", "count", "dtypes", "Ascend", "looked", "up", "in"]
    assert re.split("  +", lines[1]) == ["Exp", "3", "Float16 Float32", "yes", "aclnn kernel, documented for Ascend CPU"]
    assert lines[2].split() == ["Sin", "1", "Float32", "no", "no", "record"]


FUSIONS = "p0s_1d-c2w_3k-p3s_4k-c0d_5w-p2k_2s-c1s_4w"  # of a NAS-FCOS: all operations
NETS = [
    ("b_1111-2111", {}),
    ("r_1111-2111", {}),
    ("x(2x32d)_1111-2111", {}),
    ("b_1111-2111_1-2", {}),
    ("b_1111-2111_1-2", {"share_weights": False}),
    ("b_1111-2111", {"cascade": True}),
    ("b_1111-2111", {"neck": {"kind": "nas_fpn", "channels": 8, "stacks": 2}}),
    ("b_1111-2111", {"neck": {"kind": "nas_fcos", "channels": 8}}),
    ("b_1111-2111-1-1-1", {"neck": {"kind": "nas_fcos", "channels": 8, "cells": FUSIONS}}),
    ("b_1111-2111", {"head": {"kind": "retinanet", "depth": 1, "candidates": 20, "box_loss": "giou", "focal_gamma": 1.5}}),
]
ONE_STAGE: list[dict[str, Any]] = [
    {"head": {"kind": "retinanet", "depth": 1, "candidates": 20}},
    {"head": {"kind": "fcos", "depth": 1, "candidates": 20, "norm_groups": 4}},
    {"head": {"kind": "retinanet", "depth": 1, "candidates": 20, "level_norms": True}},
    {"head": {"kind": "retinanet", "depth": 1, "candidates": 20}, "neck": {"kind": "nas_fcos", "channels": 8, "cells": FUSIONS}},
]


@pytest.mark.training
@pytest.mark.long
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("arch", "changes"), NETS)
def test_no_net_has_a_gap(arch: str, changes: dict[str, Any], half: bool) -> None:
    detector = Detector(**SIZES, stem="7x7").model_copy(update=changes)
    recipe = Recipe(mixed_precision=half, clip_norm=10.0)
    rows = audit([AuditedNet(arch=arch, detector=detector, recipe=recipe, reignite=Reignite(batch=4, stem="3x3"), classes=3)])
    assert [gap for row in rows for gap in row.gaps] == []
    assert {row.name for row in rows} > {"Conv2DBackpropFilter", "SGD", "TopK", "LogSoftmaxGrad"} | (STRUCTURE - {"Return"})


@pytest.mark.training
@pytest.mark.parametrize("changes", ONE_STAGE, ids=("retinanet", "fcos", "level_norms", "nas_fcos"))
def test_no_one_stage_net_has_a_gap(changes: dict[str, Any]) -> None:
    detector = Detector(**SIZES).model_copy(update={"neck": {"channels": 8, "first_level": 1, "extra_levels": "p5"}, **changes})
    recipe = Recipe(mixed_precision=True)
    rows = audit([AuditedNet(arch="b_1111-2111", detector=detector, recipe=recipe, reignite=Reignite(batch=4), classes=3)])
    assert [gap for row in rows for gap in row.gaps] == []
    assert {row.name for row in rows} > {"Softplus", "TopK"}


@pytest.mark.training
def test_nets_of_one_backbone_are_all_looked_at() -> None:
    heads: list[dict[str, Any]] = [{}, {"head": ONE_STAGE[0]["head"], "neck": {"channels": 8, "first_level": 1, "extra_levels": "p5"}}]
    nets = [
        AuditedNet(
            arch="b_1111-2111", detector=Detector(**SIZES).model_copy(update=one), recipe=Recipe(), reignite=Reignite(batch=4), classes=3
        )
        for one in heads
    ]
    assert {row.name for row in audit(nets)} >= {"LogSoftmaxGrad", "Softplus"}  # of a two-stage head; of the focal loss
