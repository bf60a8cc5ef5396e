"""`spnas check`: each of many ways to break a small real data set is found, and nothing else; real clean data stays clean."""

import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked import read, write
from PIL import Image
from raw_pictures import chunk, png_header, tiff

from flows import presets
from spnas_core.check import dataset as check
from spnas_core.data.finding_kinds import FINDING_KINDS

BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
ANCHORS = {"unreached", "better-anchors"}  # measures of the clean data too
SETTINGS = presets.load_preset("demo", ["detector.max_boxes=6"])
Found = set[tuple[str, str, int]]
Break = Callable[[Path, dict[str, Any]], None]


def found(folder: Path | str) -> Found:
    findings = check.inspect(str(folder), SETTINGS).findings
    return {(one.kind, one.where, one.count) for one in findings if one.kind not in ANCHORS}


def image(folder: Path, number: int = 1, split: str = "train") -> Path:
    return folder / "images" / split / f"{number:04d}.jpg"


def saved(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


def turned(folder: Path, orientation: int, size: tuple[int, int] | None = None) -> None:
    """Give the first image an EXIF orientation, and perhaps another size."""
    with Image.open(image(folder)) as picture:
        exif = picture.getexif()
        exif[0x0112] = orientation
        image(folder).write_bytes(saved(picture.resize(size or picture.size), exif=exif, quality=90))


def put(folder: Path, number: int, content: bytes, split: str = "train") -> None:
    image(folder, number, split).write_bytes(content)


def boxes_as(change: Callable[[list[float]], list[float]]) -> Break:
    """Write every box of train in another form."""

    def edit(folder: Path, document: dict[str, Any]) -> None:
        for mark in document["annotations"]:
            mark["bbox"] = change(mark["bbox"])

    return edit


def box(value: list[Any]) -> Break:
    return lambda folder, document: document["annotations"][0].update(bbox=value)


def again(folder: Path, document: dict[str, Any], **changes: Any) -> None:
    """Add the first annotation once more, changed."""
    document["annotations"].append({**document["annotations"][0], "id": 10_000, **changes})


def lost_end(folder: Path, document: dict[str, Any]) -> None:
    content = image(folder).read_bytes()
    put(folder, 1, content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def with_thumbnail(folder: Path) -> bytes:
    """Give the first image a whole JPEG file in its EXIF data, as cameras do."""
    with Image.open(image(folder)) as picture:
        exif = picture.getexif()
        exif[0x010E] = saved(picture.resize((64, 48)))
        return saved(picture, exif=exif, quality=90)


def with_trailer(folder: Path, document: dict[str, Any]) -> None:
    put(folder, 1, with_thumbnail(folder) + b"film \xff\xda without an end")


def thumbnail_alone(folder: Path, document: dict[str, Any]) -> None:
    content = with_thumbnail(folder)
    assert content.count(b"\xff\xd9") == 2
    put(folder, 1, content[:-400] + bytes(400))


def truncated(folder: Path, document: dict[str, Any]) -> None:
    put(folder, 1, image(folder).read_bytes()[:-300])


def many_boxes(folder: Path, document: dict[str, Any]) -> None:
    home = document["annotations"][0]["image_id"]
    document["annotations"] += [
        {"id": 10_000 + n, "image_id": home, "category_id": 1, "bbox": [4.0 + 30 * n, 2.0, 25.0, 20.0 + n]} for n in range(7)
    ]


def another_image(folder: Path, document: dict[str, Any]) -> None:
    """List one more image, which has no boxes."""
    put(folder, 99, saved(Image.effect_noise((256, 192), 90).convert("RGB")))
    document["images"].append({"id": 99, "file_name": "0099.jpg", "width": 256, "height": 192})


def no_boxes_in(category: int) -> Break:
    def edit(folder: Path, document: dict[str, Any]) -> None:
        for mark in document["annotations"]:
            mark["category_id"] = category % 4 + 1 if mark["category_id"] == category else mark["category_id"]

    return edit


def unused(folder: Path, document: dict[str, Any]) -> None:
    for split in ("train", "val"):
        whole = document if split == "train" else read(folder, split)
        whole["categories"].append({"id": 9, "name": "nine"})
        write(folder, split, whole)


def rare(folder: Path, document: dict[str, Any]) -> None:
    """Leave one box of category 1, and make those of category 2 more than a hundred, in images of their own."""
    first = next(mark for mark in document["annotations"] if mark["category_id"] == 1)
    for mark in document["annotations"]:
        mark["category_id"] = 2 if mark is not first and mark["category_id"] == 1 else mark["category_id"]
    for n in range(100, 130):
        put(folder, n, saved(Image.fromarray(np.random.default_rng(n).integers(0, 255, (192, 256, 3), dtype=np.uint8))))
        document["images"].append({"id": n, "file_name": f"{n:04d}.jpg", "width": 256, "height": 192})
        for k in range(5):
            mark = {"id": 10_000 + 10 * n + k, "image_id": n, "category_id": 2, "bbox": [10.0 + 45 * k, 20.0 + n, 30.0, 28.0]}
            document["annotations"].append(mark)


def in_values(scale: float, kind: type[np.generic]) -> Break:
    """Write the first image as grey values, as a TIFF of another kind of numbers."""

    def edit(folder: Path, document: dict[str, Any]) -> None:
        with Image.open(image(folder)) as picture:
            put(folder, 1, tiff((np.asarray(picture.convert("L")) * scale).astype(kind)))

    return edit


WAYS: dict[str, tuple[Break, Found]] = {
    "an image has too many pixels": (
        lambda f, d: put(f, 1, png_header(20_000, 10_000) + chunk(b"IDAT", b"")),
        {("too-many-pixels", "train", 1)},
    ),
    "an image has floating-point pixels": (in_values(1.0, np.float32), {("pixel-format", "train", 1)}),
    "an image has 10 bits in 16": (in_values(4.0, np.uint16), {("few-bits", "train", 1)}),
    "an image has 12 bits in 16": (in_values(16.0, np.uint16), {("few-bits", "train", 1)}),
    "nothing: an image has 16 bits": (in_values(256.0, np.uint16), set()),
    "an image has values over 16 bits": (in_values(1000.0, np.int32), {("cut-values", "train", 1)}),
    "an image is missing": (lambda f, d: image(f).unlink(), {("missing-image", "train", 1)}),
    "an image name leads out": (
        lambda f, d: d["images"][0].update(file_name="../../x.jpg"),
        {("missing-image", "train", 1), ("unlisted-image", "data", 1)},
    ),
    "an image is truncated": (truncated, {("broken-image", "train", 1)}),
    "the end of an image is filled with zeros": (lost_end, {("broken-image", "train", 1)}),
    "nothing: an image has a thumbnail before it and a film behind it": (with_trailer, set()),
    "the end is lost of an image with a thumbnail": (thumbnail_alone, {("broken-image", "train", 1)}),
    "an image is a text": (lambda f, d: put(f, 2, b"<html>404</html>"), {("broken-image", "train", 1)}),
    "an image is there twice": (lambda f, d: put(f, 2, image(f).read_bytes()), {("duplicate-image", "train", 1)}),
    "an image is there again, saved anew": (
        lambda f, d: put(f, 2, saved(Image.open(image(f)), quality=40)),
        {("similar-image", "train", 1)},
    ),
    "an image of train is in val": (lambda f, d: put(f, 3, image(f).read_bytes(), "val"), {("leak", "train and val", 1)}),
    "an image of train is in val, saved anew": (
        lambda f, d: put(f, 3, saved(Image.open(image(f)), quality=40), "val"),
        {("similar-leak", "train and val", 1)},
    ),
    "an image has another size": (
        lambda f, d: put(f, 1, saved(Image.open(image(f)).resize((128, 96)))),
        {("wrong-size", "train", 1)},
    ),
    "boxes are drawn before the EXIF rotation": (lambda f, d: turned(f, 6), {("drawn-unrotated", "train", 1)}),
    "an image is turned by EXIF": (lambda f, d: turned(f, 8, (192, 256)), {("rotated", "train", 1)}),
    "an image is upside down by EXIF": (lambda f, d: turned(f, 3), {("unsure-rotation", "train", 1)}),
    "an image is not listed": (lambda f, d: put(f, 98, saved(Image.effect_noise((64, 64), 90))), {("unlisted-image", "data", 1)}),
    "an image is listed twice": (lambda f, d: d["images"].append({**d["images"][0], "id": 99}), {("repeated-image", "train", 1)}),
    "an image has no boxes": (another_image, {("image-without-boxes", "train", 1)}),
    "a split lists no images": (lambda f, d: d.update(images=[], annotations=[]), {("no-images", "train", 1)}),
    "a split is missing": (lambda f, d: (f / "annotations/instances_val.json").unlink(), {("missing-split", "data", 1)}),
    "all boxes are crowds": (
        lambda f, d: d.update(annotations=[{**mark, "iscrowd": 1} for mark in d["annotations"]]),
        {("all-crowds", "train", 1)},
    ),
    "a split has no boxes": (lambda f, d: d["annotations"].clear(), {("no-boxes", "train", 1)}),
    "an image has many boxes": (many_boxes, {("too-many-boxes", "train", 1)}),
    "a box reaches out": (box([200.0, 100.0, 80.0, 60.0]), {("clipped", "train", 1)}),
    "a box is outside": (box([300.0, 100.0, 40.0, 30.0]), {("outside", "train", 1)}),
    "a box has no area": (box([20.0, 20.0, 0.0, 30.0]), {("zero-area", "train", 1)}),
    "a box has a negative side": (box([60.0, 60.0, -20.0, 30.0]), {("swapped-corners", "train", 1)}),
    "a box is normalised": (box([0.2, 0.3, 0.4, 0.25]), {("normalised", "train", 1)}),
    "all boxes are normalised": (
        boxes_as(lambda b: [b[0] / 256, b[1] / 192, b[2] / 256, b[3] / 192]),
        {("normalised", "train", -1)},
    ),
    "all boxes are xyxy": (boxes_as(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]), {("xyxy", "train", -1)}),
    "a box has three numbers": (box([1.0, 2.0, 3.0]), {("malformed", "train", 1)}),
    "a box is not a number": (box([1.0, 2.0, 3.0, float("nan")]), {("malformed", "train", 1)}),
    "a box is there twice": (again, {("duplicate-box", "train", 1)}),
    "a box has two categories": (
        lambda f, d: again(f, d, category_id=d["annotations"][0]["category_id"] % 4 + 1),
        {("two-categories", "train", 1)},
    ),
    "a box is nearly there twice": (
        lambda f, d: again(f, d, bbox=[d["annotations"][0]["bbox"][0] + 1, *d["annotations"][0]["bbox"][1:]]),
        {("similar-box", "train", 1)},
    ),
    "an annotation id is used twice": (lambda f, d: d["annotations"][0].update(id=2), {("annotation-id", "train", 1)}),
    "an image id is used twice": (
        lambda f, d: (another_image(f, d), d["images"][-1].update(id=1)),  # type: ignore[list-item]
        {("image-id", "train", 1)},
    ),
    "a box is of no image": (lambda f, d: again(f, d, image_id=77), {("dangling-image", "train", 1)}),
    "a box is of no category": (lambda f, d: d["annotations"][0].update(category_id=77), {("undefined-category", "train", 1)}),
    "a category is defined twice": (
        lambda f, d: d["categories"].append({"id": 1, "name": "one"}),
        {("category-twice", "train", 1)},
    ),
    "a category's name is used twice": (
        lambda f, d: (
            [
                write(f, s, {**r, "categories": [*r["categories"][:3], {"id": 4, "name": "0"}]})
                for s, r in (("train", d), ("val", read(f, "val")))
            ]
            and d["categories"][3].update(name="0")
        ),
        {("category-twice", "train", 1), ("category-twice", "val", 1)},
    ),
    "a category is not used": (unused, {("unused-category", "data", 1)}),
    "a category is not in train": (no_boxes_in(3), {("unlearnt-category", "train", 1)}),
    "a category is rare": (rare, {("rare-category", "train", 1)}),
    "a split has other category names": (
        lambda f, d: d["categories"][0].update(name="nought"),
        {("different-categories", "val", 1), ("unlearnt-category", "train", 1)},
    ),
    "a split has other category ids": (
        lambda f, d: (
            [mark.update(category_id=mark["category_id"] + 10) for mark in d["annotations"]]
            and [kind.update(id=kind["id"] + 10) for kind in d["categories"]]
        ),
        {("other-category-ids", "val", 1)},
    ),
    "a split has none of the categories": (
        lambda f, d: [kind.update(name=f"x{kind['id']}") for kind in d["categories"]],
        {("foreign-categories", "val", 1), ("unlearnt-category", "train", 4)},
    ),
    "an image has no width": (lambda f, d: d["images"][0].pop("width"), {("missing-size", "train", 1)}),
    "an image has no name": (
        lambda f, d: d["images"][0].pop("file_name"),
        {("malformed", "train", 1), ("dangling-image", "train", -1), ("unlisted-image", "data", 1)},
    ),
    "images are named by URLs alone": (
        lambda f, d: [image.update(coco_url=f"http://example.org/train/{image.pop('file_name')}") for image in d["images"]],
        {("name-of-url", "train", -1)},
    ),
    "an image id is in quotes": (lambda f, d: d["images"][0].update(id="1"), {("other-id", "train", 1)}),
    "a category id is a broken number": (lambda f, d: d["categories"][0].update(id=1.0), {("other-id", "train", 1)}),
    "a box is in quotes": (
        lambda f, d: d["annotations"][0].update(bbox=[str(value) for value in d["annotations"][0]["bbox"]]),
        {("quoted-number", "train", 1)},
    ),
    "a box is in its polygon alone": (
        lambda f, d: d["annotations"][0].update(bbox=[], segmentation=[[10, 20, 40, 20, 40, 70]]),
        {("box-of-polygon", "train", 1)},
    ),
    "a flag is a text": (lambda f, d: d["annotations"][0].update(iscrowd="0"), {("text-flag", "train", 1)}),
    "a flag says nothing": (lambda f, d: d["annotations"][0].update(iscrowd="perhaps"), {("malformed", "train", 1)}),
    "an entry is there twice": (lambda f, d: d["images"].append(d["images"][0]), {("repeated-entry", "train", 1)}),
    "a category stands above the others": (
        lambda f, d: (
            d["categories"].insert(0, {"id": 0, "name": "digits", "supercategory": "none"}),  # type: ignore[list-item]
            [kind.update(supercategory="digits") for kind in d["categories"][1:]],
        ),
        {("root-category", "train", 1)},
    ),
    "a box is a crowd": (lambda f, d: d["annotations"][0].update(iscrowd=1), {("crowds", "train", 1)}),
    "many boxes are crowds": (
        lambda f, d: [mark.update(iscrowd=1) for mark in d["annotations"][::2]],
        {("many-crowds", "train", -1)},
    ),
    "an image name has another letter case": (
        lambda f, d: d["images"][0].update(file_name=d["images"][0]["file_name"].upper()),
        {("other-spelling", "train", 1)},
    ),
    "there are no categories": (
        lambda f, d: d.pop("categories"),
        {("malformed", "train", 1), ("undefined-category", "train", -1)},
    ),
    "annotations are cut": (lambda f, d: None, {("unreadable", "train", 1)}),
}
OF_LAYOUTS = {
    "split-file",
    "class-order",
    "other-column",
    "shared-label",
    "same-split",
    "repeated-line",
    "other-classes",
    "keypoints",
    "left-out-shape",
    "other-layout",
    "list-of-images",
    "missing-label",
    "missing-image-of-label",
    "difficult",
    "from-zero",
    "unnamed-category",
}


def test_small_data_is_clean(small: Path) -> None:
    assert found(small) == set()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_broken_is_found_and_nothing_else(way: str, small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(small, folder)
    document = read(folder)
    edit, expected = WAYS[way]
    edit(folder, document)
    write(folder, "train", document)
    if way == "annotations are cut":
        path = folder / "annotations/instances_train.json"
        path.write_text(path.read_text()[:-100])
    some = {(kind, where, count if (kind, where, -1) not in expected else -1) for kind, where, count in found(folder)}
    assert some == expected


def test_every_kind_is_broken_by_some_test() -> None:
    assert {kind for _, expected in WAYS.values() for kind, _, _ in expected} | OF_LAYOUTS | ANCHORS | {"no-point"} == FINDING_KINDS.keys()
    assert len(WAYS) >= 20


@pytest.mark.parametrize("way", ["a split lists no images", "a split is missing", "all boxes are crowds", "a split has no boxes"])
def test_what_keeps_a_training_from_starting_is_an_error(way: str) -> None:
    assert {FINDING_KINDS[kind].severity for kind, *_ in WAYS[way][1]} == {"error"}


def test_bccd_has_but_the_faults_that_are_in_it() -> None:
    if not BCCD.exists():
        pytest.skip("the shared data is not there")
    report = check.inspect(str(BCCD), presets.load_preset("bccd"))
    by_kind = {(one.kind, one.where): one for one in report.findings}
    assert {key: one.count for key, one in by_kind.items() if one.kind not in ANCHORS} == {
        ("similar-leak", "train and val"): 1,  # its README says so
        ("similar-box", "train"): 4,  # IoU 0.93; the next pair is at 0.83
        ("similar-box", "val"): 2,
        ("similar-box", "test"): 1,
    }
    assert "BloodImage_00038.jpg and BloodImage_00037.jpg" in by_kind["similar-leak", "train and val"].first
    assert report.document()["splits"]["val"] == {
        "images": 87,
        "images_without_boxes": 0,
        "boxes": 1137,
        "crowds": 0,
        "boxes_per_category": {"WBC": 87, "RBC": 967, "Platelets": 83},
    }


def test_the_demo_data_is_clean(demo_data: Path) -> None:
    report = check.inspect(str(demo_data), presets.load_preset("demo"))
    assert report.clean
    assert {one.kind for one in report.findings} <= ANCHORS


@pytest.mark.long
def test_five_thousand_are_checked_in_twenty_seconds(tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_image

    photographs = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(0)
    (tmp_path / "annotations").mkdir()
    number = 0
    for split, count in {"train": 4000, "val": 1000}.items():
        (tmp_path / "images" / split).mkdir(parents=True)
        entries, marks = [], []
        for _ in range(count):
            number += 1
            w, h = rng.integers(160, 427, 2)
            x, y = rng.integers(0, 640 - w + 1), rng.integers(0, 427 - h + 1)
            picture = photographs[number % 2].resize((640, 480), box=(x, y, x + w, y + h))
            image(tmp_path, number, split).write_bytes(saved(picture.rotate(int(rng.integers(360))), quality=92))
            entries.append({"id": number, "file_name": f"{number:04d}.jpg", "width": 640, "height": 480})
            for k in range(8):
                place = [70.0 * k, float(rng.integers(0, 300)), 60.0, float(rng.integers(20, 160))]
                marks.append({"id": 8 * number + k, "image_id": number, "category_id": k % 4 + 1, "bbox": place})
        write(tmp_path, split, {"images": entries, "annotations": marks, "categories": [{"id": n, "name": str(n)} for n in range(1, 5)]})
    path = image(tmp_path, 1234)
    path.write_bytes(path.read_bytes()[:-500])
    start = time.perf_counter()
    report = check.inspect(str(tmp_path), presets.load_preset("coco"), threads=2)
    seconds = time.perf_counter() - start
    print(f"5,000 images of 640x480 px, {sum(p.stat().st_size for p in tmp_path.rglob('*.jpg')) / 1e6:.0f} MB: {seconds:.1f} s")
    assert [one.first[:8] for one in report.findings if one.kind == "broken-image"] == ["1234.jpg"]
    assert seconds < 20
