"""The demo's data with masks: exact, the same for equal seeds, in a layout that is read."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from spnas_core.data.demo import DIGITS, draw_image
from spnas_core.data.masks import mask_demo
from spnas_core.data.masks.mask_demo import DEMO_CLASSES, make_mask_demo
from spnas_core.data.masks.mask_set import MaskSet
from spnas_core.errors import UserError


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a tenth of the images."""
    monkeypatch.setattr(mask_demo, "MASK_COUNTS", {"train": 12, "val": 6, "test": 4})


@pytest.mark.usefixtures("few")
def test_masks_are_the_ink_of_the_digits(tmp_path: Path) -> None:
    data = MaskSet(str(make_mask_demo(tmp_path / "demo")))
    assert data.names == ("train", "val", "test")
    train = data.split("train")
    assert train.class_names == DEMO_CLASSES == ("background", "0", "1", "3", "6")
    rng, sources = np.random.default_rng((0, 0)), mask_demo.demo_sources("train")
    for sample in train.samples:
        pixels, placed = draw_image(sources, rng)  # the picture of the detection demo, and its boxes
        assert np.array_equal(sample.image(), pixels)
        mask = sample.mask()
        for digit, (x1, y1, x2, y2) in placed:  # a box is exactly around the pixels of its digit
            inside = mask[y1:y2, x1:x2]
            assert set(np.unique(inside)) <= {0, 1 + DIGITS.index(digit)}
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            mask[y1:y2, x1:x2] = 0
        assert not mask.any()


@pytest.mark.usefixtures("few")
def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.*")}

    one, two, other = (make_mask_demo(tmp_path / name, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert digests(one) == digests(two) != digests(other)
    assert len(digests(one)) == 2 * 22 + 2


@pytest.mark.usefixtures("few")
def test_a_finished_folder_stays_and_a_strange_one_is_refused(tmp_path: Path) -> None:
    folder = make_mask_demo(tmp_path / "demo")
    (folder / "masks" / "train" / "0001.png").unlink()
    make_mask_demo(folder)
    assert not (folder / "masks" / "train" / "0001.png").exists()
    (tmp_path / "other" / "masks").mkdir(parents=True)
    with pytest.raises(UserError, match="other origin"):
        make_mask_demo(tmp_path / "other")
