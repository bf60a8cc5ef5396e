"""Checkpoints to start from: torchvision's files and ours, read under our names, and held against the net that wants their weights.

A checkpoint is a file of torch.save or a .safetensors with torchvision's names, or a model folder of ours or the weights file in it.
Which of them it is, its content says.
"""

import json
import posixpath
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, deserialize

from spnas_core import shapes, torch_file
from spnas_core.arch import Arch, parse
from spnas_core.audit import Audit, Shapes, Weights, audit, check_fit, parameters, shapes_of
from spnas_core.config import Detector
from spnas_core.data import files
from spnas_core.errors import UserError
from spnas_core.infer import infer
from spnas_core.model_folder import MODEL, WEIGHTS
from spnas_core.torchvision_names import BODY, to_spnas

BACKBONE = "backbone."
COCO_CLASSES = 90  # labels of torchvision's released detectors: category ids of COCO, background not counted
_HEAD = ("head.score.", "head.delta.")
_TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bf16", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
_SIZES = ("stem", "base_width", "fpn_channels", "head_channels", "share_weights")  # settings that shape tensors


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights (float32) under our names, and what is known of their net; `arch` is None for a weights file of ours without `model.json`.

    `settings` are those of `Detector` that the net was made with; `counters` names what torchvision counts in its norms and nobody needs.
    """

    url: str
    source: Literal["torchvision", "spnas"]
    weights: Weights
    arch: Arch | None
    settings: dict[str, Any]
    classes: int | None
    counters: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """Beginning of the names that its coverage counts: all of a detector, else the backbone."""
        return "" if any(name.startswith("neck.") for name in self.weights) else BACKBONE


def locate(url: str) -> tuple[Path, dict[str, Any] | None]:
    """Weights file of a checkpoint on this machine, and the `model.json` beside it where it is one of ours. UserError: no such file."""
    system, root = files.open_url(url)
    inside = WEIGHTS in files.list_folder(system, root)
    place = files.join(root, WEIGHTS) if inside else root
    if not system.isfile(place):
        raise UserError(f"checkpoint {url}: expected a file of weights or a folder with {WEIGHTS}, found none")
    path = files.local_file(files.full_url(system, place))
    folder = posixpath.dirname(place)
    if posixpath.basename(place) != WEIGHTS or MODEL not in files.list_folder(system, folder):
        return path, None
    try:
        document = json.loads(system.cat_file(files.join(folder, MODEL)))
        return path, {"arch": parse(document["arch"]), "settings": Detector.model_validate(document["detector"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"checkpoint {url}: expected {MODEL} of a model folder, got: {' '.join(str(error).split())}") from error


def read_checkpoint(url: str) -> Checkpoint:
    """Read a checkpoint of any of the kinds above. UserError, one line: no such file, no checkpoint, damaged, or of another net."""
    path, document = locate(url)
    arrays = _read(path, f"checkpoint {url}")
    try:
        return _torchvision(url, arrays) if _theirs(arrays) else _ours(url, arrays, document or {})
    except UserError as error:
        raise UserError(f"checkpoint {url}: {error}") from error


def fit(checkpoint: Checkpoint, wanted: Shapes, least: float) -> Audit:
    """Audit of filling a net of the tensors `wanted` from a checkpoint: what has a name and shape in common is copied.

    New by design are the last layers of the box head where the number of classes differs, and whatever the checkpoint lacks, as long as
    the share of parameters that it covers (of the backbone, for a classifier) is at least `least`. Dropped by design are the old last
    layers and a classifier's. UserError: any other tensor without a place or of another shape (+/- list), a parallel part that the
    checkpoint lacks, less coverage.
    """
    given = shapes_of(checkpoint.weights)
    copied = {name for name, shape in wanted.items() if given.get(name) == shape}
    heads = {name for name in wanted.keys() & given.keys() if name.startswith(_HEAD) and wanted[name][1:] == given[name][1:]}
    dropped = {name for name in given.keys() - copied if name in heads or name.startswith("score.")}
    wrong = given.keys() - copied - dropped
    parallel = {name for name in wanted.keys() - copied if name.startswith(("backbone.connect.", "backbone.copies."))}
    missing = {name: wanted[name] for name in (wrong & wanted.keys()) | parallel}
    check_fit(f"checkpoint {checkpoint.url}", missing, {name: given[name] for name in wrong})
    found = audit(wanted, given, copied, dropped)
    if (share := coverage(found, wanted, checkpoint.part)) < least:
        whose = "the backbone's" if checkpoint.part else "the detector's"
        title = f"checkpoint {checkpoint.url}: expected at least {100 * least:g} % of {whose} parameters, got {100 * share:.1f} %"
        check_fit(title, {name: wanted[name] for name in found.new if name.startswith(checkpoint.part)}, {})
    return found


def coverage(found: Audit, wanted: Shapes, part: str) -> float:
    """Share of the parameters whose names begin with `part` that were copied."""
    names = [name for name in wanted if name.startswith(part)]
    return parameters(set(names) & set(found.copied), wanted) / max(parameters(names, wanted), 1)


def check_arch(checkpoint: Checkpoint, arch: Arch) -> None:
    """UserError with a +/- list of tensors where the checkpoint is of another architecture than `arch`."""
    if checkpoint.arch in (None, arch):
        return
    sizes = Detector.model_validate(checkpoint.settings)
    ours, theirs = (shapes.backbone_shapes(one, sizes) for one in (arch, checkpoint.arch))
    title = f"checkpoint {checkpoint.url}: expected weights of {arch}, got those of {checkpoint.arch}"
    check_fit(title, dict(ours.items() - theirs.items()), dict(theirs.items() - ours.items()))
    raise UserError(f"{title}: equal tensors, but other strides")


def check_settings(checkpoint: Checkpoint, detector: Detector) -> None:
    """UserError that names the settings of a detector which are not those of the checkpoint."""
    values = detector.model_dump(mode="json")
    wrong = {name: checkpoint.settings[name] for name in _SIZES if checkpoint.settings.get(name, values[name]) != values[name]}
    if wrong:
        wanted, got = (", ".join(f"detector.{name}: {source[name]}" for name in wrong) for source in (wrong, values))
        raise UserError(f"checkpoint {checkpoint.url}: expected the settings {wanted}, got {got}")


def start_audit(checkpoint: Checkpoint, arch: Arch, detector: Detector, wanted: Shapes, least: float) -> Audit:
    """Check that a training of `arch` with these settings can start from a checkpoint, and audit it; UserError where it cannot."""
    check_settings(checkpoint, detector)
    check_arch(checkpoint, arch)
    return fit(checkpoint, wanted, least)


def _read(path: Path, name: str) -> torch_file.Arrays:
    try:
        with path.open("rb") as file:
            start = file.read(len(torch_file.LEGACY))
        if start.startswith((torch_file.ZIP, torch_file.LEGACY)):
            return torch_file.read_torch(path, name)
        if start[8:9] != b"{":
            raise UserError(f"{name}: expected a file of torch.save or a .safetensors, got one that begins with {start[:8]!r}")
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError) as error:
        raise UserError(f"{name}: expected a file of torch.save or a .safetensors, got: {error}") from error
    found = {}
    for key, tensor in tensors:
        if tensor["dtype"] not in _TYPES:
            raise UserError(f"{name}: expected tensors of {', '.join(_TYPES)}, got {tensor['dtype']} in {key!r}")
        found[key] = torch_file.decode(tensor["data"], _TYPES[tensor["dtype"]], "<").reshape(tensor["shape"])
    return found


def _theirs(arrays: torch_file.Arrays) -> bool:
    return any(name.startswith((BODY, "conv1.", "bn1.", "layer1.")) for name in arrays)


def _torchvision(url: str, arrays: torch_file.Arrays) -> Checkpoint:
    counters = tuple(sorted(name for name in arrays if name.endswith(".num_batches_tracked")))
    weights = _float32({name: array for name, array in arrays.items() if name not in counters})
    net = infer(shapes_of(weights))
    names = to_spnas(net.arch, weights)
    released = net.classes == COCO_CLASSES and not counters  # their norms are frozen, so nothing was counted
    norm = {"norm": "train" if counters or net.classes is None else "frozen", "norm_epsilon": 0.0 if released else 1e-5}
    ours = {names[name]: array for name, array in weights.items()}
    found = Checkpoint(url, "torchvision", ours, net.arch, net.settings | norm, net.classes, counters)
    backbone = shapes.backbone_shapes(net.arch, Detector.model_validate(net.settings))
    fit(replace(found, weights={name: array for name, array in ours.items() if name in backbone}), backbone, 0.0)
    return found


def _ours(url: str, arrays: torch_file.Arrays, document: dict[str, Any]) -> Checkpoint:
    if not any(name.startswith(BACKBONE) for name in arrays):
        shown = ", ".join(map(repr, sorted(arrays)[:3])) or "none"
        raise UserError(f"expected weights of torchvision's ResNet or Faster R-CNN or of spnas, got tensors named {shown}")
    weights = _float32(arrays)
    score = weights.get("head.score.weight")
    settings = document["settings"].model_dump(mode="json") if document else {}
    return Checkpoint(url, "spnas", weights, document.get("arch"), settings, len(score) - 1 if score is not None else None)


def _float32(arrays: torch_file.Arrays) -> Weights:
    strays = sorted(name for name, array in arrays.items() if array.dtype.kind != "f")
    if strays:
        raise UserError(f"expected floating-point tensors, got {arrays[strays[0]].dtype} in {strays[0]!r} ({len(strays)} such)")
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
