"""Thumbnails that correlate: the same ones are found as by the table of all pairs."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spnas_core.check import images as check_images
from spnas_core.check import twins
from spnas_core.data.images import Floats, ImageFact
from spnas_core.data.raw_split import ImageFile, RawSplit


def scenes(rng: np.random.Generator, count: int) -> Floats:
    """Thumbnails (n, 256) as of photographs, 1/f noise."""
    scale = np.hypot(np.fft.fftfreq(16)[:, None], np.fft.rfftfreq(16)[None]) * 16
    scale[0, 0] = 1
    waves = (rng.normal(size=(count, 16, 9)) + 1j * rng.normal(size=(count, 16, 9))) / scale**1.2
    grey = np.fft.irfft2(waves, (16, 16)).reshape(count, 256)
    return np.asarray(128 + 40 * grey / grey.std(axis=1, keepdims=True), np.float32)


def plainly(first: Floats, second: Floats, apart: bool) -> list[int]:
    table = second.astype(np.float64) @ first.astype(np.float64).T
    if not apart:
        table[np.triu_indices(len(second))] = -1
    return np.flatnonzero((table >= twins.SIMILAR).any(axis=1)).tolist()


@pytest.mark.parametrize("rows", [7, 64, 2048])
@pytest.mark.parametrize("noise", [0.0, 5.0, 5.7, 60.0])
def test_the_same_are_found_as_by_all_pairs(rows: int, noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "ROWS", rows)
    rng = np.random.default_rng(int(noise) + rows)
    base = scenes(rng, 60)
    grey = base[rng.integers(0, 60, 300)] + rng.normal(size=(300, 256)) * noise
    grey[5], grey[6] = 200, grey[6] * 0.01  # flat ones
    units = twins.unit_thumbnails(grey.astype(np.float32))
    found = twins.similar_rows(units, units, False).tolist()
    assert found == plainly(units, units, False)
    assert bool(found) is (noise < 6)
    other = twins.unit_thumbnails((base[:20] + 3).astype(np.float32))
    assert twins.similar_rows(units, other, True).tolist() == plainly(units, other, True)
    assert twins.similar_rows(units[:0], other, True).tolist() == twins.similar_rows(units, other[:0], True).tolist() == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0.0, 100.0))
@example(32, 32, 77.0)  # 3e-5 too small once
def test_no_pair_is_missed_by_the_bound(seed: int, count: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    grey = twins.unit_thumbnails(np.asarray(scenes(rng, count)[0] + rng.normal(size=(count, 256)) * noise, np.float32))
    axes = twins._main_axes(scenes(rng, count) if seed % 2 else grey)
    bounds = twins._bounds(grey, np.linalg.qr(axes)[0])
    assert (bounds @ bounds.T >= grey @ grey.T - 1e-5).all()


def test_twenty_thousand_are_compared_in_seconds() -> None:
    units = twins.unit_thumbnails(scenes(np.random.default_rng(0), 20_000))
    start = time.perf_counter()
    assert twins.similar_rows(units, units, False).tolist() == []
    print(f"20,000 thumbnails: {(seconds := time.perf_counter() - start):.2f} s")
    assert seconds < 6  # 0.5 on two idle cores


def judged(contents: dict[str, list[int]], pool: Floats) -> dict[tuple[str, str], tuple[int, str]]:
    """Findings about splits whose pictures have the contents of these numbers."""
    facts = [ImageFact((16, 16), 1, str(number), grey.reshape(16, 16)) for number, grey in enumerate(pool)]
    seen = {f"{split}/{place}": facts[number] for split, numbers in contents.items() for place, number in enumerate(numbers)}
    sources = [
        RawSplit(split, {}, {f"{split[0]}{place}": ImageFile(f"{split}/{place}", 1) for place in range(len(numbers))})
        for split, numbers in contents.items()
    ]
    return {(one.kind, one.where): (one.count, one.first) for one in check_images.judge_twins(sources, seen)}


def test_pictures_are_counted_by_name_and_compared_by_content(tmp_path: Path) -> None:
    pool = scenes(np.random.default_rng(1), 6)
    pool[3], pool[5] = pool[0] + 1 + pool[1] * 0.01, pool[4] * 0.9
    assert judged({"train": [0, 1, 2], "val": [4]}, pool) == {}
    assert judged({"train": [0, 0, 3, 1, 3], "val": [5, 2]}, pool) == {
        ("duplicate-image", "train"): (2, "t0 and t1"),
        ("similar-image", "train"): (1, "t0 and t2, correlation 1.000"),
    }
    assert judged({"train": [0, 1, 4], "val": [2, 5, 5, 3, 1]}, pool) == {
        ("duplicate-image", "val"): (1, "v1 and v2"),
        ("leak", "train and val"): (1, "t1 and v4"),
        ("similar-leak", "train and val"): (3, "t2 and v1, correlation 1.000"),
    }


def test_many_names_of_a_few_contents_take_no_time() -> None:
    pool = scenes(np.random.default_rng(2), 5)
    start = time.perf_counter()
    found = judged({"train": [number % 5 for number in range(50_000)], "val": [number % 5 for number in range(5_000)]}, pool)
    assert found == {
        ("duplicate-image", "train"): (49_995, "t0 and t5"),
        ("duplicate-image", "val"): (4_995, "v0 and v5"),
        ("leak", "train and val"): (5_000, "t0 and v0"),
    }
    assert time.perf_counter() - start < 5
