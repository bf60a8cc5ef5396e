"""The data sets that tools have really written, of the shared data, read as they are: every box on its object, or one line."""

import json
from pathlib import Path

import pytest
from command_line import spnas

from spnas_core.data import images
from spnas_core.data.fingerprints import verify_images
from spnas_core.data.splits import DataSet
from spnas_core.errors import UserError

CASES = Path(__file__).parents[2] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.exists(), reason="the shared data is not there")
# images, boxes to learn and crowds of each split
READ = {
    "01-roboflow-coco-layout": {"train": (6, 12, 0), "val": (3, 6, 0), "test": (3, 6, 0)},
    "02-roboflow-bbox-strings": {"train": (6, 12, 0), "val": (3, 6, 0)},
    "03-roboflow-two-categories-of-one-name": {"train": (6, 6, 0), "val": (3, 3, 0)},
    "04-cvat-coco-default": {"all": (8, 16, 0)},
    "05b-cvat-masks-most-crowd": {"train": (10, 4, 16), "val": (10, 4, 16)},
    "06a-labelstudio-layout": {"all": (8, 16, 0)},
    "06b-labelstudio-backslash": {"train": (6, 12, 0), "val": (3, 6, 0)},
    "07-fiftyone-layout": {"train": (6, 12, 0), "val": (3, 6, 0)},
    "08-iscrowd-text": {"train": (6, 12, 0), "val": (3, 6, 0)},
    "09-broken-exif": {"train": (9, 18, 0), "val": (9, 18, 0)},
    "10a-voc-filename-of-another": {"train": (5, 10, 0), "val": (3, 6, 0)},
    "10c-voc-blanks-in-names": {"train": (5, 10, 0), "val": (3, 6, 0)},
    "10d-voc-bom-crlf-lists": {"train": (5, 10, 0), "val": (3, 6, 0)},
    "10e-voc-beside-pictures": {"train": (4, 8, 0), "val": (4, 8, 0), "test": (4, 8, 0)},
    "10g-voc-subfolders": {"train": (4, 8, 0), "val": (2, 4, 0)},
    "11a-yolo-lists-flat": {"train": (4, 8, 0), "val": (2, 4, 0)},
    "11b-yolo-lists-are-a-part": {"train": (3, 6, 0), "val": (2, 4, 0)},
    "11c-cvat-ultralytics-yolo": {"train": (5, 10, 0), "val": (3, 6, 0)},
    "11e-labelimg-yolo-beside": {"train": (4, 8, 0), "val": (4, 8, 0)},
    "12a-yolo-pose-2d": {"train": (4, 8, 0), "val": (4, 8, 0)},
    "13a-yolo-class-as-float": {"train": (4, 8, 0), "val": (4, 8, 0)},
    "13b-yolo-bom-crlf": {"train": (4, 8, 0), "val": (4, 8, 0)},
    "13c-yolo-classes-txt-bom": {"train": (4, 8, 0), "val": (4, 8, 0)},
    "13e-yolo-names-text-keys": {"train": (4, 8, 0), "val": (4, 8, 0)},
    "14-yolo-segments-mixed": {"train": (4, 8, 0), "val": (4, 8, 0)},
    "16-val-without-boxes": {"train": (6, 12, 0), "val": (3, 0, 0)},
    "21-odd-file-names": {"train": (16, 32, 0), "val": (16, 32, 0)},
    "23-letter-case": {"train": (3, 6, 0), "val": (3, 6, 0)},
    "28-test-split-other-category-ids": {"train": (8, 16, 0), "val": (4, 8, 0), "test": (4, 8, 0)},
}
REFUSED = {
    "13g-yolo-names-too-few": "expected one of the 1 classes that have a name, got class 1",
    "26-category-ids-huge": "expected a whole number >= 0 and < 2^63 as 'id', got 18446744073709551617",
}
COLOURS = {"red": (0, 2), "blue": (2, 0)}  # of objects of these classes: a channel, and one that it is far above


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about broken EXIF
@pytest.mark.parametrize("case", READ)
def test_a_case_is_read_as_it_is(case: str) -> None:
    data = DataSet(str(CASES / case))
    splits = {name: data.split(name) for name in data.names}
    found = {name: (len(one.samples), int(one.box_counts.sum()), int(one.marks["iscrowd"].sum())) for name, one in splits.items()}
    assert found == READ[case]
    on, boxes = 0, 0
    for split in splits.values():
        verify_images(split)
        for sample in split.samples:
            pixels = images.decode_image(Path(sample.file)).astype(float)
            for box, label in zip(sample.boxes.round().astype(int), sample.labels, strict=True):
                mean = pixels[box[1] : box[3], box[0] : box[2]].mean((0, 1))
                high, low = COLOURS.get(split.class_names[label - 1], (0, 0))
                on, boxes = on + int(mean[high] > mean[low] + 40), boxes + int(high != low)
    assert on >= 0.87 * boxes, "one object in ten may lie below another"


@pytest.mark.parametrize("case", REFUSED)
def test_a_case_that_cannot_be_meant_is_one_line(case: str) -> None:
    with pytest.raises(UserError) as caught:
        DataSet(str(CASES / case)).split("train")
    assert REFUSED[case] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert spnas("check", CASES / case, "--preset", "smoke")[0] == 1


def test_crowds_are_counted_apart_and_a_way_out_is_told() -> None:
    status, out, _ = spnas("check", CASES / "05b-cvat-masks-most-crowd", "--preset", "smoke", "--json")
    report = json.loads(out)
    assert status == 1
    assert [(one["boxes"], one["crowds"]) for one in report["splits"].values()] == [(4, 16), (4, 16)]
    assert all("data.crowds=learn" in one["advice"] for one in report["findings"] if one["kind"] == "many-crowds")
    status, out, _ = spnas("check", CASES / "05b-cvat-masks-most-crowd", "--preset", "smoke", "--json", "--set", "data.crowds=learn")
    assert [(one["boxes"], one["crowds"]) for one in json.loads(out)["splits"].values()] == [(20, 0), (20, 0)]


def test_val_without_boxes_is_refused_before_a_training(tmp_path: Path) -> None:
    status, _, err = spnas("run", "smoke", "--data", CASES / "16-val-without-boxes", "--store", tmp_path / "store")
    assert (status, err.count("\n")) == (2, 1)
    assert "val: expected boxes to score with, got none" in err
    assert not list((tmp_path / "store").glob("train"))
