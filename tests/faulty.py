"""A file system that fails: fsspec's memory file system with faults drawn from a seed between it and who asks, as `faulty://`."""

import errno
import random
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem


class ReadTimeoutError(Exception):
    """As botocore has it: no OSError."""


class HTTPClientError(ReadTimeoutError):
    """A base class that botocore's errors of the connection share."""


def errors() -> list[Exception]:
    return [
        OSError(errno.EREMOTEIO, "We encountered an internal error, please try again."),  # what s3fs makes of status 500
        OSError(errno.EBUSY, "Please reduce your request rate."),  # and of 503
        TimeoutError("The request timed out."),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        HTTPClientError("An HTTP Client raised an unhandled exception"),
    ]


class FaultyFileSystem(MemoryFileSystem):
    """Fails before or after the deed with the probability `rate`, and tears reads; `full` refuses what is written."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    rng: ClassVar[random.Random] = random.Random(0)
    rate: ClassVar[float] = 0.0
    full: ClassVar[bool] = False
    find = AbstractFileSystem.find  # the walk of drivers that have no listing of their own

    @classmethod
    def begin(cls, seed: int, rate: float) -> None:
        """Empty the file system; from now on it fails."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.rng, cls.rate, cls.full = random.Random(seed), rate, False

    def _fail(self) -> None:
        if self.rng.random() < self.rate:
            raise self.rng.choice(errors())

    def _torn(self, content: bytes) -> bytes:
        return content[: self.rng.randrange(len(content) + 1)] if self.rng.random() < self.rate else content

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self._fail()
        return self._torn(super().cat_file(path, start, end, **options))

    def get_file(self, path: str, target: str, *args: Any, **options: Any) -> None:
        self._fail()
        super().get_file(path, target, *args, **options)
        Path(target).write_bytes(self._torn(Path(target).read_bytes()))
        self._fail()

    def _change(self, name: str, *args: Any, **options: Any) -> None:
        if self.full and name != "rm":
            raise OSError(errno.ENOSPC, "No space left on device")
        self._fail()
        getattr(super(), name)(*args, **options)
        self._fail()  # the answer is lost, the deed is done

    def pipe_file(self, *args: Any, **options: Any) -> None:
        self._change("pipe_file", *args, **options)

    def put_file(self, *args: Any, **options: Any) -> None:
        self._change("put_file", *args, **options)

    def cp_file(self, *args: Any, **options: Any) -> None:
        self._change("cp_file", *args, **options)

    def rm(self, *args: Any, **options: Any) -> None:
        self._change("rm", *args, **options)

    def ls(self, *args: Any, **options: Any) -> Any:
        self._fail()
        return super().ls(*args, **options)


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
