"""NAS-FPN: its text, its values beside mmdetection's own (golden values, mmdetection_nas_fpn.py), its cost, what children inherit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from cell_necks import SMALL, weights_of
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor
from weight_rule import rule

from flows import presets
from spnas_core import arch as architecture
from spnas_core.arch import ArchError, parse
from spnas_core.cost import stage_sizes
from spnas_core.errors import UserError
from spnas_core.models.build import build
from spnas_core.models.nas_fpn import MergingPyramid
from spnas_core.models.step import get_weights, set_weights
from spnas_core.necks import parse_neck
from spnas_core.necks.nas_fpn import FOUND_CELLS, INPUTS, LEVELS, Cell, NasFpn, cells_text, merges, output_nodes, parse_cells
from spnas_core.search.costs import candidate_cost
from spnas_core.search.net import Net, parse_net
from spnas_core.settings.detector import Detector, current_form
from spnas_core.weights import inherit
from spnas_core.weights.net_shapes import net_shapes
from spnas_core.weights.tensor_names import STATISTICS

GOLDEN = Path(__file__).with_name("nas_fpn_golden.json")
THEIR_CELLS = ("gp_64_4", "sum_44_4", "sum_43_3", "sum_34_4", "sum_55_5", "sum_77_7", "gp_75_6")  # mmdetection's, in our order
PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
OTHER = "7s2_4-3a0_5-4a1_3-5s2_7-6s3_6-7a4_5-3s6_9"


@st.composite
def pyramids(draw: st.DrawFn, most: int = 4) -> tuple[Cell, ...]:
    """Cells of any valid pyramid with at most so many intermediate ones."""
    inner = draw(st.lists(st.sampled_from(LEVELS), max_size=most))
    found = []
    for number, level in enumerate((*inner, *draw(st.permutations(LEVELS)))):
        first, second = sorted(draw(st.sets(st.integers(0, INPUTS + number - 1), min_size=2, max_size=2)))
        found.append(Cell(level, draw(st.booleans()), first, second))
    return tuple(found)


@given(pyramids(), st.integers(1, 999), st.integers(1, 9))
def test_a_pyramid_has_one_text(cells: tuple[Cell, ...], channels: int, stacks: int) -> None:
    neck = NasFpn(channels=channels, stacks=stacks, cells=cells_text(cells))
    assert parse_cells(neck.cells) == cells == neck.graph
    assert parse_neck(neck.text) == neck
    net = Net(parse("b_11-21-21-21"), neck, "3x3", "faster_rcnn")
    assert parse_net(str(net)) == net
    detector = Detector(neck=neck)
    assert Detector.model_validate_json(detector.model_dump_json()) == detector
    assert current_form(detector.former_document()) == detector.model_dump(mode="json", exclude={"other_heads"})


def test_the_found_pyramid_is_that_of_the_paper() -> None:
    """(level, operation, inputs) of the seven blocks as TensorFlow's program lists them; P5 and P7 are added to their levels' outputs."""
    blocks = [(4, "a", 1, 3), (4, "s", 1, 5), (3, "s", 0, 6), (4, "s", 6, 7), (5, "a", 7, 8), (7, "a", 6, 9), (6, "a", 9, 10)]
    assert [(cell.level, "a" if cell.attention else "s", cell.first, cell.second) for cell in NasFpn().graph] == blocks
    assert [merge.joined for merge in merges(NasFpn().graph)] == [(), (), (), (), (2,), (4,), ()]
    assert output_nodes(NasFpn().graph) == (7, 8, 9, 11, 10)
    assert NasFpn().text == "nasfpn256x7"
    assert NasFpn(cells="4a3_1" + FOUND_CELLS[5:]) == NasFpn()
    assert parse_neck("nasfpn64x3(" + OTHER + ")") == NasFpn(channels=64, stacks=3, cells=OTHER)


@given(pyramids())
def test_every_node_is_used(cells: tuple[Cell, ...]) -> None:
    """What no cell takes is added to the output of its level, so no weight is without use; nothing is added twice."""
    taken = {node for merge in merges(cells) for node in (merge.fine, merge.coarse, *merge.joined)}
    assert taken | set(output_nodes(cells)) == set(range(INPUTS + len(cells)))
    joined = [node for merge in merges(cells) for node in merge.joined]
    assert len(joined) == len(set(joined))
    node_levels = [*LEVELS, *(cell.level for cell in cells)]
    assert [node_levels[node] for node in output_nodes(cells)] == list(LEVELS)
    assert all(node_levels[merge.fine] <= node_levels[merge.coarse] for merge in merges(cells))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4a1_3-4s1", "cell 2, '4s1': expected a level, s (sum) or a (attention), and two inputs, such as 4a1_3"),
        ("8a1_3-4s1_5", "cell 1, '8a1_3': expected a level from 3 to 7, got 8"),
        ("4a1_5", "cell 1, '4a1_5': expected two different inputs from 0 to 4 (P3 to P7, then the cells before it)"),
        ("4a1_3-4s5_5", "cell 2, '4s5_5': expected two different inputs from 0 to 5 (P3 to P7, then the cells before it)"),
        ("4a1_3-3s1_5-3s0_1-5s1_2", "expected the last 5 to be the outputs, one of each level 3 to 7, got levels [4, 3, 3, 5]"),
        (FOUND_CELLS.replace("6a9_10", "5a9_10"), "got levels [3, 4, 5, 7, 5]"),
        ("", "cell 1, '': expected a level"),
    ],
)
def test_wrong_cells_are_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        parse_cells(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    _, mistakes = presets.read_preset("smoke", ["parallel.taps=[]", "detector.neck={kind: nas_fpn, cells: '" + text + "'}"])
    assert len(mistakes) == 1
    assert said in mistakes[0]


@pytest.mark.parametrize(("text", "count"), [("b_11111111", 1), ("b_11-1-1-1-1-1-1", 7)])
def test_a_backbone_it_cannot_read_is_one_line(text: str, count: int) -> None:
    with pytest.raises(ArchError, match=rf"expected 2 to 6 stages under a NAS-FPN, whose levels have strides 8 to 128, got {count}"):
        NasFpn().outputs(parse(text), (64, 64))
    _, mistakes = presets.read_preset("smoke", ["parallel.taps=[]", "detector.neck.kind=nas_fpn", f"arch={text}"])
    assert len(mistakes) == 1


def test_outputs() -> None:
    outputs = NasFpn().outputs(parse("b_11-21-21-21"), (75, 101))
    assert [output.size for output in outputs] == [(10, 13), (5, 7), (3, 4), (2, 2), (1, 1)]
    assert [output.stride for output in outputs] == [output.scale for output in outputs] == [8, 16, 32, 64, 128]
    assert [output.extra for output in outputs] == [False, False, False, True, True]


def ours_of(name: str) -> str:
    """Our name of a tensor of mmdetection's module."""
    kind, number, *rest = name.split(".")
    part, word = rest[-2:]
    end = f"bn.{PARTS[word]}" if part == "bn" else f"conv.{word}"
    if kind == "lateral_convs":
        return f"lateral.{int(number) + 1}.{end}"
    if kind == "extra_downsamples":
        return f"extra.{int(number) + 3}.{end}"
    place = THEIR_CELLS.index(rest[0])
    return f"stacks.{number}.{place}.{NasFpn().graph[place].text}.{end}"


@pytest.fixture(scope="module")
def golden() -> Any:
    return json.loads(GOLDEN.read_text())


@pytest.mark.training
def test_values_are_mmdetections(golden: Any) -> None:
    """Maps in inference; in training their weighted sum, and norms of the gradients of inputs and weights."""
    ms.set_context(mode=ms.GRAPH_MODE)
    theirs = {name: rule(name, tuple(shape)) for name, shape in zip(golden["names"], golden["shapes"], strict=True)}
    weights = {ours_of(name): array for name, array in theirs.items()}
    for name in [name for name in weights if name.endswith("conv.bias")]:  # a norm takes a bias away
        weights[name.replace("conv.bias", "bn.moving_mean")] -= weights.pop(name)
    neck = MergingPyramid(parse("b_11-21-21-21"), NasFpn(channels=8, stacks=2), 4)
    stages = [rule(f"stage{stage}.weight", (2, channels, 64 >> stage, 64 >> stage)) for stage, channels in enumerate((4, 8, 16, 32))]
    set_weights(neck, weights)
    for found, expected in zip(neck.set_train(False)(tuple(map(Tensor, stages))), golden["maps"], strict=True):
        np.testing.assert_allclose(found.asnumpy()[:, ::3, ::5, ::5], np.array(expected), atol=1e-4)
    trained = ms.ParameterTuple(neck.trainable_params())

    shapes = [(2, 8, 32 >> number, 32 >> number) for number in range(5)]
    factors = [Tensor(rule(f"map{number}.weight", shape)) for number, shape in enumerate(shapes)]

    def total(*maps: Tensor) -> Tensor:
        found, weighted = neck(maps), Tensor(0.0)
        for number in range(5):
            weighted = weighted + (found[number] * factors[number]).sum()
        return weighted

    neck.set_train(True)
    value, (by_input, by_weight) = ms.value_and_grad(total, (1, 2, 3), trained)(*map(Tensor, stages))
    assert float(value) == pytest.approx(golden["total"], abs=0.01)
    assert [float(np.linalg.norm(one.asnumpy())) for one in by_input] == pytest.approx(golden["gradients"], rel=1e-3)
    norms = {parameter.name: float(np.linalg.norm(one.asnumpy())) for parameter, one in zip(trained, by_weight, strict=True)}
    expected_norms = {ours_of(name): norm for name, norm in golden["weight_gradients"].items()}
    assert {name: norms[name] for name in expected_norms} == pytest.approx(expected_norms, rel=1e-3, abs=1e-4)


def halved(x: np.ndarray) -> np.ndarray:
    """Maxima of 2x2, of fewer at an odd border."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), constant_values=-np.inf)
    return np.max([padded[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def written_out(neck: MergingPyramid, settings: NasFpn, stages: list[np.ndarray], given_stages: range) -> list[np.ndarray]:
    """A pyramid in numpy, but for its convolutions and norms."""

    def run(cell: Any, x: np.ndarray) -> np.ndarray:
        return np.asarray(cell(Tensor(x)).asnumpy())

    inputs = [run(neck.lateral[stage], stages[stage]) for stage in given_stages]
    while len(inputs) < 5:
        inputs.append(halved(run(neck.extra[len(inputs)], inputs[-1])))
    for stack in range(settings.stacks):
        nodes, node_levels, uses = list(inputs), list(LEVELS), [0] * (5 + len(settings.graph))
        for number, cell in enumerate(settings.graph):
            height, width = inputs[cell.level - 3].shape[2:]
            pair = []
            for node in sorted((cell.first, cell.second), key=lambda node: (node_levels[node], node)):
                x, level = nodes[node], node_levels[node]
                for _ in range(level, cell.level):
                    x = halved(x)
                rows, columns = (np.arange(length) >> max(0, level - cell.level) for length in (height, width))
                pair.append(x if level <= cell.level else x[:, :, rows][:, :, :, columns])
                uses[node] += 1
            gate = 1 / (1 + np.exp(-pair[0].mean((2, 3), keepdims=True))) if cell.attention else 1
            merged = pair[0] + gate * pair[1]
            if number >= len(settings.graph) - 5:
                for node, level in enumerate(node_levels):
                    if level == cell.level and not uses[node]:
                        merged, uses[node] = merged + nodes[node], 1
            nodes.append(run(neck.stacks[stack][number], merged.astype(np.float32)))
            node_levels.append(cell.level)
        inputs = [x for _, x in sorted(zip(node_levels[-5:], nodes[-5:], strict=True), key=lambda pair: pair[0])]
    return inputs


@pytest.mark.training
@pytest.mark.parametrize("text", ["b_111-111", "b_11-21-21-21", "b_1-1-2-1-1-1"])
@pytest.mark.parametrize("cells", [FOUND_CELLS, OTHER, "3s0_1-4s0_5-5s0_6-6a0_7-7a0_8"])
def test_odd_sizes_any_cells_and_its_cost(text: str, cells: str) -> None:
    """Values against the pyramid written out; parameters against the built net; MACs against the sizes of its maps."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    arch, size, rng = parse(text), (72, 100), np.random.default_rng(0)
    settings = NasFpn(channels=6, stacks=2, cells=cells)
    neck = MergingPyramid(arch, settings, 4).set_train(False)
    levels = architecture.levels(arch, 4)
    stages = [
        rng.standard_normal((2, level.channels, *hw)).astype(np.float32) for level, hw in zip(levels, stage_sizes(arch, size), strict=True)
    ]
    outputs = [one.asnumpy() for one in neck(tuple(map(Tensor, stages)))]
    for found, expected in zip(outputs, written_out(neck, settings, stages, settings.laterals(arch)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert [one.shape[2:] for one in outputs] == [output.size for output in settings.outputs(arch, size)]
    cost = settings.cost(arch, size, 4)
    assert cost.params == sum(parameter.size for parameter in neck.trainable_params())
    cells_of = {level: outputs[level - 3].shape[2] * outputs[level - 3].shape[3] for level in LEVELS}
    macs = sum(6 * stage.shape[1] * stage.shape[2] * stage.shape[3] for stage in stages[1:])
    macs += sum(36 * cells_of[level - 1] for level in LEVELS[len(stages) - 1 :])
    macs += 2 * sum(9 * 36 * cells_of[cell.level] for cell in settings.graph)
    assert cost.macs == macs
    detector = Detector(**SMALL, neck=settings)
    net = build(arch, detector, 3)
    weights = get_weights(net)
    assert {name: array.shape for name, array in weights.items()} == net_shapes(arch, detector, 3)
    params = sum(array.size for name, array in weights.items() if not name.endswith(STATISTICS))
    assert params == candidate_cost(arch, detector, 3).params
    assert len(net.set_train(False)(Tensor(np.zeros((1, 3, *size), np.float32)), Tensor(np.array([size], np.float32)))) == 3


def parts(names: Iterator[str] | tuple[str, ...]) -> set[str]:
    """Cells and inputs that the tensors of a neck belong to."""
    return {name.removeprefix("neck.").split(".conv")[0].split(".bn")[0] for name in names if name.startswith("neck.")}


@pytest.mark.training
@given(pyramids(2), pyramids(2), st.integers(0, 99))
def test_cells_that_stay_are_inherited_exactly(ours: tuple[Cell, ...], theirs: tuple[Cell, ...], seed: int) -> None:
    parent, child = (NasFpn(channels=6, stacks=2, cells=cells_text(cells)) for cells in (ours, theirs))
    weights, fresh = weights_of("b_11-21-21-21", parent, seed), weights_of("b_11-21-21-21", child, seed + 100)
    found, audit = inherit.inherit(parse("b_11-21-21-21"), parse("b_11-21-21-21"), weights, fresh, base_width=4)
    stay = {(number, cell) for number, cell in enumerate(ours)} & {(number, cell) for number, cell in enumerate(theirs)}
    for name, array in found.items():
        kept = not name.startswith("neck.stacks.") or any(f".{number}.{cell.text}." in name for number, cell in stay)
        np.testing.assert_array_equal(array, (weights if kept else fresh)[name], err_msg=name)
    assert parts(audit.new) == parts(tuple(fresh)) - parts(tuple(weights))
    assert parts(audit.dropped) == parts(tuple(weights)) - parts(tuple(fresh))
    assert set(audit.copied) | set(audit.new) == set(fresh)


def test_an_added_stage_takes_the_place_of_an_extra_input() -> None:
    neck = NasFpn(channels=6, stacks=1)
    weights, fresh = (weights_of(text, neck, seed) for seed, text in enumerate(("b_1111-2111", "b_1111-2111-1")))
    _, audit = inherit.inherit(parse("b_1111-2111"), parse("b_1111-2111-1"), weights, fresh, base_width=4)
    assert parts(audit.new) == {"lateral.2"}
    assert parts(audit.dropped) == {"extra.1"}
    del weights["neck.extra.3.conv.weight"]
    with pytest.raises(UserError, match=r"\+neck.extra.3.conv.weight"):
        inherit.inherit(parse("b_1111-2111"), parse("b_1111-2111"), weights, weights_of("b_1111-2111", neck, 3), base_width=4)


@pytest.mark.parametrize("names", [("neck.stacks.0.0.4a1_3.what",), ("neck.lateral.7.conv.weight",), ("neck.stacks.0",)])
def test_a_stranger_among_the_tensors_is_an_error(names: tuple[str, ...]) -> None:
    neck = NasFpn(channels=6, stacks=1)
    weights = weights_of("b_1111-2111", neck, 0) | {name: np.zeros(3, np.float32) for name in names}
    with pytest.raises(UserError, match="weights differ"):
        inherit.inherit(parse("b_1111-2111"), parse("b_1111-2111"), weights, weights_of("b_1111-2111", neck, 1), base_width=4)
