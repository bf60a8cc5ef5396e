"""Paths and URLs: every character of a path is a part of a name; a chain of file systems is one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spnas_core.data import files
from spnas_core.data.fingerprints import verify_images
from spnas_core.data.splits import open_split
from spnas_core.errors import UserError
from spnas_core.store.storage import Storage
from spnas_core.store.urls import open_place
from spnas_core.weights.checkpoint import open_checkpoint

CASE = Path(__file__).parents[2] / "shared" / "cases" / "21-odd-file-names"
NAMES = [
    "a::b.jpg",
    "zip::c.jpg",
    "s3:",
    "simplecache::d::e.jpg",
    "f#1?.jpg",
    "[g]*.jpg",
    "~h.jpg",
    "100%25.jpg",
    "::",
    "file::i.jpg",
    "{j}.jpg",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read_and_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "x::y" / "http:" / "s3::z"
    folder.mkdir(parents=True)
    path = str(folder / name)
    for url in (path, f"file://{path}", f"local://{path}"):
        files.write(url, b"content", "--out")
        system, inner = files.open_url(url)
        assert (inner, files.url_of(system, inner), files.local_file(url)) == (path, path, Path(path))
        assert files.read_file(system, inner) == b"content"
        assert open_checkpoint(url) == Path(path)
        assert list(files.list_folder(*files.open_url(str(folder)))) == [name]
        assert list(files.files_below(*files.open_url(str(tmp_path)))) == [path]
    monkeypatch.chdir(folder)
    assert open_place(name)[1] == path
    assert sorted(Path.cwd().iterdir()) == [Path(path)]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_an_absolute_path_is_that_path(text: str) -> None:
    name = text.replace("/", "-").strip(".") or "x"
    system, path = open_place(f"/folder/{name}")
    assert (system.protocol, path) == (("file", "local"), f"/folder/{name}")


def test_a_store_in_a_folder_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a::b" / "zip:" / "store"
    for url in (str(place), f"file://{place}"):
        store = Storage(url)
        assert (store.url, store.local) == (f"file://{place}", place)
        store.write("x", b"1")
        assert (store.read("x"), store.files()) == (b"1", {"x": 1})
    monkeypatch.chdir(tmp_path)
    assert Storage("a::b/zip:/store").read("x") == b"1"


def test_names_in_an_object_store() -> None:
    system, path = open_place("s3://bucket/a::b.jpg", anon=True)
    assert (type(system).__name__, path) == ("S3FileSystem", "bucket/a::b.jpg")


CHAINS = [
    "simplecache::s3://bucket/x",
    "zip://x.jpg::file:///y.zip",
    "zip://*::s3://bucket/y.zip",
    "filecache::memory://x",
    "simplecache::zip://x::s3://bucket/y",
    "simplecache::/folder",
]


@pytest.mark.parametrize("url", [*CHAINS, "zip://x.jpg", "reference://x", "nope://x"])
def test_chains_and_unknown_protocols_are_one_line(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for work in (files.open_url, files.local_file, Storage, lambda one: open_split(one, "train"), open_checkpoint):
        with pytest.raises(UserError) as caught:
            work(url)
        assert "\n" not in str(caught.value)
        assert url in str(caught.value)
        assert ("in a chain" in str(caught.value)) is (url in CHAINS)


def test_a_password_in_a_chain_is_not_shown() -> None:
    with pytest.raises(UserError) as caught:
        files.open_url("simplecache::https://me:secret@host/x")
    assert "secret" not in str(caught.value)


def odd_data(folder: Path) -> Path:
    """A data set in the layout of COCO whose images have odd names."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    names = [name for name in NAMES if name.endswith(".jpg")]
    for split in ("train", "val"):
        for name in names:
            Image.fromarray(np.full((8, 8, 3), 128, np.uint8)).save(folder / "images" / f"{split} {name}")
        document = {
            "images": [{"id": i, "file_name": f"{split} {name}", "width": 8, "height": 8} for i, name in enumerate(names, 1)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0} for i in range(1, len(names) + 1)
            ],
            "categories": [{"id": 1, "name": "thing"}],
        }
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


def test_a_data_set_with_odd_names(tmp_path: Path) -> None:
    for split in ("train", "val"):
        opened = open_split(str(odd_data(tmp_path / split / "c::d")), split)
        assert len(opened.samples) == sum(name.endswith(".jpg") for name in NAMES)
        verify_images(opened, 1)


@pytest.mark.skipif(not CASE.exists(), reason="no shared data")
def test_the_shared_data_set() -> None:
    for split in ("train", "val"):
        opened = open_split(str(CASE), split)
        assert len(opened.samples) == 16
        verify_images(opened, 1)
