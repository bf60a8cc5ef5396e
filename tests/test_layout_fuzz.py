"""Whatever the files of a small data set say, in any layout: its right boxes, or one line; and no file outside of it is read."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzed import NAMES, NUMBERS, texts
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from laid_out import JPEG, TRUTH, labelme_json, put, table, voc_xml, yolo_text
from test_fuzz import one_line

from spnas_core.data import splits
from spnas_core.data.image_facts import header_sizes
from spnas_core.data.layouts import open_layout
from spnas_core.errors import UserError

Files = dict[str, str]
LAYOUTS: dict[str, tuple[Files, str]] = {  # texts, and where its pictures lie
    "voc": (
        {
            **{f"Annotations/{n}.xml": voc_xml(n) for n in TRUTH},
            "ImageSets/Main/train.txt": "a\nb\nc.jpg\nd\n",
            "ImageSets/Main/val.txt": "e\nf\n",
        },
        "JPEGImages",
    ),
    "yolo": (
        {
            **{f"labels/{n}.txt": yolo_text(n) for n in TRUTH},
            "data.yaml": "path: .\ntrain: train.txt\nval: [val.txt]\nnames:\n  0: red\n  1: blue\nnc: 2\n",
            "train.txt": "".join(f"./images/{n}.jpg\n" for n in "abcd"),
            "val.txt": "images/e.jpg\nimages/f.jpg\n",
        },
        "images",
    ),
    "darknet": (
        {
            **{f"obj_train_data/{n}.txt": yolo_text(n) for n in TRUTH},
            "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
            "obj.names": "red\nblue\n",
            "train.txt": "".join(f"data/obj_train_data/{n}.jpg\n" for n in TRUTH),
        },
        "obj_train_data",
    ),
    "labelme": ({f"json/{n}.json": labelme_json(n, f"../img/{n}.jpg") for n in TRUTH}, "img"),
    "table": ({"train_labels.csv": table("abcd"), "test_labels.csv": table("ef")}, "images"),
}
WORDS = st.one_of(
    st.sampled_from([name for name in NAMES if name.isprintable()] + ["../secret.jpg", "..\\secret", "/secret.jpg", "a", "a.jpg", "\0"]),
    st.sampled_from([str(number) for number in NUMBERS if not isinstance(number, int) or abs(number) < 10**30]),
    st.text(max_size=6),
)


@st.composite
def mutated(draw: st.DrawFn, files: Files) -> tuple[dict[str, bytes | None], str]:
    """Contents of one to three of the files, changed (None: deleted); and a name that one of the files has instead, if any."""
    made: dict[str, bytes | None] = {}
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(files)))
        content = files[name].encode()
        how = draw(st.sampled_from(["word", "word", "word", "line", "cut", "bytes", "delete", "binary", "document"]))
        if how == "word":  # one of its numbers, names or marks
            marks = ' \n,<>=:"[]{}'
            places = [n for n, letter in enumerate(files[name]) if letter in marks]
            at = draw(st.sampled_from(places)) if places else 0
            end = next((n for n in places if n > at), len(files[name]))
            new = f"{files[name][: at + 1]}{draw(WORDS)}{files[name][end:]}"
            made[name] = new.encode("utf-8", "surrogatepass")
        elif how == "line":
            lines = files[name].split("\n")
            at = draw(st.integers(0, len(lines) - 1))
            other = files[draw(st.sampled_from(sorted(files)))].split("\n")
            line = draw(st.one_of(st.sampled_from(other), WORDS))
            made[name] = "\n".join([*lines[:at], line, *lines[at + draw(st.integers(0, 1)) :]]).encode("utf-8", "surrogatepass")
        elif how == "cut":
            made[name] = content[: draw(st.integers(0, len(content)))]
        elif how == "bytes":
            at = draw(st.integers(0, max(0, len(content) - 1)))
            made[name] = content[:at] + draw(st.binary(min_size=1, max_size=3)) + content[at + 1 :]
        elif how == "delete":
            made[name] = None
        elif how == "binary":
            made[name] = draw(st.binary(max_size=60))
        elif name.endswith(".json"):
            made[name] = draw(texts(json.loads(files[name])))
        else:
            made[name] = draw(
                st.sampled_from([b"[" * 3000, b"<a>" * 3000, b"{a: " * 3000, b"\xff\xfe" + content, b"\xef\xbb\xbf" + content])
            )
    return made, draw(st.sampled_from(["", "", "", ".png", ".JPG"]))


class Laid:
    """A data set in one layout, with a picture beside it that is none of its own."""

    def __init__(self, layout: str, top: Path) -> None:
        self.files, self.images = LAYOUTS[layout]
        self.root = top / "data"
        put(top, {"secret.jpg": JPEG["a"], "a.jpg": JPEG["b"], "secret.txt": "0 0.5 0.5 0.1 0.1\n"})

    def write(self, changes: dict[str, bytes | None], suffix: str) -> None:
        put(
            self.root,
            {
                **{name: text for name, text in self.files.items() if name not in changes},
                **{n: c for n, c in changes.items() if c is not None},
            },
        )
        for name, content in changes.items():
            if content is None:
                (self.root / name).unlink(missing_ok=True)
        for name in TRUTH:
            for old in (self.root / self.images).glob(f"{name}.*"):
                if old.suffix in (".jpg", ".png", ".JPG"):
                    old.unlink()
            put(self.root, {f"{self.images}/{name}{suffix if name == 'a' and suffix else '.jpg'}": JPEG[name]})


def right_or_one_line(laid: Laid, changes: dict[str, bytes | None], suffix: str) -> None:
    laid.write(changes, suffix)
    root = os.path.realpath(laid.root)
    try:
        layout = open_layout(str(laid.root), header_sizes)
    except UserError as error:
        one_line(error)
        return
    for finding in (*layout.findings, *(finding for raw in layout.sources for finding in raw.findings)):
        assert finding.line.isprintable(), ascii(finding.line)
    for raw in layout.sources:
        assert all(os.path.realpath(file.url).startswith(f"{root}/") for file in raw.files.values() if file)
        try:
            split = splits.open_split(str(laid.root), raw.split)
        except UserError as error:
            one_line(error)
            continue
        for sample in split.samples:
            assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
            assert (sample.boxes >= 0).all()
            assert set(sample.labels.tolist()) <= set(range(1, len(split.categories) + 1))
            name = Path(sample.name).stem
            told = any(Path(changed).stem == name or changed.endswith((".csv", ".yaml", ".data", ".names")) for changed in changes)
            if name in TRUTH and not told:  # its own file is whole: so are its boxes
                assert [split.class_names[label - 1] for label in sample.labels] == [kind for kind, _ in TRUTH[name]]
                truth = [(x, y, x + w, y + h) for _, (x, y, w, h) in TRUTH[name]]
                np.testing.assert_allclose(sample.boxes, np.array(truth).reshape(-1, 4), atol=1.01)  # all from 0 where one is


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def laid(request: pytest.FixtureRequest) -> Iterator[Laid]:
    with tempfile.TemporaryDirectory() as top:
        yield Laid(request.param, Path(top))


def _fuzz(examples: int) -> Callable[[Laid], None]:
    def body(laid: Laid) -> None:
        @bounds(max_examples=examples, database=None)
        @given(mutated(laid.files))
        def hold(change: tuple[dict[str, Any], str]) -> None:
            right_or_one_line(laid, *change)

        hold()

    return body


def test_changed_files(laid: Laid) -> None:
    _fuzz(15)(laid)


@pytest.mark.long
def test_many_changed_files(laid: Laid) -> None:
    _fuzz(1000)(laid)


def test_the_sets_themselves_are_right(laid: Laid) -> None:
    laid.write({}, "")
    layout = open_layout(str(laid.root), header_sizes)
    assert sum(len(raw.document["images"]) for raw in layout.sources) == len(TRUTH)
    assert sum(len(raw.document["annotations"]) for raw in layout.sources) == sum(map(len, TRUTH.values()))
    assert not [finding for finding in layout.findings if finding.severity != "note"]
