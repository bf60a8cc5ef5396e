"""Causes of an mIoU near chance, by their traces in the confusion."""

import re
from pathlib import Path

import numpy as np
import pytest

from spnas_core.monitor.mask_doctor import causes_in_confusion, chance_miou, is_well

NAMES = ("ground", "square", "disc")


def test_chance_is_what_the_most_frequent_class_everywhere_gives() -> None:
    table = np.array([[90.0, 0, 0], [8, 0, 0], [2, 0, 0]])
    ious = [90 / 100, 0.0, 0.0]
    assert chance_miou(table) == pytest.approx(np.mean(ious))
    assert not is_well(0.31, chance_miou(table))
    assert is_well(0.5, chance_miou(table))
    assert chance_miou(np.array([[5.0, 0], [0, 0]])) == 1.0  # a class that val lacks does not count


@pytest.mark.parametrize(
    ("table", "learnt", "name", "words"),
    [
        ([[90, 0, 0], [8, 0, 0], [2, 0, 0]], True, "one class", r"100\.0 % of val is called ground, of which it has 90\.0 %"),
        ([[80, 5, 5], [1, 1, 8], [0, 9, 1]], True, "class mapping", r"square is called disc \(80 %\); disc is called square \(90 %\)"),
        ([[40, 30, 20], [5, 3, 4], [4, 3, 3]], True, "wrong split", r"the loss fell, yet 41\.1 % of val's pixels are right"),
        ([[40, 30, 20], [5, 3, 4], [4, 3, 3]], False, None, ""),
        ([[100, 0, 0], [0, 0, 0], [0, 0, 0]], False, None, ""),
    ],
)
def test_a_confusion_tells_its_cause(table: list[list[float]], learnt: bool, name: str | None, words: str) -> None:
    causes = causes_in_confusion("serial r1 c1", np.array(table, float), NAMES, learnt)
    if name is None:
        assert not causes
        return
    (cause,) = causes
    assert cause.name == name
    assert cause.where == "serial r1 c1"
    assert re.search(words, cause.seen)


def test_faulty_masks_are_causes(tmp_path: Path) -> None:
    from masked import masked_set, save

    from spnas_core.check.masks import inspect_masks
    from spnas_core.monitor.mask_doctor import causes_in_mask_data
    from spnas_core.settings.reading import Reading

    data = masked_set(tmp_path)
    assert causes_in_mask_data(inspect_masks(str(data), Reading())) == []
    save(data / "masks" / "train" / "train0.png", np.full((24, 24), 7, np.uint8))
    (cause,) = causes_in_mask_data(inspect_masks(str(data), Reading()))
    assert cause.name == "class mapping"
    assert "name" in cause.line
