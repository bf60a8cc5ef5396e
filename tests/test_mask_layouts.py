"""Layouts of segmentation data sets: small ones of each, as their makers write them."""

import json
import logging
import struct
import tempfile
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
from command_line import spnas
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from masked import NAMES, ade, cityscapes, coco, mask_of, masked_set, picture_of, roboflow, save, voc
from PIL import Image
from pycocotools import mask as rle

from spnas_core.data.fingerprints import check_fingerprint, fingerprint_splits
from spnas_core.data.masks.decoding import decode_mask
from spnas_core.data.masks.mask_cityscapes import TRAIN_NAMES
from spnas_core.data.masks.mask_coco import packed_pixels
from spnas_core.data.masks.mask_set import MaskSet, open_mask_split
from spnas_core.data.masks.mask_voc import VOC_NAMES, voc_colour
from spnas_core.errors import EmptySplitError, UserError
from spnas_core.job import Data
from spnas_core.settings.reading import Reading


def test_folders_of_a_yaml_file(tmp_path: Path) -> None:
    data = MaskSet(str(masked_set(tmp_path)))
    assert data.names == ("train", "val")
    split = data.split("val")
    assert split.categories == ((0, "ground"), (1, "square"), (2, "disc"))
    assert [sample.name for sample in split.samples] == [f"images/val/val{number}.png" for number in range(3)]
    assert [sample.image_id for sample in split.samples] == [0, 1, 2]
    for number, sample in enumerate(split.samples):
        assert np.array_equal(sample.mask(), mask_of(100 + number))
        assert np.array_equal(sample.image(), picture_of(mask_of(100 + number), 100 + number))
        assert sample.size == (24, 24)
    assert data.test() is None


@pytest.mark.parametrize(("images", "masks"), [("images", "annotations"), ("img_dir", "ann_dir"), ("images", "labels")])
def test_folders_of_other_names_and_a_list_of_names(tmp_path: Path, images: str, masks: str) -> None:
    masked_set(tmp_path)
    (tmp_path / "images").rename(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / images)
    (tmp_path / "masks").rename(tmp_path / masks)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    split = open_mask_split(str(tmp_path), "train")
    assert split.class_names == NAMES
    assert len(split.samples) == 4


def test_masks_dir_of_the_yaml_file_counts(tmp_path: Path) -> None:
    masked_set(tmp_path)
    (tmp_path / "masks").rename(tmp_path / "drawn")
    save(tmp_path / "masks" / "train" / "train0.png", np.zeros((24, 24), np.uint8))
    text = (tmp_path / "data.yaml").read_text()
    (tmp_path / "data.yaml").write_text(text.replace("masks_dir: masks", "masks_dir: drawn"))
    assert np.array_equal(open_mask_split(str(tmp_path), "train").samples[0].mask(), mask_of(0))


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """PNG of grey of 1, 2 or 4 bits, as oxipng and pypng write it (PNG-3, sections 7.2 and 11.2.1)."""
    lines = []
    for row in values:
        bits = "".join(format(value, f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        lines.append(b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big"))
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)


def test_values_are_those_that_the_file_stores(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 9, (5, 11)).astype(np.uint8)
    picture = Image.fromarray(values)
    for name in ("grey.png", "grey.tif", "grey.bmp", "grey.gif"):
        picture.save(tmp_path / name)
        assert np.array_equal(decode_mask(tmp_path / name), values), name
    picture.putpalette([number * 7 % 256 for number in range(768)])
    for name in ("palette.png", "palette.tif", "palette.gif", "palette.bmp"):
        picture.save(tmp_path / name)
        assert np.array_equal(decode_mask(tmp_path / name), values), name
    (tmp_path / "grey.png").write_bytes(grey_png(values % 2, 1))
    assert np.array_equal(decode_mask(tmp_path / "grey.png"), values % 2)


def test_a_label_map_without_colours_has_those_of_voc(tmp_path: Path) -> None:
    """As Datumaro 1.13.12 writes it, beside masks in VOC's colours."""
    voc(tmp_path, colours=tuple(map(voc_colour, range(3))))
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nground:::\nsquare:::\ndisc:::\n")
    split = open_mask_split(str(tmp_path), "train")
    assert split.class_names == NAMES
    assert all(np.array_equal(sample.mask(), mask_of(number)) for number, sample in enumerate(split.samples))
    for line, words in (
        ("disc", "NAME:R,G,B:PARTS:ACTIONS, got 'disc'"),
        ("disc:128,0,0::", "a colour of its own for 'disc', got that of 'square'"),
    ):
        (tmp_path / "labelmap.txt").write_text(f"ground:::\nsquare:::\n{line}\n")
        with pytest.raises(UserError, match=words):
            open_mask_split(str(tmp_path), "train")


def in_palette(path: Path, indices: np.ndarray, colours: list[tuple[int, int, int]]) -> None:
    picture = Image.fromarray(indices.astype(np.uint8))
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(path)


def test_numbers_that_an_optimiser_may_have_changed_are_refused(tmp_path: Path) -> None:
    """Grey 0, 2, 7 as a palette of these greys, and grey of 2 or 4 bits: what `oxipng` writes of a mask."""
    indices = np.random.default_rng(0).integers(0, 3, (5, 11))
    in_palette(tmp_path / "a.png", indices, [(0, 0, 0), (2, 2, 2), (7, 7, 7)])
    with pytest.raises(UserError, match=r"a.png: expected a palette of colours, .* got 0 for 0, 2 for 1, 7 for 2"):
        decode_mask(tmp_path / "a.png")
    for depth, stands in ((2, 85), (4, 17)):
        (tmp_path / "b.png").write_bytes(grey_png(indices, depth))
        with pytest.raises(UserError, match=f"got grey of {depth}, where 1 may stand for {stands}"):
            decode_mask(tmp_path / "b.png")
    for greys in ([(0, 0, 0), (1, 1, 1), (2, 2, 2)], [(0, 0, 0), (255, 0, 0), (2, 2, 2)]):
        in_palette(tmp_path / "c.png", indices, greys)
        assert np.array_equal(decode_mask(tmp_path / "c.png"), indices)
    in_palette(tmp_path / "d.png", indices % 2, [(0, 0, 0), (255, 255, 255)])
    assert np.array_equal(decode_mask(tmp_path / "d.png"), indices % 2)
    in_palette(tmp_path / "e.png", indices * 0, [(255, 255, 255)])  # 255 throughout
    with pytest.raises(UserError, match="got 255 for 0"):
        decode_mask(tmp_path / "e.png")


def test_the_colours_of_pascal_voc_outlast_an_optimiser(tmp_path: Path) -> None:
    voc(tmp_path)
    assert [voc_colour(number) for number in (0, 1, 2, 3, 8, 15, 20, 255)] == [
        *((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (64, 0, 0), (192, 128, 128), (0, 64, 128), (224, 224, 192)),
    ]
    mask = mask_of(0)
    order = [255, 2, 0, 1]
    renumbered = np.select([mask == value for value in order], range(4))
    in_palette(tmp_path / "SegmentationClass" / "2007_0.png", renumbered, [voc_colour(value) for value in order])
    save(tmp_path / "SegmentationClass" / "2007_1.png", np.array([voc_colour(value) for value in range(256)], np.uint8)[mask_of(1)])
    samples = open_mask_split(str(tmp_path), "train").samples
    assert np.array_equal(samples[0].mask(), mask)
    assert np.array_equal(samples[1].mask(), mask_of(1))


@pytest.mark.parametrize("top", ["", "VOCdevkit/VOC2012"])
def test_pascal_voc(tmp_path: Path, top: str) -> None:
    data = MaskSet(str(voc(tmp_path, top)))
    assert data.names == ("train", "val")
    split = data.split("val")
    assert split.class_names == VOC_NAMES
    assert len(VOC_NAMES) == 21
    assert [Path(sample.file).name for sample in split.samples] == ["2007_2.jpg", "2007_3.jpg"]
    assert all(np.array_equal(sample.mask(), mask_of(number + 2)) for number, sample in enumerate(split.samples))


def test_a_chosen_list_of_pascal_voc(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("2007_0\n2007_1\n2007_3\n")
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_2\n")
    assert len(MaskSet(str(tmp_path)).split("train").samples) == 2
    chosen = MaskSet(str(tmp_path), Reading(splits={"train": "trainaug"}))
    assert chosen.names == ("train", "val")
    assert len(chosen.split("train").samples) == 3


def test_masks_in_the_colours_of_a_label_map(tmp_path: Path) -> None:
    """As CVAT and Datumaro write them: the order of labelmap.txt numbers the categories, VOC's void colour is ignored."""
    colours = ((0, 0, 0), (250, 50, 83), (51, 221, 255))
    voc(tmp_path, colours=colours)
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(NAMES, colours, strict=True)]
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    split = open_mask_split(str(tmp_path), "train")
    assert split.class_names == NAMES
    assert all(np.array_equal(sample.mask(), mask_of(number)) for number, sample in enumerate(split.samples))
    lines[0] = "background:9,9,9::"  # black stays the background, as CVAT says
    (tmp_path / "labelmap.txt").write_text("\n".join(lines))
    assert np.array_equal(open_mask_split(str(tmp_path), "train").samples[1].mask(), mask_of(1))
    strange = np.array([*colours], np.uint8)[np.minimum(mask_of(0), 2)]
    strange[3, 4] = 1, 2, 3
    save(tmp_path / "SegmentationClass" / "2007_0.png", strange)
    with pytest.raises(UserError, match=r"2007_0.png: expected colours of labelmap.txt, got 1,2,3"):
        open_mask_split(str(tmp_path), "train").samples[0].mask()


def test_cityscapes(tmp_path: Path) -> None:
    data = MaskSet(str(cityscapes(tmp_path)))
    assert data.names == ("train", "val")
    split = data.split("train")
    assert split.class_names == TRAIN_NAMES
    assert len(split.samples) == 2
    assert np.array_equal(split.samples[0].mask(), mask_of(1))


def test_cityscapes_without_train_ids_is_told_plainly(tmp_path: Path) -> None:
    data = MaskSet(str(cityscapes(tmp_path, ("labelIds",))))
    with pytest.raises(UserError, match=r"train: 2 Cityscapes images with labelIds alone .*csCreateTrainIdLabelImgs"):
        data.split("train")


def test_ade20k_has_nothing_under_0(tmp_path: Path) -> None:
    data = MaskSet(str(ade(tmp_path)))
    assert data.names == ("train", "val")
    split = data.split("train")
    assert split.class_names == ("wall", "building", "sky")
    assert all(np.array_equal(sample.mask(), mask_of(number + 1)) for number, sample in enumerate(split.samples))


def test_equal_folders_without_its_list_count_from_0(tmp_path: Path) -> None:
    ade(tmp_path)
    (tmp_path / "objectInfo150.txt").unlink()
    with pytest.raises(UserError, match="data set without names"):
        MaskSet(str(tmp_path)).split("train")
    (tmp_path / "data.yaml").write_text("names: [nothing, a, b, c]\n")
    assert open_mask_split(str(tmp_path), "train").samples[0].mask()[0, 0] == 0


def test_shapes_of_coco_small_over_large(tmp_path: Path) -> None:
    split = open_mask_split(str(coco(tmp_path)), "train")
    assert split.class_names == ("square", "disc", "background")
    mask = np.full((24, 24), 2)
    mask[2:12, 2:14] = 0
    mask[:, 20] = 0
    mask[6:10, 6:10] = 1
    assert np.array_equal(split.samples[0].mask(), mask)


def test_a_fault_of_a_shape_is_refused_and_a_box_without_one_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "spnas_core"):
        open_mask_split(str(coco(tmp_path / "a", [{"category_id": 3}])), "train")
    assert "1 box without a shape" in caplog.text
    with pytest.raises(UserError, match="expected polygons of at least three points"):
        open_mask_split(str(coco(tmp_path / "b", [{"category_id": 3, "segmentation": [[1, 1, 4, 4]]}])), "train")
    with pytest.raises(UserError, match="box without a shape"):
        open_mask_split(str(tmp_path / "a"), "train", strict=True)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1)))
@settings(max_examples=200, deadline=None)
def test_a_packed_rle_has_the_pixels_of_its_image(mask: np.ndarray) -> None:
    assert packed_pixels(rle.encode(np.asfortranarray(mask))["counts"].decode()) == mask.size


@given(st.one_of(st.text(max_size=12), st.text("0123456789PQRSTUVWXYZ`abcno", max_size=12)))
@settings(max_examples=200, deadline=None)
def test_any_text_as_an_rle_is_drawn_or_refused(text: str) -> None:
    """pycocotools believes what a packed RLE says of its own length."""
    with tempfile.TemporaryDirectory() as folder:
        shape = {"category_id": 3, "segmentation": {"size": [24, 24], "counts": text}}
        data = MaskSet(str(coco(Path(folder), [shape])))
        if packed_pixels(text) == 24 * 24:
            assert data.split("train").samples[0].mask().shape == (24, 24)
        else:
            with pytest.raises(UserError, match="shape that cannot be drawn"):
                data.split("train")


@pytest.mark.parametrize("masks_dir", ["gone", "../..", "[a, b]", "{a: 1}", "''", "masks/train"])
def test_a_masks_dir_that_leads_nowhere_is_one_line(tmp_path: Path, masks_dir: str) -> None:
    masked_set(tmp_path)
    text = (tmp_path / "data.yaml").read_text()
    (tmp_path / "data.yaml").write_text(text.replace("masks_dir: masks", f"masks_dir: {masks_dir}"))
    if masks_dir == "''":
        assert len(open_mask_split(str(tmp_path), "train").samples) == 4
        return
    with pytest.raises(UserError, match=r"as masks_dir of the YAML file says|split without any mask|expected at least one") as caught:
        open_mask_split(str(tmp_path), "train")
    assert "\n" not in str(caught.value)


def test_a_place_that_is_no_such_data_set_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(UserError, match=r"expected images with masks, as .*; there is notes.md"):
        MaskSet(str(tmp_path)).split("train")


def test_roboflow(tmp_path: Path) -> None:
    data = MaskSet(str(roboflow(tmp_path)))
    assert data.names == ("train", "val")
    split = data.split("val")
    assert split.class_names == NAMES
    assert [Path(sample.name).name for sample in split.samples] == ["valid100.jpg", "valid101.jpg"]
    assert all(np.array_equal(sample.mask()[1:], mask_of(100 + number)[1:]) for number, sample in enumerate(split.samples))
    assert spnas("check", tmp_path)[0] == 0
    (tmp_path / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, ground\n1, disc\n2, square\n")
    with pytest.raises(UserError, match=r"1 file of other names \(valid/_classes.csv and train/_classes.csv\)"):
        MaskSet(str(tmp_path)).split("val")


def test_masks_count_in_fingerprints(tmp_path: Path) -> None:
    def text() -> str:
        return fingerprint_splits([open_mask_split(str(tmp_path / "a"), name) for name in ("train", "val")])

    first = (masked_set(tmp_path / "a"), text())[1]
    masked_set(tmp_path / "b")
    assert fingerprint_splits([open_mask_split(str(tmp_path / "b"), name) for name in ("train", "val")]) == first
    check_fingerprint([open_mask_split(str(tmp_path / "a"), name) for name in ("train", "val")], Data(url="x", fingerprint=first))
    mask = mask_of(0)
    mask[5, 5] = 2 - mask[5, 5]
    path = tmp_path / "a" / "masks" / "train" / "train0.png"
    size = path.stat().st_size
    save(path, mask)
    changed = text()
    assert changed != first, size
    (tmp_path / "a" / "data.yaml").write_text((tmp_path / "a" / "data.yaml").read_text().replace("disc", "ball"))
    assert text() not in (changed, first)


def test_remote_masks_are_read_as_local_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path / "cache"))
    masked_set(tmp_path / "a")
    fsspec.filesystem("memory").put(str(tmp_path / "a"), "/masked", recursive=True)
    try:
        local, remote = (open_mask_split(url, "train") for url in (str(tmp_path / "a"), "memory://masked"))
        assert fingerprint_splits([local]) == fingerprint_splits([remote])
        assert np.array_equal(local.samples[2].mask(), remote.samples[2].mask())
        assert np.array_equal(local.samples[2].image(), remote.samples[2].image())
    finally:
        fsspec.filesystem("memory").rm("/masked", recursive=True)


def test_categories_of_a_model_are_matched_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = MaskSet(str(masked_set(tmp_path)))
    with caplog.at_level(logging.WARNING, "spnas_core"):
        split = data.split("val", ((0, "Disc"), (1, "ground"), (2, "hill")))
    assert split.class_names == ("Disc", "ground", "hill")
    own = data.split("val").samples[0].mask()
    assert np.array_equal(split.samples[0].mask(), np.array([1, 255, 0], np.uint8)[np.minimum(own, 2)] | np.where(own == 255, 255, 0))
    assert "pixels of 1 other categories are ignored (square)" in caplog.text
    with pytest.raises(UserError, match="expected some of the categories a, b, got ground, square, disc"):
        data.split("val", ((0, "a"), (1, "b")))


def test_images_without_masks_are_told_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    masked_set(tmp_path)
    (tmp_path / "masks" / "train" / "train1.png").unlink()
    (tmp_path / "images" / "train" / "train2.png").unlink()
    with caplog.at_level(logging.WARNING, "spnas_core"):
        assert len(open_mask_split(str(tmp_path), "train").samples) == 2
    assert "1 image without a mask (images/train/train1.png)" in caplog.text
    assert "1 mask without an image (masks/train/train2.png)" in caplog.text
    with pytest.raises(UserError, match="mask without an image"):
        open_mask_split(str(tmp_path), "train", strict=True)


def test_a_test_split_without_masks_or_of_ignored_pixels_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    masked_set(tmp_path, {"train": 2, "val": 2})
    (tmp_path / "data.yaml").write_text((tmp_path / "data.yaml").read_text() + "test: images/test\n")
    save(tmp_path / "images" / "test" / "t.png", picture_of(mask_of(9), 9))
    data = MaskSet(str(tmp_path))
    assert data.test() is None
    assert "scored on val alone" in caplog.text
    with pytest.raises(EmptySplitError):
        data.split("test")
    save(tmp_path / "masks" / "test" / "t.png", np.full((24, 24), 255, np.uint8))
    assert MaskSet(str(tmp_path)).test() is None
    save(tmp_path / "masks" / "test" / "t.png", mask_of(9))
    assert len(MaskSet(str(tmp_path)).test().samples) == 1  # type: ignore[union-attr]


def test_the_command_divides_masks(tmp_path: Path) -> None:
    """Every category is in every split, though few images have one of them."""
    masked_set(tmp_path, {"train": 12})
    for number in range(12):
        if number % 4:
            path = tmp_path / "masks" / "train" / f"train{number}.png"
            save(path, np.where(mask_of(number) == 2, 0, mask_of(number)).astype(np.uint8))
    (tmp_path / "data.yaml").write_text("names: [ground, square, disc]\n")
    code, out, _ = spnas("split", tmp_path, "--val", "0.34", "--test", "0.33", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["images"] == {"train": 4, "val": 4, "test": 4}
    assert [some["disc"] for some in document["images_per_category"].values()] == [1, 1, 1]
    data = MaskSet(str(tmp_path))
    assert data.names == ("train", "val", "test")
    assert data.test() is not None
    assert spnas("check", tmp_path)[0] == 0


def test_a_split_file_divides_masks(tmp_path: Path) -> None:
    masked_set(tmp_path, {"train": 4})
    names = [f"images/train/train{number}.png" for number in range(4)]
    parts = {"train": {"of": "train", "images": names[:3]}, "val": {"of": "train", "images": names[3:]}}
    (tmp_path / "spnas-split.json").write_text(json.dumps({"spnas_split": 1, "splits": parts}))
    data = MaskSet(str(tmp_path))
    assert data.names == ("train", "val")
    assert [sample.name for sample in data.split("val").samples] == names[3:]
    assert len(data.split("train").samples) == 3
