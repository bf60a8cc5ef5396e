"""RetinaNet with norms of each level: its values beside mmdetection's own head (mmdetection_retina.py), its tensors, costs and heirs."""

import json
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import safetensors.numpy
from exported import assert_same, inputs, lively, write_model
from mindspore import Tensor
from test_parity import Gradients, numpy
from weight_rule import rule

from flows import presets
from spnas_core.arch import parse
from spnas_core.data.loader import Batch
from spnas_core.errors import UserError
from spnas_core.export.convert import convert_checkpoint
from spnas_core.export.folder import Format, Wish, export_model, publish_export
from spnas_core.export.shipped.detect import open_network
from spnas_core.job import Data, TrainJob, digest
from spnas_core.jobs.inherited_score import new_statistics
from spnas_core.models.anchors import anchor_grid
from spnas_core.models.build import build
from spnas_core.models.retinanet import RetinaHead, RetinaNet
from spnas_core.models.step import TrainStep, get_weights, set_weights
from spnas_core.necks.nas_fpn import NasFpn
from spnas_core.search.costs import candidate_cost
from spnas_core.settings.detector import Detector
from spnas_core.settings.one_stage import RetinaNetHead
from spnas_core.settings.training import Recipe
from spnas_core.weights.adopt import adopt
from spnas_core.weights.inherit import inherit
from spnas_core.weights.net_shapes import net_shapes
from spnas_core.weights.tensor_names import AFFINE, STATISTICS
from spnas_core.weights.torchvision_names import to_torchvision

Array = np.ndarray
GOLDEN = Path(__file__).with_name("retina_golden.json")
PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
CLASSES = ((1, "a"), (2, "b"), (3, "c"))
COMMON: dict[str, Any] = {"image_size": (75, 101), "base_width": 8, "detections": 12, "score_threshold": 0.1, "max_boxes": 6}
HEAD: dict[str, Any] = {"kind": "retinanet", "depth": 2, "candidates": 40, "level_norms": True}
NASFPN: dict[str, Any] = {"kind": "nas_fpn", "channels": 8, "stacks": 1}
NETS: dict[str, dict[str, Any]] = {
    "b_111-2111-21-21_1-0-2-3": {"stem": "3x3"},
    "r_11-21-211-2_0-2-1-1": {"neck": {"extra_levels": "c5", "taps": (2, 2)}},
    "b_11-21-21": {"neck": NASFPN, "head": {**HEAD, "depth": 1, "anchor_octave": 1}},
    "b_11-211": {"neck": {"first_level": 0, "extra_levels": "none"}, "soft_nms": "linear"},
}  # fmt: skip


def settings_of(text: str, **more: Any) -> Detector:
    given = {**COMMON, "head": HEAD, **NETS.get(text, {}), **more}
    return Detector(**given | {"neck": {"channels": 16, **given.get("neck", {})}})


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def ours_of(name: str) -> str:
    """Our name of a tensor of mmdetection's head."""
    kind, *rest = name.split(".")
    if kind in ("retina_cls", "retina_reg"):
        return f"{'score' if kind == 'retina_cls' else 'delta'}.{rest[0]}"
    level, layer, part, word = rest
    end = "conv.weight" if part == "conv" else f"norms.{level}.{PARTS[word]}"
    return f"{'class' if kind == 'cls_convs' else 'box'}_tower.{layer}.{end}"


@pytest.mark.training
def test_values_are_mmdetections() -> None:
    """Predictions in inference; in training their weighted sum, and norms of the gradients of maps, weights and norms."""
    ms.set_context(mode=ms.GRAPH_MODE)
    golden = json.loads(GOLDEN.read_text())
    settings = Detector(image_size=(256, 256), neck=NASFPN, head={"kind": "retinanet", "depth": 2, "level_norms": True})
    head = RetinaHead(settings, 3, anchor_grid(parse("b_11-21-21-21"), settings))
    theirs = {name: rule(name, tuple(shape)) for name, shape in zip(golden["names"], golden["shapes"], strict=True)}
    weights = {ours_of(name): array for name, array in theirs.items()}
    assert {name: array.shape for name, array in weights.items()} == {one.name: one.shape for one in head.get_parameters()}
    set_weights(head, weights)
    sizes = [(2, 32 >> level, 32 >> level) for level in range(5)]
    maps = [Tensor(rule(f"map{n}.bias", (2, 8, *hw)) * 10 * (n + 1) + n) for n, (_, *hw) in enumerate(sizes)]
    head.set_train(False)
    for level, x in enumerate(maps):
        for kind, found, channels in zip(("score", "delta"), head(x, level), (27, 36), strict=True):
            ours = found.asnumpy().reshape(2, channels, *x.shape[2:])[:, ::4, ::7, ::7]
            np.testing.assert_allclose(ours, np.array(golden[kind][level]), atol=1e-4)
    shapes = [(2, channels, *hw) for channels in (27, 36) for _, *hw in sizes]
    factors = [rule(f"output{n}.weight", shape) for n, shape in enumerate(shapes)]
    whole = [
        Tensor(np.concatenate([factor.reshape(2, 9, values, -1) for factor in own], 3))
        for values, own in ((3, factors[:5]), (4, factors[5:]))
    ]
    trained = ms.ParameterTuple(head.trainable_params())

    def total(*given: Tensor) -> Tensor:
        score, delta = head.of_all_levels(given)
        return (score * whole[0]).sum() + (delta * whole[1]).sum()

    head.set_train(True)
    value, (by_map, by_weight) = ms.value_and_grad(total, (0, 1, 2, 3, 4), trained)(*maps)
    assert float(value) == pytest.approx(golden["total"], rel=1e-4)
    assert [float(np.linalg.norm(one.asnumpy())) for one in by_map] == pytest.approx(golden["gradients"], rel=1e-3)
    norms = {parameter.name: float(np.linalg.norm(one.asnumpy())) for parameter, one in zip(trained, by_weight, strict=True)}
    assert norms == pytest.approx({ours_of(name): norm for name, norm in golden["weight_gradients"].items()}, rel=1e-3)


def scored(net: RetinaNet, size: tuple[int, int]) -> dict[str, Array]:
    """Random weights with scores and deltas that differ by about 1, after which none is lost in rounding."""
    weights = lively(net)
    maps = net.set_train(False).features(Tensor(inputs(size)[0]))
    outputs = zip(*(numpy(net.retinanet(x, level)) for level, x in enumerate(maps)), strict=True)
    for name, levels, deviation in zip(("score", "delta"), outputs, (1.5, 0.5), strict=True):
        factor = deviation / np.concatenate([one.ravel() for one in levels]).std()
        weights |= {f"retinanet.{name}.{part}": weights[f"retinanet.{name}.{part}"] * factor for part in ("weight", "bias")}
    set_weights(net, weights)
    return weights


def batch_of(settings: Detector, text: str, images: Array) -> Batch:
    """Images (2, 3, H, W), each with an object of the size of each level's anchors, on the place of one."""
    grid = anchor_grid(parse(text), settings)
    boxes, labels = np.zeros((2, settings.max_boxes, 4), np.float32), np.zeros((2, settings.max_boxes), np.int32)
    for level, (size, stride, side) in enumerate(zip(grid.sizes, grid.strides, grid.sides, strict=True)):
        y, x = (stride * (cells // 2) for cells in size)
        boxes[:, level], labels[:, level] = (x - side / 2, y - side / 2, x + side / 2, y + side / 2), 1 + level % 3
    return Batch(images, np.array([images.shape[2:]] * 2, np.float32), boxes, labels, np.arange(2), np.ones((2, 2), np.float32))


@pytest.mark.training
@pytest.mark.parametrize(
    "head",
    [{**HEAD, "depth": 1}, {**HEAD, "depth": 1, "level_norms": False}, {"kind": "fcos", "depth": 1, "norm_groups": 4, "candidates": 40}],
    ids=("level_norms", "retinanet", "fcos"),
)
def test_all_five_levels_of_a_nas_fpn_serve(head: dict[str, Any]) -> None:
    """Places of mmdetection's P3 to P7, finite losses from which each parameter learns, and detections of each level."""
    ms.set_context(mode=ms.GRAPH_MODE)
    text, shapes = "b_11-21-21-21", 9 if head["kind"] == "retinanet" else 1
    given_head = {**head, **({"anchor_scale": 2.0} if shapes == 9 else {})}
    settings = Detector(**COMMON | {"image_size": (256, 384), "score_threshold": 0.0}, neck=NASFPN, head=given_head)
    net = build(parse(text), settings, 3)
    own = getattr(net, head["kind"])
    sizes = [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    for best, size, stride in zip(own.best, sizes, (8, 16, 32, 64, 128), strict=True):
        places = best.anchors.asnumpy().reshape(shapes, *size, 4)
        y, x = np.meshgrid(*(stride * np.arange(cells) for cells in size), indexing="ij")
        np.testing.assert_array_equal(places[..., :2] + places[..., 2:], np.broadcast_to(2 * np.stack((x, y), -1), (*places.shape[:3], 2)))
    lively(net)
    images = np.random.default_rng(0).standard_normal((2, 3, *settings.image_size)).astype(np.float32)
    batch = batch_of(settings, text, images)
    arrays = net.inputs(batch, 0, 0)
    if shapes == 9:
        learns = np.split(arrays[1].reshape(2, 9, -1), np.cumsum([height * width for height, width in sizes])[:-1], 2)
        assert [bool((one > 0).any()) for one in learns] == [True] * 5
    step = Gradients(net).set_train()
    losses, norms = numpy(step(*map(Tensor, arrays)))
    assert np.isfinite(losses).all()
    assert np.isfinite(norms).all()
    assert [one.name for one, norm in zip(step.weights, norms, strict=True) if not norm > 0] == []
    ms.set_context(mode=ms.PYNATIVE_MODE)
    maps = net.set_train(False).features(Tensor(images))
    for number in range(5):
        scores, labels, boxes = numpy(own.level(number, own(maps[number], number)))
        assert scores.shape == labels.shape == boxes.shape[:2] == (2, min(40, len(own.best[number].first_class) * 3))
        assert np.isfinite(boxes).all()
        assert scores.min() > 0
    boxes, scores, labels = numpy(net(Tensor(images), Tensor(batch.image_hw)))
    assert (scores > 0).all()
    assert set(np.unique(labels)) <= {1, 2, 3}


@pytest.mark.parametrize("text", NETS)
def test_tensors_and_cost_are_those_of_the_built_net(text: str) -> None:
    arch, settings = parse(text), settings_of(text)
    net = build(arch, settings, 3)
    weights = get_weights(net)
    assert {name: array.shape for name, array in weights.items()} == net_shapes(arch, settings, 3)
    params = sum(array.size for name, array in weights.items() if not name.endswith(STATISTICS))
    plain = settings.model_copy(update={"head": {**settings.head.model_dump(), "level_norms": False}})
    assert params == sum(one.size for one in net.trainable_params()) == candidate_cost(arch, settings, 3).params
    assert candidate_cost(arch, plain, 3).macs == candidate_cost(arch, settings, 3).macs
    levels = len(settings.neck.outputs(arch, settings.image_size))
    tower = [name for name in weights if name.startswith("retinanet.class_tower.0.")]
    assert len(tower) == 1 + 4 * levels
    assert not any(name.endswith("conv.bias") for name in tower)


@pytest.mark.training
def test_norms_of_each_level_keep_their_own_statistics() -> None:
    """A training step moves the statistics of each level's norms, and of no other's; they can be had anew from batches."""
    ms.set_context(mode=ms.GRAPH_MODE)
    settings = settings_of("b_11-21-21")
    net = build(parse("b_11-21-21"), settings, 3)
    lively(net)
    images, _ = inputs(settings.image_size)
    batch = batch_of(settings, "b_11-21-21", images)
    step = TrainStep(net, 0.9, (0.0,) * len(net.trainable_params()), None)
    found = new_statistics(step, [net.inputs(batch, 0, 0)])
    own = {name: array for name, array in found.items() if name.startswith("retinanet.class_tower.0.norms.")}
    assert len(own) == 2 * 5
    net.set_train(True)  # the neck's norms take the batch's statistics, as in the step
    convolve = net.retinanet.class_tower[0].conv
    maps = [convolve(x).asnumpy() for x in net.features(Tensor(images))]
    for level, x in enumerate(maps):
        name = f"retinanet.class_tower.0.norms.{level}."
        np.testing.assert_allclose(own[f"{name}moving_mean"], x.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(own[f"{name}moving_variance"], x.var((0, 2, 3), ddof=1), rtol=1e-3)


def test_digests_of_other_nets_do_not_know_them() -> None:
    for head in ({"kind": "retinanet"}, {"kind": "fcos"}, {"kind": "faster_rcnn"}):
        document = Detector(head=head).former_document()
        assert "level_norms" not in json.dumps(document)
    plain, normed = (Detector(head={"kind": "retinanet", "level_norms": normed}) for normed in (False, True))
    assert normed.former_document()["head"] == {**plain.former_document()["head"], "level_norms": True}
    assert Detector.model_validate(normed.former_document()) == normed
    data = Data(url="/data", fingerprint="f" * 64)
    job = TrainJob(arch="b_11-21-21", detector=plain, recipe=Recipe(epochs=1, batch=2, lr=0.1), data=data)
    assert digest(job)[:16] == "1d5c9af1adaf84c0"


def test_what_cannot_work_is_one_line() -> None:
    expected = "expected a batch above 1, or larger images, with level_norms in a head, got full_train.batch 1 at"
    normed = ["detector.head={kind: retinanet, level_norms: true}", "full_train.batch=1"]
    for sets in (["detector.image_size=[128, 100]"], ["space.image_sizes=[[256, 320], [64, 64]]"]):
        _, mistakes = presets.read_preset("retinanet_bccd", [*normed, *sets])
        assert len(mistakes) == 1
        assert expected in mistakes[0]
    other = ["detector.other_heads=[{kind: fcos, norm_groups: 8}, {kind: retinanet, level_norms: true}]", "structures.recipe.batch=1"]
    _, mistakes = presets.read_preset("structures", [*other, "space.image_sizes=[[128, 160], [96, 120]]"])
    assert [one for one in mistakes if "with level_norms in a head, got structures.recipe.batch 1 at (96, 120)" in one]
    assert presets.read_preset("retinanet_bccd", normed)[1] == []
    _, mistakes = presets.read_preset("fcos_bccd", ["detector.head.level_norms=true"])
    assert len(mistakes) == 1


@pytest.mark.parametrize("name", ["retinanet_r50_nasfpn_crop640", "retinanet_r50_fpn_crop640", "retinanet_nasfpn_bccd"])
def test_presets_train_retinanet_as_mmdetection_does(name: str) -> None:
    settings = presets.load_preset(name, [])
    head = settings.detector.head
    assert isinstance(head, RetinaNetHead)
    assert head.level_norms
    assert len(settings.detector.neck.outputs(parse(settings.arch), settings.detector.image_size)) == 5
    assert isinstance(settings.detector.neck, NasFpn) == ("nasfpn" in name)


@pytest.mark.parametrize("neck", [{}, {"extra_levels": "c5", "first_level": 0}, NASFPN], ids=str)
@pytest.mark.parametrize("child", ["b_11-21-21", "b_111-211-21", "b_1-121-21", "r_11-21-21", "b_11-21-2-1", "b_11-21-21-11_0-1-0-1"])
def test_children_inherit_the_norms_of_the_levels_that_stay(child: str, neck: dict[str, Any]) -> None:
    """What only one of the two has is new, or dropped."""
    settings = settings_of("", neck=neck)
    weights, fresh = (filled(net_shapes(parse(text), settings, 3), seed) for seed, text in enumerate(("b_11-21-21", child)))
    found, audit = inherit(parse("b_11-21-21"), parse(child), weights, fresh, base_width=8)
    ours, theirs = ({name for name in names if name.startswith("retinanet.")} for names in (fresh, weights))
    for name in ours:
        np.testing.assert_array_equal(found[name], (weights if name in weights else fresh)[name], err_msg=name)
    assert {name for name in audit.new if name in ours} == ours - theirs
    assert {name for name in audit.dropped if name in theirs} == theirs - ours


def test_an_added_stage_brings_norms_of_its_own() -> None:
    parent, child = parse("b_11-21-21"), parse("b_11-21-21-11")
    settings = settings_of("", neck={})
    weights, fresh = (filled(net_shapes(arch, settings, 3), seed) for seed, arch in enumerate((parent, child)))
    _, audit = inherit(parent, child, weights, fresh, base_width=8)
    new = {name for name in audit.new if name.startswith("retinanet")}
    assert new == {
        f"retinanet.{tower}.{layer}.norms.4{part}"
        for tower in ("class_tower", "box_tower")
        for layer in (0, 1)
        for part in (*AFFINE, *STATISTICS)
    }
    lost = next(name for name in weights if name.endswith("norms.2.gamma"))
    del weights[lost]
    with pytest.raises(UserError, match=rf"\+{lost}"):
        inherit(parent, child, weights, fresh, base_width=8)


@pytest.mark.training
@pytest.mark.parametrize("neck", [{}, {"extra_levels": "c5"}, NASFPN], ids=str)
def test_a_wider_pyramid_computes_the_same_and_a_narrower_one_is_a_net(neck: dict[str, Any]) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    arch, nets = parse("b_11-21-21"), {}
    for channels in (8, 16, 6):
        nets[channels] = settings_of("", neck={**neck, "channels": channels})
    net, wider = build(arch, nets[8], 3), build(arch, nets[16], 3)
    weights = lively(net)
    found, audit = inherit(arch, arch, weights, get_weights(wider), base_width=8)
    assert audit.new == audit.dropped == ()
    set_weights(wider, found)
    images, image_hw = inputs((75, 101))
    ours, theirs = (tuple(one.asnumpy() for one in each.set_train(False)(Tensor(images), Tensor(image_hw))) for each in (net, wider))
    assert assert_same(ours, theirs) >= 8
    narrow = net_shapes(arch, nets[6], 3)
    fewer, audit = inherit(arch, arch, weights, filled(narrow), base_width=8)
    assert {name: array.shape for name, array in fewer.items()} == narrow
    assert audit.new == audit.dropped == ()
    assert audit.narrowed["pyramid"] > 0


def test_a_head_without_norms_gives_its_convolutions_and_the_way_back() -> None:
    """As torchvision's RetinaNet does: norms are new, biases in their place are dropped."""
    arch = parse("b_11-21-21")
    settings = settings_of("", neck={})
    plain = settings.model_copy(update={"head": {**settings.head.model_dump(), "level_norms": False}})
    for ours, theirs in ((settings, plain), (plain, settings)):
        fresh, weights = filled(net_shapes(arch, ours, 3)), filled(net_shapes(arch, theirs, 3), 1)
        for found, audit in (adopt(fresh, weights), inherit(arch, arch, weights, fresh, base_width=8)):
            assert set(audit.new) == fresh.keys() - weights.keys()
            assert set(audit.dropped) == weights.keys() - fresh.keys()
            np.testing.assert_array_equal(found["retinanet.box_tower.1.conv.weight"], weights["retinanet.box_tower.1.conv.weight"])
    fresh, weights = filled(net_shapes(arch, settings, 3)), filled(net_shapes(arch, settings, 3), 1)
    del weights["retinanet.box_tower.1.norms.3.beta"]
    with pytest.raises(UserError, match=r"\+retinanet.box_tower.1.norms.3.beta"):
        adopt(fresh, weights)
    del fresh["retinanet.box_tower.1.norms.3.beta"]
    del weights["retinanet.box_tower.1.conv.weight"]
    with pytest.raises(UserError, match=r"\+retinanet.box_tower.1.conv.weight"):
        adopt(fresh, weights)


@pytest.mark.training
@pytest.mark.parametrize("text", NETS)
def test_all_forms_find_what_mindspore_finds(text: str, tmp_path: Path) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    settings = settings_of(text)
    net = build(parse(text), settings, 3)
    weights = scored(net, settings.image_size)
    images, image_hw = inputs(settings.image_size)
    expected = tuple(one.asnumpy() for one in net.set_train(False)(Tensor(images), Tensor(image_hw)))
    folder = write_model(tmp_path / "model", text, settings, weights, CLASSES)
    forms: tuple[tuple[Format, Wish], ...] = (("onnx", Wish()), ("openvino", Wish()), ("om", Wish(soc="Ascend310P3")))
    for form, wish in forms:
        publish_export(export_model(str(folder), form, wish), str(tmp_path / form))
        assert assert_same(expected, open_network(tmp_path / form)(images, image_hw)) >= 8


@pytest.mark.training
@pytest.mark.long
def test_mindir_finds_the_same(tmp_path: Path) -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    text = "b_11-21-21"
    settings = settings_of(text)
    net = build(parse(text), settings, 3)
    folder = write_model(tmp_path / "model", text, settings, scored(net, settings.image_size), CLASSES)
    images, image_hw = inputs(settings.image_size)
    expected = tuple(one.asnumpy() for one in net.set_train(False)(Tensor(images[1:]), Tensor(image_hw[1:])))
    publish_export(export_model(str(folder), "mindir"), str(tmp_path / "out"))
    assert assert_same(expected, open_network(tmp_path / "out")(images[1:], image_hw[1:])) >= 4


def test_torchvision_has_no_such_head(tmp_path: Path) -> None:
    """One line, from an export, from a model folder and from a bare file of weights, which is read as what it is."""
    arch, text = parse("b_11-21-21"), "b_11-21-21"
    settings = Detector(base_width=8, norm="frozen", neck={"channels": 16}, head={"kind": "retinanet", "depth": 2, "level_norms": True})
    weights = filled(net_shapes(arch, settings, 3))
    folder = write_model(tmp_path / "model", text, settings, weights, CLASSES)
    for refused in (lambda: export_model(str(folder), "torchvision"), lambda: convert_checkpoint(str(folder), None, "torchvision")):
        with pytest.raises(UserError, match="expected RetinaNet's head without norms, as torchvision has it, got") as error:
            refused()
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"got 'retinanet.box_tower.0.norms.0.beta'"):
        to_torchvision(arch, weights)
    safetensors.numpy.save_file(weights, tmp_path / "weights.safetensors")
    document = json.loads(convert_checkpoint(str(tmp_path / "weights.safetensors"), text, "spnas").files["model.json"])
    assert Detector.model_validate(document["detector"]).head == settings.head
