"""The data that the demo makes itself."""

import hashlib
import itertools
import json
import sys

import numpy as np
import pytest

from spnas_core.data import demo, fingerprints, images, splits
from spnas_core.errors import UserError

pytest.importorskip("sklearn")


def digests(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "COUNTS", {"train": 12, "val": 6, "test": 3})
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small):
    return demo.make_demo(tmp_path_factory.mktemp("demo") / "data")


def test_the_splits_open_without_a_fault(folder):
    for name, count in demo.COUNTS.items():
        split = splits.open_split(str(folder), name, strict=True)
        fingerprints.verify_images(split)
        assert len(split.samples) == count
        assert split.class_names == tuple(map(str, demo.DIGITS))
        assert all(1 <= len(sample.boxes) <= demo.MOST_DIGITS for sample in split.samples)
        for sample in split.samples:
            assert images.decode_image(sample.file).shape == (128, 128, 3)
            longer = (sample.boxes[:, 2:] - sample.boxes[:, :2]).max(axis=1)
            assert longer.min() >= demo.LONGER_SIDE[0] - 4
            assert longer.max() <= demo.LONGER_SIDE[1]


def test_boxes_are_those_of_the_ink(small):
    """Painted on a black photograph, every digit is bright: its box is the extent of what is not black."""
    sources = demo.demo_sources("train")._replace(photographs=[np.zeros((128, 128, 3), np.uint8)])
    for seed in range(20):
        pixels, placed = demo.draw_image(sources, np.random.default_rng(seed))
        grey = pixels.astype(float).mean(axis=2)
        for (_, one), (_, other) in itertools.combinations(placed, 2):
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        for _, (x1, y1, x2, y2) in placed:
            inside = grey[y1:y2, x1:x2]
            ink = inside >= 0.45 * inside.max()
            assert ink.any(axis=1)[[0, -1]].all()
            assert ink.any(axis=0)[[0, -1]].all()
            grey[y1:y2, x1:x2] = 0
        assert not grey.any()


def test_equal_seeds_give_equal_bytes(folder, tmp_path, small):
    assert digests(demo.make_demo(tmp_path / "again")) == digests(folder)
    other = digests(demo.make_demo(tmp_path / "other", seed=1))
    assert other.keys() == digests(folder).keys()
    assert other["train/0001.png"] != digests(folder)["train/0001.png"]


def test_made_once_and_completed_when_it_was_interrupted(folder, small):
    before, times = digests(folder), {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    demo.make_demo(folder)
    assert times == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    mark = json.loads((folder / demo.MARK).read_text())
    (folder / demo.MARK).write_text(json.dumps({**mark, "complete": False}))
    (folder / "train/0003.png").unlink()
    (folder / "train/0004.png").write_bytes(b"half")
    demo.make_demo(folder)
    assert digests(folder) == before


def test_splits_share_no_scan_and_no_part_of_a_photograph(small):
    sources = {split: demo.demo_sources(split) for split in demo.COUNTS}
    assert sum(s.photographs[0].shape[1] for s in sources.values()) == 640
    for one, other in itertools.combinations(sources.values(), 2):
        for digit in demo.DIGITS:
            first = {scan.tobytes() for scan in one.scans[digit]}
            assert len(first) >= 30
            assert not first & {scan.tobytes() for scan in other.scans[digit]}


def test_data_of_other_origin_is_left_alone(tmp_path, small):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text("{}")
    with pytest.raises(UserError, match="expected an empty folder for the demo's data"):
        demo.make_demo(tmp_path)
    assert (tmp_path / "annotations/instances_train.json").read_text() == "{}"


def test_without_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r'pip install "spnas\[demo\]"'):
        demo.make_demo(tmp_path / "x")
    assert not (tmp_path / "x").exists()
