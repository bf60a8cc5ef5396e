"""Images that a person names: files, folders, patterns and URLs."""

import glob
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from spnas_core.data import files
from spnas_core.data.images import SUFFIXES
from spnas_core.errors import UserError


def find_images(words: Iterable[str]) -> list[str]:
    """Paths and URLs of the images that `words` name, in this order, each once; those of a folder or a pattern sorted.

    A word is a file, a folder (the images right in it) or a pattern (``*``, ``?``, ``[a-z]``, ``**`` for all folders below); in the last
    two an image is a file with the suffix of one. UserError for a word that names none.
    """
    paths: list[str] = []
    for word in words:
        system, path = files.open_url(word)
        kind = files.kind(system, path)
        if kind == "directory":
            entries = files.list_folder(system, path)
            named = [f"{word.rstrip('/')}/{name}" for name, entry in sorted(entries.items()) if entry["type"] == "file" and _is_image(name)]
        else:
            named = [word] if kind else sorted(filter(_is_image, _matching(word)))
        if not named:
            nothing = "found none, or no answer" if "://" in word else "found none"
            raise UserError(f"{word}: expected an image, a folder with images or a pattern that some match, {nothing}")
        paths += named
    return list(dict.fromkeys(paths))


def _matching(word: str) -> list[str]:
    if "://" not in word:
        return [name for name in glob.glob(word, recursive=True) if Path(name).is_file()]  # noqa: PTH207 - the word's own form stays
    return files.matching(word)


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
