"""What a tracker is told, as values, and what it has to do with them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from spnas_core.job import canonical_json

TrackedState = Literal["running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class TrackedFile:
    """A file of the store: its digest, and a function that reads it."""

    sha256: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class TrackedRun:
    """A whole search (`parent` is empty), or one training of it (`parent` is the key of its search).

    `key` is the same each time that the run is told, also by another process. `parameters` are known at its start and never change;
    `scores` (AP as a fraction) come at its end; `curves` by name and epoch grow meanwhile; `files` by their path. `begun` and `ended`:
    seconds since 1970, where the store knows them. `note`: a line for people.
    """

    key: str
    parent: str
    name: str
    state: TrackedState
    parameters: Mapping[str, str | int | float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    files: Mapping[str, TrackedFile] = field(default_factory=dict)
    note: str = ""
    begun: float | None = None
    ended: float | None = None

    @property
    def version(self) -> str:
        """Digest of all that is told."""
        files = {path: file.sha256 for path, file in self.files.items()}
        curves = {name: sorted(curve.items()) for name, curve in self.curves.items()}
        facts = [self.name, self.state, dict(self.parameters), dict(self.scores), curves, files, self.note, self.begun, self.ended]
        return hashlib.sha256(canonical_json({"told": facts}).encode()).hexdigest()


class Tracker(Protocol):
    """A place where runs are shown. It is made with its address, a text, and must not ask the network for anything then.

    UserError at that moment: a package that it needs is not installed, or the address is none.
    """

    def tell(self, run: TrackedRun) -> None:
        """Show a run: made if it is not there yet, else brought up to `run`; the same told twice, by whomever, changes nothing.

        The search of a training is told before it. Any exception means that the tracker is away; it is told again later.
        """
