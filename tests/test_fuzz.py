"""Whatever a manifest, a configuration or an annotation file says: a clear error or a right result, and no file outside the store."""

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_data
from fuzzed import anything, changed, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flows import presets
from spnas_core import job as jobs
from spnas_core.arch import parse
from spnas_core.data import splits
from spnas_core.errors import MissingArtifactError, UserError
from spnas_core.job import Data, TrainJob
from spnas_core.names import STAGE_FILE
from spnas_core.run.record import read_stage
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store
from spnas_core.store.claims import Lease
from spnas_core.store.manifest import Manifest

JOB = TrainJob(arch="b_11-21-21-21", detector=Detector(), recipe=Recipe(), data=Data(url="file:///somewhere", fingerprint="f" * 8))
KEY = jobs.digest(JOB)


def short_and_long(body: Callable[..., None], *strategies: Any) -> tuple[Any, Any]:
    """Return a test of `body` with few examples, and one with a thousand that is marked as long."""
    short, long = given(*strategies)(body), given(*strategies)(body)
    return settings(max_examples=60)(short), pytest.mark.long(settings(max_examples=1000)(long))


def one_line(error: Exception) -> None:
    assert str(error).strip()
    assert str(error).isprintable(), ascii(str(error))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Place:
    """A store in a folder of its own, with files around it that nobody may touch."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(str(root / "store"), cache=root / "cache")
        (root / "secret").write_text("secret")
        out = root / "out"
        out.mkdir()
        (out / "weights").write_bytes(b"w" * 100)
        (out / STAGE_FILE).write_text("{}")
        self.manifest = self.store.publish(JOB, out, {"AP": 0.5}, 1.0)
        self.true = root / "true"
        shutil.copytree(root / "store", self.true)

    def fresh(self) -> Path:
        """Put the store back to what it was; returns the folder of its artifact."""
        shutil.rmtree(self.root / "store")
        shutil.copytree(self.true, self.root / "store")
        return self.root / "store" / "train" / KEY

    def untouched(self) -> None:
        """Hold that nothing outside of the store came to be or was changed."""
        assert names(self.root) == ["out", "secret", "store", "true"]
        assert (self.root / "secret").read_text() == "secret"
        assert names(self.root / "out") == [STAGE_FILE, "weights"]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as root:
        yield Place(Path(root))


EXAMPLE = {
    "kind": "train",
    "digest": KEY,
    "job": JOB.model_dump(mode="json"),
    "files": {"weights": {"size": 100, "sha256": "0" * 64}, STAGE_FILE: {"size": 2, "sha256": "0" * 64}},
    "metrics": {"AP": 0.5},
    "versions": {"numpy": "1"},
    "seconds": 1.0,
}


def _manifests(place: Place, text: bytes) -> None:
    folder = place.fresh()
    (folder / "manifest.json").write_bytes(text)
    found = place.store.find("train", KEY)
    assert found is None or (isinstance(found, Manifest) and found.digest == KEY)
    for name in [*(found.files if found else ()), "weights", "../../secret"]:
        try:
            path = place.store.fetch("train", KEY, name)
        except MissingArtifactError as error:
            one_line(error)
        else:
            assert path.parent == folder
    checkpoint = place.root / "store" / "checkpoints" / "train" / KEY / "000001"
    shutil.copytree(place.true / "train" / KEY, checkpoint)
    (checkpoint / "manifest.json").write_bytes(text)
    with tempfile.TemporaryDirectory(dir=place.root / "store") as resume:
        place.store.checkpoints("train", KEY).load(Path(resume) / "x")
        assert names(Path(resume)) == ["x"]
    place.untouched()


def _stages(place: Place, text: bytes) -> None:
    place.fresh()
    out = Path(tempfile.mkdtemp())
    (out / STAGE_FILE).write_bytes(text)
    shutil.rmtree(place.root / "store" / "stage", ignore_errors=True)
    place.store.publish_record("stage", KEY, {}, out, {}, 1.0)
    shutil.rmtree(out)
    try:
        read_stage(place.store, KEY)
    except UserError as error:
        one_line(error)
    place.untouched()


def _claims(place: Place, text: bytes, name: str) -> None:
    place.fresh()
    folder = place.root / "store" / "claims" / "train" / ("b" * 64)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(text)
    with place.store.claim("train", "b" * 64, Lease(0.0, 10.0, 0.001)) as claim:
        assert claim.acquire(lambda: None, threading.Event(), lambda: None) is None
    place.untouched()


TRUE = presets.load_preset("smoke").model_dump(mode="json")


def _configurations(text: bytes, overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my.yml"
        path.write_bytes(text)
        try:
            found = presets.load_preset(str(path), overrides)
        except UserError as error:
            for line in str(error).split("\n"):
                one_line(UserError(line))
            return
    assert Run.model_validate(found.model_dump(mode="json")) == found
    assert str(parse(found.arch)) == found.arch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("fuzz") / "data", {"train": 3})


MARK = {"id": 1, "image_id": 1, "bbox": [1, 2, 20, 20], "area": 400, "iscrowd": 0, "category_id": 1}
COCO = {
    "images": [{"id": n, "file_name": f"train_{n}.png", "width": 64, "height": 64} for n in range(2)],
    "annotations": [MARK, {**MARK, "id": 2, "image_id": 0, "category_id": 4}],
    "categories": [{"id": 1, "name": "red"}, {"id": 4, "name": "blue"}],
}


def _annotations(data: Path, text: bytes, strict: bool) -> None:
    (data / "annotations" / "instances_train.json").write_bytes(text)
    try:
        split = splits.open_split(str(data), "train", strict)
    except UserError as error:
        one_line(error)
        return
    for sample in split.samples:
        assert Path(sample.file).resolve().is_relative_to(data.resolve())
        assert sample.boxes.shape == (len(sample.labels), 4)
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
        assert (sample.boxes >= 0).all()
        assert (sample.boxes <= [sample.width, sample.height] * 2).all()
        assert set(sample.labels.tolist()) <= set(range(1, len(split.categories) + 1))
    json.dumps(split.annotations, allow_nan=False)


yaml_texts = changed(TRUE).map(lambda document: yaml.safe_dump(document).encode())
characters = st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
keys = st.sampled_from(["seed", "arch", "serial.rounds", "budget", "a.b", "name"])
override = st.one_of(st.text(max_size=20), st.builds(lambda key, value: f"{key}={json.dumps(value)}", keys, anything))
stage = texts({"name": "serial", "key": KEY, "ledger": [], "reignited": {}, "results": {}, "notes": []})
claim = texts({"token": "x", "beats": 1, "boot": "x", "processes": "x", "pid": 1, "begun": "1"})
numbers = st.sampled_from(["000001", "1", "99999999", "x"])

test_manifests, test_many_manifests = short_and_long(_manifests, texts(EXAMPLE))
test_stages, test_many_stages = short_and_long(_stages, stage)
test_claims, test_many_claims = short_and_long(_claims, claim, numbers)
test_configurations, test_many_configurations = short_and_long(
    _configurations, st.one_of(texts(TRUE), yaml_texts, characters), st.lists(override, max_size=2)
)
test_annotations, test_many_annotations = short_and_long(_annotations, texts(COCO), st.booleans())


def test_an_order_that_is_wrong_is_refused(tmp_path: Path) -> None:
    from spnas_core.jobs.request import WorkerRequest

    for text in (b"[" * 100_000, b'{"job": {"kind": "train"}}', b"\xff", b'{"job": ' * 9000):
        with pytest.raises(ValidationError):
            WorkerRequest.model_validate_json(text)
