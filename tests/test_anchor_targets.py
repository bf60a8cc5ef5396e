"""Sampled anchors, against the definition in float64, anchor by anchor."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_core.arch import parse
from spnas_core.models import anchor_targets
from spnas_core.models.anchors import anchor_grid, place_anchors
from spnas_core.settings.detector import Detector

SETTINGS = Detector(image_size=(64, 96), base_width=4, stem="3x3", rpn_batch=16)
ANCHORS = np.concatenate(place_anchors(anchor_grid(parse("b_11-21-21"), SETTINGS), SETTINGS.head.anchor_ratios))
CORNER, SIDE = st.integers(0, 60), st.integers(1, 60)
BOXES = st.lists(st.tuples(CORNER, CORNER, SIDE, SIDE), max_size=6)


def overlap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    return float(inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter))


@pytest.mark.training
@given(drawn=BOXES, rows=st.integers(1, 3), count=st.sampled_from([8, 16, 10**6]), seed=st.integers(0, 99))
def test_samples_are_those_of_the_definition(drawn: list[tuple[int, int, int, int]], rows: int, count: int, seed: int) -> None:
    """Positives and negatives by IoU, at most half and at most `count` of them, the noisiest first; padding weighs nothing."""
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in drawn], np.float32).reshape(-1, 4)
    truth, labels = np.zeros((rows, 8, 4), np.float32), np.zeros((rows, 8), np.int32)
    truth[:, 1 : 1 + len(boxes)], labels[:, 1 : 1 + len(boxes)] = boxes, 1  # padding lies before them too
    noise = np.random.default_rng(seed).random((rows, len(ANCHORS)), dtype=np.float32)
    sample = anchor_targets.sample_batch(ANCHORS, truth, labels, noise, count)

    table = np.array([[overlap(anchor, box) for box in boxes.astype(float)] for anchor in ANCHORS.astype(float)]).reshape(len(ANCHORS), -1)
    best = table.max(1, initial=0)
    positive = (best >= 0.7 - 1e-6) | (table >= table.max(0, initial=0) - 1e-6).any(1)
    sure = (best >= 0.7 + 1e-6) | (table >= table.max(0, initial=0)).any(1)  # beyond rounding
    negative, clear = (best < 0.3 + 1e-6) & ~sure, (best < 0.3 - 1e-6) & ~positive
    assert sample.number.shape == (rows, min(count, len(ANCHORS)))
    for row in range(rows):
        taken, chosen = sample.weight[row] > 0, sample.positive[row] > 0
        index = sample.number[row]
        assert len(set(index[taken])) == taken.sum()
        assert not (chosen & ~taken).any()
        assert positive[index[chosen]].all()
        assert negative[index[taken & ~chosen]].all()
        assert min(sure.sum(), count // 2) <= chosen.sum() <= min(positive.sum(), count // 2)
        assert min(count, chosen.sum() + clear.sum()) <= taken.sum() <= min(count, chosen.sum() + negative.sum())
        for kind in (chosen, taken & ~chosen):  # none that was left has more noise than one that was drawn
            left = np.setdiff1d(np.flatnonzero(sure if kind is chosen else clear), index[kind])
            if kind.any() and len(left) and (positive == sure).all():
                assert noise[row, left].max() < noise[row, index[kind]].min()
        for number in np.flatnonzero(chosen):
            anchor, box = ANCHORS[index[number]].astype(float), boxes[np.argmax(table[index[number]])].astype(float)
            size, side = anchor[2:] - anchor[:2], box[2:] - box[:2]
            wanted = np.concatenate(((box[:2] + side / 2 - anchor[:2] - size / 2) / size, np.log(side / size)))
            tied = (table[index[number]] >= table[index[number]].max() - 1e-6).sum() > 1
            assert tied or np.allclose(sample.target[row, number], wanted, atol=1e-5)
        assert not sample.target[row, ~chosen].any()
