"""Facts of image files: each file is read once, whatever its names."""

import os
import time
from pathlib import Path

import pytest
from data_sets import encoded
from PIL import Image

from spnas_core.data import image_facts, images


def linked(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> list[str]:
    """Names of hard links of five pictures, in turn."""
    for number in range(5):
        (folder / f"content{number}").write_bytes(encoded(Image.effect_noise(size, 20 + 20 * number)))
    names = [f"{folder}/{number:06d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        os.link(folder / f"content{number % 5}", name)
    return names


def test_hard_links_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = linked(tmp_path, 40)
    (tmp_path / "broken.jpg").write_bytes(b"x")
    os.link(tmp_path / "broken.jpg", tmp_path / "again.jpg")
    asked = [*names, str(tmp_path / "broken.jpg"), str(tmp_path / "again.jpg"), str(tmp_path / "none.jpg")]
    read: list[str] = []
    for function in ("look", "header_size"):
        inner = getattr(images, function)
        monkeypatch.setattr(images, function, lambda path, *rest, inner=inner: read.append(str(path)) or inner(path, *rest))
    seen = image_facts.ImageFacts(2).at(asked)
    assert sorted(read) == sorted([*names[:5], *asked[40:41], asked[42]])
    assert list(seen) == asked
    for number, name in enumerate(names):
        assert seen[name] is seen[names[number % 5]]
    assert len({id(fact) for fact in seen.values()}) == 7
    assert seen[asked[40]] is seen[asked[41]]
    read.clear()
    assert image_facts.header_sizes(asked) == {**dict.fromkeys(names, (64, 48)), **dict.fromkeys(asked[40:])}
    assert len(read) == 7


def test_a_copy_and_a_changed_file_are_read_for_themselves(tmp_path: Path) -> None:
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    for path in (one, two):
        path.write_bytes(encoded(Image.new("RGB", (8, 6)), "PNG"))
    facts = image_facts.ImageFacts(1)
    seen = facts.at([str(one), str(two)])
    assert seen[str(one)] is not seen[str(two)]
    assert facts.sizes([str(one)]) == {str(one): (8, 6)}


def test_many_hard_links_take_no_time(tmp_path: Path) -> None:
    names = linked(tmp_path, 10_000, (1024, 768))
    start = time.perf_counter()
    image_facts.ImageFacts(2).at(names)
    assert time.perf_counter() - start < 5  # 0.1; 17 where each is read
