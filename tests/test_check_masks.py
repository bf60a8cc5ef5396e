"""`spnas check` of segmentation data: each way to break a good data set is found, and a training refuses it or tells of it."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import spnas
from masked import cityscapes, coco, mask_of, masked_set, picture_of, pixels_of, save, write_yaml
from PIL import Image

from spnas_core.check.mask_picture import cover
from spnas_core.check.masks import inspect_masks
from spnas_core.data.finding_kinds import FINDING_KINDS
from spnas_core.data.masks.mask_facts import verify_masks
from spnas_core.data.masks.mask_kinds import MASK_FINDING_KINDS
from spnas_core.data.masks.mask_set import MaskSet
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading

CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"
SPLITS = {"train": 4, "val": 3}
Found = set[tuple[str, str, int]]


def found(folder: Path) -> Found:
    return {(one.kind, one.where, one.count) for one in inspect_masks(str(folder), Reading()).findings}


def place(folder: Path, number: int, split: str = "train", kind: str = "masks") -> Path:
    return folder / kind / split / f"{split}{number}.png"


def change(edit: Callable[[np.ndarray], np.ndarray], *splits: str) -> Callable[[Path], None]:
    """Edit every mask of these splits."""

    def do(folder: Path) -> None:
        for split in splits:
            for number in range(SPLITS[split]):
                path = place(folder, number, split)
                save(path, edit(pixels_of(path)).astype(np.uint8))

    return do


def one(save_it: Callable[[Path, np.ndarray], None]) -> Callable[[Path], None]:
    """Save the mask of train1 in another way."""
    return lambda folder: save_it(place(folder, 1), mask_of(1))


def in_place(old: str, new: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        text = (folder / "data.yaml").read_text()
        assert old in text
        (folder / "data.yaml").write_text(text.replace(old, new))

    return do


def as_jpeg(path: Path, mask: np.ndarray) -> None:
    path.unlink()
    Image.fromarray(mask).save(path.with_suffix(".jpg"))


def renumbered(path: Path, mask: np.ndarray) -> None:
    picture = Image.fromarray(np.where(mask == 255, 1, mask * 2).astype(np.uint8))
    picture.putpalette([value for grey in (0, 255, 1, 1, 2) for value in [grey] * 3])
    picture.save(path)


def turned(orientation: int) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = place(folder, 1, kind="images")
        wide = np.pad(pixels_of(path), ((0, 0), (0, 8), (0, 0)))
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(wide).save(path, exif=exif)
        save(place(folder, 1), np.pad(mask_of(1), ((0, 0), (0, 8))))

    return do


def without(mask: np.ndarray, value: int) -> np.ndarray:
    return np.where(mask == value, 0, mask)


def sparse(mask: np.ndarray) -> np.ndarray:
    """Two pixels of the disc, 0.09 %, are left of all masks: in the one that has a square at (1, 1) or anywhere."""
    return np.where((mask == 2) & (np.cumsum((mask == 2).ravel()).reshape(mask.shape) > 1), 0, mask)


def many_names(folder: Path) -> None:
    write_yaml(folder, [f"c{number}" for number in range(300)])


def test_split(folder: Path) -> None:
    in_place("names:", "test: images/test\nnames:")(folder)
    save(folder / "images" / "test" / "t.png", picture_of(mask_of(77), 77))


test_split.__test__ = False  # type: ignore[attr-defined]


def nearly_all(folder: Path) -> None:
    def edit(mask: np.ndarray) -> np.ndarray:
        few = np.zeros_like(mask)
        few[3, 3], few[9, 9], few[10, 9] = 1, 2, 2
        return few

    change(edit, "val")(folder)


def both_formats(folder: Path) -> None:
    Image.fromarray(mask_of(1)).save(place(folder, 1).with_suffix(".tif"))


def two_images(folder: Path) -> None:
    Image.fromarray(picture_of(mask_of(60), 60)).save(place(folder, 1, kind="images").with_suffix(".jpg"))


WAYS: dict[str, tuple[Callable[[Path], None], Found]] = {
    "masks of 0 and 255": (
        change(lambda mask: np.where(mask > 0, 255, 0), "train", "val"),
        {("stretched-mask", "train", 4), ("stretched-mask", "val", 3), ("unused-value", "data", 2), ("mostly-one", "train", 1)}
        | {("mostly-one", "val", 1)},
    ),
    "a mask of 0, 127 and 254": (one(lambda path, mask: save(path, mask // 2 * 127)), {("unnamed-value", "train", 1)}),
    "a mask in JPEG": (one(as_jpeg), {("lossy-mask", "train", 1)}),
    "a mask of 16 bits": (one(lambda path, mask: Image.fromarray(mask.astype(np.uint16)).save(path)), {("deep-mask", "train", 1)}),
    "a mask of 32-bit floats": (
        one(lambda path, mask: Image.fromarray(mask.astype(np.float32)).save(path, format="TIFF")),
        {("colour-mask", "train", 1)},
    ),
    "a mask in colours": (one(lambda path, mask: save(path, picture_of(mask, 1))), {("colour-mask", "train", 1)}),
    "a grey mask of three channels": (one(lambda path, mask: save(path, mask[..., None].repeat(3, 2))), {("colour-mask", "train", 1)}),
    "a mask with alpha": (one(lambda path, mask: Image.fromarray(mask).convert("LA").save(path)), {("colour-mask", "train", 1)}),
    "a mask whose palette an optimiser has made": (one(renumbered), {("renumbered-mask", "train", 1)}),
    "a mask of another size": (one(lambda path, mask: save(path, mask[:, :-1])), {("mask-size", "train", 1)}),
    "a mask at half the size": (one(lambda path, mask: save(path, mask[::2, ::2])), {("mask-size", "train", 1)}),
    "an image is turned by EXIF, its mask is not": (turned(6), {("mask-unturned", "train", 1)}),
    "an image stands on its head by EXIF": (turned(3), {("mask-unsure-turn", "train", 1)}),
    "a value beyond the names": (one(lambda path, mask: save(path, np.where(mask == 2, 3, mask))), {("unnamed-value", "train", 1)}),
    "no names": (lambda folder: write_yaml(folder, ()), {("no-names", "data", 1)}),
    "no YAML file": (lambda folder: (folder / "data.yaml").unlink(), {("no-names", "data", 1)}),
    "a number without a name": (in_place("  1: square", "  3: square"), {("name-missing", "data", 1), ("unused-value", "data", 1)}),
    "a name of two numbers": (in_place("2: disc", "2: square"), {("name-twice", "data", 1)}),
    "more names than numbers": (many_names, {("too-many-names", "data", 1)}),
    "a YAML file that is none": (
        lambda folder: (folder / "data.yaml").write_text("names: [a, b\n"),
        {("malformed", "data", 1), ("no-names", "data", 1)},
    ),
    "a split's folder is not there": (
        in_place("images/val", "images/valid"),
        {("missing-split", "data", 1)},
    ),
    "a list of images has one that is not there": (
        lambda folder: (
            (folder / "val.txt").write_text("images/val/val0.png\nimages/val/val1.png\nimages/val/val2.png\nimages/val/val9.png\n")
            and in_place("val: images/val", "val: val.txt")(folder)
        ),
        {("list-of-images", "val", 1)},
    ),
    "two masks of an image": (both_formats, {("two-masks", "train", 1)}),
    "a mask of two images": (two_images, {("shared-mask", "train", 1)}),
    "an image without a mask": (lambda folder: place(folder, 1).unlink(), {("missing-mask", "train", 1)}),
    "a mask without an image": (lambda folder: place(folder, 1, kind="images").unlink(), {("lone-mask", "train", 1)}),
    "a split without masks": (lambda folder: shutil.rmtree(folder / "masks" / "val"), {("no-masks", "val", 1)}),
    "a test split without masks": (test_split, {("unscored-test", "test", 1)}),
    "a mask is ignored throughout": (one(lambda path, mask: save(path, mask | 255)), {("all-ignored", "train", 1)}),
    "a split is ignored throughout": (change(lambda mask: mask | 255, "val"), {("nothing-counts", "val", 1)}),
    "one category nearly everywhere": (nearly_all, {("mostly-one", "val", 1)}),
    "val lacks a category": (change(lambda mask: without(mask, 2), "val"), {("absent-value", "val", 1)}),
    "train lacks a category": (change(lambda mask: without(mask, 2), "train"), {("unlearnt-value", "train", 1)}),
    "no split has a category": (change(lambda mask: without(mask, 2), "train", "val"), {("unused-value", "data", 1)}),
    "a mask is cut": (one(lambda path, mask: cut(path)), {("broken-mask", "train", 1)}),
    "a mask is empty": (one(lambda path, mask: path.write_bytes(b"") and None), {("broken-mask", "train", 1)}),
    "a mask is a text": (one(lambda path, mask: path.write_text("0 0 1") and None), {("broken-mask", "train", 1)}),
    "an image is cut": (lambda folder: cut(place(folder, 2, kind="images")), {("broken-image", "train", 1)}),
    "an image is of both splits": (
        lambda folder: shutil.copy(place(folder, 1, kind="images"), place(folder, 1, "val", "images")),
        {("leak", "train and val", 1)},
    ),
    "an image is there twice": (
        lambda folder: shutil.copy(place(folder, 1, kind="images"), place(folder, 2, kind="images")),
        {("duplicate-image", "train", 1)},
    ),
    "one folder is both splits": (in_place("images/val", "images/train"), {("leak", "train and val", 4)}),
    "no val": (in_place("val: images/val\n", ""), {("missing-split", "data", 1)}),
}
TOLD = {"leak", "similar-leak", "duplicate-image", "missing-split", "no-masks", "unscored-test"}  # by other parts of a run, or not at all


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def test_a_good_data_set_is_clean(tmp_path: Path) -> None:
    assert found(masked_set(tmp_path)) == set()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_broken_is_found_and_nothing_else(way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = masked_set(tmp_path)
    edit, expected = WAYS[way]
    edit(folder)
    assert found(folder) == expected
    for finding in inspect_masks(str(folder), Reading()).findings:
        assert "\n" not in finding.line
    kinds = MASK_FINDING_KINDS | FINDING_KINDS
    errors = {kind for kind, *_ in expected if kinds[kind].severity == "error"} - TOLD
    with caplog.at_level(logging.WARNING, "spnas_core"):
        if errors:
            with pytest.raises(UserError) as caught:
                learn(folder)
            assert "\n" not in str(caught.value)
        elif not {kind for kind, *_ in expected} & TOLD:
            learn(folder)


def learn(folder: Path) -> None:
    """Open the splits of a training and verify them."""
    data = MaskSet(str(folder))
    for name in ("train", "val"):
        verify_masks(data.split(name))


def test_one_folder_as_both_splits_is_not_learnt(tmp_path: Path) -> None:
    in_place("images/val", "images/train")(masked_set(tmp_path))
    with pytest.raises(UserError, match="expected splits without common images"):
        learn(tmp_path)


def test_every_kind_is_broken_by_some_test(tmp_path: Path) -> None:
    of_layouts = {
        "train-ids",
        "bad-shape",
        "box-alone",
        "other-names",
        "rare-value",
        "unlike-names",
    }  # the last one: tests/test_mask_layouts.py
    assert {
        kind for _, expected in WAYS.values() for kind, *_ in expected
    } & MASK_FINDING_KINDS.keys() | of_layouts == MASK_FINDING_KINDS.keys()
    assert len(WAYS) >= 20
    assert not MASK_FINDING_KINDS.keys() & FINDING_KINDS.keys()
    assert ("train-ids", "train", 2) in found(cityscapes(tmp_path / "a", ("labelIds",)))
    shapes = [{"category_id": 3, "segmentation": [[1, 2]]}, {"category_id": 3, "segmentation": []}]
    folder = coco(tmp_path / "b", shapes)
    assert {("bad-shape", "train", 1), ("box-alone", "train", 1), ("bad-shape", "val", 1)} <= found(folder)
    val = folder / "annotations" / "instances_val.json"
    document = json.loads(val.read_text())
    document["categories"][0]["name"] = "ball"
    val.write_text(json.dumps(document))
    assert ("other-names", "val", 1) in found(folder)
    change(sparse, "train")(masked_set(tmp_path / "c"))
    for number in (1, 2, 3):
        save(place(tmp_path / "c", number), without(mask_of(number), 2))
    assert found(tmp_path / "c") == {("rare-value", "train", 1)}


def test_verified_masks_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    split = MaskSet(str(masked_set(tmp_path / "data"))).split("train")
    verify_masks(split)
    assert not list((tmp_path / "cache" / "verified").glob("*.masks")) if (tmp_path / "cache" / "verified").exists() else True
    for path in (tmp_path / "data").rglob("*.png"):  # what was changed just now may change again
        os.utime(path, (1_700_000_000, 1_700_000_000))
    verify_masks(split)
    assert len(list((tmp_path / "cache" / "verified").glob("*.masks"))) == 1
    save(place(tmp_path / "data", 1), np.full((24, 24), 9, np.uint8))
    with pytest.raises(UserError, match="value that has no name"):
        verify_masks(MaskSet(str(tmp_path / "data")).split("train"))


def test_the_command_finds_out_what_the_data_is_for(tmp_path: Path) -> None:
    masked_set(tmp_path / "a")
    code, out, _ = spnas("check", tmp_path / "a", "--picture", tmp_path / "samples.png")
    assert code == 0
    assert "pixels" in out
    assert "0 errors, 0 warnings" in out
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width > 300
    place(tmp_path / "a", 1).unlink()
    code, out, _ = spnas("check", tmp_path / "a", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["task"] == "segmentation"
    assert document["splits"]["train"]["images"] == 3
    assert [one["kind"] for one in document["findings"]] == ["missing-mask"]
    coco(tmp_path / "b")
    assert "boxes" in spnas("check", tmp_path / "b")[1]  # it has boxes: detection, unless one says otherwise
    assert "pixels" in spnas("check", tmp_path / "b", "--task", "segmentation")[1]


def test_masks_are_not_written_as_coco(tmp_path: Path) -> None:
    code, _, _ = spnas("check", masked_set(tmp_path / "a"), "--to-coco", tmp_path / "b")
    assert code != 0
    assert not (tmp_path / "b").exists()


def test_a_picture_shows_each_category_in_its_colour() -> None:
    pixels = np.full((2, 4, 3), 100, np.uint8)
    mask = np.array([[0, 1, 2, 255], [0, 1, 2, 255]], np.uint8)
    shown = cover(pixels, mask)
    assert (shown[:, 0] == 100).all()
    assert shown[0, 1].tolist() == [(100 + 0xE6) // 2, round((100 + 0x19) / 2), round((100 + 0x4B) / 2)]
    assert (shown[:, 3] == 50).all()
    assert (shown[:, 1] != shown[:, 2]).any()


def test_camvid_is_clean_but_for_the_frames_of_its_videos() -> None:
    if not CAMVID.exists():
        pytest.skip("the shared data is not there")
    report = inspect_masks(str(CAMVID), Reading())
    assert report.clean
    assert {one.kind for one in report.findings} == {"similar-image"}
    assert [len(raw.pairs) for raw in report.layout.sources] == [367, 101]
    assert len(report.layout.names) == 11
