"""Findings of `spnas check` in a data set, and their wording: what, where, how many, what to do.

An error keeps a training from starting, or makes it learn or score wrong boxes; a warning is probably a mistake; a note is good to know.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from spnas_core.data.finding_kinds import FINDING_KINDS, Severity
from spnas_core.data.masks.mask_kinds import MASK_FINDING_KINDS

_KINDS = FINDING_KINDS | MASK_FINDING_KINDS


@dataclass(frozen=True)
class Finding:
    """`count` things of one kind (a key of the kinds' tables) in one place, such as a split; `first` is one of them, or a detail."""

    kind: str
    where: str
    count: int
    first: str

    @property
    def severity(self) -> Severity:
        """Severity of its kind."""
        return _KINDS[self.kind].severity

    @property
    def what(self) -> str:
        """Count and name."""
        kind = _KINDS[self.kind]
        return f"{self.count:,} {kind.one if self.count == 1 else kind.many}"

    @property
    def advice(self) -> str:
        """What to do."""
        return _KINDS[self.kind].advice

    @property
    def line(self) -> str:
        """All of it in one line."""
        return " ".join(f"{self.where}: {self.what} ({self.first}): {self.advice}".split())

    def document(self) -> dict[str, str | int]:
        """All of it for JSON."""
        return {"severity": self.severity, **self.__dict__, "what": self.what, "advice": self.advice}


def found(kind: str, where: str, examples: Sequence[str]) -> list[Finding]:
    """One finding about all of `examples`; none about an empty list."""
    return [Finding(kind, where, len(examples), examples[0])] if examples else []
