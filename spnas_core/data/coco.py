"""COCO files of a data set: which there are, and what is in them.

    DATA/annotations/instances_SPLIT.json    where there are such, they are the splits (CVAT calls the only one ``default``)
    DATA/annotations/*.json, DATA/*.json     train.json, train2017_annotations.json, or result.json of Label Studio, labels.json of FiftyOne
    DATA/SPLIT/*.json                        _annotations.coco.json of Roboflow, labels.json of FiftyOne

A split is called by the name of its file without words that say nothing, or by that of its folder.
"""

import contextlib
import json
import mmap
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from spnas_core.data import files
from spnas_core.data.listings import Listings
from spnas_core.data.split_names import SPLITS, UNSPLIT, usual_name
from spnas_core.data.tree import text_of
from spnas_core.errors import UserError

FOLDER, BEFORE, AFTER = "annotations", "instances_", ".json"
MOST_FILES = 20  # JSON files of a folder; where there are more, each is of one picture
MOST_CANDIDATES = 200
_KEYPOINTS = "person_keypoints_"
_OTHER_TASKS = ("captions_", "panoptic_", "stuff_", "image_info_", "predictions", "detections", "results_")
_SILENT = {
    *("instance", "instances", "annotation", "annotations", "coco", "label", "labels", "result", "results", "default", "bbox", "bboxes"),
    *("detection", "gt", "json", "data", "dataset", "person", "keypoints"),
}  # words of file names
MAPPED = 1 << 26  # bytes from which on a file is mapped into memory


class CocoFile(NamedTuple):
    """Annotation file of a split, by the split's own name; its images are looked for around its folder."""

    split: str
    system: Any
    path: str
    size: int  # bytes

    @property
    def url(self) -> str:
        """URL of the file, the bare path where it is local."""
        return files.url_of(self.system, self.path)

    @property
    def folder(self) -> str:
        """Path of its folder."""
        return posixpath.dirname(self.path)


class _Head(msgspec.Struct, gc=False):
    images: msgspec.Raw
    categories: msgspec.Raw


def find_coco_root(listings: Listings, root: str, chosen: Mapping[Any, str]) -> tuple[str, dict[str, CocoFile]]:
    """Find the folder that has the annotation files, `root` or the one that it was unpacked into, and the files: `find_coco`."""
    for folder in dict.fromkeys((root, _descend(listings, root))):
        if found := find_coco(listings, folder, chosen):
            return folder, found
    return root, {}


def _descend(listings: Listings, root: str) -> str:
    """Only folder of a folder that has nothing else, as of one that was unpacked into another; else the folder itself."""
    folders = listings.folders(root)
    return f"{root.rstrip('/')}/{folders[0]}" if len(folders) == 1 and not any(name[0] != "." for name in listings.files(root)) else root


def find_coco(listings: Listings, root: str, chosen: Mapping[Any, str]) -> dict[str, CocoFile]:
    """Annotation files of the data set at `root` by their splits' own names; empty where there is none.

    `chosen` are URLs, or paths below `root`, by split, as a user has set them. UserError for one that does not exist, and for two files of
    one split.
    """
    system = listings.system
    if chosen:
        return {split: _chosen(system, root, split, url) for split, url in chosen.items()}
    folder = next((name for name in listings.folders(root) if name.lower() == FOLDER), FOLDER)
    top = files.join_path(root, folder)
    sizes = listings.files(top)
    named = [name for name in sorted(sizes) if name.startswith(BEFORE) and name.endswith(AFTER)]
    found = [CocoFile(name.removeprefix(BEFORE).removesuffix(AFTER), system, f"{top}/{name}", sizes[name]) for name in named]
    found = [file._replace(split=UNSPLIT) if file.split in _SILENT else file for file in found]
    splits: dict[str, CocoFile] = {}
    for file in found + _further(listings, root, top, {usual_name(file.split) for file in found}):
        if file.split in splits:
            text = f"expected one annotation file of split {file.split!r}, got {splits[file.split].url} too; --annotations says which"
            raise UserError(f"{file.url}: {text}")
        splits[file.split] = file
    return splits


def _further(listings: Listings, root: str, annotations: str, taken: set[str]) -> list[CocoFile]:
    """Annotation files of other names: all where nothing is `taken`, else those of train, val and test that are not."""
    files_of = [file for file in _candidates(listings, root, annotations) if not taken or usual_name(file.split) in set(SPLITS) - taken]
    if len(files_of) > MOST_CANDIDATES:  # a home folder, or another place that is no data set
        return []
    plain = [file for file in files_of if not posixpath.basename(file.path).startswith(_KEYPOINTS)]
    return [file for file in plain or files_of if _is_coco(file)]


def _chosen(system: Any, root: str, split: str, url: str) -> CocoFile:
    if "://" in url:
        system, path = files.open_url(url)
    else:
        path = url if url.startswith("/") else files.join_path(root, url)
    if files.kind(system, path) != "file":
        raise UserError(f"annotations of {split}: expected a file, found none at {files.url_of(system, path)}")
    return CocoFile(split, system, path, int(system.size(path) or 0))


def _candidates(listings: Listings, root: str, annotations: str) -> Iterator[CocoFile]:
    """Files that may be annotation files, with the names that their splits would have."""
    folders = [files.join_path(root, name) for name in listings.folders(root)]
    inner = [f"{annotations}/{name}" for name in listings.folders(annotations)]
    deeper = [f"{place}/{name}" for place in folders for name in listings.folders(place) if name.lower() == FOLDER and place != annotations]
    for place in dict.fromkeys((annotations, root, *folders, *inner, *deeper)):
        for name in _json_files(listings, place):
            split = _own_name(name)
            if split == UNSPLIT and place not in (annotations, root):
                split = posixpath.basename(posixpath.dirname(place) if place in deeper else place)
            yield CocoFile(split, listings.system, f"{place.rstrip('/')}/{name}", listings.files(place)[name])


def _json_files(listings: Listings, place: str) -> list[str]:
    names = sorted(name for name in listings.files(place) if name.lower().endswith(AFTER) and name[0] != ".")
    return [name for name in names if not name.lower().startswith(_OTHER_TASKS)] if len(names) <= MOST_FILES else []


def _own_name(file: str) -> str:
    """Name of the split that a file's name says, without words that say nothing; UNSPLIT where no word is left."""
    words = [word for word in re.split(r"[\W_]+", file.lower().removesuffix(AFTER)) if word and word not in _SILENT]
    return "_".join(words) or UNSPLIT


def _is_coco(file: CocoFile) -> bool:
    """Whether a file is a JSON object with images and categories; one that is no JSON counts by its name, and its reader says so."""
    with open_content(file) as content:
        try:
            msgspec.json.decode(content, type=_Head)
        except msgspec.ValidationError:
            return False
        except (msgspec.DecodeError, ValueError, RecursionError):
            return _is_coco_slowly(content, file)
    return True


def _is_coco_slowly(content: Any, file: CocoFile) -> bool:
    """Of a file that is not plain JSON: with a mark of byte order, in UTF-16, with NaN, or broken."""
    try:
        document = load_json(content)
    except (ValueError, RecursionError):
        return posixpath.basename(file.path).startswith((BEFORE, "_annotations.coco")) or usual_name(file.split) in SPLITS
    return isinstance(document, dict) and {"images", "categories"} <= document.keys()


@contextlib.contextmanager
def open_content(file: CocoFile) -> Iterator[Any]:
    """Bytes of a file; a large one is mapped into memory, from the cache if it is remote."""
    if file.size < MAPPED:
        yield files.read_file(file.system, file.path)
        return
    with files.local_file(file.url).open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        yield content
    finally:
        with contextlib.suppress(BufferError):  # an error on its way up still holds a view
            content.close()


def load_json(content: Any) -> Any:
    """Parse the content of a JSON file; ValueError or RecursionError for any other."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError):
        text = bytes(content)
        try:
            return json.loads(text)  # takes NaN, and says where the error is
        except UnicodeDecodeError:
            return json.loads(text_of(text))
