"""The audit of weights that were moved: each tensor is copied, new or dropped; and the one line that says where they do not fit."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spnas_core.errors import UserError

Weights = dict[str, npt.NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]
STATISTICS = (".moving_mean", ".moving_variance")
_SHOWN = 12  # tensors named in an error


@dataclass(frozen=True)
class Audit:
    """What was done with weights: names of the new net's copied and new tensors, and of the old net's dropped ones.

    `zero` names the gammas and betas that now start at zero: they must be trained even where norms are frozen, else their block never
    learns. Counts are of parameters, so without the statistics of norms.
    """

    copied: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    zero: tuple[str, ...]
    copied_params: int
    new_params: int
    dropped_params: int

    @property
    def share(self) -> float:
        """Share of the new net's parameters that were copied."""
        return self.copied_params / max(self.copied_params + self.new_params, 1)

    @property
    def model(self) -> dict[str, Any]:
        """The audit as a JSON document."""
        return {**asdict(self), "share": self.share}


def shapes_of(weights: Weights) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by name."""
    return {name: array.shape for name, array in weights.items()}


def parameters(names: Iterable[str], shapes: Shapes) -> int:
    """Count the parameters of the tensors `names`; statistics of norms are none."""
    return sum(math.prod(shapes[name]) for name in names if not name.endswith(STATISTICS))


def audit(wanted: Shapes, given: Shapes, copied: set[str], dropped: Iterable[str] = (), zero: Iterable[str] = ()) -> Audit:
    """Audit of a net that has the tensors `wanted`, `copied` ones of them from `given`, whose `dropped` ones it does not use."""
    new, left = wanted.keys() - copied, set(dropped)
    counts = parameters(copied, wanted), parameters(new, wanted), parameters(left, given)
    return Audit(tuple(sorted(copied)), tuple(sorted(new)), tuple(sorted(left)), tuple(sorted(zero)), *counts)


def check_fit(title: str, missing: Shapes, unused: Shapes) -> None:
    """UserError that lists `missing` (+) and `unused` (-) tensors where there are any, the first dozen by name."""
    lines = [f"{sign}{name} {found[name]}" for sign, found in (("+", missing), ("-", unused)) for name in sorted(found)]
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    if lines:
        raise UserError(f"{title}: weights differ, expected (+) and found (-): {', '.join(lines[:_SHOWN])}{more}")
