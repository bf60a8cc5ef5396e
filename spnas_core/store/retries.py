"""Errors of a store or a data set: which are transient, how long they are retried, and the final error."""

import errno
import functools
import logging
import random
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from spnas_core.errors import StoreError

_log = logging.getLogger(__name__)
DELAYS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # s between two attempts, each shortened at random by up to a half
FULL = {errno.ENOSPC, errno.EDQUOT}
AWAY = {
    *(errno.EIO, errno.EREMOTEIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EPIPE),
    *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN),
}
AWAY_NAMES = {"HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError"}  # botocore's, aiohttp's: no OSError
CLOSED_NAMES = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}  # botocore's, google.auth's: no OSError
PLAIN = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)  # answers of a working store


class _HasUrl(Protocol):
    url: str
    delays: tuple[float, ...]


Self = TypeVar("Self", bound=_HasUrl)
Asked = ParamSpec("Asked")
_Answer = TypeVar("_Answer")


def retried(method: Callable[Concatenate[Self, Asked], _Answer]) -> Callable[Concatenate[Self, Asked], _Answer]:
    """Decorate a method of a store, which must be idempotent, to retry transient errors; StoreError in the end."""

    @functools.wraps(method)
    def ask(self: Self, /, *args: Asked.args, **options: Asked.kwargs) -> _Answer:
        return insist(lambda: method(self, *args, **options), f"store {self.url}: {method.__name__}", self.delays)

    return ask


def insist(call: Callable[[], _Answer], what: str, delays: tuple[float, ...] = DELAYS) -> _Answer:
    """Return the result of `call`, retrying transient errors after each of `delays`, s. StoreError, which names `what`, in the end."""
    for delay in (*delays, None):
        try:
            return call()
        except Exception as error:
            if delay is None or not passes(error):
                if word := _last_word(error, what):
                    raise word from error
                raise
            _log.warning("%s: %s; tried again in %.1f s", what, first_line(error), delay)
            time.sleep(delay * random.uniform(0.5, 1.0))
    raise AssertionError("the last try returns or raises")


def passes(error: BaseException) -> bool:
    """Whether an error is transient: an overloaded or unreachable server, a time-out, a lost connection."""
    if isinstance(error, (*PLAIN, StoreError, PermissionError)):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    return (isinstance(error, OSError) and error.errno in AWAY) or _is_one_of(error, AWAY_NAMES)


def _is_one_of(error: BaseException, names: set[str]) -> bool:
    return any(base.__name__ in names for base in type(error).__mro__)


def is_full(error: BaseException) -> bool:
    """Whether an error means a full disk or an exceeded quota."""
    return isinstance(error, OSError) and error.errno in FULL


def first_line(error: BaseException) -> str:
    """Message of an error in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_word(error: Exception, what: str) -> StoreError | None:
    """StoreError to raise instead of a persistent error; None for a plain answer and for a bug, which are raised as they are."""
    if is_full(error):
        return StoreError(f"{what}: expected space for it, got: no space left ({first_line(error)})")
    if _is_one_of(error, CLOSED_NAMES):
        return StoreError(f"{what}: expected credentials in the environment, got: {first_line(error)}")
    if isinstance(error, (*PLAIN, StoreError)) or not (isinstance(error, OSError) or passes(error)):
        return None
    return StoreError(f"{what}: expected an answer, got: {first_line(error)}")
