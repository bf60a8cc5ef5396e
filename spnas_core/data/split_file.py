"""Split file: which images of a data set are train, val and test; written by `spnas split`, read beside the data or where it is named.

    {"spnas_split": 1, "made": "...", "splits": {"train": {"of": "all", "images": ["a.jpg", ...]}, ...}}

`of` is the split of the data set, by its name here, that the images are taken of. Images are neither moved nor copied.
"""

import json
import logging
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from spnas_core.data import files
from spnas_core.data.columns import Longs
from spnas_core.data.listings import Listings
from spnas_core.errors import UserError
from spnas_core.settings.base import Settings

SPLIT_FILE = "spnas-split.json"
_log = logging.getLogger("spnas_core")


class Part(Settings):
    """Images of one split, by their names in the data set."""

    of: str
    images: tuple[str, ...]


class _Content(Settings):
    spnas_split: Literal[1]
    made: str = Field("", description="command that wrote it")
    splits: dict[str, Part]


@dataclass(frozen=True)
class SplitFile:
    """Content of a split file, and its place."""

    url: str
    splits: Mapping[str, Part]

    @property
    def sources(self) -> set[str]:
        """Splits of the data set that the images are taken of."""
        return {part.of for part in self.splits.values()}

    def rows(self, split: str, names: Sequence[str]) -> Longs:
        """Places, ascending, of the images of `split` among the `names` of the split that they are of; UserError where one is gone."""
        part = self.splits[split]
        known, wanted = set(names), set(part.images)
        if gone := [name for name in part.images if name not in known]:
            raise UserError(f"{self.url}: {split}: expected images of {part.of}, got {gone[0]!r}, which is none ({len(gone)} such)")
        taken = {name for one in self.splits.values() if one.of == part.of for name in one.images}
        if left := [name for name in names if name not in taken]:
            _log.warning("%s: %d images of %s are in no split (%s)", self.url, len(left), part.of, left[0])
        return np.array([place for place, name in enumerate(names) if name in wanted], np.int64)


def find_split_file(listings: Listings, root: str, chosen: str | None) -> SplitFile | None:
    """Read the split file at the URL `chosen`, or the one in the data set at `root`; None where there is none. UserError."""
    if chosen is None:
        if SPLIT_FILE not in listings.files(root):
            return None
        system, path = listings.system, files.join_path(root, SPLIT_FILE)
    else:
        system, path = files.open_url(chosen)
    url = files.url_of(system, path)
    try:
        content = files.read_file(system, path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"split file {url}: expected a file, found none") from error
    try:
        document = _Content.model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"split file {url}: expected one of spnas split, got at {place}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"split file {url}: expected JSON, got: {' '.join(str(error).split())}") from error
    _check_apart(document.splits, url)
    return SplitFile(url, document.splits)


def write_split_file(url: str, splits: Mapping[str, Part], made: str) -> None:
    """Write a split file at a path or URL, `made` by a command."""
    content = _Content(spnas_split=1, made=made, splits=dict(splits))
    try:
        files.write(url, (json.dumps(content.model_dump(), indent=1) + "\n").encode(), "spnas split")
    except UserError as error:
        raise UserError(f"{error}; --out FILE names another place") from error


def split_file_beside(url: str) -> str:
    """URL of the split file that is found beside the data set at `url`."""
    system, root = files.open_url(url)
    return posixpath.join(files.url_of(system, root), SPLIT_FILE)


def _check_apart(splits: Mapping[str, Any], url: str) -> None:
    holders: dict[tuple[str, str], str] = {}
    for split, part in splits.items():
        for name in part.images:
            if (other := holders.setdefault((part.of, name), split)) != split:
                raise UserError(f"split file {url}: expected splits without common images, got {name!r} in {other} and {split}")
