"""AP by two engines that must agree exactly, and by hand."""

import copy
import math

import numpy as np
import pytest

from spnas_core.errors import JobError
from spnas_core.metrics import STATS, score_detections, scores_line

ENGINES = ["hotcoco", "pycocotools"]


def truth(boxes, images=2, categories=(5, 2)):
    """Annotations of (image id, category id, xywh)."""
    marks = [
        {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for n, (i, c, b) in enumerate(boxes, start=1)
    ]
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 400, "height": 400} for i in range(1, images + 1)],
        "annotations": marks,
        "categories": [{"id": c, "name": f"c{c}"} for c in categories],
    }


def found(*rows):
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]


def random_case(seed):
    """Crowds, ties of scores, wrong classes, images without boxes or detections, a class without boxes."""
    rng = np.random.default_rng(seed)
    data, results = truth([], images=20, categories=(90, 2, 7)), []
    for image in data["images"]:
        for _ in range(rng.integers(0, 6)):
            box, category = rng.uniform((0, 0, 4, 4), (250, 250, 150, 150)), int(rng.choice([2, 7]))
            area = float(box[2] * box[3])
            mark = {"id": len(data["annotations"]) + 1, "image_id": image["id"], "category_id": category, "bbox": box.tolist()}
            data["annotations"].append({**mark, "area": area, "iscrowd": int(rng.random() < 0.15)})
            for _ in range(rng.integers(0, 3)):
                near = np.maximum(box + rng.normal(0, 4, 4), 1).tolist()
                guess = category if rng.random() < 0.8 else int(rng.choice([2, 7, 90]))
                results += found((image["id"], guess, near, float(np.round(rng.random(), 1))))
        for _ in range(rng.integers(0, 3)):
            results += found((image["id"], 7, rng.uniform(1, 80, 4).tolist(), float(rng.random())))
    return data, results


@pytest.mark.parametrize("seed", range(12))
def test_both_engines_agree_exactly(seed):
    data, results = random_case(seed)
    before = copy.deepcopy((data, results))
    one, other = (score_detections(data, results, engine) for engine in ENGINES)
    assert one == other
    assert 0 < one.stats["AP"] < 1
    assert (data, results) == before, "the input is not written into"


@pytest.mark.parametrize("seed", range(3))
def test_they_agree_where_hundreds_of_detections_meet_the_limit(seed):
    rng = np.random.default_rng(seed)
    boxes = [(1, 2, [float(x), float(y), 18.0, 18.0]) for x in range(0, 400, 20) for y in range(0, 200, 20)]
    rows = [(1, 2, [b[0] + rng.normal(), b[1] + rng.normal(), b[2], b[3]], float(np.round(rng.random(), 2))) for _, _, b in boxes]
    one, other = (score_detections(truth(boxes), found(*rows), engine) for engine in ENGINES)
    assert one == other
    assert one.stats["AR100"] <= 0.5


@pytest.mark.parametrize("engine", ENGINES)
def test_by_hand(engine, capfd):
    boxes = [(1, 2, [10, 10, 100, 100]), (2, 2, [10, 10, 100, 100]), (2, 5, [200, 200, 20, 20])]
    perfect = score_detections(truth(boxes), found(*((i, c, b, 0.5) for i, c, b in boxes)), engine)
    assert perfect.stats == pytest.approx({**dict.fromkeys(STATS, 1.0), "AP_medium": -1.0, "AR_medium": -1.0})
    assert perfect.per_class.keys() == {"c2", "c5"}
    assert all(values == pytest.approx({"AP": 1.0, "AP50": 1.0}) for values in perfect.per_class.values())
    assert list(perfect.stats) == list(STATS)
    # class 2: one of two is found, at IoU 0.8 (7 of 10 thresholds, 51 of 101 points of recall); class 5: a false positive ranks first
    rows = found((1, 2, [10, 10, 100, 80], 0.9), (1, 5, [0, 0, 20, 20], 0.9), (2, 5, [200, 200, 20, 20], 0.8))
    half = score_detections(truth(boxes), rows, engine)
    assert half.per_class["c2"]["AP50"] == pytest.approx(51 / 101)
    assert half.per_class["c2"]["AP"] == pytest.approx(51 / 101 * 0.7)
    assert half.per_class["c5"] == pytest.approx({"AP": 0.5, "AP50": 0.5})
    assert half.stats["AP"] == pytest.approx((51 / 101 * 0.7 + 0.5) / 2)
    assert half.stats["AP50"] == pytest.approx((51 / 101 + 0.5) / 2)
    assert half.stats["AP_small"] == pytest.approx(0.5)
    assert half.stats["AR100"] == pytest.approx((0.5 * 0.7 + 1) / 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("engine", ENGINES)
def test_images_without_detections_count(engine):
    one = [(1, 2, [10, 10, 100, 100])]
    both = [*one, (2, 2, [10, 10, 100, 100])]
    results = found((1, 2, [10, 10, 100, 100], 0.9))
    assert score_detections(truth(one), results, engine).stats["AP50"] == pytest.approx(1.0)
    assert score_detections(truth(both), results, engine).stats["AP50"] == pytest.approx(51 / 101)
    swapped = found((2, 2, [10, 10, 100, 100], 0.9))
    assert score_detections(truth(one), swapped, engine).stats["AP50"] == 0.0, "images are paired by id"


@pytest.mark.parametrize("engine", ENGINES)
def test_no_detection_is_zero_and_no_box_is_undefined(engine):
    boxes = [(1, 2, [10, 10, 100, 100])]
    scores = score_detections(truth(boxes), [], engine)
    undefined = {"AP_small", "AP_medium", "AR_small", "AR_medium"}
    assert scores.stats == {name: -1.0 if name in undefined else 0.0 for name in STATS}
    assert scores.per_class == {"c5": {"AP": -1.0, "AP50": -1.0}, "c2": {"AP": 0.0, "AP50": 0.0}}
    for results in ([], found((1, 2, [1, 1, 5, 5], 0.5))):
        assert score_detections(truth([]), results, engine).stats == dict.fromkeys(STATS, -1.0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_typed_failure(engine, value):
    boxes = [(1, 2, [10, 10, 100, 100])]
    for row in ((1, 2, [1, 1, 5, 5], value), (1, 2, [1, value, 5, 5], 0.5)):
        with pytest.raises(JobError, match="diverged: a detection of image 1 has") as caught:
            score_detections(truth(boxes), found(row), engine)
        assert caught.value.reason == "diverged"


@pytest.mark.parametrize("engine", ENGINES)
def test_strangers_are_refused(engine):
    for row in ((9, 2, [1, 1, 5, 5], 0.5), (1, 9, [1, 1, 5, 5], 0.5)):
        with pytest.raises(ValueError, match="expected results of the split's images and categories"):
            score_detections(truth([(1, 2, [10, 10, 100, 100])]), found(row), engine)


def test_log_line_of_the_old_program():
    boxes = [(1, 2, [10, 10, 100, 100]), (2, 2, [10, 10, 100, 100])]
    scores = score_detections(truth(boxes), found((1, 2, [10, 10, 100, 80], 0.9)))
    assert scores_line(scores) == "current valid perfs [mAP: 35.3, AP50: 50.5, AP_small: -1.0, AP_medium: -1.0, AP_large: 35.3]"
    assert scores.document()["per_class"]["c2"]["AP50"] == scores.document()["AP50"]
