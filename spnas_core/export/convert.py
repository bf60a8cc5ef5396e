"""Conversion of torchvision's detectors and classifiers to model folders of this program, and back, bit for bit."""

import json
from dataclasses import dataclass, replace
from typing import Any

import mindspore as ms
from mindspore import nn
from safetensors.numpy import save

from spnas_core import arch as architecture
from spnas_core.arch import Arch
from spnas_core.data import files
from spnas_core.data.annotations import Categories
from spnas_core.errors import UserError
from spnas_core.jobs import detection
from spnas_core.models.build import build
from spnas_core.models.classifier import Classifier
from spnas_core.models.step import get_weights
from spnas_core.names import MODEL_FILE, WEIGHTS_FILE
from spnas_core.necks.fpn import EXTRA, INNER, LAYER, Fpn
from spnas_core.settings.detector import Detector
from spnas_core.settings.one_stage import RetinaNetHead
from spnas_core.store.storage import Storage
from spnas_core.weights import adopt
from spnas_core.weights.adopt import Audit
from spnas_core.weights.checkpoint import check_names, open_checkpoint, our_weights, read_checkpoint
from spnas_core.weights.model_folder import norm_epsilon, read_model
from spnas_core.weights.tensor_names import HEAD, SCORE, STEM, TOWERS, Arrays, is_detector, one_stage_head
from spnas_core.weights.torchvision_names import COCO_LABELS, from_torchvision, infer_arch, to_torchvision

THEIR_FILE = "torchvision.safetensors"


@dataclass(frozen=True)
class Converted:
    """Result of a conversion: the files of the folder, the audit and, for a detector, its norms' epsilon.

    `counters` is the number of torchvision's counters of batches, which no net here uses.
    """

    arch: Arch
    files: dict[str, bytes]
    audit: Audit
    counters: int
    norm_epsilon: float | None = None


def convert_checkpoint(
    url: str, arch: str | None, to: str, epsilon: float | None = None, categories: str | None = None, coverage: float = 0.9
) -> Converted:
    """Convert the checkpoint at `url`, a file or a model folder; `to` is ``spnas`` or ``torchvision``.

    `arch`, if not given, is inferred from torchvision's tensors, or read beside this program's weights. So is `epsilon`, that of the norms
    (see `norm_epsilon`), with the default 1e-5. `categories` is the URL of a COCO annotation file that names the labels. UserError if the
    file covers less than the share `coverage` of the net's parameters.
    """
    file, known = _locate(url, architecture.parse(arch) if arch else None)
    arrays, peeled = read_checkpoint(open_checkpoint(file), url, known)
    check_names(arrays, url)
    if known is None:
        if not from_torchvision(arrays):
            raise UserError(f"checkpoint {url}: expected --arch, since no {MODEL_FILE} beside the file says the architecture")
        known = _inferred(arrays, url)
    ours = our_weights(known, arrays, url)
    counters = len(arrays) - len(ours)
    settings = read_settings(ours, url, norm_epsilon(file, arrays) if epsilon is None else epsilon)
    net = _build(known, settings, ours)
    weights, audit = adopt.adopt(get_weights(net), ours)
    audit = replace(audit, peeled=peeled)
    if audit.share < coverage:
        raise UserError(f"checkpoint {url}: expected at least {coverage:.0%} of the net's parameters (--coverage), got {audit.share:.1%}")
    if to == "torchvision":
        names = to_torchvision(known, weights)
        return Converted(known, {THEIR_FILE: save({names[name]: array for name, array in weights.items()})}, audit, counters)
    made = {WEIGHTS_FILE: save(weights)}
    if isinstance(net, Classifier):
        return Converted(known, made, audit, counters)
    first = 0 if one_stage_head(ours) else 1  # of torchvision's labels: those of one-stage heads have a 0, which no object has
    document = detection.model_document(str(known), settings, _categories(categories, _classes(ours), first))
    return Converted(known, {**made, MODEL_FILE: json.dumps(document).encode()}, audit, counters, settings.norm_epsilon)


def write_files(contents: dict[str, bytes], url: str) -> None:
    """Write files, each atomically, to a folder at any fsspec URL; UserError if no folder can be there."""
    try:
        target = Storage(url)
        for name, content in contents.items():
            target.write(name, content)
    except OSError as error:
        raise UserError(f"--out: expected a place for a folder, got {url}: {error}") from error


def read_settings(weights: Arrays, name: str, epsilon: float | None = None) -> Detector:
    """Detector settings with the sizes inferred from the shapes of the weights, else defaults. UserError if a needed tensor is missing."""

    def side(tensor: str, axis: int) -> int:
        if tensor not in weights or weights[tensor].ndim <= axis:
            raise UserError(f"checkpoint {name}: expected a tensor {tensor}, found none")
        return int(weights[tensor].shape[axis])

    stem = "3x3" if f"{STEM}conv1.weight" in weights else "7x7"
    sizes: dict[str, Any] = {"stem": stem, "base_width": side(f"{STEM}{'conv2' if stem == '3x3' else 'conv'}.weight", 0)}
    if is_detector(weights):
        lowest = min((int(one.split(".")[2]) for one in weights if one.startswith(LAYER)), default=0)
        neck: dict[str, Any] = {"channels": side(f"{INNER}{lowest}.weight", 0), "first_level": lowest, "extra_levels": "pool"}
        if (above := f"{EXTRA}0.weight") in weights:
            neck["extra_levels"] = "p5" if side(above, 0) == side(above, 1) else "c5"
        sizes |= {"neck": neck, "head": _head(weights) or {"head_channels": side(f"{HEAD}fc1.weight", 0)}}
        sizes |= {"norm": "frozen", "frozen_stages": 2}
    if epsilon is not None:
        sizes["norm_epsilon"] = epsilon
    return Detector.model_validate(sizes)


def _head(weights: Arrays) -> dict[str, Any]:
    """Say kind and depth of a one-stage head, and whether levels have norms; empty where the weights have none."""
    if not (head := one_stage_head(weights)):
        return {}
    depth = sum(name.startswith(f"{head}{TOWERS[0]}") and name.endswith(".conv.weight") for name in weights)
    level_norms = {"level_norms": True} if f"{head}{TOWERS[0]}0.norms.0.gamma" in weights else {}
    return {"kind": head.removesuffix("."), "depth": depth, **level_norms}


def _classes(weights: Arrays) -> int:
    """Classes of a detector with these weights, without a background; COCO's labels where nothing shows them."""
    head = one_stage_head(weights)
    score = weights.get(f"{head or HEAD}score.weight")
    if score is None:
        return COCO_LABELS
    boxes = weights[f"{head}delta.weight"].shape[0] // 4 if f"{head}delta.weight" in weights and head else 1
    return len(score) // boxes if head else len(score) - 1


def _inferred(arrays: Arrays, name: str) -> Arch:
    try:
        return infer_arch({tensor: array.shape for tensor, array in arrays.items()})
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from error


def _build(arch: Arch, settings: Detector, weights: Arrays) -> nn.Cell:
    ms.set_context(mode=ms.GRAPH_MODE)
    if is_detector(weights):
        return build(arch, settings, _classes(weights))
    score = weights.get(f"{SCORE}weight")
    return Classifier(arch, settings, 1 if score is None else len(score))


def _locate(url: str, arch: Arch | None) -> tuple[str, Arch | None]:
    """URL of the weights file, and the architecture: the given one, or that in the `model.json` beside the file.

    UserError for a net with a pyramid or a head that torchvision lacks.
    """
    system, root = files.open_url(url)
    folder = files.url_of(system, root)
    if WEIGHTS_FILE not in (there := files.list_folder(system, root)):
        return url, arch
    if MODEL_FILE in there:
        card = read_model(f"{folder}/{MODEL_FILE}")
        arch = arch or architecture.parse(card.arch)
        check_parts(arch, card.detector, url)
    return f"{folder}/{WEIGHTS_FILE}", arch


def check_parts(arch: Arch, settings: Detector, url: str) -> None:
    """Raise UserError for a net with a pyramid or a head that torchvision lacks."""
    neck = settings.neck
    if not isinstance(neck, Fpn) or neck.reads(arch) != neck.model_copy(update={"taps": None}).reads(arch):
        raise UserError(f"checkpoint {url}: expected a plain pyramid, as torchvision has it, got {neck.text}")
    if settings.head.kind == "cascade_rcnn":
        raise UserError(f"checkpoint {url}: expected one box head, as torchvision has it, got a cascade")
    if isinstance(settings.head, RetinaNetHead) and settings.head.level_norms:
        raise UserError(f"checkpoint {url}: expected RetinaNet's head without norms, as torchvision has it, got one with level_norms")


def _categories(url: str | None, labels: int, first: int = 1) -> Categories:
    """Category (id, name) of every label; torchvision's labels are COCO's ids, which have gaps."""
    names: dict[int, str] = {}
    if url:
        try:
            names = {int(one["id"]): str(one["name"]) for one in json.loads(open_checkpoint(url).read_bytes())["categories"]}
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{url}: expected a COCO annotation file with categories, got: {type(error).__name__} {error}") from error
        if strangers := sorted(number for number in names if not first <= number < labels + first):
            raise UserError(
                f"{url}: expected ids of categories from {first} to {labels + first - 1}, the labels of the checkpoint, got {strangers[0]}"
            )
    return tuple((number, names.get(number, str(number))) for number in range(first, labels + first))
