"""NAS-FCOS's neck: its text, its values beside ones written out in numpy, its cost, what children inherit, how it is exported."""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from cell_necks import SMALL, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor

from flows import presets
from spnas_core import arch as architecture
from spnas_core.arch import parse
from spnas_core.cost import stage_sizes
from spnas_core.errors import UserError
from spnas_core.models.build import build
from spnas_core.models.nas_fcos import FusionPyramid
from spnas_core.models.step import get_weights, set_weights
from spnas_core.necks import parse_neck
from spnas_core.necks.cells import cells_text
from spnas_core.necks.nas_fcos import (
    SEPARABLE_CELLS,
    STAGE_INPUTS,
    Fusion,
    NasFcos,
    fusion_ends,
    fusion_levels,
    fusions_mistake,
    parse_fusions,
)
from spnas_core.search.costs import candidate_cost
from spnas_core.search.fusion_mutation import draw_fusions
from spnas_core.search.net import Net, parse_net
from spnas_core.settings.detector import Detector, current_form
from spnas_core.weights import inherit
from spnas_core.weights.net_shapes import net_shapes
from spnas_core.weights.tensor_names import STATISTICS, Arrays

PUBLISHED = ((3, 3, 4, 4, 1), (3, 3, 4, 4, 1), (4, 3, 4, 3, 1), (1, 3, 4, 3, 1), (5, 3, 4, 4, 1), (4, 7, 4, 4, 1), (7, 2, 4, 4, 1))
LETTERS = "sdwks"  # of the published operations: the last one is deformable there
ALL = "p0s_1d-c2w_3k-p3s_4k-c0d_5w-p2k_2s-c1s_4w"  # every operation, both ways to merge; the first is read twice, the third by none


def fusions(most: int = 8) -> st.SearchStrategy[tuple[Fusion, ...]]:
    """Cells of any valid neck of at most so many."""
    return st.builds(lambda count, seed: draw_fusions(count, np.random.default_rng(seed)), st.integers(3, most), st.integers(0, 2**32))


@given(fusions(), st.integers(1, 999))
def test_a_neck_has_one_text(cells: tuple[Fusion, ...], channels: int) -> None:
    neck = NasFcos(channels=channels, cells=cells_text(cells))
    assert parse_fusions(neck.cells) == cells == neck.graph
    assert parse_neck(neck.text) == neck
    turned = "-".join(f"{one.text[0]}{one.second.text}_{one.first.text}" for one in cells)  # the inputs the other way round
    assert NasFcos(channels=channels, cells=turned) == neck
    net = Net(parse("b_11-21-21-21"), neck, "3x3", "faster_rcnn")
    assert parse_net(str(net)) == net
    detector = Detector(neck=neck)
    assert Detector.model_validate_json(detector.model_dump_json()) == detector
    assert current_form(detector.former_document()) == detector.model_dump(mode="json", exclude={"other_heads"})


def test_the_found_cells_are_those_of_the_paper_but_for_deformable_convolutions() -> None:
    words = (f"{'pc'[merge]}{a}{LETTERS[one]}_{b}{LETTERS[other]}" for a, b, one, other, merge in PUBLISHED)
    neck = NasFcos(cells="-".join(words))
    assert neck == NasFcos()
    assert neck.text == "nasfcos256"
    assert fusion_ends(neck.graph) == ((10, 9, 8), (6,))  # as mmdetection's NASFCOS_FPN, which counts from C3: 9, 8, 7 and 5
    assert neck.adapts(parse("r_111-2111-211111-211")) == (1, 2, 3)  # nor has C2 a layer there
    assert parse_neck(f"nasfcos64({ALL})") == NasFcos(channels=64, cells=ALL)


@given(fusions())
def test_every_node_is_used_and_none_is_larger_than_its_inputs(cells: tuple[Fusion, ...]) -> None:
    assert fusions_mistake(cells) == ""
    (p3, p4, p5), joined = fusion_ends(cells)
    read = {one.node for cell in cells for one in (cell.first, cell.second)}
    assert 3 in read
    assert p3 > p4 > p5 > max(joined, default=0)
    assert sorted((read - set(range(STAGE_INPUTS))) | {p3, p4, p5, *joined}) == list(range(STAGE_INPUTS, STAGE_INPUTS + len(cells)))
    levels = fusion_levels(cells)
    for level, cell in zip(levels[STAGE_INPUTS:], cells, strict=True):
        assert level == min(levels[cell.first.node], levels[cell.second.node])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p3s_3s-p3s", "cell 2, 'p3s': expected p (sum) or c (concatenation), and two inputs, each a number and an operation"),
        ("p3s_3x-p3s_3s-p3s_3s", "cell 1, 'p3s_3x': expected p (sum) or c (concatenation)"),
        ("", "cell 1, '': expected p (sum)"),
        ("p3s_4s-p3s_3s-p3s_3s", "cell 1, 'p3s_4s': expected inputs from 0 to 3 (C2 to C5, then the cells before it), got 4"),
        ("p3s_3s-p9k_3s-p3s_3s", "cell 2, 'p9k_3s': expected inputs from 0 to 4 (C2 to C5, then the cells before it), got 9"),
        ("p3s_3s-p3s_3s", "expected at least 3 cells that no other reads, which become P5, P4 and P3, got 2"),
        ("p3s_3s-p3s_4s-p3s_3s-p3s_5s", "expected at least 3 cells that no other reads, which become P5, P4 and P3, got 2"),
        ("p0s_1s-p0s_2s-p0s_1s", "expected a cell that reads 3 (C5), so that all of the backbone has a use, got none"),
    ],
)
def test_wrong_cells_are_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        parse_fusions(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    _, mistakes = presets.read_preset("smoke", ["parallel.taps=[]", "detector.neck={kind: nas_fcos, cells: '" + text + "'}"])
    assert len(mistakes) == 1
    assert said in mistakes[0]


def test_outputs() -> None:
    for text in ("b_1111", "b_11-21-21-21", "b_11-1-1-1-1-1-1"):
        outputs = NasFcos().outputs(parse(text), (75, 101))
        assert [output.size for output in outputs] == [(10, 13), (5, 7), (3, 4), (2, 2), (1, 1)]
        assert [output.stride for output in outputs] == [output.scale for output in outputs] == [8, 16, 32, 64, 128]
        assert [output.extra for output in outputs] == [False, False, False, True, True]


def halved(x: np.ndarray) -> np.ndarray:
    """Maxima of 2x2, of fewer at an odd border."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), constant_values=-np.inf)
    return np.max([padded[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def convolved(x: np.ndarray, weight: np.ndarray, stride: int = 1, dilation: int = 1) -> np.ndarray:
    """Convolution padded by half of its reach; depthwise where weights have one input channel, and x has more."""
    kernel, (height, width) = weight.shape[-1], x.shape[2:]
    edge = dilation * (kernel // 2)
    padded, total = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge))), np.float64(0)
    for row in range(kernel):
        for column in range(kernel):
            top, left = row * dilation, column * dilation
            shifted = padded[:, :, top : top + height : stride, left : left + width : stride]
            taps = weight[:, :, row, column]
            if weight.shape[1] == 1 and x.shape[1] > 1:
                total = total + shifted * taps[:, 0, None, None]
            else:
                total = total + np.einsum("bchw,oc->bohw", shifted, taps)
    return np.asarray(total)


def resized(x: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Bilinear, pixel centres at half pixels."""
    for axis, count in zip((2, 3), target, strict=True):
        source = x.shape[axis]
        places = np.clip((np.arange(count) + 0.5) * source / count - 0.5, 0, source - 1)
        low = np.floor(places).astype(int)
        share = (places - low).reshape([-1 if one == axis else 1 for one in range(4)])
        x = np.take(x, low, axis) * (1 - share) + np.take(x, np.minimum(low + 1, source - 1), axis) * share
    return x


def written_out(
    weights: Mapping[str, np.ndarray], neck: NasFcos, stages: list[np.ndarray], size: tuple[int, int], learns: bool = False
) -> list[np.ndarray]:
    """A neck in numpy, from the text of its cells; one that `learns` normalises by the statistics of the batch."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        gamma, beta, mean, variance = (
            weights[f"{name}.{part}"][:, None, None] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        if learns:
            mean, variance = (one(x, axis=(0, 2, 3))[:, None, None] for one in (np.mean, np.var))
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def adapt(stage: int) -> np.ndarray:
        return np.maximum(norm(convolved(stages[stage], weights[f"adapt.{stage}.conv.weight"]), f"adapt.{stage}.bn"), 0)

    nodes = [adapt(stage) if f"adapt.{stage}.conv.weight" in weights else np.zeros(0) for stage in range(min(4, len(stages)))]
    for stage in range(4, len(stages)):
        nodes[3] = nodes[3] + resized(adapt(stage), nodes[3].shape[2:])
    while len(nodes) < 4:
        nodes.append(halved(nodes[-1]))
    loose = list[int]()
    for number, text in enumerate(neck.cells.split("-")):
        parts = []
        for side, token in zip(("first", "second"), text[1:].split("_"), strict=True):
            node, name = int(token[:-1]), f"fusions.{number}.{text}.{side}."
            x, dilation = nodes[node], {"s": 1, "d": 3, "w": 6, "k": 0}[token[-1]]
            loose = [one for one in loose if one != node]
            if dilation:
                x = convolved(convolved(x, weights[f"{name}depth.weight"], dilation=dilation), weights[f"{name}conv.weight"])
                x = np.maximum(norm(x, f"{name}bn"), 0)
            parts.append((x, name))
        largest = max(x.shape[2:] for x, _ in parts)
        total = np.zeros(())
        for x, name in parts:
            x = resized(x, largest)
            x = np.maximum(norm(x, f"{name}norm"), 0) if text[0] == "c" else x
            total = total + x * weights[f"{name}factor"][:, None, None]
        nodes.append(total)
        loose.append(len(nodes) - 1)
    outputs = []
    for node, level in zip(loose[:-4:-1], (3, 4, 5), strict=True):
        x = nodes[node]
        for other in loose[:-3]:
            x = x + resized(nodes[other], x.shape[2:])
        outputs.append(resized(x, tuple(-(-side // (1 << level)) for side in size)))
    for number in (0, 1):
        x = outputs[-1] if number == 0 else np.maximum(outputs[-1], 0)
        outputs.append(convolved(x, weights[f"above.{number}.weight"], 2) + weights[f"above.{number}.bias"][:, None, None])
    return outputs


def lively_neck(text: str, cells: str, size: tuple[int, int]) -> tuple[FusionPyramid, Arrays, list[np.ndarray]]:
    """A neck of 6 channels with drawn weights, these, and drawn outputs of the stages of a backbone of base width 4."""
    arch, rng = parse(text), np.random.default_rng(0)
    neck = FusionPyramid(arch, NasFcos(channels=6, cells=cells), 4, size)
    weights = get_weights(neck)
    for name, array in weights.items():
        if name.endswith((".gamma", ".moving_variance")):
            weights[name] = rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        else:
            weights[name] = rng.normal(0, (1 / max(1, array[0].size)) ** 0.5, array.shape).astype(np.float32)
    set_weights(neck, weights)
    levels = zip(architecture.levels(arch, 4), stage_sizes(arch, size), strict=True)
    return neck, weights, [rng.standard_normal((2, level.channels, *hw)).astype(np.float32) for level, hw in levels]


@pytest.mark.training
@pytest.mark.parametrize("text", ["b_11111111", "b_111-111", "b_11-21-21-21", "b_1-1-2-1-1-1"])
@pytest.mark.parametrize("cells", [SEPARABLE_CELLS, ALL, "c0s_3d-c1k_2w-p0k_1k-p3s_3k"])
def test_values_and_cost_with_any_stages_cells_and_odd_sizes(text: str, cells: str) -> None:
    """Values against the neck written out; parameters against the built net; MACs against the sizes of its maps."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    arch, size, own = parse(text), (72, 100), NasFcos(channels=6, cells=cells)
    neck, weights, stages = lively_neck(text, cells, size)
    outputs = [one.asnumpy() for one in neck.set_train(False)(tuple(map(Tensor, stages)))]
    for found, expected in zip(outputs, written_out(weights, own, stages, size), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-4)
    assert [one.shape[2:] for one in outputs] == [output.size for output in own.outputs(arch, size)]
    cost = own.cost(arch, size, 4)
    assert cost.params == sum(parameter.size for parameter in neck.trainable_params())
    cells_of = [(-(-72 // (1 << level))) * (-(-100 // (1 << level))) for level in range(8)]
    macs = sum(36 * 9 * cells_of[level] for level in (6, 7))
    macs += sum(6 * stages[stage].shape[1] * cells_of[2 + stage] for stage in own.adapts(arch))
    levels = [2, 3, 4, 5]
    for cell in own.graph:
        for node, letter in (cell.first, cell.second):
            macs += cells_of[levels[node]] * {"s": 6 * 9 + 36, "d": 6 * 9 + 36, "w": 6 * 25 + 36, "k": 0}[letter]
        levels.append(min(levels[cell.first.node], levels[cell.second.node]))
    assert cost.macs == macs
    detector = Detector(**SMALL, neck=own)
    net = build(arch, detector, 3)
    assert {name: array.shape for name, array in get_weights(net).items()} == net_shapes(arch, detector, 3)
    params = sum(array.size for name, array in get_weights(net).items() if not name.endswith(STATISTICS))
    assert params == candidate_cost(arch, detector, 3).params
    assert len(net.set_train(False)(Tensor(np.zeros((1, 3, *size), np.float32)), Tensor(np.array([size], np.float32)))) == 3


@pytest.mark.training
def test_gradients_are_those_of_small_steps() -> None:
    """Of every weight, in graph mode, against steps of the neck in numpy, in float64."""
    ms.set_context(mode=ms.GRAPH_MODE)
    size, own = (48, 64), NasFcos(channels=6, cells=ALL)
    neck, weights, stages = lively_neck("b_11-21-21-21", ALL, size)
    rng = np.random.default_rng(1)
    factors = [rng.standard_normal((2, 6, *output.size)) for output in own.outputs(parse("b_1111"), size)]
    wanted = [Tensor(one.astype(np.float32)) for one in factors]

    def total(*maps: Tensor) -> Tensor:
        found, weighted = neck(maps), Tensor(0.0)
        for number in range(5):
            weighted = weighted + (found[number] * wanted[number]).sum()
        return weighted

    neck.set_train(True)
    trained = ms.ParameterTuple(neck.trainable_params())
    value, gradients = ms.value_and_grad(total, None, trained)(*map(Tensor, stages))
    exact = {name: array.astype(np.float64) for name, array in weights.items()}
    maps = [one.astype(np.float64) for one in stages]

    def written(changed: Mapping[str, np.ndarray]) -> float:
        return sum(float((a * b).sum()) for a, b in zip(written_out(exact | changed, own, maps, size, True), factors, strict=True))

    assert float(value) == pytest.approx(written({}), rel=1e-3)
    for parameter, gradient in zip(trained, gradients, strict=True):
        found, step = gradient.asnumpy(), 1e-6 * rng.choice([-1.0, 1.0], gradient.shape)
        name = parameter.name
        slope = (written({name: exact[name] + step}) - written({name: exact[name] - step})) / 2e-6
        assert float((found * step).sum() * 1e6) == pytest.approx(slope, rel=2e-3, abs=2e-3 * float(np.abs(found).sum())), name


def parts(names: Iterable[str]) -> set[str]:
    """Cells and inputs that the tensors of a neck belong to: `fusions.1.c2w_3k`, `adapt.3`, `above.0`."""
    kept = (name.removeprefix("neck.").split(".") for name in names if name.startswith("neck."))
    return {".".join(words[: 3 if words[0] == "fusions" else 2]) for words in kept}


@pytest.mark.training
@settings(deadline=None)
@given(fusions(6), fusions(6), st.integers(0, 99))
def test_cells_that_stay_are_inherited_exactly(ours: tuple[Fusion, ...], theirs: tuple[Fusion, ...], seed: int) -> None:
    parent, child = (NasFcos(channels=6, cells=cells_text(cells)) for cells in (ours, theirs))
    weights, fresh = weights_of("b_11-21-21-21", parent, seed), weights_of("b_11-21-21-21", child, seed + 100)
    found, audit = inherit.inherit(parse("b_11-21-21-21"), parse("b_11-21-21-21"), weights, fresh, base_width=4)
    stay = {(number, cell) for number, cell in enumerate(ours)} & {(number, cell) for number, cell in enumerate(theirs)}
    for name, array in found.items():
        new = name.startswith("neck.fusions.") and not any(f".{number}.{cell.text}." in name for number, cell in stay)
        new |= name.startswith("neck.adapt.") and name not in weights
        np.testing.assert_array_equal(array, (fresh if new else weights)[name], err_msg=name)
    assert parts(audit.new) == parts(fresh) - parts(weights)
    assert parts(audit.dropped) == parts(weights) - parts(fresh)
    assert set(audit.copied) | set(audit.new) == set(fresh)


def test_an_added_stage_takes_the_place_of_a_pooled_input_and_a_fifth_is_added_to_the_last() -> None:
    neck = NasFcos(channels=6, cells="p2s_3s-p3s_3s-p0s_3k")
    texts = ("b_1111-2111", "b_1111-2111-1", "b_1111-2111-1-1", "b_1111-2111-1-1-1")
    found = []
    for ours, theirs in pairwise(texts):
        _, audit = inherit.inherit(parse(ours), parse(theirs), weights_of(ours, neck, 0), weights_of(theirs, neck, 1), base_width=4)
        found.append((parts(audit.new), parts(audit.dropped)))
    assert found == [({"adapt.2"}, {"adapt.1"}), ({"adapt.3"}, set()), ({"adapt.4"}, set())]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda weights: weights.pop("neck.above.1.bias"), r"\+neck.above.1.bias"),
        (lambda weights: weights.pop("neck.fusions.1.c2w_3k.second.factor"), r"\+neck.fusions.1.c2w_3k.second.factor"),
        (lambda weights: weights.update({"neck.adapt.7.conv.weight": np.zeros(3, np.float32)}), "-neck.adapt.7.conv.weight"),
        (lambda weights: weights.update({"neck.fusions.0.p0s_1d.what": np.zeros(3, np.float32)}), "-neck.fusions.0.p0s_1d.what"),
    ],
)
def test_a_tensor_too_few_or_too_many_is_an_error(spoil: Callable[[dict[str, np.ndarray]], Any], said: str) -> None:
    neck = NasFcos(channels=6, cells=ALL)
    weights = weights_of("b_1111-2111", neck, 0)
    spoil(weights)
    with pytest.raises(UserError, match=said):
        inherit.inherit(parse("b_1111-2111"), parse("b_1111-2111"), weights, weights_of("b_1111-2111", neck, 3), base_width=4)
