"""Soft-NMS against the loop of its paper."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spnas_core.models.soft_nms import soft_nms
from spnas_core.settings.detector import Detector


def iou(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    inter = max(width, 0) * max(height, 0)
    union = sum((one[2] - one[0]) * (one[3] - one[1]) for one in (a, b)) - inter
    return inter / union if union > 0 else 0.0


def of_one_class(boxes, scores, weight):
    """Figure 2 of Bodla et al.: take the best, lower the rest by `weight` of their IoU with it, and so on."""
    boxes, scores, found = list(boxes), list(scores), []
    while boxes:
        best = max(range(len(scores)), key=scores.__getitem__)
        taken, score = boxes.pop(best), scores.pop(best)
        found.append((score, taken))
        scores = [s * weight(iou(taken, b)) for s, b in zip(scores, boxes, strict=True)]
    return found


@st.composite
def detections(draw):
    """Boxes on a coarse grid, so that many overlap and some are equal; a few of them are padding."""
    count = draw(st.integers(0, 12))
    corner, side = st.tuples(*[st.integers(0, 12)] * 2), st.tuples(*[st.integers(1, 8)] * 2)
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in (draw(st.tuples(corner, side)) for _ in range(count))]
    scores = draw(st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=count, max_size=count))
    labels = [0 if not score else draw(st.integers(1, 3)) for score in scores]
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int32)


@given(
    detections(),
    st.sampled_from(["linear", "gaussian"]),
    st.sampled_from([0.1, 0.3, 0.5]),
    st.sampled_from([0.0, 0.05]),
    st.integers(1, 15),
)
def test_the_same_as_the_loop_of_the_paper_over_each_class(given, method, number, threshold, most):
    boxes, scores, labels = given
    settings = Detector(soft_nms=method, box_nms=number, soft_nms_sigma=number, score_threshold=threshold, detections=most)

    def weight(overlap):
        if method == "gaussian":
            return math.exp(-(overlap**2) / number)
        return 1 - overlap if overlap >= number else 1.0

    expected = []
    for label in (1, 2, 3):
        members = labels == label
        expected += [(score, label, *box) for score, box in of_one_class(boxes[members].tolist(), scores[members].tolist(), weight)]
    expected = sorted((one for one in expected if one[0] > threshold), key=lambda one: -one[0])[:most]

    rows, lowered = soft_nms(boxes, scores, labels, settings)
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_allclose(lowered, [one[0] for one in expected], rtol=1e-5)
    apart = [i for i, one in enumerate(expected) if sum(math.isclose(one[0], other[0], rel_tol=1e-5) for other in expected) == 1]
    for i in apart if len(expected) < most else apart[:-1]:  # the last one of all may be one of several
        np.testing.assert_array_equal([labels[rows[i]], *boxes[rows[i]]], expected[i][1:])


def test_what_overlaps_nothing_keeps_its_score():
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 10]], np.float32)
    scores, labels = np.array([0.9, 0.8, 0.7], np.float32), np.array([1, 1, 2], np.int32)
    for method in ("linear", "gaussian"):
        rows, lowered = soft_nms(boxes, scores, labels, Detector(soft_nms=method))
        assert rows.tolist() == [0, 1, 2]
        np.testing.assert_array_equal(lowered, scores)


def test_a_box_that_overlaps_a_better_one_is_lowered_and_not_removed():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 6]], np.float32)  # IoU 0.6
    scores, labels = np.array([0.9, 0.8], np.float32), np.array([1, 1], np.int32)
    for method, expected in (("linear", 0.8 * 0.4), ("gaussian", 0.8 * math.exp(-0.36 / 0.5))):
        rows, lowered = soft_nms(boxes, scores, labels, Detector(soft_nms=method))
        assert rows.tolist() == [0, 1]
        np.testing.assert_allclose(lowered, [0.9, expected], rtol=1e-6)
