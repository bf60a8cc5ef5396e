"""Transfer of weights to a net of the same architecture, and the audit of transfers: each tensor is copied, new by design, or an error.

Weights are ``dict[str, ndarray]`` with the names of the built net.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from spnas_core import necks
from spnas_core.errors import UserError
from spnas_core.weights.tensor_names import BACKBONE, CASCADE, HEAD, HEADS, SCORE, SEMANTIC, SEMANTIC_LAST, STATISTICS, Arrays

_HEAD = re.compile(r"head\.(?:stages\.([0-2])\.)?((fc1|fc2|score|delta)\.(?:weight|bias))")
_LAST = re.compile(r"(?:head\.(?:stages\.[0-2]\.)?(?:score|delta)|(?:retinanet|fcos)\.score)\.(?:weight|bias)")
_LEVEL_NORM = re.compile(r"(retinanet\.(?:class|box)_tower\.\d+\.norms\.\d+\.)(?:gamma|beta|moving_mean|moving_variance)")
_TOWER_BIAS = re.compile(r"(retinanet\.(?:class|box)_tower\.\d+\.)conv\.bias")
_SHOWN = 12  # tensors named in an error


@dataclass(frozen=True)
class Audit:
    """Audit of a transfer: names of the child's copied and new tensors, and of the parent's dropped ones.

    `zero` names the new gammas and betas that start at zero. Counts are of parameters, without the statistics of norms. `peeled` says which
    part of a checkpoint file the weights are (see `peeling`), where they are not the whole file. `resized`: copied tensors that were
    widened or narrowed (see `channels`). `narrowed`: how many parameters were lost by that, by what was narrowed, and by blocks taken out.
    """

    copied: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    zero: tuple[str, ...]
    copied_params: int
    new_params: int
    dropped_params: int
    peeled: str = ""
    resized: tuple[str, ...] = ()
    narrowed: dict[str, int] = field(default_factory=dict, hash=False)

    def after_resizing(self, names: Iterable[str], lost: Mapping[str, int], taken_out: int = 0) -> "Audit":
        """Return the audit of the transfer of widened or narrowed weights; `taken_out`: parameters of blocks without a place."""
        narrowed = {**lost, **({"blocks": taken_out} if taken_out else {})}
        return replace(self, resized=tuple(sorted(names)), narrowed=narrowed, dropped_params=self.dropped_params + sum(lost.values()))

    @property
    def share(self) -> float:
        """Share of the child's parameters that were copied."""
        return self.copied_params / max(self.copied_params + self.new_params, 1)

    @property
    def model(self) -> dict[str, Any]:
        """JSON document of the audit."""
        document = {**asdict(self), "share": self.share}
        return {name: value for name, value in document.items() if value or name not in ("peeled", "resized", "narrowed")}


def audit_of(fresh: Arrays, weights: Arrays, copied: set[str], dropped: set[str], zero: Iterable[str] = ()) -> Audit:
    """Audit of a transfer from `weights` to the net initialised with `fresh`."""

    def count(names: Iterable[str], owner: Arrays) -> int:
        return sum(owner[name].size for name in names if not name.endswith(STATISTICS))

    new = fresh.keys() - copied
    counts = count(copied, fresh), count(new, fresh), count(dropped, weights)
    return Audit(tuple(sorted(copied)), tuple(sorted(new)), tuple(sorted(dropped)), tuple(sorted(zero)), *counts)


def check_fit(title: str, missing: Arrays, unused: Arrays) -> None:
    """Raise UserError with a +/- list if tensors are missing or unused."""
    lines = [f"{sign}{name} {found[name].shape}" for sign, found in (("+", missing), ("-", unused)) for name in sorted(found)]
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    if lines:
        raise UserError(f"{title}: weights differ, expected (+) and found (-): {', '.join(lines[:_SHOWN])}{more}")


def fits(a: Arrays, name: str, b: Arrays, other: str) -> bool:
    """Whether tensor `name` of `a` has the shape and dtype of tensor `other` of `b`, which must exist."""
    return other in b and a[name].shape == b[other].shape and a[name].dtype == b[other].dtype


def load_same(fresh: Arrays, weights: Arrays, prefix: str = "") -> tuple[Arrays, Audit]:
    """Replace the tensors of `fresh` whose names start with `prefix` by those of `weights`, for the same architecture.

    Below `prefix`, names, shapes and dtypes must be equal, else UserError with a +/- list. Other tensors of `fresh` stay (counted as new),
    others of `weights` are left out (counted as dropped).
    """
    wanted = {name for name in fresh if name.startswith(prefix)}
    given = {name for name in weights if name.startswith(prefix)}
    fitting = {name for name in wanted if fits(fresh, name, weights, name)}
    check_fit("cannot load", {name: fresh[name] for name in wanted - fitting}, {name: weights[name] for name in given - fitting})
    result = {name: (weights if name in fitting else fresh)[name].copy() for name in fresh}
    return result, audit_of(fresh, weights, fitting, weights.keys() - fitting)


def is_last_layer(name: str) -> bool:
    """Whether a tensor belongs to the last layers of a head, whose sizes depend on the number of classes."""
    return bool(_LAST.fullmatch(name)) or name.startswith(f"{SEMANTIC_LAST}.")


def is_semantic(names: Iterable[str]) -> bool:
    """Whether a net with these tensors gives every pixel a class."""
    return any(name.startswith(SEMANTIC) for name in names)


def is_cascade(names: Iterable[str]) -> bool:
    """Whether a detector with these tensors has the three box heads of a cascade."""
    return any(name.startswith(CASCADE) for name in names)


def head_source(name: str, cascade: bool) -> str | None:
    """Name of the source tensor, in a detector with a cascade or without, for `name` of a box head; None if it is new by design.

    Every stage of a cascade starts from the single box head, and a single box head from the first stage; except the box layers, which are
    class-agnostic in a cascade and per class in a single head.
    """
    match = _HEAD.fullmatch(name)
    if not match or bool(match[1]) == cascade:
        return name
    return None if match[3] == "delta" else f"{CASCADE}0.{match[2]}" if cascade else f"{HEAD}{match[2]}"


def is_other_head(name: str, cascade: bool) -> bool:
    """Whether a tensor belongs to a box head of the other kind, so that a net with a cascade, or without, has no place for it."""
    match = _HEAD.fullmatch(name)
    return match is not None and bool(match[1]) != cascade


def lacks_level_norm(name: str, names: Collection[str]) -> bool:
    """Whether `name` is of a level's norm in a tower, or of the bias in place of norms, that a net with tensors of the `names` has not."""
    if match := _LEVEL_NORM.fullmatch(name):
        return not any(other.startswith(match[1]) for other in names)
    match = _TOWER_BIAS.fullmatch(name)
    return match is not None and any(other.startswith(f"{match[1]}norms.") for other in names)


def adopt(fresh: Arrays, weights: Arrays) -> tuple[Arrays, Audit]:
    """Weights of a net from a checkpoint with the same backbone: a detector, possibly for other classes, or a classifier.

    New by design: whole parts that the checkpoint lacks (neck, proposals, head, or one of another kind or task, classifier's last layer),
    levels that its pyramid lacks, norms of levels that its head lacks, the heads' last layers for other classes, and the box layers if only
    one of the two is a cascade (see `head_source`). Dropped by design: a classifier's last layer in a detector, the same layers of the
    head, heads of another kind or task, levels that the pyramid does not have, and norms of levels that the head does not have. Any other
    difference in name, shape or dtype is a UserError with a +/- list.
    """
    copied, audit = match_weights(fresh, weights)
    return put_copies(fresh, weights, copied), audit


def put_copies(fresh: Arrays, weights: Arrays, copied: Mapping[str, str]) -> Arrays:
    """Copy the arrays of `fresh`, but of `weights` for the names in `copied`, which says their names there."""
    return {name: (weights[copied[name]] if name in copied else fresh[name]).copy() for name in fresh}


def match_weights(fresh: Arrays, weights: Arrays) -> tuple[dict[str, str], Audit]:
    """Name in a checkpoint of each tensor that `adopt` copies, by its name in the net; UserError as there. It reads no elements."""
    theirs, ours = ({name.split(".")[0] for name in names} for names in (weights, fresh))
    other_task = is_semantic(fresh) != is_semantic(weights)  # then the heads have nothing in common
    new_parts = (*(f"{part}." for part in ours - theirs - {BACKBONE.removesuffix(".")}), *((HEAD,) if other_task else ()))
    other_heads = tuple(part for part in HEADS if part.removesuffix(".") not in ours)
    own = [name for name in fresh if not (name.startswith(new_parts) or lacks_level_norm(name, weights))]
    wanted = [name for name in own if not necks.is_lacking(name, weights)]
    sources = {name: head_source(name, is_cascade(weights)) for name in wanted}
    given = {name: source for name, source in sources.items() if source is not None}
    copied = {name: source for name, source in given.items() if fits(fresh, name, weights, source)}
    other_classes = any(is_last_layer(name) and source in weights and name not in copied for name, source in given.items())
    if other_classes:
        given, copied = ({name: source for name, source in found.items() if not is_last_layer(name)} for found in (given, copied))

    def dropped(name: str) -> bool:
        of_head = is_other_head(name, is_cascade(fresh)) or (other_classes and is_last_layer(name))
        other_part = name.startswith(other_heads) or (SCORE.removesuffix(".") not in ours and name.startswith(SCORE))
        lacking = necks.is_unused(name, fresh) or lacks_level_norm(name, fresh)
        return (other_task and name.startswith(HEADS)) or of_head or other_part or lacking

    missing = {name: fresh[name] for name in given.keys() - copied.keys()}
    unused = weights.keys() - set(copied.values())
    check_fit("cannot start from the checkpoint", missing, {name: weights[name] for name in unused if not dropped(name)})
    return copied, audit_of(fresh, weights, set(copied), unused)
