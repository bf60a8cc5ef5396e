"""Necks: what stands between a backbone and the heads. One file per neck has all of it but its MindSpore cell and its ONNX nodes.

A neck is a value: its settings, its short text, its cost, its outputs, and which of its tensors continue from a parent net to a child.
"""

from collections.abc import Collection
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, Field

from spnas_core.arch import Arch
from spnas_core.errors import UserError
from spnas_core.necks import fpn, nas_fpn
from spnas_core.necks.fpn import Fpn
from spnas_core.necks.nas_fpn import NasFpn
from spnas_core.settings.base import Taps

__all__ = [
    "NECK_KINDS",
    "Neck",
    "NeckText",
    "is_continued",
    "is_lacking",
    "is_of_another",
    "is_unused",
    "neck_under",
    "parse_neck",
    "taps_of",
    "with_taps",
]

Neck = Annotated[Fpn | NasFpn, Field(discriminator="kind")]
_KINDS = (Fpn, NasFpn)
NECK_KINDS = tuple(neck.model_fields["kind"].default for neck in _KINDS)
_OWNED = {Fpn: fpn.FPN_TENSOR, NasFpn: nas_fpn.CELL_TENSOR}  # the names of their tensors


def parse_neck(text: str) -> Fpn | NasFpn:
    """Read a neck's text, such as ``fpn256``, ``fpn64(1-1-2-3)`` or ``nasfpn256x7``; UserError where it is none."""
    for neck in _KINDS:
        if found := neck.parse(text):
            return found
    raise UserError(f"neck: expected a text such as fpn256, fpn64(1-1-2-3) or nasfpn256x7, got {text!r}")


NeckText = Annotated[str, AfterValidator(lambda text: parse_neck(text).text)]


def neck_under(neck: Fpn | NasFpn, own: Fpn | NasFpn, like_own: bool, one_stage: bool) -> Fpn | NasFpn:
    """Give the neck the levels that a head reads: those of a run's `own` neck if the head is of the kind of the run's (`like_own`).

    Else of a feature pyramid strides 8 to 128 under a `one_stage` head, and 4 to 64 under one of two stages, as torchvision has them; other
    necks stay as they are.
    """
    if not isinstance(neck, Fpn):
        return neck
    levels = {"first_level": 1, "extra_levels": "p5"} if one_stage else {"first_level": 0, "extra_levels": "pool"}
    if like_own and isinstance(own, Fpn):
        levels = {name: getattr(own, name) for name in levels}
    return neck.model_copy(update=levels)


def taps_of(neck: Fpn | NasFpn) -> Taps | None:
    """Taps of a neck that has some."""
    return neck.taps if isinstance(neck, Fpn) else None


def with_taps(neck: Fpn | NasFpn, taps: Taps | None) -> Fpn | NasFpn:
    """Give the neck with other taps; one that has none stays as it is."""
    return neck.model_copy(update={"taps": taps}) if isinstance(neck, Fpn) else neck


def is_of_another(name: str, names: Collection[str]) -> bool:
    """Whether a tensor belongs to a neck of another kind than that of a net with tensors of these `names`."""
    own = _owner(name)
    return own is not None and any(other not in (None, own) for other in map(_owner, names))


@lru_cache(maxsize=1 << 14)
def _owner(name: str) -> type | None:
    """Kind of neck that a tensor belongs to."""
    return next((kind for kind, names in _OWNED.items() if names.fullmatch(name)), None)


def is_continued(name: str, parent: Arch, child: Arch, given: Collection[str]) -> bool:
    """Whether the tensor `name` of a child's neck starts from that of its parent, which has tensors of the names `given`.

    A tensor whose name is of no neck counts as one that does.
    """
    own = fpn.continues(name, parent, child, given) and nas_fpn.continues_cell(name, parent, child, given)
    return own and not is_of_another(name, given)


def is_unused(name: str, wanted: Collection[str]) -> bool:
    """Whether `name` is of a part of a neck that a net with tensors of the names `wanted` has not."""
    return is_of_another(name, wanted) or fpn.unused(name, wanted) or nas_fpn.lacks_cell(name, wanted)


def is_lacking(name: str, given: Collection[str]) -> bool:
    """Whether `name` is of a part of a neck that has no counterpart in a checkpoint with tensors of the names `given`."""
    return is_of_another(name, given) or fpn.lacks(name, given)
