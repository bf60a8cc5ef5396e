"""Converted weights in use: tensors of the built nets, scores of a converted detector, trainings that start from torchvision's weights."""

import json
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from conftest import write_data
from golden_weights import ARCH, made
from safetensors.numpy import save_file

from spnas_core import evaluate, metrics, shapes, start, train
from spnas_core.arch import parse
from spnas_core.audit import shapes_of
from spnas_core.config import Detector, Recipe
from spnas_core.convert import convert
from spnas_core.data import coco
from spnas_core.errors import UserError
from spnas_core.job import Data, TrainJob
from spnas_core.models.backbone import Backbone
from spnas_core.models.detector import FasterRCNN
from spnas_core.models.step import get_weights
from spnas_core.store import Store

pytestmark = pytest.mark.training
BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
TEXT = "b_11-21-21-21"
SIZES: dict[str, Any] = {
    **{"image_size": (64, 64), "base_width": 8, "fpn_channels": 16, "head_channels": 32, "anchor_scale": 4, "rpn_batch": 16},
    **{"proposals_train": 20, "proposals_test": 10, "roi_batch": 8, "max_boxes": 8, "detections": 10},
}
SETTINGS = Detector(**SIZES, norm="frozen", frozen_stages=2)


def fit(folder: Path, job: TrainJob) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Metrics, history and audit of a training in this process."""
    (folder / "out").mkdir()
    (folder / "resume").mkdir()
    found = train.run(job, Store(str(folder / "store")), folder / "out", lambda _: None, folder / "resume")
    history, audit = (json.loads((folder / "out" / f"{name}.json").read_text()) for name in ("history", "audit"))
    return found, history, audit


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("b_11-21-21-21", {}),
        ("b_1112-111-211_2-0-1", {"stem": "3x3", "share_weights": False}),
        ("r_111-2111-2_1-0-2", {"anchor_ratios": (1.0,)}),
        ("x(32x4d)_1121-2111", {"base_width": 16}),
    ],
)
def test_shapes_are_those_of_the_built_net(text: str, changes: dict[str, Any]) -> None:
    settings, arch = SETTINGS.model_copy(update=changes), parse(text)
    assert shapes.detector_shapes(arch, settings, 3) == shapes_of(get_weights(FasterRCNN(arch, settings, 3)))
    body = Backbone(arch, settings.base_width, settings.stem, 1e-5, True, settings.share_weights)
    assert shapes.backbone_shapes(arch, settings) == {f"backbone.{name}": shape for name, shape in shapes_of(get_weights(body)).items()}


def test_a_training_that_starts_from_a_converted_detector(tiny_data: Path, tmp_path: Path) -> None:
    url = tmp_path / "torchvision.safetensors"
    save_file(made(parse(TEXT), SETTINGS, 90), url)
    data = Data(url=str(tiny_data), fingerprint="f")
    recipe = Recipe(epochs=1, batch=4, lr=1e-3, warmup_steps=0, clip_norm=10.0)
    job = TrainJob(arch=TEXT, detector=SETTINGS, recipe=recipe, data=data, checkpoint=str(url))
    found, history, audit = fit(tmp_path, job)
    assert np.isfinite(history[0]["losses"]).all()
    assert found["inherited"] == audit["share"] > 0.9
    assert audit["new"] == audit["dropped"] == ["head.delta.bias", "head.delta.weight", "head.score.bias", "head.score.weight"]


def test_a_classifier_as_a_start(tiny_data: Path, tmp_path: Path) -> None:
    url = tmp_path / "resnet.safetensors"
    save_file(made(parse(TEXT), SETTINGS, None), url)
    job = TrainJob(arch=TEXT, detector=SETTINGS, recipe=Recipe(), data=Data(url=str(tiny_data), fingerprint="f"), checkpoint=str(url))
    fresh = get_weights(FasterRCNN(parse(TEXT), SETTINGS, 2))
    weights, audit = start.start_detector(job, Store(str(tmp_path / "store")), fresh)
    assert set(audit.copied) == {name for name in fresh if name.startswith("backbone.")}
    assert all(np.array_equal(weights[name], fresh[name]) for name in audit.new)
    with pytest.raises(UserError, match="sha256"):
        start.start_detector(job.model_copy(update={"checkpoint_sha256": "0" * 64}), Store(str(tmp_path / "store")), fresh)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folder of a detector of five classes, with small settings of its proposals."""
    folder = tmp_path_factory.mktemp("converted")
    save_file(made(parse(TEXT), SETTINGS, 5), folder / "a.safetensors")
    convert(str(folder / "a.safetensors"), str(folder / "model"), image_size=(64, 64))
    document = json.loads((folder / "model" / "model.json").read_text())
    document["detector"] |= {"proposals_test": 20, "detections": 50, "score_threshold": 0.01}
    (folder / "model" / "model.json").write_text(json.dumps(document))
    return folder / "model"


def test_a_split_with_some_of_the_models_categories(converted: Path, tiny_data: Path) -> None:
    split = coco.open_split(str(tiny_data), "val")
    assert [number for number, _ in split.categories] == [1, 4]
    net, document = evaluate.open_model(str(converted))
    known = tuple((label, str(label)) for label in range(1, 6))
    everything = evaluate.detect(net, split, Detector.model_validate(document["detector"]), categories=known)
    assert {result["category_id"] for result in everything} - {1, 4}
    fitting = [result for result in everything if result["category_id"] in (1, 4)]
    expected = metrics.evaluate(split.annotations, fitting, "pycocotools").document()
    assert evaluate.score_model(str(converted), str(tiny_data), "val") == expected


def test_categories_that_the_model_does_not_know(converted: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", {"val": 1})
    path = data / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    document["categories"].append({"id": 6, "name": "green"})
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"expected the model's categories .*, got \(\(6, 'green'\),\)"):
        evaluate.score_model(str(converted), str(data), "val")


def test_a_classifiers_folder_detects_nothing(tiny_data: Path, tmp_path: Path) -> None:
    save_file(made(parse(TEXT), SETTINGS, None), tmp_path / "a.safetensors")
    convert(str(tmp_path / "a.safetensors"), str(tmp_path / "model"), image_size=(64, 64))
    with pytest.raises(UserError, match=r"model .*expected \(\+\) and found \(-\): \+head\.delta\.bias"):
        evaluate.score_model(str(tmp_path / "model"), str(tiny_data), "val")


@pytest.mark.long
@pytest.mark.skipif(not BCCD.exists(), reason=f"no data at {BCCD}")
def test_an_epoch_on_photographs_from_a_converted_resnet_50(tmp_path: Path) -> None:
    ms.set_seed(0)
    url = tmp_path / "fasterrcnn.safetensors"
    save_file(made(ARCH, Detector(), 90), url)
    sizes = {"rpn_batch": 64, "proposals_train": 200, "proposals_test": 50, "roi_batch": 32, "max_boxes": 32}
    detector = Detector(image_size=(256, 320), norm="frozen", norm_epsilon=0.0, frozen_stages=2, **sizes)
    recipe = Recipe(epochs=1, batch=2, lr=1e-3, warmup_steps=20, clip_norm=10.0)
    job = TrainJob(arch=str(ARCH), detector=detector, recipe=recipe, data=Data(url=str(BCCD), fingerprint="f"), checkpoint=str(url))
    found, history, audit = fit(tmp_path, job)
    print(history, found["AP50"], audit["share"])
    assert len(history) == 1
    assert np.isfinite(history[0]["losses"]).all()
    assert 0.98 < audit["share"] < 1
