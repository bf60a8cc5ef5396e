"""One door to the splits of a segmentation data set in any layout; the counterpart of `splits.DataSet`."""

import logging
from functools import cached_property

import numpy as np

from spnas_core.data import files
from spnas_core.data.annotations import Categories
from spnas_core.data.findings import Finding
from spnas_core.data.images import Pixels
from spnas_core.data.masks.decoding import IGNORED
from spnas_core.data.masks.mask_layout import MaskLayout, RawMasks
from spnas_core.data.masks.mask_layouts import open_mask_layout
from spnas_core.data.masks.mask_samples import MaskSample, MaskSplit
from spnas_core.data.opening import picture_rules
from spnas_core.data.samples import match_categories
from spnas_core.data.split_names import UNSPLIT, in_order
from spnas_core.errors import EmptySplitError, UserError
from spnas_core.settings.reading import Reading

_log = logging.getLogger("spnas_core")


class MaskSet:
    """A segmentation data set as it is now: its layout and its splits by their names here; `divided` by its split file, if it has one."""

    def __init__(self, url: str, reading: Reading | None = None, strict: bool = False, divided: bool = True) -> None:
        self.reading, self.strict, self._divided = reading or Reading(), strict, divided
        self._url = url
        self.url = files.url_of(*files.open_url(url)).rstrip("/")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the splits here: train, val and test first; UserError where the place is in no known layout."""
        return in_order(raw.split for raw in self._layout.sources)

    def split(self, name: str, categories: Categories | None = None) -> MaskSplit:
        """Open a split, under `categories` (by default the data set's own): matched by name, others ignored; UserError for a fault.

        Images without a mask and masks without an image are left out and told of; UserError where the data set is `strict`.
        """
        raw, layout = self._raw(name), self._layout
        where = f"{layout.url} {name}"
        for finding in (*layout.findings, *raw.findings):
            self._heed(finding, where)
        own = self.categories(name)
        table, known = (None, own) if categories is None or _names_of(categories) == _names_of(own) else _renaming(own, categories, where)
        self._check_apart(raw, where)
        if not raw.pairs:
            raise EmptySplitError(f"{where}: expected at least one image with a mask, got none")
        rules = picture_rules(self.reading)
        samples = [MaskSample(row, pair.name, *pair.image, pair.source, len(own), rules, table) for row, pair in enumerate(raw.pairs)]
        return MaskSplit(name, samples, known, self.reading)

    def categories(self, name: str) -> Categories:
        """List the categories by number, from 0 on, as (number, name)."""
        del name  # all splits of a data set have the same
        return tuple(enumerate(self._layout.names))

    def test(self) -> MaskSplit | None:
        """Open the test split; None where there is none, or it has no image or nothing to score with, which is logged."""
        if "test" not in self.names:
            return None
        try:
            split = self.split("test")
        except EmptySplitError as error:
            _log.warning("%s; the final net is scored on val alone", error)
            return None
        if all((sample.mask() == IGNORED).all() for sample in split.samples):
            _log.warning("%s test: all pixels are ignored; the final net is scored on val alone", self.url)
            return None
        return split

    @cached_property
    def _layout(self) -> MaskLayout:
        return open_mask_layout(self._url, self.reading, self._divided)

    def _raw(self, name: str) -> RawMasks:
        """Files of a split; UserError where there is no such split."""
        own = {raw.split: raw for raw in self._layout.sources}
        if name not in own:
            if UNSPLIT in own:
                raise UserError(f"{self.url}: expected train and val, got images that are not split; spnas split {self.url}")
            raise UserError(f"{self.url}: expected a split {name!r}, got {', '.join(own)} ({self._layout.name})")
        return own[name]

    def _heed(self, finding: Finding, where: str) -> None:
        """Refuse what cannot be read as it is meant; tell of the rest, or refuse it too."""
        if finding.kind in ("no-masks", "unscored-test"):
            raise EmptySplitError(f"{where}: expected at least one image with a mask, got none ({finding.first})")
        if finding.severity == "error" or (self.strict and finding.severity == "warning"):
            raise UserError(f"{self.url} {finding.line}")
        if finding.severity == "warning":
            _log.warning("%s %s", self.url, finding.line)

    def _check_apart(self, raw: RawMasks, where: str) -> None:
        names = {pair.name for pair in raw.pairs}
        for other in self._layout.sources:
            if other is not raw and (shared := sorted(names & {pair.name for pair in other.pairs})):
                text = f"got {shared[0]!r} in {other.split} too ({len(shared)} such)"
                raise UserError(f"{where}: expected splits without common images, {text}")


def open_mask_split(url: str, split: str, strict: bool = False, reading: Reading | None = None) -> MaskSplit:
    """Open one split of the segmentation data set at `url`: `MaskSet.split`."""
    return MaskSet(url, reading, strict).split(split)


def _names_of(categories: Categories) -> tuple[str, ...]:
    return tuple(name for _, name in categories)


def _renaming(own: Categories, wanted: Categories, where: str) -> tuple[Pixels, Categories]:
    """Value of each value of a mask under other categories, matched by name, as a table (256,), and these numbered from 0 on."""
    matches = match_categories(_names_of(own), _names_of(wanted))
    if all(match is None for match in matches):
        raise UserError(f"{where}: expected some of the categories {', '.join(_names_of(wanted)[:5])}, got {', '.join(_names_of(own)[:5])}")
    if lost := [name for (_, name), match in zip(own, matches, strict=True) if match is None]:
        _log.warning("%s: pixels of %d other categories are ignored (%s)", where, len(lost), lost[0])
    table = np.full(256, IGNORED, np.uint8)
    table[: len(own)] = [IGNORED if match is None else match for match in matches]
    return table, tuple(enumerate(_names_of(wanted)))
