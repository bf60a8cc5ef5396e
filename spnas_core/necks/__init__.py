"""Necks: what stands between a backbone and the heads. One file per neck has all of it but its MindSpore cell and its ONNX nodes.

A neck is a value: its settings, its short text, its cost, its outputs, and which of its tensors continue from a parent net to a child.
With a second one, `Neck` becomes a union that `kind` discriminates (see `settings.detector.Head`).
"""

from spnas_core.errors import UserError
from spnas_core.necks.fpn import Fpn, continues, lacks, unused
from spnas_core.settings.base import Taps

__all__ = ["Neck", "continues", "lacks", "parse_neck", "taps_of", "unused", "with_taps"]

Neck = Fpn
_KINDS = (Fpn,)


def parse_neck(text: str) -> Neck:
    """Read a neck's text, such as ``fpn256`` or ``fpn64(1-1-2-3)``; UserError where it is none."""
    for neck in _KINDS:
        if found := neck.parse(text):
            return found
    raise UserError(f"neck: expected a text such as fpn256 or fpn64(1-1-2-3), got {text!r}")


def taps_of(neck: Neck) -> Taps | None:
    """Taps of a neck that has some."""
    return neck.taps if isinstance(neck, Fpn) else None


def with_taps(neck: Neck, taps: Taps | None) -> Neck:
    """Give the neck with other taps; one that has none stays as it is."""
    return neck.model_copy(update={"taps": taps}) if isinstance(neck, Fpn) else neck
