"""Classification data: crops of a detection set, and a folder per class."""

import dataclasses
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
from data_sets import document, encoded, make, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spnas_core.data import crops, images, splits
from spnas_core.data.pipeline import ImageCache
from spnas_core.errors import UserError
from spnas_core.job import Data, ReigniteJob
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Reignite

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def colour_of(image):
    """Name of the colour in the middle of a normalised image (3, S, S)."""
    middle = image[:, image.shape[1] // 2, image.shape[2] // 2] * images.STD + images.MEAN
    return min(COLOURS, key=lambda name: np.abs(middle * 255 - COLOURS[name]).sum())


@pytest.fixture
def split(tmp_path):
    """Three 64x48 px images, each with a red, a green and a blue square; category ids 3, 7, 90 are green, blue, red."""
    data = document(3, boxes=3)
    data["categories"] = [{"id": 3, "name": "green"}, {"id": 7, "name": "blue"}, {"id": 90, "name": "red"}]
    make(str(tmp_path), data)
    for image in data["images"]:
        picture = np.full((48, 64, 3), 128, np.uint8)
        marks = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        for mark, left in zip(marks, (0, 20, 50), strict=True):
            mark["bbox"] = [left, 10, 14, 14]
            picture[10:24, left : left + 14] = COLOURS[{3: "green", 7: "blue", 90: "red"}[mark["category_id"]]]
        write(f"{tmp_path}/images/{image['file_name']}", encoded(Image.fromarray(picture), quality=100, subsampling=0))
    make_annotations(tmp_path, data)
    return splits.open_split(str(tmp_path), "train")


def make_annotations(root, data):
    import json

    write(f"{root}/annotations/instances_train.json", json.dumps(data).encode())


def folder(root, colours=COLOURS, count=3):
    for name in colours:
        for number in range(count):
            image = Image.new("RGB", (20 + 10 * number, 20), COLOURS[name])
            write(f"{root}/{name}/{number}.PNG", encoded(image, "PNG"))
            write(f"{root}/{name}/notes.txt", b"no image")


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_crops_show_their_class(split):
    data = crops.open_crops(split, 16)
    assert data.class_names == ("green", "blue", "red")
    assert len(data.items) == 9
    for cache in (None, ImageCache(), ImageCache(16 * 16 * 3)):
        batches = list(crops.eval_crops(data, 4, cache))
        assert [b.images.shape for b in batches] == [(4, 3, 16, 16)] * 3
        assert np.concatenate([b.labels for b in batches]).tolist()[9:] == [-1, -1, -1]
        for batch in batches:
            for image, label in zip(batch.images, batch.labels, strict=True):
                assert label == -1 or colour_of(image) == data.class_names[label]


def test_each_image_is_decoded_once_where_the_cache_has_room(split, monkeypatch):
    seen = []
    monkeypatch.setattr(images, "decode_reduced", lambda path, *rest, inner=images.decode_reduced: seen.append(path) or inner(path, *rest))
    data, cache = crops.open_crops(split, 16), ImageCache()
    for _ in range(2):
        list(crops.eval_crops(data, 4, cache, threads=1))
    assert len(seen) == 3
    assert cache.bytes == 9 * 16 * 16 * 3


def test_batches_are_a_function_of_seed_epoch_and_step(split):
    data = crops.open_crops(split, 8)
    first = list(crops.train_crops(data, 4, seed=1, epoch=2))
    assert len(first) == 2
    assert all(equal(a, b) for a, b in zip(first, crops.train_crops(data, 4, 1, 2, cache=ImageCache()), strict=True))
    assert all(equal(a, b) for a, b in zip(first[1:], crops.train_crops(data, 4, 1, 2, start_step=1), strict=True))
    assert not equal(first[0], next(iter(crops.train_crops(data, 4, 1, 3))))
    (whole,) = crops.train_crops(data, 20, 0, 0)
    assert whole.labels.tolist().count(-1) == 0
    assert len(whole.labels) == 20


def test_rows_that_are_not_wanted_are_not_read(split):
    """A share of each batch, with those that mix-up brings in, mixes as the whole batch does."""
    data, first = crops.open_crops(split, 8), slice(0, None, 2)
    asked = []

    def wanted(number):
        rows = crops.draw_mixup(4, 0.5, np.random.default_rng(number))[1][first]
        asked.append({0, 2, *rows.tolist()})
        return asked[-1]

    parts = list(crops.train_crops(data, 4, 1, 2, wanted=wanted))
    assert {len(rows) for rows in asked} <= {2, 3, 4}
    for number, (part, whole) in enumerate(zip(parts, crops.train_crops(data, 4, 1, 2), strict=True)):
        assert part.labels.tolist() == whole.labels.tolist()
        assert {row for row in range(4) if part.images[row].any()} == asked[number]
        mixed = [
            crops.mixup(one.images, np.eye(3, dtype=np.float32)[one.labels], 0.5, np.random.default_rng(number)) for one in (part, whole)
        ]
        for ours, all_rows in zip(*mixed, strict=True):
            np.testing.assert_array_equal(ours[first], all_rows[first])


@pytest.mark.parametrize("ranks", [2, 4])
def test_batches_to_score_are_dealt_out(split, ranks):
    data = crops.open_crops(split, 8)
    labels = [[batch.labels.tolist() for batch in crops.eval_crops(data, 2, share=slice(number, None, ranks))] for number in range(ranks)]
    assert sorted(label for part in labels for batch in part for label in batch) == [-1, *sorted(item[2] for item in data.items)]


def test_half_of_the_crops_are_mirrored(split):
    one = dataclasses.replace(crops.open_crops(split, 8), items=(crops.open_crops(split, 8).items[0],))
    (batch,) = crops.train_crops(one, 64, 0, 0)
    plain = next(iter(crops.eval_crops(one, 1))).images[0]
    mirrored = [np.array_equal(image, plain[:, :, ::-1]) for image in batch.images]
    assert all(m or np.array_equal(i, plain) for m, i in zip(mirrored, batch.images, strict=True))
    assert 16 < sum(mirrored) < 48


@given(st.integers(1, 90), st.integers(1, 90), st.data())
def test_windows_are_square_where_they_can_and_inside(width, height, data):
    x1, y1 = data.draw(st.floats(0, width - 0.5)), data.draw(st.floats(0, height - 0.5))
    x2, y2 = data.draw(st.floats(x1 + 0.25, width)), data.draw(st.floats(y1 + 0.25, height))
    left, top, right, bottom = crops.crop_window(np.array([x1, y1, x2, y2], np.float32), width, height)
    side = max(4.0, 1.25 * max(x2 - x1, y2 - y1))
    assert 0 <= left <= x1 + 1e-3
    assert 0 <= top <= y1 + 1e-3
    assert x2 - 1e-3 <= right <= width
    assert y2 - 1e-3 <= bottom <= height
    assert right - left == pytest.approx(min(width, side), abs=1e-3)
    assert bottom - top == pytest.approx(min(height, side), abs=1e-3)


def test_no_boxes_to_crop(tmp_path):
    make(str(tmp_path), document(1, boxes=0))
    with pytest.raises(UserError, match="split 'train': expected boxes to crop"):
        crops.open_crops(splits.open_split(str(tmp_path), "train"), 16)


@pytest.mark.parametrize("remote", [False, True])
def test_folder_per_class(tmp_path, monkeypatch, remote):
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    url = "memory://crops-test" if remote else str(tmp_path / "set")
    try:
        folder(f"{url}/train")
        folder(f"{url}/val", ["red"], 1)
        data = crops.open_class_folder(url, "train", 8)
        assert data.class_names == ("blue", "green", "red")
        assert len(data.items) == 9
        for batch in crops.train_crops(data, 4, 0, 0):
            assert [colour_of(i) for i in batch.images] == [data.class_names[label] for label in batch.labels]
        val = crops.open_class_folder(url, "val", 8, data.class_names)
        assert [label for _, _, label in val.items] == [2]
        with pytest.raises(UserError, match="expected the classes green, red; got 'blue' too"):
            crops.open_class_folder(url, "train", 8, ("green", "red"))
        with pytest.raises(UserError, match="test: expected a folder per class, got none"):
            crops.open_class_folder(url, "test", 8)
        write(f"{url}/train/violet/notes.txt", b"no image")
        with pytest.raises(UserError, match=r"train/violet: expected images \(.jpg, .*got none"):
            crops.open_class_folder(url, "train", 8)
    finally:
        if remote:
            fsspec.filesystem("memory").rm("/crops-test", recursive=True)


def test_the_middle_square_of_a_folder_image_is_taken(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    write(f"{tmp_path}/train/x/1.png", encoded(Image.fromarray(wide), "PNG"))
    (batch,) = crops.eval_crops(crops.open_class_folder(str(tmp_path), "train", 10), 1)
    np.testing.assert_allclose(batch.images[0], np.broadcast_to(((1 - images.MEAN) / images.STD)[:, None, None], (3, 10, 10)), atol=1e-5)


def test_broken_image_and_early_close(tmp_path):
    folder(tmp_path / "train")
    Path(tmp_path / "train/green/1.PNG").write_bytes(b"broken")
    data = crops.open_class_folder(str(tmp_path), "train", 8)
    batches = crops.eval_crops(data, 2)
    next(batches)
    batches.close()
    with pytest.raises(UserError, match=r"green/1.PNG: expected a whole image"):
        list(crops.eval_crops(data, 2))
    assert not [t for t in threading.enumerate() if t.name.startswith("spnas")]


def test_mixup():
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(6, 3, 4, 4)).astype(np.float32)
    onehot = np.eye(6, dtype=np.float32)
    mixed, weights = crops.mixup(pictures, onehot, 0.4, np.random.default_rng(1))
    assert mixed.dtype == weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(mixed, np.einsum("bk,kchw->bchw", weights, pictures), atol=1e-6)
    again = crops.mixup(pictures, onehot, 0.4, np.random.default_rng(1))
    np.testing.assert_array_equal(mixed, again[0])
    assert crops.mixup(pictures, onehot, 0, np.random.default_rng(1))[0] is pictures


@pytest.mark.parametrize("full", [False, True])
def test_fingerprint_follows_the_images_and_not_their_place(tmp_path: Path, full: bool) -> None:
    def fingerprint(name: str, sizes: dict[str, int], content: bytes = b"x") -> str:
        for path, size in sizes.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content * size)
        return crops.fingerprint_folder(str(tmp_path / name), full)

    one = {"train/cat/1.png": 3, "val/cat/2.png": 4}
    first = fingerprint("a", one)
    assert fingerprint("b", one) == first
    assert fingerprint("c", one | {"val/cat/2.png": 5}) != first
    assert fingerprint("d", one | {"train/dog/1.png": 3}) != first
    assert (fingerprint("e", one, b"y") == first) is not full


def test_images_of_their_own_that_changed_after_the_job_was_planned_are_refused(tmp_path: Path) -> None:
    from spnas_core.jobs import reignite

    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        (tmp_path / split / "cat" / "1.png").write_bytes(b"x" * 3)
    settings = {"detector": Detector(), "recipe": Reignite(data=str(tmp_path)), "data": Data(url="x", fingerprint="f")}
    for full in (False, True):
        one = ReigniteJob(arch="b_11-21-21-21", images=crops.fingerprint_folder(str(tmp_path), full), **settings)
        assert len(reignite.open_sets(one)[0].items) == 1
    (tmp_path / "val" / "cat" / "2.png").write_bytes(b"x")
    with pytest.raises(UserError, match=f"{tmp_path}: expected the images that the job was planned with, got others"):
        reignite.open_sets(one)
