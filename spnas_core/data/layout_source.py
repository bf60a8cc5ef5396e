"""Splits of a data set in another layout than COCO's, read as COCO documents."""

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from spnas_core.data.annotations import Categories, Clean, clean_document
from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import layout_listing, open_other_layout
from spnas_core.data.opening import picture_rules
from spnas_core.data.raw_split import ImageFile, Layout, RawSplit
from spnas_core.data.recent import Recent
from spnas_core.errors import UserError
from spnas_core.job import canonical_json
from spnas_core.settings.reading import Reading

_MISREAD = ("missing-label", "unnamed-category", "list-of-images")  # findings: a training would learn what is not meant
_TOLD = ("other-classes", "shared-label", "missing-image-of-label", "repeated-line")  # findings: what is read may not be what is meant
_log = logging.getLogger("spnas_core")
_layouts: Recent[Layout] = Recent(1)  # data sets by place and listing
_cleaned: Recent[Clean] = Recent(4)  # splits by the digest of their documents


class LayoutSource:
    """Splits of the data set at `url`; parsed anew where the store's listing of its files has changed."""

    def __init__(self, url: str, system: Any, root: str, reading: Reading) -> None:
        key = (url, layout_listing(system, root), reading.model_dump_json())
        self._layout = _layouts.get(key, lambda: open_other_layout(url, partial(header_sizes, rules=picture_rules(reading)), reading))
        self._learn = reading.crowds == "learn"
        self._raw = {raw.split: raw for raw in self._layout.sources}
        self.layout: str = self._layout.name
        self.own_names = {raw.split: raw.found_as for raw in self._layout.sources}

    def where(self, name: str) -> str:
        """Place of the data set, and the name of a split."""
        return f"{self._layout.url} {name}"

    def annotations(self, name: str) -> tuple[Clean, str]:
        """Annotations of a split, and the sha256 of their COCO document; UserError where a training would learn other boxes than meant."""
        raw, where = self._raw[name], self.where(name)
        _check_reading(raw, self._layout, where)
        for finding in (*raw.findings, *self._layout.findings):
            if finding.kind in _TOLD:
                _log.warning("%s", finding.line)
        digest = hashlib.sha256(canonical_json(raw.document).encode()).hexdigest()
        if missing := [one for one, file in raw.files.items() if file is None]:
            raise UserError(f"{where}: image {missing[0]!r} is not there ({len(missing)} missing)")
        if broken := sorted(set(raw.files) - {entry["file_name"] for entry in raw.document["images"]}):
            text = f"image {broken[0]!r}: expected an image file, got one whose size cannot be read ({len(broken)} such)"
            raise UserError(f"{where}: {text}")
        return _cleaned.get((digest, self._learn), lambda: clean_document(raw.document, where, self._learn)), digest

    def categories(self, name: str) -> Categories:
        """Categories of a split."""
        return tuple(sorted((kind["id"], kind["name"]) for kind in self._raw[name].document["categories"]))

    def files(self, name: str, images: Sequence[str]) -> list[ImageFile]:
        """Files of images of a split, by their names."""
        known = self._raw[name].files
        return [file for image in images if (file := known[image])]


def _check_reading(raw: RawSplit, layout: Layout, where: str) -> None:
    for finding in (*raw.findings, *layout.findings):
        if finding.kind == "malformed":
            raise UserError(f"{where}: {finding.first}" + (f" (and {finding.count - 1} more)" if finding.count > 1 else ""))
        if finding.kind in _MISREAD:
            raise UserError(f"{where}: {finding.what} ({finding.first})")
    for other in layout.sources:
        if other is not raw and (shared := sorted(set(raw.files) & set(other.files))):
            raise UserError(f"{where}: expected splits without common images, got {shared[0]!r} in {other.split} too ({len(shared)} such)")
    known = {kind["id"] for kind in raw.document["categories"]}
    names = {image["id"]: image["file_name"] for image in raw.document["images"]}
    for mark in raw.document["annotations"]:
        if mark["category_id"] not in known:
            image, number = names[mark["image_id"]], mark["category_id"]
            raise UserError(f"{where}: labels of {image}: expected one of the {len(known)} classes that have a name, got class {number}")
