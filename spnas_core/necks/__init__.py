"""Necks: what stands between a backbone and the heads. One file per neck has all of it but its MindSpore cell and its ONNX nodes.

A neck is a value: its settings, its short text, its cost, its outputs, and which of its tensors continue from a parent net to a child.
"""

from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import chain
from typing import Annotated

from pydantic import AfterValidator, Field

from spnas_core.arch import Arch
from spnas_core.errors import UserError
from spnas_core.necks import cells, fpn
from spnas_core.necks.fpn import Fpn
from spnas_core.necks.nas_fcos import FUSION_TENSOR, NasFcos
from spnas_core.necks.nas_fpn import CELL_TENSOR, NasFpn
from spnas_core.settings.base import Taps

__all__ = [
    "NECK_KINDS",
    "CellNeck",
    "Neck",
    "NeckText",
    "is_continued",
    "is_lacking",
    "is_of_another",
    "is_unused",
    "neck_layers",
    "neck_under",
    "parse_neck",
    "taps_of",
    "with_taps",
]

CellNeck = NasFpn | NasFcos  # necks of cells, which a search can change
Neck = Annotated[Fpn | CellNeck, Field(discriminator="kind")]
_KINDS = (Fpn, NasFpn, NasFcos)
NECK_KINDS = tuple(neck.model_fields["kind"].default for neck in _KINDS)
_CELL_TENSORS = {NasFpn: CELL_TENSOR, NasFcos: FUSION_TENSOR}  # the names of their tensors
_OWNED = {Fpn: fpn.FPN_TENSOR, **_CELL_TENSORS}


def parse_neck(text: str) -> Fpn | CellNeck:
    """Read a neck's text, such as ``fpn256``, ``fpn64(1-1-2-3)``, ``nasfpn256x7`` or ``nasfcos256``; UserError where it is none."""
    for neck in _KINDS:
        if found := neck.parse(text):
            return found
    raise UserError(f"neck: expected a text such as fpn256, fpn64(1-1-2-3), nasfpn256x7 or nasfcos256, got {text!r}")


NeckText = Annotated[str, AfterValidator(lambda text: parse_neck(text).text)]


def neck_under(neck: Fpn | CellNeck, own: Fpn | CellNeck, like_own: bool, one_stage: bool) -> Fpn | CellNeck:
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


def taps_of(neck: Fpn | CellNeck) -> Taps | None:
    """Taps of a neck that has some."""
    return neck.taps if isinstance(neck, Fpn) else None


def with_taps(neck: Fpn | CellNeck, taps: Taps | None) -> Fpn | CellNeck:
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
    own = all(cells.continues_cell(tensors, name, parent, child, given) for tensors in _CELL_TENSORS.values())
    return own and fpn.continues(name, parent, child, given) and not is_of_another(name, given)


def is_unused(name: str, wanted: Collection[str]) -> bool:
    """Whether `name` is of a part of a neck that a net with tensors of the names `wanted` has not."""
    own = any(cells.lacks_cell(tensors, name, wanted) for tensors in _CELL_TENSORS.values())
    return own or is_of_another(name, wanted) or fpn.unused(name, wanted)


def is_lacking(name: str, given: Collection[str]) -> bool:
    """Whether `name` is of a part of a neck that has no counterpart in a checkpoint with tensors of the names `given`."""
    return is_of_another(name, given) or fpn.lacks(name, given)


def neck_layers(names: Collection[str]) -> Iterator[tuple[str, int | str | None]]:
    """Layers of necks of cells among the tensors `names`, and what each reads, as `cells.cell_layers`."""
    return chain.from_iterable(cells.cell_layers(tensors, names) for tensors in _CELL_TENSORS.values())
