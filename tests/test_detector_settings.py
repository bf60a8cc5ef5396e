"""Settings of a detector under the keys of 27 November 2026 (05e37c1) and under the present ones: one value, one document for digests."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import presets
from spnas_core.arch import ArchError, parse
from spnas_core.cost import half, stage_sizes
from spnas_core.errors import UserError
from spnas_core.necks import parse_neck
from spnas_core.necks.fpn import Fpn
from spnas_core.settings.detector import CascadeRcnnHead, Detector, FasterRcnnHead

FORMER: dict[str, Any] = {  # what that version wrote for `Detector()`
    "image_size": [800, 1344], "base_width": 64, "stem": "7x7", "norm": "train", "norm_epsilon": 1e-05, "frozen_stages": 0,
    "share_weights": True, "fpn_channels": 256, "taps": None, "head_channels": 1024, "anchor_scale": 8.0, "anchor_ratios": [0.5, 1.0, 2.0],
    "rpn_batch": 256, "proposals_train": 2000, "proposals_test": 1000, "rpn_nms": 0.7, "cascade": False, "roi_batch": 512,
    "max_boxes": 100, "score_threshold": 0.05, "box_nms": 0.5, "soft_nms": None, "soft_nms_sigma": 0.5, "detections": 100,
}  # fmt: skip
FORMER_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "fpn_channels": st.integers(1, 999),
        "taps": st.none() | st.lists(st.integers(0, 6), max_size=7),
        "head_channels": st.integers(1, 999),
        "anchor_ratios": st.lists(st.floats(0.1, 10), min_size=1, max_size=4),
        "rpn_nms": st.floats(0.1, 1),
        "cascade": st.booleans(),
        "soft_nms": st.sampled_from([None, "linear", "gaussian"]),
        "detections": st.integers(1, 999),
    },
)


@given(FORMER_VALUES)
def test_former_documents_are_read_and_give_the_document_of_digests(values: dict[str, Any]) -> None:
    former = FORMER | values
    settings = Detector.model_validate(former)
    assert settings == Detector.model_validate_json(json.dumps(values)) == Detector().model_copy(update=values)
    assert settings.former_document() == former
    assert Detector.model_validate_json(settings.model_dump_json()) == settings
    assert settings.head.kind == ("cascade_rcnn" if former["cascade"] else "faster_rcnn")
    assert (settings.neck.channels, settings.head.head_channels) == (former["fpn_channels"], former["head_channels"])


def test_the_default_is_the_former_one() -> None:
    assert Detector().former_document() == FORMER
    assert (Detector().neck, Detector().head) == (Fpn(), FasterRcnnHead())
    assert Detector(head={"anchor_scale": 4}, neck={"channels": 3}) == Detector(anchor_scale=4, fpn_channels=3)
    assert Detector(head=CascadeRcnnHead(rpn_batch=3), fpn_channels=4) == Detector(cascade=True, rpn_batch=3, neck=Fpn(channels=4))


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["detector.cascade=true"], {"cascade": True}),
        (["detector.head.kind=cascade_rcnn"], {"cascade": True}),
        (["detector.head_channels=63"], {"head_channels": 63}),
        (["detector.head_channels=63", "detector.head.head_channels=62"], {"head_channels": 62}),
        (["detector.head.head_channels=62", "detector.head_channels=63"], {"head_channels": 63}),
        (["detector.neck.channels=63", "detector.taps=[1, 1]"], {"fpn_channels": 63, "taps": [1, 1]}),
        (["detector={cascade: true, neck: {channels: 5}}", "detector.cascade=no"], {"fpn_channels": 5, "cascade": False}),
    ],
)
def test_the_last_of_several_settings_holds_under_either_name(sets: list[str], expected: dict[str, Any]) -> None:
    before = {} if sets[0].startswith("detector=") else presets.load_preset("demo").detector.former_document()
    assert presets.load_preset("demo", sets).detector.former_document() == FORMER | before | expected


def test_a_copy_with_a_wrong_value_is_refused() -> None:
    for update in ({"taps": "x"}, {"cascades": True}, {"head_channels": 0}):
        with pytest.raises(ValueError, match="1 validation error for Detector"):
            Detector().model_copy(update=update)


def test_one_wrong_value_of_the_head_leaves_the_others_as_they_are() -> None:
    settings, mistakes = presets.read_preset("smoke", ["detector.head.anchor_scale=-1"])
    assert mistakes == ["smoke: detector.head.anchor_scale: expected greater than 0, got -1"]
    assert settings == presets.load_preset("smoke", ["detector.head.anchor_scale=8"])


@given(st.integers(1, 9999), st.none() | st.lists(st.integers(0, 6), max_size=7).map(tuple))
def test_a_neck_has_one_text(channels: int, taps: tuple[int, ...] | None) -> None:
    neck = Fpn(channels=channels, taps=taps)
    assert parse_neck(neck.text) == neck
    assert Fpn(channels=64, taps=(1, 1, 2, 3)).text == "fpn64(1-1-2-3)"


@pytest.mark.parametrize("text", ["", "fpn", "fpn0", "fpn064", "fpn64(", "fpn64(1--2)", "fpn64(1-)", "pan64", "fpn64 ", "fpn-1"])
def test_what_is_no_text_of_a_neck_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="neck: expected a text such as fpn256"):
        parse_neck(text)


def test_outputs_of_a_pyramid() -> None:
    arch, size = parse("b_11-21-21-21"), (75, 101)
    sizes = stage_sizes(arch, size)
    outputs = Fpn(taps=(1, 1)).outputs(arch, size)
    assert [output.size for output in outputs] == [sizes[1], sizes[1], sizes[2], sizes[3], half(sizes[3])]
    assert [output.stride for output in outputs] == [8, 8, 16, 32, 64]
    assert [output.scale for output in outputs] == [4, 8, 16, 32, 64]
    assert [output.extra for output in outputs] == [False] * 4 + [True]
    with pytest.raises(ArchError, match="expected taps of at most 4 levels, each from 0 to 3"):
        Fpn(taps=(4,)).reads(arch)
