"""Kind of device that a net is built for: MindSpore's, or another, whose graphs can then be looked at without such a device."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import mindspore as ms

_instead: ContextVar[str | None] = ContextVar("built_for", default=None)


def graph_target() -> str:
    """Kind of device, ``CPU``, ``Ascend`` or ``GPU``, that cells choose their operators for when they are built."""
    return _instead.get() or str(ms.get_context("device_target"))


@contextlib.contextmanager
def built_for(target: str) -> Iterator[None]:
    """Build the nets of this context for `target`, whatever MindSpore is set to."""
    token = _instead.set(target)
    try:
        yield
    finally:
        _instead.reset(token)
