"""Sha256 of files' contents, read once per process as long as a file stays the same."""

from functools import lru_cache
from pathlib import Path

from spnas_core.store.storage import sha256_file


def content_digest(path: Path) -> str:
    """Sha256 (hex) of a file, read once per process as long as its size and time stay."""
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1 << 20)
def _sha256(path: Path, _size: int, _time: int) -> str:
    return sha256_file(path)
