"""Squares of masks for the reignition: a class fills each, and each class that can has one."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from masked import masked_set

from spnas_core.data.crops import eval_crops
from spnas_core.data.mask_crops import FILLED, filled_squares, open_mask_crops
from spnas_core.data.masks.mask_set import open_mask_split
from spnas_core.errors import UserError


@given(st.integers(0, 1000), st.integers(8, 90), st.integers(8, 90))
def test_a_class_fills_half_of_its_square(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 1, 2, 255], (1 + height // 8, 1 + width // 8)).astype(np.uint8)
    mask = np.kron(coarse, np.ones((8, 8), np.uint8))[:height, :width]
    found = filled_squares(mask, 4)
    labels = [label for _, label in found]
    assert labels == sorted(set(labels))
    assert 3 not in labels
    for (left, top, right, bottom), label in found:
        inside = mask[int(top) : int(bottom), int(left) : int(right)]
        assert (inside == label).mean() >= FILLED
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_the_square_is_the_largest_that_is_filled() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:20, :20] = 1  # more than half of a square of 16, not of one of 32
    assert filled_squares(mask, 2) == [((32.0, 0.0, 64.0, 32.0), 0), ((0.0, 0.0, 16.0, 16.0), 1)]


def test_crops_are_named_after_what_fills_them(tmp_path: Path) -> None:
    split = open_mask_split(str(masked_set(tmp_path)), "train")
    crops = open_mask_crops(split, 16)
    assert crops.class_names == ("ground", "square", "disc")
    assert {label for _, _, label in crops.items} == {0, 1, 2}
    (batch,) = eval_crops(crops, len(crops.items))
    means = {label: batch.images[batch.labels == label].mean((0, 2, 3)) for label in range(3)}
    assert means[1].argmax() == 0  # squares are red, discs blue
    assert means[2].argmax() == 2


def test_masks_without_anything_to_crop_are_a_mistake(tmp_path: Path) -> None:
    split = open_mask_split(str(masked_set(tmp_path)), "train")
    for sample in split.samples:
        from PIL import Image

        Image.fromarray(np.full((24, 24), 255, np.uint8)).save(sample.source.place.removeprefix("file://"))
    with pytest.raises(UserError, match="expected squares that one class fills, for the classifier, got none"):
        open_mask_crops(split, 16)
