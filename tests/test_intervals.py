"""Bootstrap of AP over images: each draw is the AP of the data set that has its images as often."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_core.metrics import score_detections
from spnas_core.report.intervals import interval, match_detections, score_draws

IMAGES, CLASSES = 6, (3, 8)


def made(seed: int, quality: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of two classes on six images, some of them crowds, and detections of them, the more of them right the higher the quality."""
    rng = np.random.default_rng(seed)
    marks, results = [], []
    for image in range(1, IMAGES + 1):
        for _ in range(rng.integers(0, 5)):
            box = [*rng.integers(0, 60, 2).tolist(), *rng.integers(10, 40, 2).tolist()]
            kind = int(rng.choice(CLASSES))
            crowd = int(rng.random() < 0.1)
            marks.append(
                {"id": len(marks) + 1, "image_id": image, "category_id": kind, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            )
            for _ in range(rng.integers(0, 3)):
                moved = (np.array(box) + rng.normal(0, 1 if rng.random() < quality else 15, 4)).clip(1).tolist()
                named = kind if rng.random() < quality else int(rng.choice(CLASSES))
                results.append({"image_id": image, "category_id": named, "bbox": moved, "score": float(rng.random())})
    categories = [{"id": kind, "name": str(kind)} for kind in CLASSES]
    images = [{"id": image, "width": 100, "height": 100} for image in range(1, IMAGES + 1)]
    return {"images": images, "annotations": marks, "categories": categories}, results


def drawn(annotations: dict[str, Any], results: list[dict[str, Any]], counts: list[int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The data set with each image so many times, under new ids, and its detections."""
    images, marks, found = [], [], []
    for image, count in zip(annotations["images"], counts, strict=True):
        for _ in range(count):
            number = len(images) + 1
            images.append({**image, "id": number})
            own = [mark for mark in annotations["annotations"] if mark["image_id"] == image["id"]]
            marks += [{**mark, "id": len(marks) + place, "image_id": number} for place, mark in enumerate(own, start=1)]
            found += [{**one, "image_id": number} for one in results if one["image_id"] == image["id"]]
    return {**annotations, "images": images, "annotations": marks}, found


@given(st.integers(0, 200), st.lists(st.integers(0, 3), min_size=IMAGES, max_size=IMAGES).filter(any))
@settings(max_examples=60)
def test_a_draw_is_the_ap_of_its_data_set(seed: int, counts: list[int]) -> None:
    annotations, results = made(seed, 0.7)
    ap = match_detections(annotations, results).ap(np.array([[1] * IMAGES, counts]))
    assert ap[0] == pytest.approx(score_detections(annotations, results).stats["AP"], abs=1e-12) or np.isnan(ap[0])
    expected = score_detections(*drawn(annotations, results, counts)).stats["AP"]
    assert np.isnan(ap[1]) if expected < 0 else ap[1] == pytest.approx(expected, abs=1e-9)


def test_no_detections_are_an_ap_of_0_and_no_objects_of_none() -> None:
    annotations, results = made(1, 0.9)
    ones = np.ones((1, IMAGES), np.int64)
    assert match_detections(annotations, []).ap(ones) == [0.0]
    assert np.isnan(match_detections({**annotations, "annotations": []}, results).ap(ones)[0])


def test_what_is_better_is_told_from_what_is_equal() -> None:
    sets = [made(seed, 0.9) for seed in range(1, 40)]
    parts = []
    for offset, (annotations, results) in enumerate(sets):
        shift = offset * IMAGES
        parts.append(
            (
                [{**one, "id": one["id"] + shift} for one in annotations["images"]],
                [{**one, "image_id": one["image_id"] + shift} for one in annotations["annotations"]],
                [{**one, "image_id": one["image_id"] + shift} for one in results],
            )
        )
    images, marks, good = ([one for part in parts for one in part[number]] for number in range(3))
    annotations = {**sets[0][0], "images": images, "annotations": [{**mark, "id": number} for number, mark in enumerate(marks, start=1)]}
    rng = np.random.default_rng(0)
    worse = [{**one, "score": float(rng.random())} for one in good]  # an order by chance
    best = [{**one, "score": 0.5 + 0.5 * one["score"]} for one in good]  # the same order
    sharp = [one for one in good if one["score"] > 0.2] + [{**one, "score": one["score"] / 100} for one in good if one["score"] <= 0.2]
    matched = {
        name: score_draws(match_detections(annotations, one))
        for name, one in {"good": good, "best": best, "worse": worse, "sharp": sharp}.items()
    }
    same = interval(matched["good"], matched["best"])
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    assert not same.means_something
    none = interval(matched["good"], score_draws(match_detections(annotations, [])))
    assert none.means_something
    assert none.low > 0
    assert none.ahead == 1.0
    chance = interval(matched["good"], matched["worse"])
    assert chance.low <= chance.mean <= chance.high
    back = interval(matched["worse"], matched["good"])
    assert (back.mean, back.low, back.high) == pytest.approx((-chance.mean, -chance.high, -chance.low))
