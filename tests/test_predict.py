import io
import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import mindspore as ms
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from flows.cli.app import app
from spnas_core import arch as architecture
from spnas_core import metrics
from spnas_core.data import splits
from spnas_core.errors import UserError
from spnas_core.jobs import detection, evaluate
from spnas_core.jobs.predict import predict
from spnas_core.models.build import build
from spnas_core.models.detector import DetectorNet
from spnas_core.models.step import get_weights
from spnas_core.names import MODEL_FILE, WEIGHTS_FILE
from spnas_core.settings.detector import Detector
from spnas_core.store.artifacts import Store
from spnas_core.weights.model_folder import Model

pytestmark = pytest.mark.training
SETTINGS = Detector(
    image_size=(64, 64), base_width=4, stem="3x3", fpn_channels=8, head_channels=16, proposals_test=10, detections=5, score_threshold=0.01
)


@pytest.fixture(scope="module")
def model(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a net that has learnt nothing."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(0)
    text = "b_1111-1111"
    net = build(architecture.parse(text), SETTINGS, 2)
    folder = tmp_path_factory.mktemp("model")
    save_file(get_weights(net), folder / "weights.safetensors")
    document = detection.model_document(text, SETTINGS, splits.open_split(str(tiny_data), "val").categories)
    (folder / MODEL_FILE).write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def opened(model: Path) -> tuple[DetectorNet, Model]:
    """The net of that folder, which compiles once."""
    return evaluate.open_model(str(model))


@pytest.fixture
def opened_once(model: Path, opened: tuple[DetectorNet, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens that folder gets the one net: how it is opened is not the subject."""
    monkeypatch.setattr(evaluate, "open_model", lambda folder: {str(model): opened}[folder])


def test_predict_draws_and_tells_in_pixels_of_the_image(model: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.jpg"
    Image.effect_noise((200, 100), 60).convert("RGB").save(wide)
    found = predict(str(model), [str(wide)], str(tmp_path / "out"), 0.0)
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == found
    with Image.open(found[0]["picture"]) as picture:
        assert picture.size == (200, 100)
    assert 1 <= len(found[0]["objects"]) <= 5
    for one in found[0]["objects"]:
        x1, y1, x2, y2 = one["box"]
        assert one["label"] in ("red", "blue")
        assert 0 <= x1 < x2 <= 200.01
        assert 0 <= y1 < y2 <= 100.01


def test_predict_takes_folders_in_batches_and_tells_of_broken_images(opened_once: None, model: Path, tmp_path: Path) -> None:
    """Thirteen images in batches of eight, one file cut off: the others are done, each as it is in other company."""
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    photos.mkdir()
    for number in range(11):
        shape = (int(rng.integers(20, 150)), int(rng.integers(20, 150)), 3)
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(photos / f"{number:02d}.png")
    (photos / "notes.txt").write_text("no image")
    whole = (photos / "03.png").read_bytes()
    (photos / "03.png").write_bytes(whole[: len(whole) // 2])
    Image.open(photos / "05.png").convert("RGB").save(photos / "05.jpg")
    (photos / "below").mkdir()
    shutil.copy(photos / "00.png", photos / "below")
    words = ["predict", str(model), str(photos), str(photos / "**/*0.png"), "--out", str(tmp_path / "out"), "--threshold", "0.02"]
    done = CliRunner().invoke(app, words)
    records = json.loads((tmp_path / "out" / "detections.json").read_text())
    count = sum(len(one.get("objects", ())) for one in records)
    assert (done.exit_code, done.stdout) == (1, f"12 of 13 images done, {count} objects, written to {tmp_path / 'out'}\n")
    assert done.stderr == f"spnas: {records[3]['error']}\n"
    assert done.stderr.startswith(f"spnas: image {photos / '03.png'}: expected a whole image file, got: ")
    names = sorted(path.name for path in photos.iterdir() if path.suffix in (".png", ".jpg"))
    assert [str(Path(one["image"]).relative_to(photos)) for one in records] == [*names, "below/00.png"]
    assert records[12]["objects"] == records[0]["objects"]
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    alike = {"00.png.png", "below/00.png.png", "05.png.png", "05.jpg.png"}  # names that need more than their stem
    assert written == {f"{number:02d}.png" for number in range(11)} - {"00.png", "03.png", "05.png"} | alike
    places = (11, 0, 4)  # of the last batch and of the first
    again = predict(str(model), [records[place]["image"] for place in places], str(tmp_path / "again"), 0.02)
    assert [one["objects"] for one in again] == [records[place]["objects"] for place in places]

    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results) == count > 20
    known = {one.id: one.name for one in evaluate.open_model(str(model))[1].classes}
    for number, record in enumerate(records, start=1):
        own = [one for one in results if one["image_id"] == number]
        assert {one["file_name"] for one in own} <= {record["image"]}
        for one, thing in zip(own, record.get("objects", ()), strict=True):
            x, y, width, height = one["bbox"]
            assert known[one["category_id"]] == thing["label"]
            assert thing["box"] == pytest.approx([x, y, x + width, y + height], abs=0.006)
            assert one["score"] == pytest.approx(thing["score"], abs=1e-4)


def test_predict_takes_no_place_but_that_of_an_earlier_picture(opened_once: None, model: Path, tmp_path: Path) -> None:
    """Of the images that it looks at, of another file of the user's, by another name too; what it has drawn is drawn anew."""
    photo, other, out = tmp_path / "a" / "photo.png", tmp_path / "b" / "photo.png", tmp_path / "out"
    for path in (photo, other):
        path.parent.mkdir()
        Image.effect_noise((60, 60), 60).convert("RGB").save(path)
    (tmp_path / "link").symlink_to(photo.parent)
    kept = photo.read_bytes(), other.read_bytes()
    for folder in (photo.parent, other.parent, tmp_path / "link", tmp_path / "b" / ".." / "a"):
        with pytest.raises(UserError, match=r"expected a folder without .*photo\.png"):
            predict(str(model), [str(photo)], str(folder), 0.0)
    second = shutil.copy(photo, tmp_path / "b" / "second.png")
    for image in (photo, second, photo):  # the detections.json of the second says nothing of the first
        predict(str(model), [str(image)], f"{out}/", 0.0)
    with pytest.raises(UserError, match=r"expected a folder without .*photo\.png"):
        predict(str(model), [str(out / "photo.png")], str(out), 0.0)
    (out / "photo.png").write_text("no picture")
    with pytest.raises(UserError, match=r"expected a folder without .*photo\.png"):
        predict(str(model), [str(photo)], str(out), 0.0)
    with pytest.raises(UserError, match="--out: expected a folder, got a file"):
        predict(str(model), [str(photo)], str(other), 0.0)
    with pytest.raises(UserError, match=r"--out: expected a place for a file, got /proc/nope/photo\.png"):
        predict(str(model), [str(photo)], "/proc/nope", 0.0)
    assert (photo.read_bytes(), other.read_bytes()) == kept


def test_predict_writes_to_a_url(opened_once: None, model: Path, tmp_path: Path) -> None:
    Image.effect_noise((60, 60), 60).convert("RGB").save(tmp_path / "photo.jpg")
    for _ in range(2):
        found = predict(str(model), [str(tmp_path / "photo.jpg")], "memory://found/here", 0.0)
    system = fsspec.filesystem("memory")
    assert found[0]["picture"] == "memory://found/here/photo.png"
    assert Image.open(io.BytesIO(system.cat_file("/found/here/photo.png"))).size == (60, 60)
    assert json.loads(system.cat_file("/found/here/detections.json")) == found


def test_scores_of_a_model_folder_are_those_of_its_net(opened: tuple[DetectorNet, Model], model: Path, tiny_data: Path) -> None:
    net, _ = opened
    split = splits.open_split(str(tiny_data), "val")
    expected = metrics.score_detections(split.annotations, detection.detect(net, split, SETTINGS), "pycocotools").document()
    assert evaluate.score_model(str(model), str(tiny_data), "val") == expected


def test_mistakes_are_one_line(model: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a folder with model\.json"):
        evaluate.open_model(str(tmp_path))
    with pytest.raises(UserError, match="photo"):
        predict(str(model), [str(tmp_path / "photo.jpg")], str(tmp_path / "out"), 0.5)
    (tmp_path / "x.jpg").touch()
    with pytest.raises(UserError, match="expected names that differ"):
        predict(str(model), [f"{tmp_path}/x.jpg", f"{tmp_path}/./x.jpg"], str(tmp_path / "out"), 0.5)
    other = json.loads((tiny_data / "annotations" / "instances_val.json").read_text())
    for kind in other["categories"]:
        kind["name"] = f"other {kind['id']}"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(other))
    (tmp_path / "images").symlink_to(tiny_data / "images")
    with pytest.raises(UserError, match="expected some of the categories"):
        evaluate.score_model(str(model), str(tmp_path), "val")


def copy(model: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model folder whose model.json says something else."""
    shutil.copytree(model, target)
    document = json.loads((target / MODEL_FILE).read_text()) | changes
    (target / MODEL_FILE).write_text(json.dumps(document))
    return target


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "model.json: Invalid JSON"),
        (b"\xff\xfe{}", "model.json: Invalid JSON"),
        (b"[]", "model.json: Input should be an object"),
        (b"{}", "arch: Field required"),
        ({"arch": "b_11"}, "arch: architecture 'b_11_0': expected 4 to 60 blocks"),
        ({"detector": {"image_size": [64]}}, r"detector.image_size.1: Field required"),
        ({"detector": {"unknown": 1}}, "detector.unknown: Extra inputs are not permitted"),
        ({"classes": []}, "classes: Tuple should have at least 1 item"),
        ({"classes": [{"label": 2, "id": 1, "name": "x"}]}, "classes: expected labels 1, 2, ... in this order"),
        ({"weights_sha256": "0" * 64}, "expected the sha256 that model.json says, 0000"),
        ({"arch": "b_1111-11111"}, r"weights differ, expected \(\+\) and found \(-\): \+backbone.blocks.8"),
    ],
)
def test_a_broken_model_is_one_line(model: Path, tmp_path: Path, content: Any, words: str) -> None:
    broken = copy(model, tmp_path / "model", **(content if isinstance(content, dict) else {}))
    if isinstance(content, bytes):
        (broken / MODEL_FILE).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        evaluate.open_model(str(broken))
    assert "\n" not in str(caught.value)
    assert str(broken) in str(caught.value)
    for command in (
        ["eval", str(broken), "--data", "none"],
        ["convert", str(broken), "--to", "torchvision", "--out", str(tmp_path / "out")],
    ):
        if isinstance(content, bytes) or "arch" in content:
            found = CliRunner().invoke(app, command)
            assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (2, "", 1), found.output


def test_broken_weights_are_one_line(model: Path, tmp_path: Path) -> None:
    broken = copy(model, tmp_path / "model")
    weights = (broken / WEIGHTS_FILE).read_bytes()
    for content in (b"", weights[:1000], b"x" * 100):
        (broken / WEIGHTS_FILE).write_bytes(content)
        with pytest.raises(UserError, match=r"weights.safetensors: expected a .safetensors file, got"):
            evaluate.open_model(str(broken))


def test_an_artifact_is_checked_by_its_manifest(model: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.publish_record("train", "a" * 64, {}, model, {}, 1.0)
    folder = tmp_path / "store" / "train" / ("a" * 64)
    assert evaluate.open_model(str(folder))[1].arch == "b_1111-1111_0-0"
    for name in (MODEL_FILE, WEIGHTS_FILE):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match=f"{name}: expected the sha256 that manifest.json says"):
            evaluate.open_model(str(folder))
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="expected the manifest of an artifact, got: kind: Field required"):
        evaluate.open_model(str(folder))
