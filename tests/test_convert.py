"""Torchvision's weights as ours and back, and trainings that start from them."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import mindspore as ms
import numpy as np
import pytest
import torch_files
from command_line import spnas
from golden_weights import GOLDEN, torchvision_weights
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

from flows import presets
from spnas_core.arch import Arch, blocks, parse
from spnas_core.data import fingerprints
from spnas_core.errors import UserError
from spnas_core.job import Data, TrainJob, Weights, digest
from spnas_core.jobs import evaluate, initial_weights
from spnas_core.jobs.runner import run_job
from spnas_core.models.build import build
from spnas_core.models.classifier import Classifier
from spnas_core.models.step import get_weights
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store
from spnas_core.store.storage import sha256_file
from spnas_core.weights.adopt import Audit
from spnas_core.weights.checkpoint import open_checkpoint, our_weights, read_checkpoint
from spnas_core.weights.net_shapes import net_shapes
from spnas_core.weights.torchvision_names import infer_arch, to_torchvision

PEER = os.environ.get("SPNAS_TORCHVISION_PYTHON")
BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
ARCH = parse("r_11-21-21-11")
SMALL: dict[str, Any] = {"base_width": 8, "fpn_channels": 16, "head_channels": 32}
LABELS = 4
Arrays = dict[str, np.ndarray]


def body_shapes(arch: Arch, width: int = 64) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the convolutions of torchvision's ResNet of this architecture."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, 7, 7)}
    first = {block.stage: block.index for block in reversed(blocks(arch, width))}
    for block in blocks(arch, width):
        before, inner, after, name = block.in_channels, block.inner_channels, block.out_channels, f"layer{block.stage + 1}."
        name += f"{block.index - first[block.stage]}."
        if arch.block_type.expansion == 1:
            shapes |= {f"{name}conv1.weight": (after, before, 3, 3), f"{name}conv2.weight": (after, after, 3, 3)}
        else:
            shapes |= {f"{name}conv1.weight": (inner, before, 1, 1), f"{name}conv3.weight": (after, inner, 1, 1)}
            shapes[f"{name}conv2.weight"] = (inner, inner // arch.block_type.groups, 3, 3)
    return shapes


@given(
    st.sampled_from(["b", "r", "x(32x4d)", "x(1x128d)"]),
    st.lists(st.text("12", min_size=1, max_size=4), min_size=1, max_size=5).filter(lambda stages: "".join(stages).count("2") < 5),
)
def test_the_architecture_is_read_from_the_shapes(kind: str, stages: list[str]) -> None:
    arch = parse(f"{kind}_{'-'.join(stages)}")
    assert infer_arch(body_shapes(arch)) == arch
    assert infer_arch({f"backbone.body.{name}": shape for name, shape in body_shapes(arch).items()}) == arch


@pytest.mark.parametrize(
    "spoil",
    [
        lambda shapes: shapes.pop("conv1.weight"),
        lambda shapes: shapes.pop("layer2.1.conv3.weight"),
        lambda shapes: shapes.update({"layer2.1.conv3.weight": (1000, 64, 1, 1)}),
        lambda shapes: shapes.update({"layer1.0.conv2.weight": (64, 0, 3, 3)}),
        lambda shapes: shapes.update({"layer1.0.conv2.weight": (64,)}),
        lambda shapes: shapes.clear(),
    ],
)
def test_shapes_of_no_architecture(spoil: Callable[[dict[str, tuple[int, ...]]], Any]) -> None:
    shapes = body_shapes(ARCH)
    spoil(shapes)
    with pytest.raises(UserError, match="torchvision weights: expected the stem, blocks and widths"):
        infer_arch(shapes)


def random_weights(net: Any, seed: int = 0) -> Arrays:
    """Random weights of a net, its variances positive, under torchvision's names."""
    rng = np.random.default_rng(seed)
    ours = {name: rng.standard_normal(array.shape, np.float32) * np.float32(0.1) for name, array in get_weights(net).items()}
    ours = {name: 1 + abs(array) if name.endswith(("moving_variance", "gamma")) else array for name, array in ours.items()}
    names = to_torchvision(ARCH, ours)
    return {names[name]: array for name, array in ours.items()}


@pytest.fixture(scope="module")
def detector() -> Arrays:
    ms.set_context(mode=ms.GRAPH_MODE)
    return random_weights(build(ARCH, Detector(**SMALL), LABELS))


@pytest.fixture(scope="module")
def classifier() -> Arrays:
    ms.set_context(mode=ms.GRAPH_MODE)
    return random_weights(Classifier(ARCH, Detector(**SMALL), 10))


def write(folder: Path, arrays: Arrays) -> str:
    path = folder / "theirs.safetensors"
    save_file(arrays, path)
    return str(path)


def equal(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.training
def test_a_detector_there_and_back(detector: Arrays, tiny_data: Path, tmp_path: Path) -> None:
    counters = {"backbone.body.bn1.num_batches_tracked": np.array(7)}
    status, text, _ = spnas("convert", write(tmp_path, detector | counters), "--out", tmp_path / "model", "--json")
    made = json.loads(text)
    assert (status, made["arch"], made["norm_epsilon"], made["counters"]) == (0, str(ARCH), 1e-5, 1)
    assert (len(made["audit"]["copied"]), made["audit"]["new"], made["audit"]["dropped"]) == (len(detector), [], [])
    document = json.loads((tmp_path / "model" / "model.json").read_text())
    assert Detector.model_validate(document["detector"]).former_document().items() >= SMALL.items()
    assert [one["id"] for one in document["classes"]] == [1, 2, 3, 4]

    assert spnas("convert", tmp_path / "model", "--to", "torchvision", "--out", tmp_path / "back")[0] == 0
    assert equal(load_file(tmp_path / "back" / "torchvision.safetensors"), detector)

    document["detector"] |= {"image_size": [64, 64], "proposals_test": 20, "detections": 10}
    (tmp_path / "model" / "model.json").write_text(json.dumps(document))
    scores = evaluate.score_model(str(tmp_path / "model"), str(tiny_data), "val")
    assert set(scores["per_class"]) == {"red", "blue"}


@pytest.mark.training
def test_a_classifier_there_and_back(classifier: Arrays, tmp_path: Path) -> None:
    wrapped = {f"module.{name}": array for name, array in classifier.items()}
    status, text, _ = spnas("convert", write(tmp_path, wrapped), "--out", tmp_path / "ours", "--arch", "r_11-21-21-11")
    assert status == 0
    assert f"copied        {len(classifier)} tensors" in text
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["weights.safetensors"]
    back = ("--to", "torchvision", "--out", tmp_path / "back")
    status, _, error = spnas("convert", tmp_path / "ours", *back)
    assert (status, error.count("\n")) == (2, 1)
    assert "expected --arch" in error
    assert spnas("convert", tmp_path / "ours", "--arch", "11-21-21-11", *back)[0] == 0
    assert equal(load_file(tmp_path / "back" / "torchvision.safetensors"), classifier)


def damaged_and_hostile(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of torch.save that are cut off, and that would run a command; the shared ones too, where they are."""
    cut, evil = folder / "cut_off.pth", folder / "evil.pth"
    cut.write_bytes(torch_files.save(cut, {"conv1.weight": np.ones(64, np.float32)}).read_bytes()[:-40])
    torch_files.write_zip(evil, torch_files.call("posix.system", torch_files.value("touch EXECUTED")), {})
    shared = [GOLDEN.with_name("truncated.pth"), GOLDEN.with_name("evil.pth")]
    return [cut, *filter(Path.exists, shared[:1])], [evil, *filter(Path.exists, shared[1:])]


@pytest.mark.training
def test_what_is_refused(detector: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    damaged, hostile = damaged_and_hostile(tmp_path)
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    names = {"categories": [{"id": 5, "name": "five"}]}
    (tmp_path / "names.json").write_text(json.dumps(names))
    whole = write(tmp_path, detector)
    half = tmp_path / "half"
    half.mkdir()
    part = write(half, {name: array for name, array in detector.items() if not name.startswith("roi_heads.")})
    no_proposals = tmp_path / "no_proposals"
    no_proposals.mkdir()
    most = write(no_proposals, {name: array for name, array in detector.items() if not name.startswith("rpn.")})
    tapped = tmp_path / "tapped"
    tapped.mkdir()
    (tapped / "weights.safetensors").write_bytes(Path(whole).read_bytes())
    (tapped / "model.json").write_text(
        json.dumps({"arch": str(ARCH), "detector": {"taps": [0, 1, 1]}, "classes": [{"label": 1, "id": 1, "name": "x"}]})
    )
    for words, message in (
        ([tapped, "--to", "torchvision"], "expected a plain pyramid, as torchvision has it, got fpn256(0-1-1)"),
        ([tmp_path / "nothing.pth"], "expected a file, found none"),
        ([tmp_path / "text.pth"], "expected a file of torch.save or a .safetensors file"),
        ([tmp_path / "cut.pth"], "expected a whole file of torch.save"),
        ([whole, "--arch", "r_11-21-21-21"], "weights differ, expected (+) and found (-): +backbone.blocks.6.bn1.beta"),
        ([whole, "--arch", "r_11-21-2-11"], "expected names of r_11-21-2-11"),
        ([whole, "--arch", "r_11-2x"], "r_11-2x"),
        ([whole, "--categories", tmp_path / "names.json"], "expected ids of categories from 1 to 4, the labels of the checkpoint, got 5"),
        ([whole, "--categories", tmp_path / "text.pth"], "expected a COCO annotation file with categories"),
        ([part], "expected a tensor head.fc1.weight, found none"),
        ([most, "--coverage", "1"], "expected at least 100% of the net's parameters (--coverage), got 9"),
        *(([path], "expected a whole file of torch.save, got one that is cut off or damaged") for path in damaged),
        *(([path], "it wants to call posix.system") for path in hostile),
    ):
        status, _, error = spnas("convert", *words, "--out", tmp_path / "out")
        assert (status, error.count("\n")) == (2, 1), error
        assert message in error
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("EXECUTED"))


def test_a_file_without_a_place_in_the_architecture(tmp_path: Path) -> None:
    path = write(tmp_path, {"layer1.0.conv1.weight": np.zeros((1, 1), np.float32), "layer9.0.conv1.weight": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=r"checkpoint it: torchvision weights: expected names of .*, got 'layer9\.0\.conv1\.weight'"):
        our_weights(ARCH, read_checkpoint(open_checkpoint(path), "it").arrays, "it")


def train_from(checkpoint: str, data: Path, folder: Path, coverage: float = 0.1) -> tuple[dict[str, Any], dict[str, Any]]:
    """History's last record and audit of one epoch from a checkpoint, in a process of its own."""
    sizes = {"rpn_batch": 16, "proposals_train": 20, "proposals_test": 10, "roi_batch": 8, "max_boxes": 8, "detections": 10}
    settings = Detector(image_size=(64, 64), norm="frozen", frozen_stages=2, **SMALL, **sizes)
    job = TrainJob(
        arch=str(ARCH),
        detector=settings,
        recipe=Recipe(epochs=1, batch=2, lr=1e-3),
        data=fingerprints.data_of(str(data)),
        checkpoint=checkpoint,
        checkpoint_sha256=sha256_file(Path(checkpoint)),
        checkpoint_coverage=coverage,
    )
    store = Store(str(folder / "store"))
    manifest = run_job(job, store.url)
    history, audit = (json.loads(store.fetch("train", manifest.digest, f"{name}.json").read_text()) for name in ("history", "audit"))
    return history[-1], audit


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    values = np.array([1.5, -2.0], np.float32)
    header = {
        "half": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]},
        "brain": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [4, 8]},
    }
    text, path = json.dumps(header).encode(), tmp_path / "a.safetensors"
    content = values.astype("<f2").tobytes() + (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    found = read_checkpoint(path, "a").arrays
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert (found["half"].tolist(), found["brain"].tolist()) == ([1.5, -2.0], [[1.5, -2.0]])
    path.write_bytes(path.read_bytes().replace(b'"F16"', b'"C64"'))
    with pytest.raises(UserError, match="checkpoint a: expected"):
        read_checkpoint(path, "a")


@pytest.mark.training
@pytest.mark.parametrize(("extra", "epsilon"), [({}, 0.0), ({"backbone.body.bn1.num_batches_tracked": np.array(7)}, 1e-5)])
def test_the_epsilon_of_frozen_norms_and_of_trained_ones(extra: Arrays, epsilon: float, tmp_path: Path) -> None:
    """A conversion takes that of the file; a training insists on it, from the file or what the conversion left, if norms are frozen."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net = build(ARCH, Detector(**SMALL), 90)
    file = write(tmp_path, random_weights(net) | extra)
    status, text, _ = spnas("convert", file, "--out", tmp_path / "model", "--json")
    assert (status, json.loads(text)["norm_epsilon"]) == (0, epsilon)

    def begin(checkpoint: str, epsilon: float, norm: Literal["frozen", "train"]) -> Audit:
        settings = Detector(norm=norm, norm_epsilon=epsilon, **SMALL)
        sha256 = sha256_file(Path(checkpoint))
        common = {"arch": str(ARCH), "detector": settings, "recipe": Recipe(), "data": Data(url="x", fingerprint="f")}
        job = TrainJob(checkpoint=checkpoint, checkpoint_sha256=sha256, **common)
        return initial_weights.start_detector(job, Store(str(tmp_path / "store")), get_weights(net))[1]

    for checkpoint in (file, str(tmp_path / "model" / "weights.safetensors")):
        assert begin(checkpoint, epsilon, "frozen").new == begin(checkpoint, 1e-3, "train").new == ()
        for other in {0.0, 1e-5, 1e-3} - {epsilon}:
            with pytest.raises(UserError, match=f"expected detector.norm_epsilon={epsilon}, .*, got {other}"):
                begin(checkpoint, other, "frozen")


def test_a_run_from_a_checkpoint_is_keyed_by_its_content(tiny_data: Path, tmp_path: Path) -> None:
    """Not by its place: the plan's jobs and stages differ where the bytes do, and only there."""

    smoke = presets.load_preset("smoke")
    shapes = net_shapes(parse(smoke.arch), smoke.detector, 2)
    one_file, other_file = (save({name: np.full(shape, value, np.float32) for name, shape in shapes.items()}) for value in (1, 2))

    def plan_from(folder: str, content: bytes) -> Plan:
        path = tmp_path / folder / "w.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return open_plan(
            presets.load_preset("smoke", [f"checkpoint={path}", "checkpoint_coverage=0.5"]), str(tiny_data), str(tmp_path / "store")
        )

    def first(plan: Plan) -> TrainJob:
        return plan.train(plan.settings.arch, plan.settings.detector, plan.settings.fine_tune)

    one, moved, other = plan_from("a", one_file), plan_from("b", one_file), plan_from("a", other_file)
    found = first(one).checkpoint, first(one).checkpoint_sha256, first(one).checkpoint_coverage
    assert found == (str(tmp_path / "a" / "w.safetensors"), hashlib.sha256(one_file).hexdigest(), 0.5)
    assert (digest(first(one)), one.keys) == (digest(first(moved)), moved.keys)
    assert digest(first(one)) != digest(first(other))
    assert not set(one.keys.values()) & set(other.keys.values())
    child = one.train(
        "b_1111-1111", one.settings.detector, one.settings.fine_tune, (Weights(kind="train", digest="a" * 64, arch=str(ARCH)),)
    )
    assert (child.checkpoint, child.checkpoint_sha256) == (None, None)


@pytest.mark.training
@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_a_training_from_their_weights(request: pytest.FixtureRequest, kind: str, tiny_data: Path, tmp_path: Path) -> None:
    """The tiny data has other classes, so the last layers are new; of a classifier only the backbone is used.

    The classifier lies below prefixes, beside something else, of which the audit tells.
    """
    arrays: Arrays = request.getfixturevalue(kind)
    if kind == "classifier":
        arrays = {f"model.module.{name}": array for name, array in arrays.items()} | {"optimizer.step": np.array(3)}
    record, audit = train_from(write(tmp_path, arrays), tiny_data, tmp_path)
    assert np.isfinite(record["losses"]).all()
    new = {name.split(".")[0] for name in audit["new"]}
    if kind == "detector":
        assert "peeled" not in audit
        assert new == {"head"}
        assert {name.rsplit(".", 1)[0] for name in audit["new"]} == {"head.score", "head.delta"}
    else:
        assert new == {"neck", "rpn", "head"}
        assert audit["dropped"] == ["score.bias", "score.weight"]
        assert audit["peeled"] == "'model.module.' taken off the names; tensors beside the net left out: 1"
        with pytest.raises(UserError, match=r"expected at least 90% \(checkpoint_coverage\) of the net's parameters, got"):
            train_from(write(tmp_path, arrays), tiny_data, tmp_path / "again", 0.9)


@pytest.mark.long
@pytest.mark.skipif(not (BCCD.exists() and GOLDEN.exists()), reason="no shared data")
def test_an_epoch_on_photographs_from_a_converted_detector(tmp_path: Path) -> None:
    """ResNet-50-FPN with the weights of the golden rule, one epoch of BCCD: all losses are finite."""
    with np.load(GOLDEN) as file:
        names, shapes = file["names"].tolist(), file["shapes"].tolist()
    sizes = {"proposals_train": 300, "roi_batch": 128, "max_boxes": 32}
    settings = Detector(image_size=(256, 320), norm="frozen", norm_epsilon=0.0, frozen_stages=2, **sizes)
    checkpoint = write(tmp_path, torchvision_weights(names, shapes))
    job = TrainJob(
        arch="111-2111-211111-211",
        detector=settings,
        recipe=Recipe(epochs=1, batch=2, lr=1e-3),
        data=fingerprints.data_of(str(BCCD)),
        checkpoint=checkpoint,
        checkpoint_sha256=sha256_file(Path(checkpoint)),
        checkpoint_coverage=0.9,
    )
    store = Store(str(tmp_path / "store"))
    manifest = run_job(job, store.url, threads=2)
    (record,) = json.loads(store.fetch("train", manifest.digest, "history.json").read_text())
    assert np.isfinite(record["losses"]).all()
    assert manifest.metrics["inherited"] > 0.9


SAVE = """
import sys, numpy, torch, torchvision
from torchvision.models.detection import fasterrcnn_resnet50_fpn
folder = sys.argv[1]
plain = {"weights": None, "weights_backbone": None}
models = torchvision.models
nets = {"resnet18": models.resnet18(), "resnext50_32x4d": models.resnext50_32x4d(), "fasterrcnn": fasterrcnn_resnet50_fpn(**plain)}
for name, net in nets.items():
    state = net.state_dict()
    torch.save(state, f"{folder}/{name}.pth")
    torch.save({"model": state, "epoch": 3, "args": __import__("argparse").Namespace(lr=1)}, f"{folder}/{name}_nested.pth")
    torch.save(state, f"{folder}/{name}_legacy.pth", _use_new_zipfile_serialization=False)
    numpy.savez(f"{folder}/{name}.npz", **{key: value.numpy() for key, value in state.items()})
"""


@pytest.mark.skipif(not PEER, reason="SPNAS_TORCHVISION_PYTHON names no Python with torchvision")
def test_files_of_real_nets(tmp_path: Path) -> None:
    subprocess.run([str(PEER), "-c", SAVE, tmp_path], check=True)
    archs = {"resnet18": "b_11-21-21-21", "resnext50_32x4d": "x(32x4d)_111-2111-211111-211", "fasterrcnn": "111-2111-211111-211"}
    for name, text in archs.items():
        with np.load(tmp_path / f"{name}.npz") as expected:
            for file in (f"{name}.pth", f"{name}_nested.pth", f"{name}_legacy.pth"):
                arrays = read_checkpoint(tmp_path / file, file).arrays
                assert equal(arrays, dict(expected))
                assert infer_arch({key: array.shape for key, array in arrays.items()}) == parse(text)
                assert len(our_weights(parse(text), arrays, file)) == sum(not key.endswith("num_batches_tracked") for key in arrays)
