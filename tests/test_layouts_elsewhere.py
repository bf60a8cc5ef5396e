"""Data sets in every layout on a real S3 server, behind links, and large: each folder is listed once, each file read once."""

import os
import time
import uuid
from pathlib import Path

import fsspec
import pytest
from laid_out import JPEG, TRUTH, labelme_json, put, seen, table, true, voc_xml, yolo_text

from flows import presets
from spnas_core.check.dataset import inspect, write_as_coco
from spnas_core.data import files
from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import layout_listing, open_layout
from spnas_core.data.splits import open_split
from spnas_core.data.tree import list_tree

PICTURES = {f"images/{name}.jpg": JPEG[name] for name in TRUTH}
LISTS: dict[str, str | bytes] = {"ImageSets/Main/train.txt": "a\nb", "ImageSets/Main/val.txt": "c\nd"}
LAYOUTS: dict[str, dict[str, str | bytes]] = {
    "voc": {
        **PICTURES,
        **{f"Annotations/{n}.xml": voc_xml(n) for n in TRUTH},
        "ImageSets/Main/train.txt": "a\nb",
        "ImageSets/Main/val.txt": "c\nd",
    },
    "yolo": {
        **PICTURES,
        **{f"labels/{n}.txt": yolo_text(n) for n in TRUTH},
        "data.yaml": "train: train.txt\nval: val.txt\nnames: [red, blue]",
        "train.txt": "images/a.jpg\nimages/b.jpg",
        "val.txt": "images/c.jpg\nimages/d.jpg",
    },
    "labelme": {
        **{f"{'train' if n in 'ab' else 'val'}/{n}.jpg": JPEG[n] for n in "abcd"},
        **{f"{'train' if n in 'ab' else 'val'}/{n}.json": labelme_json(n) for n in "abcd"},
    },
    "table": {**PICTURES, "train.csv": table("ab"), "val.csv": table("cd")},
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> dict[str, str | bytes]:
    return LAYOUTS[request.param]


@pytest.mark.training  # it needs the server
def test_on_a_real_s3_server(layout: dict[str, str | bytes], s3_url: str) -> None:
    place = f"{s3_url}/{uuid.uuid4().hex}"
    system, root = fsspec.url_to_fs(place)
    for name, content in layout.items():
        system.pipe_file(f"{root}/{name}", content if isinstance(content, bytes) else content.encode())
    system.invalidate_cache()
    assert seen(place) == true(train="ab", val="cd")


def test_links_are_followed_but_not_in_circles(layout: dict[str, str | bytes], tmp_path: Path) -> None:
    put(tmp_path / "there", layout)
    for name in (tmp_path / "there").iterdir():
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name.name).symlink_to(name)
        if name.is_dir():
            (name / "around").symlink_to(tmp_path / "there", target_is_directory=True)
            (name / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "there" / "up").symlink_to(tmp_path)
    assert seen(tmp_path / "data") == true(train="ab", val="cd")
    assert seen(tmp_path / "there") == true(train="ab", val="cd")


def test_each_folder_is_listed_once_and_each_file_read_once(
    layout: dict[str, str | bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, layout)
    listed: list[str] = []
    read: list[str] = []
    list_folder, read_file = files.list_folder, files.read_file
    system, root = files.open_url(str(tmp_path))
    monkeypatch.setattr(files, "list_folder", lambda system, path: listed.append(path) or list_folder(system, path))
    list_tree(system, root)
    folders = {str(path) for path in tmp_path.rglob("*") if path.is_dir()} | {root}
    assert sorted(listed) == sorted(folders)
    monkeypatch.setattr(files, "read_file", lambda system, path: read.append(path) or read_file(system, path))
    listed.clear()
    open_layout(str(tmp_path), header_sizes)
    assert max(map(listed.count, listed)) <= 3, "by the readers of COCO once or twice more"
    looked_at = {".json": 3, ".csv": 2}  # the first of them may be of COCO, or of another tool
    assert max(map(read.count, read)) <= looked_at.get(Path(read[0]).suffix, 1)


def test_a_listing_changes_with_each_file_that_counts(layout: dict[str, str | bytes], tmp_path: Path) -> None:
    put(tmp_path, layout)
    system, root = files.open_url(str(tmp_path))
    before = layout_listing(system, root)
    (tmp_path / ".hidden").write_text("x")
    assert layout_listing(system, root) == before
    for name in layout:
        facts = (tmp_path / name).stat()
        os.utime(tmp_path / name, (facts.st_atime, facts.st_mtime + 10))
        after = layout_listing(system, root)
        assert after != before
        before = after


def test_a_folder_for_each_of_many_sequences(tmp_path: Path) -> None:
    for number in range(500):
        put(tmp_path, {f"seq{number}/images/{number}.jpg": JPEG["a"], f"seq{number}/labels/{number}.txt": yolo_text("a")})
    put(tmp_path, {"classes.txt": "red\nblue"})
    assert seen(tmp_path) == {"all": {str(number): TRUTH["a"] for number in sorted(range(500), key=lambda n: f"seq{n}/")}}


@pytest.mark.training
@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_thousands_of_pictures_take_seconds(kind: str, tmp_path: Path) -> None:
    suffix, text = {"voc": ("xml", voc_xml("a")), "yolo": ("txt", yolo_text("a"))}[kind]
    (tmp_path / "boxes/day1").mkdir(parents=True)
    (tmp_path / "images/day1").mkdir(parents=True)
    (tmp_path / "picture").write_bytes(JPEG["a"])
    for number in range(3_000):
        (tmp_path / f"images/day1/{number}.jpg").hardlink_to(tmp_path / "picture")
        (tmp_path / f"boxes/day1/{number}.{suffix}").write_text(text)
    begun = time.monotonic()
    layout = open_layout(str(tmp_path), lambda urls: dict.fromkeys(urls, (64, 48)))
    assert sum(len(raw.document["annotations"]) for raw in layout.sources) == 6_000
    assert time.monotonic() - begun < 10


def test_what_is_converted_is_the_same_data(layout: dict[str, str | bytes], tmp_path: Path) -> None:
    put(tmp_path / "data", layout)
    report = inspect(str(tmp_path / "data"), presets.load_preset("demo"))
    assert not [finding for finding in report.findings if finding.severity == "error"]
    write_as_coco(report, str(tmp_path / "made"))
    for split in ("train", "val"):
        one, two = (open_split(str(tmp_path / name), split, strict=True) for name in ("data", "made"))
        assert one.categories == two.categories
        assert one.annotations["annotations"] == two.annotations["annotations"]
        for first, second in zip(one.samples, two.samples, strict=True):
            assert Path(first.file).read_bytes() == Path(second.file).read_bytes()
