"""What can go wrong: a user's mistake, a job that failed with a typed reason, a store that does not answer."""

from typing import Literal

Reason = Literal["diverged", "out_of_memory", "timeout", "killed", "crashed", "over_budget"]


class UserError(ValueError):
    """A mistake of the user; the message is one line: what was expected, what came, where."""


class EmptySplitError(UserError):
    """A split has no images; a run does without such a test split."""


class JobError(RuntimeError):
    """One job failed: a candidate with a typed reason, never ranked; the search goes on."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class Stopped(JobError):  # noqa: N818 - it is no failure of the job: its run ends
    """A job was stopped, or its waiting, because the run that wants it ends; the next one goes on from its checkpoint."""

    def __init__(self, message: str) -> None:
        super().__init__("killed", message)


class MissingArtifactError(LookupError):
    """An artifact that was expected is not in the store, or was found corrupt and set aside."""


class StoreError(OSError):
    """The store, or the Prefect server of a work pool, is away for longer than one waits, or the store is full or closed to us.

    The run can go on from what is in the store when it is back.
    """
