"""Numbers and pictures of a report on segmentation: they are those of the scores."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_core.data.mask_colours import class_colours, overlay
from spnas_core.mask_metrics import add_counts, count_masks, no_counts, score_masks
from spnas_core.report.intervals import interval
from spnas_core.report.pixels import mask_draws, mean_iou

CLASSES = 4


def masks(seed: int, count: int, wrong: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    truth = [rng.choice([0, 1, 2, 255], (9, 11)).astype(np.uint8) for _ in range(count)]
    said = []
    for one in truth:
        other = rng.random(one.shape) < wrong
        said.append(np.where(other, rng.integers(0, CLASSES, one.shape), np.minimum(one, 3)).astype(np.uint8))
    return truth, said


def outputs(truth: list[np.ndarray], said: list[np.ndarray]) -> dict[str, Any]:
    tables = [count_masks(a, b, CLASSES).confusion for a, b in zip(truth, said, strict=True)]
    return {"images": [{"right": np.diagonal(t).tolist(), "truth": t.sum(1).tolist(), "found": t.sum(0).tolist()} for t in tables]}


@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0, 1))
def test_the_mean_over_images_is_that_of_the_scores(seed: int, count: int, wrong: float) -> None:
    truth, said = masks(seed, count, wrong)
    whole = no_counts(CLASSES)
    for a, b in zip(truth, said, strict=True):
        whole = add_counts(whole, count_masks(a, b, CLASSES))
    images = outputs(truth, said)["images"]
    sums = {name: np.array([[one[name] for one in images]], float).sum(1) for name in ("right", "truth", "found")}
    assert mean_iou(sums)[0] == pytest.approx(score_masks(whole, ("a", "b", "c", "d")).stats["mIoU"])


def test_a_difference_means_something_where_one_net_is_better_on_all_images() -> None:
    truth, worse = masks(0, 12, 0.5)
    rng = np.random.default_rng(0)
    better = [np.where(rng.random(a.shape) < 0.5, np.minimum(a, 2), b).astype(np.uint8) for a, b in zip(truth, worse, strict=True)]
    same = interval(mask_draws(outputs(truth, worse)), mask_draws(outputs(truth, worse)))
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    assert not same.means_something
    gain = interval(mask_draws(outputs(truth, better)), mask_draws(outputs(truth, worse)))
    assert 0 < gain.low <= gain.mean <= gain.high
    assert gain.ahead == 1.0


def test_colours_are_those_of_pascal_voc() -> None:
    assert class_colours(4) == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert [class_colours(21)[number] for number in (8, 15, 20)] == [(64, 0, 0), (192, 128, 128), (0, 64, 128)]
    assert len(set(class_colours(255))) == 255


def test_an_overlay_leaves_ignored_pixels_as_they_are() -> None:
    pixels = np.full((2, 2, 3), 100, np.uint8)
    found = overlay(pixels, np.array([[0, 1], [255, 1]], np.uint8), 2)
    assert found[1, 0].tolist() == [100, 100, 100]
    assert found[0, 1].tolist() == [115, 45, 45]
    assert found[0, 0].tolist() == [45, 45, 45]
