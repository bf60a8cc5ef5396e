"""Scores of segmentation: against scikit-learn, by hand, and merged in any order."""

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import confusion_matrix, jaccard_score

from spnas_core.mask_metrics import add_counts, boundary_tolerance, count_masks, find_boundary, no_counts, score_masks

Mask = npt.NDArray[np.uint8]


def names(classes: int) -> tuple[str, ...]:
    return tuple(f"c{number}" for number in range(classes))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Mask, Mask, int]:
    """Truth with ignored pixels, prediction, K; some categories are in neither."""
    classes = draw(st.integers(1, 8))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    present = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes))
    truth = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([*present, 255])))
    said = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from(draw(st.sampled_from([present, list(range(classes))])))))
    return truth, said, classes


@pytest.mark.training
@given(pairs())
@settings(max_examples=1000, deadline=None)
def test_counts_and_scores_are_those_of_scikit_learn(case: tuple[Mask, Mask, int]) -> None:
    truth, said, classes = case
    counts = count_masks(truth, said, classes)
    scores = score_masks(counts, names(classes))
    flat, guess = truth[truth != 255].astype(int), said[truth != 255].astype(int)
    labels = list(range(classes))
    if not flat.size:
        assert not counts.confusion.any()
        assert set(scores.stats.values()) == {-1.0}
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of categories that are absent, and of a single one
        matrix = confusion_matrix(flat, guess, labels=labels)
        jaccard = jaccard_score(flat, guess, labels=labels, average=None, zero_division=0)
    assert np.array_equal(counts.confusion, matrix)
    defined = [number for number in labels if number in flat or number in guess]
    for number in labels:
        assert scores.per_class[f"c{number}"]["IoU"] == pytest.approx(jaccard[number] if number in defined else -1.0)
    assert scores.stats["mIoU"] == pytest.approx(jaccard[defined].mean())
    assert scores.stats["pixel_accuracy"] == pytest.approx((flat == guess).mean())
    assert scores.stats["mean_accuracy"] == pytest.approx(np.mean([(guess[flat == one] == one).mean() for one in np.unique(flat)]))


def brute_boundary(truth: Mask, said: Mask, classes: int) -> npt.NDArray[np.int64]:
    """Boundary counts by the definition: every pixel, its four neighbours, every pair."""
    h, w = truth.shape

    def edge(mask: Mask, y: int, x: int) -> bool:
        near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        inside = [(a, b) for a, b in near if 0 <= a < h and 0 <= b < w]
        return truth[y, x] != 255 and any(truth[a, b] != 255 and mask[a, b] != mask[y, x] for a, b in inside)

    counts = np.zeros((classes, 4), np.int64)
    for number in range(classes):
        sets = [[(y, x) for y in range(h) for x in range(w) if mask[y, x] == number and edge(mask, y, x)] for mask in (truth, said)]
        for column, (own, other) in ((0, sets), (2, sets[::-1])):
            counts[number, column] = len(own)
            counts[number, column + 1] = sum(any(np.hypot(y - b, x - a) <= boundary_tolerance((h, w)) for b, a in other) for y, x in own)
    return counts


@given(pairs())
@settings(max_examples=200, deadline=None)
def test_boundary_counts_are_those_of_the_definition(case: tuple[Mask, Mask, int]) -> None:
    truth, said, classes = case
    assert np.array_equal(count_masks(truth, said, classes).boundary, brute_boundary(truth, said, classes))


def test_boundary_f_of_a_shifted_square() -> None:
    """In 200x150 px a boundary may be 1.875 px off: a square moved by 1 px is met everywhere, one moved by 5 px hardly."""
    truth = np.zeros((150, 200), np.uint8)
    truth[40:90, 50:120] = 1
    assert boundary_tolerance(truth.shape) == pytest.approx(1.875)

    def of_square(shift: int) -> float:
        return score_masks(count_masks(truth, np.roll(truth, (shift, shift), (0, 1)), 2), ("ground", "square")).per_class["square"][
            "boundary_F"
        ]

    assert of_square(0) == of_square(1) == 1.0
    assert 0.2 > of_square(3) >= of_square(5) > of_square(60) == 0  # crossing sides meet near two corners
    assert find_boundary(truth, truth < 255).sum() == 2 * (70 + 50) - 4 + 2 * (70 + 50)  # inside and outside


def test_scores_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 255, 1, 2]], np.uint8)
    said = np.array([[0, 1, 1, 1], [0, 0, 0, 1]], np.uint8)
    scores = score_masks(count_masks(truth, said, 4), ("a", "b", "c", "d"))
    assert [scores.per_class[name]["IoU"] for name in "abcd"] == [2 / 4, 2 / 5, 0.0, -1.0]
    assert [scores.per_class[name]["accuracy"] for name in "abcd"] == [2 / 3, 2 / 3, 0.0, -1.0]
    assert scores.stats["mIoU"] == pytest.approx((0.5 + 0.4 + 0) / 3)
    assert scores.stats["pixel_accuracy"] == pytest.approx(4 / 7)
    assert scores.stats["mean_accuracy"] == pytest.approx(4 / 9)
    assert scores.document()["per_class"]["d"] == {"IoU": -1.0, "accuracy": -1.0, "boundary_F": -1.0}


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_ranks_merge_exactly(seeds: list[int], cut: int) -> None:
    """Counts of images are equal however they are divided and in whatever order they are added; so are the scores, to the last bit."""
    images = [np.random.default_rng(seed).integers(0, 4, (2, 12, 9)).astype(np.uint8) for seed in seeds]
    parts = [count_masks(*image, 4) for image in images]
    forward, backward = no_counts(4), no_counts(4)
    for one in parts:
        forward = add_counts(forward, one)
    ranks = [no_counts(4), no_counts(4)]
    for number, one in enumerate(reversed(parts)):
        ranks[number > cut] = add_counts(ranks[number > cut], one)
    backward = add_counts(*ranks)
    assert np.array_equal(forward.confusion, backward.confusion)
    assert score_masks(forward, names(4)) == score_masks(backward, names(4))


def test_what_is_no_pair_of_masks_is_refused() -> None:
    mask = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match=r"one shape, got \(4, 5\) and \(5, 4\)"):
        count_masks(mask, mask.T, 2)
    with pytest.raises(ValueError, match="0 to 1 in the prediction, got 2 to 2"):
        count_masks(mask, mask + 2, 2)
    with pytest.raises(ValueError, match="0 to 1 in the truth"):
        count_masks(mask + 7, mask, 2)
