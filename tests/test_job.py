"""What is in the digest of a job: every field on which its result may depend, and no other."""

import json
import math
import random
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from spnas_core import job as jobs
from spnas_core.job import (
    BenchmarkJob,
    Data,
    EvaluateJob,
    MeasureJob,
    PathsJob,
    ReigniteJob,
    SupernetJob,
    TrainJob,
    Weights,
    canonical_json,
    digest,
)
from spnas_core.settings.detector import Detector
from spnas_core.settings.reading import Reading
from spnas_core.settings.supernet import FamilySpace, PathTraining
from spnas_core.settings.training import Recipe, Reignite

ARCH = "b_1111-1111_0-0"
READING = Reading(splits={"train": "a"}, split_file="s", annotations={"train": "t"}, images="i", crowds="learn", max_pixels=9, bits=12)
COMMON: dict[str, Any] = {
    "arch": ARCH,
    "detector": Detector(taps=(0, 1), soft_nms="linear"),
    "data": Data(url="here", fingerprint="f", reading=READING, fold=(0, 2)),
    "weights": (Weights(kind="train", digest="a" * 64, arch=ARCH),),
}
FROM_FILE = {"checkpoint": "net.pth", "checkpoint_sha256": "b" * 64, "checkpoint_coverage": 0.5}
FAMILY: dict[str, Any] = {"family": FamilySpace(), "blocks": (8, 12), "recipe": Recipe(clip_norm=1.0)}
EXAMPLES = (
    TrainJob(recipe=Recipe(clip_norm=1.0), stop_after_epochs=1, resume_from="c" * 64, **FROM_FILE, **COMMON),
    ReigniteJob(recipe=Reignite(data="folder", stem="3x3"), images="d", **COMMON),
    EvaluateJob(split="val", **COMMON),
    BenchmarkJob(arch=ARCH, detector=COMMON["detector"], classes=3, device_target="CPU", threads=2),
    MeasureJob(recipe=Recipe(clip_norm=1.0), **{name: COMMON[name] for name in ("arch", "detector", "data")}),
    SupernetJob(paths=PathTraining(), **FAMILY, **COMMON),
    PathsJob(calibration=3, members=(ARCH,), **FAMILY, **COMMON),
)  # with a value in every optional field
PLACES = {f"data.reading.{name}" for name in ("splits", "split_file", "annotations", "images", "max_pixels")}  # the fingerprint tells
WITHOUT_EFFECT = PLACES | {"data.url", "data.strict", "checkpoint", "checkpoint_coverage", "resume_from", "recipe.data"}


def changes(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, BaseModel]]:
    """Every field below `model`, by its path, and `model` with another value there; fields that have only one value are left out."""
    for name, field in type(model).model_fields.items():
        value, path = getattr(model, name), f"{prefix}{name}"
        assert value is not None, f"{path}: give the example a value"
        if isinstance(value, BaseModel):
            below: list[tuple[str, Any]] = list(changes(value, f"{path}."))
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            below = [(inner, (changed, *value[1:])) for inner, changed in changes(value[0], f"{path}.0.")] + [(path, value[1:])]
        else:
            below = [(path, other) for other in another(value, field.annotation)]
        yield from ((inner, model.model_copy(update={name: changed})) for inner, changed in below)


def another(value: Any, annotation: Any) -> list[Any]:
    """Another value of the same type, if there is one."""
    if isinstance(value, dict):
        return [{**value, "val": "another"}]
    allowed = [choice for kind in (annotation, *get_args(annotation)) if get_origin(kind) is Literal for choice in get_args(kind)]
    if allowed:
        return [choice for choice in allowed if choice != value][:1]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, tuple):
        return [(*another(value[0], None), *value[1:])] if value else []
    if isinstance(value, float):
        return [value / 2 or 0.5]  # which every limit allows
    return [value + 1 if isinstance(value, int) else value + "1"]


CHANGES = [(job, path, changed) for job in EXAMPLES for path, changed in changes(job)]


@pytest.mark.parametrize(("job", "path", "changed"), [pytest.param(*one, id=f"{one[0].kind}-{one[1]}") for one in CHANGES])
def test_every_field_of_every_job_counts_unless_no_result_depends_on_it(job: Any, path: str, changed: Any) -> None:
    assert changed != job
    assert (digest(changed) == digest(job)) == (path in WITHOUT_EFFECT)


def test_every_kind_of_job_and_every_exception_is_among_them() -> None:
    assert {type(job) for job in EXAMPLES} == set(get_args(get_args(jobs.Job)[0]))
    assert {path for _, path, _ in CHANGES} >= WITHOUT_EFFECT
    assert len({digest(job) for job in EXAMPLES}) == len(EXAMPLES)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (TrainJob, {"recipe": Recipe(), "checkpoint": "net.pth"}, "expected checkpoint and checkpoint_sha256 together"),
        (TrainJob, {"recipe": Recipe(), "checkpoint_sha256": "b" * 64}, "expected checkpoint and checkpoint_sha256 together"),
        (ReigniteJob, {"recipe": Reignite(data="folder")}, "expected recipe.data and images, its fingerprint, together"),
        (ReigniteJob, {"recipe": Reignite(), "images": "d"}, "expected recipe.data and images, its fingerprint, together"),
    ],
)
def test_what_lies_outside_of_the_job_needs_its_fingerprint(kind: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**given, **COMMON)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def shuffled(value: Any, order: random.Random) -> Any:
    """The same value, its keys in another order."""
    if isinstance(value, list):
        return [shuffled(one, order) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: shuffled(value[key], order) for key in order.sample(list(value), len(value))}


@settings(max_examples=50)
@given(VALUES, st.randoms())
def test_equal_values_give_equal_text_and_the_text_gives_the_value(value: Any, order: random.Random) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(shuffled(value, order)) == text
    assert text.isascii()


def test_the_text_itself() -> None:
    assert canonical_json({"b": [1, 1.0, 1e-05, 0.1], "a": "ü\n", "A": None}) == '{"A":null,"a":"\\u00fc\\n","b":[1,1.0,1e-05,0.1]}'
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json({"a": [value]})


def test_heads_that_a_search_may_take_are_no_part_of_a_job() -> None:
    job = next(one for one in EXAMPLES if isinstance(one, TrainJob))
    others = job.detector.model_copy(update={"other_heads": [{"kind": "retinanet"}]})
    assert digest(job.model_copy(update={"detector": others})) == digest(job)
