"""`spnas split`: shares, classes, groups and folds; the split file in all commands."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked import as_voc, as_yolo
from command_line import spnas
from conftest import write_data
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_core.check.divide import assign, divide
from spnas_core.data.fingerprints import fingerprint_splits
from spnas_core.data.split_file import SPLIT_FILE, Part, write_split_file
from spnas_core.data.splits import DataSet, open_split
from spnas_core.errors import UserError
from spnas_core.settings.reading import Reading

GROUPS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=80)


@settings(max_examples=50)
@given(GROUPS, st.lists(st.floats(0.1, 1), min_size=2, max_size=4), st.integers(0, 5))
def test_groups_stay_together_and_a_seed_says_all(rows: list[tuple[int, int, int]], shares: list[float], seed: int) -> None:
    groups, classes = np.array([row[0] for row in rows]), np.array([row[1:] for row in rows])
    shares = [share / sum(shares) for share in shares]
    places = assign(groups, classes, shares, seed)
    assert places.shape == (len(rows),)
    assert ((places >= 0) & (places < len(shares))).all()
    assert all(len(set(places[groups == group])) == 1 for group in groups)
    assert assign(groups, classes, shares, seed).tolist() == places.tolist()


@settings(max_examples=50)
@given(st.integers(200, 400), st.integers(2, 5), st.integers(0, 10))
def test_every_class_has_its_share(count: int, kinds: int, seed: int) -> None:
    """Where no group stands in the way, no class is further from its share than chance in single images could put it."""
    rng = np.random.default_rng(seed)
    classes = rng.poisson(rng.uniform(0.3, 3, kinds), (count, kinds))
    places = assign(np.arange(count), classes, [0.7, 0.15, 0.15], seed)
    for split, share in enumerate([0.7, 0.15, 0.15]):
        assert abs((places == split).mean() - share) < 0.02
        assert (abs(classes[places == split].sum(0) / classes.sum(0) - share) < 0.04).all()


def test_a_rare_class_is_in_every_split() -> None:
    classes = np.zeros((300, 2), np.int64)
    classes[:, 0] = 2
    classes[:6, 1] = 1
    places = assign(np.arange(300), classes, [0.6, 0.2, 0.2], 0)
    assert [int(classes[places == split, 1].sum()) for split in range(3)] == [4, 1, 1]


@pytest.fixture
def unsplit(tmp_path: Path) -> Path:
    """Coloured squares that are not split, 24 images: three of each of eight videos."""
    write_data(tmp_path / "plain", {"train": 24})
    folder = tmp_path / "unsplit"
    (folder / "images").mkdir(parents=True)
    content: dict[str, Any] = json.loads((tmp_path / "plain/annotations/instances_train.json").read_text())
    for number, entry in enumerate(content["images"]):
        name = f"video{number // 3}_frame{number % 3}.png"
        shutil.copy(tmp_path / "plain/images" / entry["file_name"], folder / "images" / name)
        entry["file_name"] = name
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def test_a_division_is_found_beside_the_data_by_all_commands(unsplit: Path, tmp_path: Path) -> None:
    before = sorted(path for path in unsplit.rglob("*"))
    status, out, err = spnas("split", unsplit, "--val", 0.25, "--test", 0.25, "--group", "^(video\\d+)")
    assert status == 0, err
    assert f"written to {unsplit / SPLIT_FILE}" in out
    assert sorted(path for path in unsplit.rglob("*")) == sorted([*before, unsplit / SPLIT_FILE])
    data = DataSet(str(unsplit))
    assert data.names == ("train", "val", "test")
    names = {split: [one.name for one in data.split(split).samples] for split in data.names}
    assert [len(some) for some in names.values()] == [12, 6, 6]
    videos = [{name.split("_")[0] for name in some} for some in names.values()]
    assert not videos[0] & videos[1]
    assert not (videos[0] | videos[1]) & videos[2]
    whole = DataSet(str(unsplit), divided=False).split("all")
    everything = {one.name: (one.boxes.tolist(), one.labels.tolist()) for one in whole.samples}
    for split in data.names:
        opened = data.split(split)
        assert all(everything[one.name] == (one.boxes.tolist(), one.labels.tolist()) for one in opened.samples)
        marks = opened.annotations["annotations"]
        assert [mark["id"] for mark in marks] == list(range(1, len(marks) + 1))
        assert {mark["image_id"] for mark in marks} <= {one.image_id for one in opened.samples}
    status, out, err = spnas("plan", "smoke", "--no-measure", "--data", unsplit, "--store", tmp_path / "store")
    assert status == 0, err
    assert "images 12 train, 6 val, 6 test" in out
    status, out, err = spnas("check", unsplit, "--preset", "smoke", "--json", "--to-coco", tmp_path / "made")
    report = json.loads(out)
    assert {split: one["images"] for split, one in report["splits"].items()} == {"train": 12, "val": 6, "test": 6}
    assert ("split-file", "data") in {(one["kind"], one["where"]) for one in report["findings"]}
    made = DataSet(str(tmp_path / "made"))
    for split in data.names:
        assert [one.boxes.tolist() for one in made.split(split).samples] == [one.boxes.tolist() for one in data.split(split).samples]


def test_a_split_file_can_lie_elsewhere_and_folds_are_several(unsplit: Path, tmp_path: Path) -> None:
    status, out, err = spnas("split", unsplit, "--folds", 3, "--test", 0, "--out", tmp_path / "fold.json", "--json")
    assert status == 0, err
    places = [one["file"] for one in json.loads(out)]
    assert places == [str(tmp_path / f"fold-{number}.json") for number in (1, 2, 3)]
    vals = [{one.name for one in open_split(str(unsplit), "val", reading=Reading(split_file=place)).samples} for place in places]
    assert set.union(*vals) == {path.name for path in (unsplit / "images").iterdir()}
    assert sum(map(len, vals)) == 24
    prints = {fingerprint_splits([open_split(str(unsplit), "train", reading=Reading(split_file=place))]) for place in places}
    assert len(prints) == 3
    status, out, err = spnas("plan", "smoke", "--no-measure", "--data", unsplit, "--store", tmp_path / "store", "--split", places[0])
    assert status == 0, err
    assert "images 16 train, 8 val, 0 test" in out


def test_pictures_that_are_nearly_the_same_stay_together(unsplit: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted((unsplit / "images").iterdir())):
        if number % 3 == 0:
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        with Image.open(path) as old:
            size = old.size
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path.with_suffix(".png"))
    division = divide(str(unsplit), {"val": 0.25, "test": 0.25}, 0, None)
    assert division.grouped == 24
    videos = [{name.split("_")[0] for name in some} for some in division.images.values()]
    assert sum(map(len, videos)) == 8


def test_other_layouts_are_divided_too(small: Path, tmp_path: Path) -> None:
    folder = as_voc(small, tmp_path / "voc")
    shutil.rmtree(folder / "ImageSets")
    status, _, err = spnas("split", folder, "--val", 0.5, "--test", 0)
    assert status == 0, err
    assert DataSet(str(folder)).names == ("train", "val")
    (folder / "JPEGImages").rename(folder / "pictures")
    with pytest.raises(UserError, match=r"spnas-split.json: train: expected images of all, got 'JPEGImages/.*, which is none"):
        open_split(str(folder), "train")


def test_a_test_split_stays_as_it_is(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", {"train": 12, "test": 3})
    status, _, err = spnas("split", folder)
    assert (status, err.count("\n")) == (2, 1)
    assert "expected --test 0, since the data set has a test split" in err
    assert spnas("split", folder, "--test", 0, "--val", 0.25)[0] == 0
    data = DataSet(str(folder))
    assert [len(data.split(name).samples) for name in data.names] == [9, 3, 3]
    assert "expected a data set without val" not in spnas("split", folder, "--test", 0)[2], "it can be divided again"


MISTAKES = [
    (["--val", "0.6", "--test", "0.5"], "expected shares of at least 0 that leave some for train"),
    (["--group", "("], "--group: expected a regular expression, got '('"),
    (["--group", "nothing"], "--group 'nothing': expected names of images that it matches, such as 'video0_frame0.png', got none"),
    (["--group", "video"], "expected images for every split, got none for"),
    (["--folds", "1"], "--folds: expected at least 2, got 1"),
]


@pytest.mark.parametrize(("words", "text"), MISTAKES)
def test_mistakes_are_one_line(words: list[str], text: str, unsplit: Path) -> None:
    status, _, err = spnas("split", unsplit, *words)
    assert (status, err.count("\n")) == (2, 1)
    assert text in err
    assert not (unsplit / SPLIT_FILE).exists()


def test_data_that_is_split_already(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", {"train": 4, "val": 2})
    status, _, err = spnas("split", folder)
    assert (status, err.count("\n")) == (2, 1)
    assert "expected a data set without val, got train, val" in err


FILES = [
    (b"{", "expected JSON"),
    (b"[]", "expected one of spnas split, got at the file"),
    (b'{"spnas_split": 2, "splits": {}}', "expected one of spnas split, got at spnas_split"),
    (b'{"spnas_split": 1, "splits": {"train": {"of": "all", "images": [3]}}}', "got at splits.train.images.0"),
    (b'{"spnas_split": 1, "splits": {"train": {"of": "gone", "images": ["a"]}}}', "all, got 'gone'"),
    (b'{"spnas_split": 1, "splits": {"train": {"of": "train", "images": []}, "val": {"of": "all", "images": []}}}', "all, got 'train'"),
    (b'{"spnas_split": 1, "splits": {"train": {"of": "all", "images": ["../../x"]}}}', "expected images of all, got '../../x'"),
]


@pytest.mark.parametrize(("content", "text"), FILES)
def test_a_split_file_of_another_form_is_one_line(content: bytes, text: str, unsplit: Path, tmp_path: Path) -> None:
    (unsplit / SPLIT_FILE).write_bytes(content)
    for words in (["check", unsplit, "--preset", "smoke"], ["plan", "smoke", "--no-measure", "--data", unsplit, "--store", tmp_path / "s"]):
        status, _, err = spnas(*words)
        assert status == 2
        assert text in err
        assert "Traceback" not in err


def test_one_image_in_two_splits_is_refused(unsplit: Path) -> None:
    part = Part(of="all", images=("video0_frame0.png",))
    write_split_file(str(unsplit / SPLIT_FILE), {"train": part, "val": part}, "by hand")
    with pytest.raises(UserError, match=r"expected splits without common images, got 'video0_frame0.png' in train and val"):
        open_split(str(unsplit), "train")


def test_a_watch_finds_data_sets_in_every_layout(unsplit: Path, small: Path, tmp_path: Path) -> None:
    from flows.research import data_sets

    top = tmp_path / "top"
    as_voc(small, top / "voc")
    as_yolo(small, top / "yolo")
    write_data(top / "coco", {"train": 2, "val": 1})
    write_data(top / "train alone", {"train": 2})
    shutil.copytree(unsplit, top / "unsplit")
    (top / "empty").mkdir()
    (top / ".hidden").mkdir()
    (top / "file").write_text("no folder")
    assert [Path(url).name for url in data_sets(str(top))] == ["coco", "voc", "yolo"]
    assert spnas("split", top / "unsplit")[0] == 0
    assert "unsplit" in {Path(url).name for url in data_sets(str(top))}
