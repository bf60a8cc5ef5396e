"""Necks: what stands between a backbone and the heads. One file per neck has all of it but its MindSpore cell and its ONNX nodes.

A neck is a value: its settings, its short text, its cost, its outputs, and which of its tensors continue from a parent net to a child.
With a second one, `Neck` becomes a union that `kind` discriminates (see `settings.detector.Head`).
"""

from spnas_core.errors import UserError
from spnas_core.necks.fpn import Fpn, continues, unused

__all__ = ["Neck", "continues", "parse_neck", "unused"]

Neck = Fpn
_KINDS = (Fpn,)


def parse_neck(text: str) -> Neck:
    """Read a neck's text, such as ``fpn256`` or ``fpn64(1-1-2-3)``; UserError where it is none."""
    for kind in _KINDS:
        if found := kind.parse(text):
            return found
    raise UserError(f"neck: expected a text such as fpn256 or fpn64(1-1-2-3), got {text!r}")
