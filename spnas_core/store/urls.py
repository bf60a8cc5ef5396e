"""Places of files: local paths, in which every character is part of a name, and fsspec URLs, ``PROTOCOL://...``.

fsspec takes ``::`` for a chain of file systems (``zip://a.jpg::s3://bucket/b.zip``). Here it is a part of names: a chain does not come back
from the paths inside its file system, so that its files could not be told from those of another one; it is refused.
"""

import os
import re
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from spnas_core.errors import UserError
from spnas_core.names import check_url

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)


def is_local(place: str) -> bool:
    """Whether `place` is a path, or a URL of one."""
    return (protocol_of(place) or "file") in ("file", "local") and not _is_chain(place)


def protocol_of(place: str) -> str | None:
    """Protocol of a URL, None of a path: only what begins with ``PROTOCOL://`` is a URL."""
    match = _PROTOCOL.match(place)
    return match[1].lower() if match else None


def _is_chain(place: str) -> bool:
    """Whether these are several file systems: each part between ``::`` begins with a protocol, or is one; or a path, behind the first."""
    first, *others = place.split("::")
    links = [link.partition("://")[0].lower() for link in (first, *(other for other in others if not other.startswith("/")))]
    if not others or links[0] in ("file", "local") or not set(links) <= set(fsspec.available_protocols()):
        return False
    return protocol_of(place) is not None or not Path(place).exists()


def _is_tilde(place: str) -> bool:
    """Whether a name begins with ``~``, but with no user's home folder."""
    return place.startswith("~") and os.path.expanduser(place) == place  # noqa: PTH111 - Path raises an error


def open_place(place: str, **options: Any) -> tuple[Any, str]:
    """File system of a path or URL, made with `options` where it is remote, and the path inside it.

    UserError, one line, for a URL with a password, a chain of file systems, and a protocol that is unknown or needs more than a URL.
    """
    if is_local(place):
        if protocol_of(place) is None and (place.startswith(("file:", "local:")) or _is_tilde(place)):  # fsspec takes these off a name, too
            place = f"./{place}"
        return fsspec.filesystem("file"), str(LocalFileSystem._strip_protocol(place))
    check_url(place)
    if _is_chain(place):
        raise UserError(f"{place}: expected a path or one fsspec URL, got several in a chain; unpack it, remote files are cached anyway")
    protocol = protocol_of(place) or "file"
    try:
        kind = fsspec.get_filesystem_class(protocol)
        system = fsspec.filesystem(protocol, **kind._get_kwargs_from_urls(place), **options)
        return system, str(kind._strip_protocol(place))
    except (ImportError, ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: expected a path or an fsspec URL that this installation can open, got: {reason}") from error
