"""A model without the blocks that it hardly uses, as a new model folder; that its features stay the same is tried out on the real nets."""

import hashlib
import json
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor
from safetensors.numpy import save

from spnas_core.arch import Arch, blocks, parse
from spnas_core.data.images import Floats
from spnas_core.errors import UserError
from spnas_core.jobs.detection import WORK
from spnas_core.jobs.evaluate import open_model
from spnas_core.models.detector import DetectorNet
from spnas_core.models.step import get_weights, set_weights
from spnas_core.names import MODEL_FILE, WEIGHTS_FILE
from spnas_core.weights.pruning import unused_blocks, without_blocks

_NOISE_IMAGES = 2


@dataclass(frozen=True)
class Pruned:
    """Result of a pruning: architectures before and after, the places (stage, position, from 1) of the blocks that were left out.

    `change`: the largest difference of an element of the neck's maps, in standard deviations of its map. `files` are those of the folder.
    """

    before: Arch
    after: Arch
    left_out: tuple[tuple[int, int], ...]
    change: float
    files: dict[str, bytes]


def prune_model(model: str, below: float, tolerance: float) -> Pruned:
    """Leave out the blocks of a model folder whose branches are smaller than the share `below` of the largest of their stage.

    UserError if the net has none, or if on noise pictures its maps change by more than `tolerance` standard deviations.
    """
    net, card = open_model(model)
    arch, weights = parse(card.arch), get_weights(net)
    left_out = unused_blocks(arch, weights, below)
    if not left_out:
        raise UserError(f"model {model}: expected a block with less than {below:g} of the largest of its stage (--below), found none")
    after, fewer = without_blocks(arch, weights, left_out)
    ms.set_context(mode=ms.GRAPH_MODE)
    other = WORK.build(after, card.detector, len(card.classes), False).set_train(False)
    set_weights(other, fewer)
    height, width = card.detector.image_size
    noise = np.random.default_rng(0).standard_normal((_NOISE_IMAGES, 3, height, width)).astype(np.float32)
    change = _largest_change(net, other, noise)
    if not change <= tolerance:
        raise UserError(f"model {model}: expected maps that change by at most {tolerance:g} deviations (--tolerance), got {change:.3g}")
    starts = [sum(map(len, arch.stages[:stage])) for stage in range(len(arch.stages))]
    places = [(block.stage + 1, block.index - starts[block.stage] + 1) for block in blocks(arch) if block.index in left_out]
    content = save(fewer)
    document = card.model_dump(mode="json") | {"arch": str(after), "weights_sha256": hashlib.sha256(content).hexdigest()}
    document |= {"pruned": {"arch": str(arch), "blocks": places, "change": change}}
    for name in ("scores", "train_artifact"):  # they are those of the whole net
        document.pop(name, None)
    return Pruned(arch, after, tuple(places), change, {WEIGHTS_FILE: content, MODEL_FILE: json.dumps(document, indent=1).encode()})


def _largest_change(net: DetectorNet, other: DetectorNet, pictures: Floats) -> float:
    """Largest difference of the maps of two nets, in standard deviations of each map of the first."""
    ours, theirs = ([one.asnumpy() for one in each.features(Tensor(pictures))] for each in (net, other))
    return max(float(np.abs(b - a).max() / max(a.std(), 1e-12)) for a, b in zip(ours, theirs, strict=True))
