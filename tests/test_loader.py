"""Detection batches: geometry, determinism, resuming, padding, threads."""

import dataclasses
import logging
import threading

import numpy as np
import pytest
from data_sets import document, encoded, make, picture, write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from spnas_core.data import augment, loader, splits
from spnas_core.data.pipeline import ImageCache, run_ahead
from spnas_core.errors import UserError
from spnas_core.settings.training import Recipe

SIZE = (32, 48)  # 64x48 px images become 43x32
PLAIN = Recipe(batch=2, flip=False)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    make(str(root), document(7))
    return splits.open_split(str(root), "train")


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def train(split, recipe=PLAIN, max_boxes=4, seed=0, epoch=0, **options):
    return list(loader.train_batches(split, SIZE, recipe, max_boxes, seed, epoch, **options))


def data_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("spnas")]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_shares_of_ranks_are_the_whole_without_overlap(split, ranks):
    """Of training batches every row, of evaluation every batch; what a row holds knows nothing of the shares."""
    recipe, shares = Recipe(batch=6, scales=(0.7, 1.3)), [slice(number, None, ranks) for number in range(ranks)]
    (whole,) = train(split, recipe)
    for share in shares:
        (part,) = train(split, recipe, share=share)
        assert equal(part, [array[share] for array in whole])
    batches = list(loader.eval_batches(split, SIZE, 2))
    dealt = [list(loader.eval_batches(split, SIZE, 2, share=share)) for share in shares]
    assert [len(part) for part in dealt] == [len(batches[share]) for share in shares]
    for share, part in zip(shares, dealt, strict=True):
        assert all(equal(a, b) for a, b in zip(part, batches[share], strict=True))


def test_a_batch_is_what_the_annotations_say(split):
    batches = train(split)
    assert len(batches) == 3 == loader.steps_per_epoch(7, 2)
    assert len({i for batch in batches for i in batch.ids.tolist()}) == 6
    for batch in batches:
        assert [(a.shape, a.dtype.name) for a in batch] == [
            ((2, 3, 32, 48), "float32"),
            ((2, 2), "float32"),
            ((2, 4, 4), "float32"),
            ((2, 4), "int32"),
            ((2,), "int64"),
            ((2, 2), "float32"),
        ]
        assert batch.image_hw.tolist() == [[32, 43]] * 2
        np.testing.assert_allclose(batch.scale, [[43 / 64, 32 / 48]] * 2)
        for row in range(2):
            sample = next(s for s in split.samples if s.image_id == batch.ids[row])
            np.testing.assert_allclose(batch.boxes[row, :2], sample.boxes * np.tile(batch.scale[row], 2), rtol=1e-6)
            assert batch.labels[row].tolist() == [*sample.labels.tolist(), 0, 0]
            assert not batch.boxes[row, 2:].any()
            assert batch.images[row, :, :, :43].any()
            assert not batch.images[row, :, :, 43:].any()


def test_batches_are_a_function_of_seed_epoch_and_step(split):
    recipe = Recipe(batch=2, scales=(0.6, 1.0, 1.5))
    first = train(split, recipe, seed=3, epoch=1)
    cache = ImageCache()
    for again in (
        train(split, recipe, seed=3, epoch=1, threads=1),
        *(train(split, recipe, seed=3, epoch=1, cache=cache) for _ in range(2)),
    ):
        assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    resumed = train(split, recipe, seed=3, epoch=1, start_step=1)
    assert len(resumed) == 2
    assert all(equal(a, b) for a, b in zip(first[1:], resumed, strict=True))
    assert train(split, recipe, seed=3, epoch=1, start_step=3) == []
    assert not equal(first[0], train(split, recipe, seed=3, epoch=2)[0])
    assert not equal(first[0], train(split, recipe, seed=4, epoch=1)[0])


def test_a_split_smaller_than_a_batch_is_gone_through_again(split):
    (batch,) = train(dataclasses.replace(split, samples=split.samples[:3]), Recipe(batch=8))
    assert sorted(batch.ids.tolist().count(i) for i in (11, 21, 31)) == [2, 3, 3]
    assert (batch.labels > 0).sum() == 16


def test_flips_mirror_image_and_boxes(split):
    one = dataclasses.replace(split, samples=split.samples[:1])
    batches = [train(one, Recipe(batch=1, flip=True), epoch=e)[0] for e in range(12)]
    plain = train(one, Recipe(batch=1, flip=False))[0]
    flipped = [b for b in batches if not equal(b, plain)]
    assert 0 < len(flipped) < 12
    for batch in flipped:
        np.testing.assert_array_equal(batch.images[..., :43], plain.images[..., 42::-1])
        np.testing.assert_allclose(batch.boxes[0, :2, 0], 43 - plain.boxes[0, :2, 2])
        np.testing.assert_array_equal(batch.boxes[0, :2, 1::2], plain.boxes[0, :2, 1::2])


def test_smaller_scale_shrinks_inside_the_input(split):
    for batch in train(split, Recipe(batch=2, flip=False, scales=(0.5,))):
        assert batch.image_hw.tolist() == [[16, 21]] * 2
        assert not batch.images[:, :, 16:].any()
        assert not batch.images[:, :, :, 21:].any()
        np.testing.assert_allclose(batch.scale, [[21 / 64, 16 / 48]] * 2)
        assert (batch.boxes[:, :2, 2:] <= [21, 16]).all()


def test_no_scales_mean_the_size_of_the_input(split):
    assert all(equal(a, b) for a, b in zip(train(split), train(split, Recipe(batch=2, flip=False, scales=())), strict=True))


def test_larger_scale_cuts_a_window_and_the_boxes(tmp_path):
    data = document(1, boxes=1)
    data["annotations"][0]["bbox"] = [24, 16, 16, 16]
    make(str(tmp_path), data)
    black = np.zeros((48, 64, 3), np.uint8)
    black[16:32, 24:40] = 255
    write(f"{tmp_path}/images/0.jpg", encoded(Image.fromarray(black), quality=100, subsampling=0))
    split = splits.open_split(str(tmp_path), "train")
    recipe, seen = Recipe(batch=1, flip=True, scales=(2.0,)), set()
    for epoch in range(40):
        (batch,) = train(split, recipe, epoch=epoch)
        assert batch.image_hw.tolist() == [[32, 48]]
        x1, y1, x2, y2 = batch.boxes[0, 0]
        if not batch.labels.any():
            continue
        seen.add((x1, y1))
        assert 0 <= x1 < x2 <= 48
        assert 0 <= y1 < y2 <= 32
        white = batch.images[0, 0] > 0
        rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], [x1, y1, x2, y2], atol=1.5)
    assert len(seen) > 10


def test_boxes_with_less_than_a_quarter_left_are_left_out():
    boxes = np.array([[0, 0, 10, 10], [7.4, 0, 17.4, 10], [7.6, 0, 17.6, 10], [30, 0, 40, 10]], np.float32)
    kept, labels = augment.crop_boxes(boxes, np.array([1, 2, 3, 4], np.int32), (0, 0), (10, 10))
    np.testing.assert_array_equal(kept, np.array([[0, 0, 10, 10], [7.4, 0, 10, 10]], np.float32))
    assert labels.tolist() == [1, 2]


@settings(max_examples=50)
@given(hnp.arrays(np.float32, (5, 4), elements=st.integers(0, 100).map(float)), st.integers(100, 200))
def test_flip_is_its_own_inverse(boxes, width):
    np.testing.assert_array_equal(augment.flip_boxes(augment.flip_boxes(boxes, width), width), boxes)
    np.testing.assert_array_equal(augment.area(augment.flip_boxes(boxes, width)), augment.area(boxes))


def test_more_boxes_than_the_padding(tmp_path, caplog):
    data = document(2, boxes=5)
    for mark, side in zip(data["annotations"], [10, 30, 20, 40, 5] * 2, strict=True):
        mark["bbox"] = [1, 1, side, side]
    data["annotations"] = data["annotations"][:8]
    make(str(tmp_path), data)
    split, cache = splits.open_split(str(tmp_path), "train"), ImageCache()
    with caplog.at_level(logging.WARNING, "spnas_core"):
        for epoch in range(3):
            (batch,) = train(split, max_boxes=3, epoch=epoch, cache=cache)
            row = batch.ids.tolist().index(21)
            np.testing.assert_allclose(batch.boxes[row, :, 2] / batch.scale[row, 0], [31, 21, 41], rtol=1e-5)
            assert batch.labels[row].tolist() == [1, 3, 2]
    assert [r.message for r in caplog.records] == ["1 images of split 'train' have more than max_boxes = 3 boxes; the largest are kept"]


def test_images_without_boxes_make_batches(tmp_path):
    make(str(tmp_path), document(2, boxes=0))
    (batch,) = train(splits.open_split(str(tmp_path), "train"), Recipe(batch=2, scales=(0.5, 2.0)))
    assert not batch.labels.any()


def test_evaluation_gives_every_image_once_and_pads_the_last_batch(split):
    for cache in (None, ImageCache()):
        batches = list(loader.eval_batches(split, SIZE, 3, cache))
        assert np.concatenate([b.ids for b in batches]).tolist() == [11, 21, 31, 41, 51, 61, 71, -1, -1]
        assert batches[0].boxes.shape == (3, 0, 4)
        last = batches[-1]
        assert last.images.shape == (3, 3, *SIZE)
        assert not last.images[1:].any()
        assert last.image_hw.tolist() == [[32, 43], [32, 48], [32, 48]]
        assert last.scale[1:].tolist() == [[1, 1], [1, 1]]


def test_cache_has_a_bound(split):
    small, one = ImageCache(2 * 32 * 43 * 3), 32 * 43 * 3
    list(loader.eval_batches(split, SIZE, 3, small))
    assert small.bytes == 2 * one
    large = ImageCache()
    list(loader.eval_batches(split, SIZE, 3, large))
    assert large.bytes == 7 * one
    assert large.get("nothing") is None


def test_closing_early_leaves_no_threads(split):
    for batches in (loader.train_batches(split, SIZE, PLAIN, 4, 0, 0), loader.eval_batches(split, SIZE, 1)):
        next(batches)
        assert data_threads()
        batches.close()
        assert not data_threads()
    train(split)
    assert not data_threads()


def test_a_broken_image_ends_the_iteration_with_its_name(tmp_path):
    make(str(tmp_path), document(6))
    split = splits.open_split(str(tmp_path), "train")
    (tmp_path / "images/4.jpg").write_bytes(encoded(picture())[:400])
    with pytest.raises(UserError, match=r"images/4.jpg: expected a whole image"):
        list(loader.eval_batches(split, SIZE, 2))
    (tmp_path / "images/4.jpg").write_bytes(encoded(picture(48, 64)))
    with pytest.raises(UserError, match="annotation says 64x48 px, the file has 48x64"):
        train(split)
    assert not data_threads()


def test_results_are_the_inverse_of_the_batches(split):
    batch = next(iter(loader.eval_batches(split, SIZE, 4)))
    truth = next(iter(loader.train_batches(split, SIZE, PLAIN, 3, 0, 0)))
    results = loader.to_results(truth.ids, truth.boxes, np.full((2, 3), 0.5, np.float32), truth.labels, truth.scale, split.categories)
    marks = {(a["image_id"], a["category_id"]): a["bbox"] for a in split.annotations["annotations"]}
    assert len(results) == 4
    for result in results:
        assert result["bbox"] == pytest.approx(marks[result["image_id"], result["category_id"]], abs=2e-3)
        assert [type(v) for v in (result["image_id"], result["category_id"], result["score"], *result["bbox"])] == [int, int, *[float] * 5]
    padding = np.array([11, -1], np.int64)
    labels = np.array([[0, 2], [1, 1]], np.int32)
    only = loader.to_results(
        padding, np.ones((2, 2, 4), np.float32), np.ones((2, 2), np.float32), labels, batch.scale[:2], split.categories
    )
    assert [(r["image_id"], r["category_id"]) for r in only] == [(11, 7)]
    none = np.zeros((2, 0), np.float32)
    assert loader.to_results(padding, np.zeros((2, 0, 4), np.float32), none, none.astype(np.int32), batch.scale[:2], split.categories) == []


def test_what_runs_ahead_keeps_its_order_its_errors_and_no_thread() -> None:
    """Items come in order, an error where it belongs, and a reader that stops early ends the source and its thread."""
    ended = threading.Event()

    def source():
        try:
            yield from range(5)
            raise UserError("the sixth is broken")
        finally:
            ended.set()

    items = run_ahead(source())
    assert [next(items) for _ in range(5)] == list(range(5))
    with pytest.raises(UserError, match="sixth"):
        next(items)
    assert ended.is_set()
    ended.clear()
    items = run_ahead(source())
    assert next(items) == 0
    items.close()
    assert ended.wait(5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("spnas-ahead")]
