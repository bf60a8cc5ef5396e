"""Batches of images with masks."""

from pathlib import Path

import numpy as np
import pytest
from masked import SIDE, mask_of, masked_set, picture_of, save
from PIL import Image

from spnas_core.data import images
from spnas_core.data.masks.mask_loader import mask_eval_batches, mask_train_batches, resize_mask, restore_prediction
from spnas_core.data.masks.mask_set import open_mask_split
from spnas_core.data.pipeline import ImageCache
from spnas_core.errors import UserError
from spnas_core.settings.training import Recipe

SIZE = (32, 48)


def equal(one: tuple[np.ndarray, ...], two: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(left, right) for left, right in zip(one, two, strict=True))


def test_a_batch_has_the_pixels_of_its_files(tmp_path: Path) -> None:
    """Twice the side of the image: each value of the mask four times, and the colour at a pixel that of its category."""
    split = open_mask_split(str(masked_set(tmp_path)), "train")
    recipe = Recipe(batch=4, flip=False, epochs=1)
    (batch,) = mask_train_batches(split, (2 * SIDE, 3 * SIDE), recipe, seed=5, epoch=0)
    assert sorted(batch.ids) == [0, 1, 2, 3]
    assert batch.masks.dtype == np.int32
    for row, number in enumerate(batch.ids):
        mask = mask_of(int(number))
        assert np.array_equal(batch.masks[row, :, : 2 * SIDE], mask.repeat(2, 0).repeat(2, 1))
        assert (batch.masks[row, :, 2 * SIDE :] == 255).all()
        assert not batch.images[row, :, :, 2 * SIDE :].any()
        assert batch.image_hw[row].tolist() == [2 * SIDE, 2 * SIDE]
        assert batch.own_hw[row].tolist() == [SIDE, SIDE]
        shown = batch.images[row] * images.STD[:, None, None] + images.MEAN[:, None, None]
        wanted = np.asarray(Image.fromarray(picture_of(mask, int(number))).resize((2 * SIDE, 2 * SIDE), Image.Resampling.BILINEAR))
        assert np.abs(shown[:, :, : 2 * SIDE] * 255 - wanted.transpose(2, 0, 1)).max() < 0.01


def test_batches_are_a_function_of_seed_epoch_and_position(tmp_path: Path) -> None:
    split = open_mask_split(str(masked_set(tmp_path)), "train")
    recipe = Recipe(batch=1, scales=(0.5, 1.0, 1.7))
    cache = ImageCache()

    def epoch(number: int, start: int = 0, **more: object) -> list:
        return list(mask_train_batches(split, SIZE, recipe, 7, number, start, **more))  # type: ignore[arg-type]

    whole = epoch(1)
    assert all(equal(one, two) for one, two in zip(whole, epoch(1, cache=cache, threads=1), strict=True))
    assert all(equal(one, two) for one, two in zip(whole, epoch(1, cache=cache), strict=True))
    assert all(equal(one, two) for one, two in zip(whole[2:], epoch(1, 2), strict=True))
    assert not all(equal(one, two) for one, two in zip(whole, epoch(2), strict=True))


def test_cut_and_flip_move_image_and_mask_together(tmp_path: Path) -> None:
    """Red grows with the column of a category, green with its row, in steps: image and mask never part by a whole step."""
    rows, columns = np.mgrid[:40, :64] // np.array([5, 8])[:, None, None]
    picture = np.stack([30 * columns, 30 * rows, 0 * rows], axis=2).astype(np.uint8)
    for number in range(6):
        save(tmp_path / "images" / "train" / f"{number}.png", picture)
        save(tmp_path / "masks" / "train" / f"{number}.png", (columns + 8 * rows).astype(np.uint8))
    (tmp_path / "data.yaml").write_text(f"names: {[f'c{number}' for number in range(64)]}\nmasks_dir: masks\ntrain: images/train\n")
    split = open_mask_split(str(tmp_path), "train")
    seen = set()
    for epoch in range(8):
        for batch in mask_train_batches(split, (20, 32), Recipe(batch=2, scales=(1.0, 2.0)), 0, epoch):
            for row in range(2):
                h, w = batch.image_hw[row].astype(int)
                shown = (batch.images[row, :, :h, :w] * images.STD[:, None, None] + images.MEAN[:, None, None]) * 255 / 30
                mask = batch.masks[row, :h, :w]
                assert np.abs(shown[0] - mask % 8).max() < 0.76
                assert np.abs(shown[1] - mask // 8).max() < 0.76
                seen.add(batch.masks[row].tobytes())
    assert len(seen) > 10


def test_shares_of_ranks_are_the_batch(tmp_path: Path) -> None:
    split = open_mask_split(str(masked_set(tmp_path)), "train")
    whole = next(iter(mask_train_batches(split, SIZE, Recipe(batch=4), 1, 0)))
    parts = [next(iter(mask_train_batches(split, SIZE, Recipe(batch=4), 1, 0, share=slice(rank, None, 2)))) for rank in (0, 1)]
    assert all(np.array_equal(one[rank::2], part) for rank in (0, 1) for one, part in zip(whole, parts[rank], strict=True))


def test_evaluation_has_every_image_once_and_leads_back_to_its_size(tmp_path: Path) -> None:
    split = open_mask_split(str(masked_set(tmp_path, {"train": 5})), "train")
    batches = list(mask_eval_batches(split, (2 * SIDE, 3 * SIDE), 2))
    assert [batch.ids.tolist() for batch in batches] == [[0, 1], [2, 3], [4, -1]]
    assert batches[0].masks.shape == (2, 0, 0)
    assert batches[-1].image_hw[1].tolist() == [2 * SIDE, 3 * SIDE]
    for sample in split.samples:
        truth = np.minimum(sample.mask(), 2)
        scores = np.zeros((3, 2 * SIDE, 3 * SIDE), np.float32)
        scores[:, :, : 2 * SIDE] = (truth.repeat(2, 0).repeat(2, 1) == np.arange(3)[:, None, None]).astype(np.float32)
        back = restore_prediction(scores, np.array([2 * SIDE, 2 * SIDE], np.float32), (2 * SIDE, 3 * SIDE), (SIDE, SIDE))
        assert (back == truth).mean() > 0.97


def test_scores_of_any_stride_are_restored_without_a_shift() -> None:
    """A score that grows from left to right crosses another one in the middle of the image, whatever the stride and the padding."""
    for stride in (1, 4, 8):
        h, w = 32 // stride, 64 // stride
        centres = (np.arange(w) + 0.5) * stride
        scores = np.stack([np.full((h, w), 16.0), np.broadcast_to(centres, (h, w))]).astype(np.float32)
        back = restore_prediction(scores, np.array([32, 32], np.float32), (32, 64), (96, 96))
        assert back.shape == (96, 96)
        assert (back[:, :48] == 0).all()
        assert (back[:, 48:] == 1).all()


def test_nearest_keeps_values() -> None:
    mask = mask_of(3)
    assert set(np.unique(resize_mask(mask, 7, 91))) <= set(np.unique(mask))
    assert np.array_equal(resize_mask(mask, *mask.shape), mask)


def test_a_mask_of_another_size_ends_the_batch(tmp_path: Path) -> None:
    folder = masked_set(tmp_path)
    save(folder / "masks" / "train" / "train2.png", mask_of(2)[:-1])
    with pytest.raises(UserError, match=r"train2.png: expected 24x24 px as its image .*, got 24x23"):
        list(mask_train_batches(open_mask_split(str(folder), "train"), SIZE, Recipe(batch=2), 0, 0))
