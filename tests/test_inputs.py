"""Images that a person names."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from spnas_core.data.inputs import find_images
from spnas_core.errors import UserError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of empty files, named from where we stand."""
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "below/c.jpg", "below/deeper/d.tiff", "below.png/e.png", "odd[1].png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return "photos"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["photos/b.JPG", "photos/a.png"], ["photos/b.JPG", "photos/a.png"]),
        (["photos/notes.txt"], ["photos/notes.txt"]),  # whoever names a file means it
        (["photos/"], ["photos/a.png", "photos/b.JPG", "photos/odd[1].png"]),
        (["photos/a.png", "photos"], ["photos/a.png", "photos/b.JPG", "photos/odd[1].png"]),
        (["photos/*"], ["photos/a.png", "photos/b.JPG", "photos/odd[1].png"]),
        (["photos/*.png"], ["photos/a.png", "photos/odd[1].png"]),
        (["photos/odd[1].png"], ["photos/odd[1].png"]),
        (["photos/?.png"], ["photos/a.png"]),
        (
            ["photos/below*/**"],
            ["photos/below.png/e.png", "photos/below/c.jpg", "photos/below/deeper/d.tiff"],
        ),
    ],
)
def test_files_folders_and_patterns(photos: str, words: list[str], expected: list[str]) -> None:
    assert find_images(words) == expected


@pytest.mark.parametrize("word", ["photos/none.png", "none", "photos/*.gif", "photos/*.txt", "photos/below/deeper/*/*"])
def test_nothing_there(photos: str, word: str) -> None:
    with pytest.raises(UserError) as caught:
        find_images([photos, word])
    assert str(caught.value) == f"{word}: expected an image, a folder with images or a pattern that some match, found none"


def test_urls() -> None:
    system = fsspec.filesystem("memory")
    for name in ("a.png", "b.jpg", "b.txt", "below/c.png"):
        system.pipe_file(f"/inputs/{name}", b"x")
    assert find_images(["memory://inputs/b.txt"]) == ["memory://inputs/b.txt"]
    assert find_images(["memory://inputs"]) == ["memory://inputs/a.png", "memory://inputs/b.jpg"]
    assert find_images(["memory://inputs/**/*.png"]) == ["memory:///inputs/a.png", "memory:///inputs/below/c.png"]
    with pytest.raises(UserError, match=r"expected a pattern of fsspec, such as memory://inputs/\*\*/\*.jpg, got: Invalid pattern"):
        find_images(["memory://inputs/**.png"])
    with pytest.raises(UserError, match="found none"):
        find_images(["memory://inputs/*.gif"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "a.png").write_bytes(b"x")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def test_a_web_server(server: str) -> None:
    assert find_images([f"{server}/a.png?size=2"]) == [f"{server}/a.png?size=2"]
    with pytest.raises(UserError, match="found none"):
        find_images([f"{server}/b.png"])
