"""Reading of COCO splits: what is taken, and one clear line for each kind of bad input."""

import json
import logging
import os
import shutil
import threading

import fsspec
import numpy as np
import pytest
from data_sets import document, encoded, make, picture, write

from spnas_core.data import files, fingerprints, splits
from spnas_core.errors import UserError


def fails(root, match, split="train", **options):
    with pytest.raises(UserError, match=match) as caught:
        splits.open_split(str(root), split, **options)
    assert "\n" not in str(caught.value)


def test_ids_with_gaps_in_any_order_become_sorted_samples_and_labels_from_one(tmp_path):
    make(str(tmp_path))
    split = splits.open_split(str(tmp_path), "train")
    assert [sample.image_id for sample in split.samples] == [11, 21, 31, 41, 51]
    assert split.categories == ((3, "a"), (7, "b"), (90, "c"))
    assert split.class_names == ("a", "b", "c")
    first = split.samples[0]
    assert first.file == str(tmp_path / "images" / "0.jpg")
    np.testing.assert_array_equal(first.boxes, np.array([[2, 4, 22, 34], [3, 4, 24, 34]], np.float32))
    assert first.boxes.dtype == np.float32
    assert first.labels.tolist() == [2, 1]
    assert first.labels.dtype == np.int32
    assert split.dropped == {}
    assert [a["id"] for a in split.annotations["annotations"]] == list(range(1, 11)), "0 means unmatched to pycocotools"


@pytest.mark.parametrize("folder", ["images", "train", "images/train", "", "annotations"])
def test_images_are_found_in_each_layout(tmp_path, folder):
    make(str(tmp_path), folder=folder)
    split = splits.open_split(str(tmp_path) + "/", "train")
    assert split.samples[0].file == str(tmp_path / folder / "0.jpg")


def test_file_names_with_folders(tmp_path):
    data = document(2)
    data["images"][0]["file_name"] = "deep/er/x.jpg"
    make(str(tmp_path), data)
    assert splits.open_split(str(tmp_path), "train").samples[1].file == str(tmp_path / "images/deep/er/x.jpg")
    data["images"][0]["file_name"] = "../../x.jpg"
    write(f"{tmp_path}/annotations/instances_train.json", json.dumps(data).encode())
    fails(tmp_path, "inside this folder")


def test_one_listing_per_folder(tmp_path, monkeypatch):
    make(str(tmp_path), document(30))
    seen = []
    monkeypatch.setattr(os, "scandir", lambda path, inner=os.scandir: seen.append(path) or inner(path))
    data = splits.DataSet(str(tmp_path))
    data.split("train"), data.split("train")
    assert sorted(seen) == sorted(set(seen))
    assert seen.count(str(tmp_path / "images")) == 1


def test_crowds_are_scored_but_not_learnt(tmp_path):
    data = document(1)
    data["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": [1], "size": [48, 64]}}
    make(str(tmp_path), data)
    split = splits.open_split(str(tmp_path), "train")
    assert len(split.samples[0].boxes) == 1
    assert [a["iscrowd"] for a in split.annotations["annotations"]] == [1, 0]
    assert split.dropped == {}


def test_image_without_boxes_stays(tmp_path):
    data = document(3)
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] == 21]
    make(str(tmp_path), data)
    assert [s.boxes.shape for s in splits.open_split(str(tmp_path), "train").samples] == [(0, 4), (2, 4), (0, 4)]
    data["annotations"] = []
    make(str(tmp_path), data)
    assert [s.boxes.shape for s in splits.open_split(str(tmp_path), "train").samples] == [(0, 4)] * 3


def test_faulty_boxes_are_left_out_counted_and_logged(tmp_path, caplog):
    data = document(1, boxes=6)
    for mark, box in zip(
        data["annotations"],
        [[5, 5, 0, 10], [5, 5, 10, 0], [64, 5, 10, 10], [-30, 5, 20, 10], [50, 40, 30, 30], [60, 40, 4.9, 8]],
        strict=True,
    ):
        mark["bbox"] = box
    make(str(tmp_path), data)
    with caplog.at_level(logging.WARNING, "spnas_core"):
        split = splits.open_split(str(tmp_path), "train")
    assert split.dropped == {"zero area": 2, "outside": 2, "clipped": 1}
    np.testing.assert_array_equal(split.samples[0].boxes, np.array([[50, 40, 64, 48], [60, 40, 64, 48]], np.float32))
    assert [a["bbox"] for a in split.annotations["annotations"]] == [[50, 40, 30, 30], [60, 40, 4.9, 8]]
    assert "2 zero area" in caplog.text
    fails(tmp_path, "1 clipped, 2 outside, 2 zero area", strict=True)


def test_area_is_the_given_one_or_that_of_the_box(tmp_path):
    data = document(1)
    data["annotations"][0]["area"] = 100
    del data["annotations"][1]["area"], data["annotations"][1]["iscrowd"], data["annotations"][1]["id"]
    make(str(tmp_path), data)
    assert [a["area"] for a in splits.open_split(str(tmp_path), "train").annotations["annotations"]] == [100.0, 630.0]


def test_no_annotations_says_which_splits_there_are(tmp_path):
    known = r"expected annotations/instances_\*.json, or NAME.xml, .* or a table \*.csv of boxes; there is"
    fails(tmp_path, f"{known} nothing")
    (tmp_path / "data.yaml").touch()
    fails(tmp_path, f"{known} data.yaml")
    make(str(tmp_path), split="val")
    make(str(tmp_path), split="test")
    fails(tmp_path, r"expected a split 'train', got val, test \(COCO\)$")
    fails("nonsense://x", "expected a path or an fsspec URL")


def test_no_json(tmp_path):
    write(f"{tmp_path}/annotations/instances_train.json", b'{"images": [')
    fails(tmp_path, "expected JSON")
    write(f"{tmp_path}/annotations/instances_train.json", b"\xff\xfe\xff")
    fails(tmp_path, "expected JSON")
    write(f"{tmp_path}/annotations/instances_train.json", b"[]")
    fails(tmp_path, "expected an object")


def edited(edit):
    data = document(2)
    edit(data)
    return data


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda d: d.pop("images"), "expected a list under 'images', got nothing"),
        (lambda d: d.update(annotations={}), "expected a list under 'annotations', got dict"),
        (lambda d: d.pop("categories"), "expected a list under 'categories'"),
        (lambda d: d.update(images=[]), "expected at least one image, got none"),
        (lambda d: d.update(categories=[]), "expected at least one category, got none"),
        (lambda d: d.update(images=[3]), r"images\[0\]: expected an object, got 3"),
        (lambda d: d["images"][1].update(width=-5), "whole number of px > 0 as 'width', got -5"),
        (lambda d: d["images"][1].update(id=None), "whole number >= 0 as 'id', got None"),
        (lambda d: d["images"][1].update(id=2**64), r"whole number >= 0 and < 2\^63 as 'id', got 18446744073709551616"),
        (lambda d: d["images"][1].pop("file_name"), r"images\[1\] has no 'file_name'"),
        (lambda d: d["images"][1].update(id=21), "expected every 'id' once, got 21 twice"),
        (lambda d: d["images"][1].update(file_name=None), "a text as 'file_name', got None"),
        (lambda d: d["images"][1].update(file_name="gone.jpg"), r"image 'gone.jpg' is not in images/, .*\(1 missing\)"),
        (lambda d: d["categories"][0].update(id=3), "expected every 'id' once, got 3 twice"),
        (lambda d: d["categories"][0].update(name="a"), "expected every 'name' once, got 'a' twice"),
        (lambda d: d["annotations"][1].pop("bbox"), r"annotations\[1\] has no 'bbox'"),
        (lambda d: d["annotations"][1].update(bbox=[1, 2, 3]), "four finite numbers"),
        (lambda d: d["annotations"][1].update(bbox=[1, 2, 3, "four"]), "four finite numbers"),
        (lambda d: d["annotations"][1].update(bbox=[1, 2, 3, float("nan")]), "four finite numbers"),
        (lambda d: d["annotations"][1].update(iscrowd="perhaps"), "expected 0 or 1 as 'iscrowd', got 'perhaps'"),
        (lambda d: d["annotations"][1].update(iscrowd=2), "expected 0 or 1 as 'iscrowd', got 2"),
        (lambda d: d["annotations"][1].update(image_id=99), "annotation 1 names image id 99, which no image has"),
        (lambda d: d["annotations"][1].update(category_id=4), "annotation 1 has category id 4, defined are 3, 7, 90"),
    ],
)
def test_bad_documents(tmp_path, edit, match):
    make(str(tmp_path), document(2))
    write(f"{tmp_path}/annotations/instances_train.json", json.dumps(edited(edit)).encode())
    fails(tmp_path, match)


def test_verify_names_the_truncated_image(tmp_path):
    make(str(tmp_path), document(12))
    split = splits.open_split(str(tmp_path), "train")
    fingerprints.verify_images(split)
    for name in ("3.jpg", "5.jpg"):
        path = tmp_path / "images" / name
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"images/3.jpg: expected a whole image file.*truncated.*\(and 1 more images of split 'train'\)"):
        fingerprints.verify_images(split)
    assert not [t for t in threading.enumerate() if t.name.startswith("spnas")]


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("BMP", "bmp"), ("TIFF", "tif"), ("WEBP", "webp"), ("GIF", "gif")])
def test_verify_finds_any_truncated_format(tmp_path, kind, suffix):
    data = document(1)
    data["images"][0]["file_name"] = f"x.{suffix}"
    make(str(tmp_path), data)
    content = encoded(picture(), kind)
    write(f"{tmp_path}/images/x.{suffix}", content)
    fingerprints.verify_images(splits.open_split(str(tmp_path), "train"))
    write(f"{tmp_path}/images/x.{suffix}", content[: len(content) // 2])
    with pytest.raises(UserError, match=f"x.{suffix}: expected a whole image"):
        fingerprints.verify_images(splits.open_split(str(tmp_path), "train"))


def test_verify_knows_a_swapped_size(tmp_path):
    make(str(tmp_path), document(1))
    exif = picture().getexif()
    exif[0x0112] = 6
    write(f"{tmp_path}/images/0.jpg", encoded(picture(), exif=exif))
    with pytest.raises(UserError, match=r"annotation says 64x48 px, the file has 48x64 \(swapped: boxes must be drawn .* EXIF rotation"):
        fingerprints.verify_images(splits.open_split(str(tmp_path), "train"))
    write(f"{tmp_path}/images/0.jpg", encoded(picture(48, 64), exif=exif))
    fingerprints.verify_images(splits.open_split(str(tmp_path), "train"))
    write(f"{tmp_path}/images/0.jpg", encoded(picture(32, 32)))
    with pytest.raises(UserError, match=r"the file has 32x32$"):
        fingerprints.verify_images(splits.open_split(str(tmp_path), "train"))


def fingerprint(url, full=False):
    return fingerprints.fingerprint_splits([splits.open_split(url, "train")], full)


@pytest.mark.parametrize("full", [False, True])
def test_fingerprint_is_of_the_data_and_not_of_the_place(tmp_path, full):
    make(str(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "images").rename(tmp_path / "two" / "train")
    first = fingerprint(str(tmp_path / "one"), full)
    assert fingerprint(f"file://{tmp_path}/two", full) == first
    (tmp_path / "two/train/0.jpg").write_bytes(encoded(picture(), quality=10))
    assert fingerprint(str(tmp_path / "two"), full) != first


def test_only_a_full_fingerprint_sees_one_bit(tmp_path):
    make(str(tmp_path))
    cheap, full = fingerprint(str(tmp_path)), fingerprint(str(tmp_path), full=True)
    assert cheap != full
    image = tmp_path / "images/0.jpg"
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    assert fingerprint(str(tmp_path)) == cheap
    assert fingerprint(str(tmp_path), full=True) != full


def test_memory_url_with_a_local_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    make("memory://coco-test/set")
    make(str(tmp_path / "set"))
    try:
        split = splits.open_split("memory://coco-test/set", "train")
        assert split.samples[0].file == "memory:///coco-test/set/images/0.jpg"
        fingerprints.verify_images(split)
        path = files.local_file(split.samples[0].file)
        assert path.is_relative_to(tmp_path / "cache")
        assert path.read_bytes() == (tmp_path / "set/images/0.jpg").read_bytes()
        assert len([p for p in (tmp_path / "cache/data").rglob("*") if p.is_file()]) == 5, "one copy each, no parts left"
        write(split.samples[0].file, b"other bytes")
        assert files.local_file(split.samples[0].file).read_bytes() == b"other bytes", "a replaced file is fetched anew"
        assert fingerprint("memory://coco-test/set") != fingerprint(str(tmp_path / "set"))
        make("memory://coco-test/set")
        assert fingerprint("memory://coco-test/set") == fingerprint(str(tmp_path / "set"))
        fails("memory://coco-test/set", "expected a split 'val', got train", split="val")
        with pytest.raises(UserError, match="expected a file, found none"):
            files.local_file("memory://coco-test/none.jpg")
    finally:
        fsspec.filesystem("memory").rm("/coco-test", recursive=True)


def test_many_readers_of_one_remote_file_see_it_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    write("memory://race-test/x.bin", bytes(1 << 20))
    memory, one_at_a_time = type(fsspec.filesystem("memory")), threading.Lock()
    get_file = memory.get_file

    def get_alone(self, *arguments, **options):
        with one_at_a_time:  # all readers of a file in memory share one position
            return get_file(self, *arguments, **options)

    monkeypatch.setattr(memory, "get_file", get_alone)
    try:
        sizes = []
        readers = [
            threading.Thread(target=lambda: sizes.append(files.local_file("memory://race-test/x.bin").stat().st_size)) for _ in range(8)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert sizes == [1 << 20] * 8
    finally:
        fsspec.filesystem("memory").rm("/race-test", recursive=True)


def test_data_is_that_which_a_job_was_planned_with_or_refused(tmp_path):
    url = str(tmp_path)
    for split in ("train", "val"):
        make(url, split=split)
    opened = [splits.open_split(url, split) for split in ("train", "val")]
    planned = [
        fingerprints.data_of(url),
        fingerprints.data_of(url).model_copy(update={"fingerprint": fingerprints.fingerprint_splits(opened, full=True)}),
    ]
    for data in planned:
        fingerprints.check_fingerprint(opened, data)
    path = tmp_path / "images" / "0.jpg"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    fingerprints.check_fingerprint(opened, planned[0])
    for data, found in ((planned[1], opened), (planned[0], opened[:1]), (planned[0], opened[::-1])):
        with pytest.raises(UserError, match="expected the data that the job was planned with"):
            fingerprints.check_fingerprint(found, data)
