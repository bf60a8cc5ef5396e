"""COCO files read for a check: whole documents, mended, which may still be faulty in every way."""

from collections.abc import Mapping, Sequence
from typing import Any

from spnas_core.data import files
from spnas_core.data.coco import CocoFile, load_json, open_content
from spnas_core.data.findings import Finding, found
from spnas_core.data.images import SUFFIXES
from spnas_core.data.listings import Listings
from spnas_core.data.locate import locate_around
from spnas_core.data.mending import mend_document
from spnas_core.data.raw_split import ImageSizes, RawSplit
from spnas_core.settings.reading import Reading


def read_raw(listings: Listings, root: str, file: CocoFile, reading: Reading, sizes: ImageSizes) -> RawSplit:
    """Read a split that may be faulty in every way; what keeps its file from being read is a finding, and so is what was mended."""
    split, document, wrong = file.split, None, ""
    try:
        with open_content(file) as content:
            document = load_json(content)
        wrong = "" if document is not None else "null"
    except (ValueError, RecursionError) as error:
        wrong = str(error)
    findings = found("unreadable", split, [f"{file.path.removeprefix(root).strip('/')}: expected JSON, got: {wrong}"] if wrong else [])

    def measure(wanted: Sequence[str]) -> Mapping[str, tuple[int, int] | None]:
        there, _ = locate_around(listings, root, file, reading.images, wanted)
        measured = sizes(one.url for one in there.values())
        return {name: measured[one.url] for name, one in there.items()}

    document, mended = mend_document(document, split, measure)
    listed = document.get("images") if isinstance(document, dict) else None
    names = [entry["file_name"] for entry in listed if _is_named(entry)] if isinstance(listed, list) else []
    located, told = locate_around(listings, root, file, reading.images, names)
    findings += [*found("other-spelling", split, told), *mended]
    return RawSplit(split, document, {name: located.get(name) for name in names}, tuple(findings))


def unlisted_images(listings: Listings, sources: Sequence[RawSplit]) -> list[Finding]:
    """One finding about the images that lie beside those of the splits and belong to none."""
    used = {file.url for raw in sources for file in raw.files.values() if file}
    beside: list[str] = []
    for folder in sorted({url.rpartition("/")[0] for url in used}):
        names = sorted(name for name in listings.files(files.open_url(folder)[1]) if name.lower().endswith(SUFFIXES) and name[0] != ".")
        beside += [name for name in names if f"{folder}/{name}" not in used]
    return found("unlisted-image", "data", beside)


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("file_name"), str) and bool(entry["file_name"])
