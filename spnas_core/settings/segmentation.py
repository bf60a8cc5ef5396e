"""Settings of heads that give every pixel a class."""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from spnas_core.cost import Cost, Size, conv_cost, half
from spnas_core.necks.fpn import Output
from spnas_core.settings.base import Settings


class SemanticFpnHead(Settings):
    """Semantic FPN (Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, section 3.2), with batch norm as in mmsegmentation."""

    kind: Literal["semantic_fpn"] = Field("semantic_fpn", description="names this head")
    channels: PositiveInt = Field(128, description="channels of its convolutions")
    class_weights: tuple[PositiveFloat, ...] = Field(
        (), description="weight of each class in the cross entropy, in the order of the ids in the masks; none: all weigh the same"
    )
    auxiliary: Literal["dice", "lovasz"] | None = Field(None, description="a second loss, of overlap, added to the cross entropy")
    auxiliary_weight: PositiveFloat = Field(1.0, description="its weight")

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses."""
        return ("cross_entropy", *filter(None, (self.auxiliary,)))

    def map_cost(self, inputs: int, outputs: Sequence[Output], classes: int) -> Cost:
        """Cost in inference on the neck's `outputs`, maps of `inputs` channels."""
        total, ladders = Cost(), ladders_of(outputs)
        for ladder in ladders:
            for number, size in enumerate(ladder.sizes):
                total += conv_cost(self.channels if number else inputs, self.channels, 3, size)
        return total + conv_cost(self.channels, classes, 1, ladders[0].target, norm=False)


class Ladder(Settings):
    """Way of one map to the finest: the sizes, in cells, at which it is convolved, from its own on; `target`: that of the finest map.

    After each convolution the map is resized to the next of these sizes, and last to the target.
    """

    output: int
    sizes: tuple[Size, ...]
    target: Size


def ladders_of(outputs: Sequence[Output]) -> tuple[Ladder, ...]:
    """Ladders of the neck's outputs, without those that are `extra`: max(1, log2(stride / finest stride)) convolutions each."""
    own = [(number, output) for number, output in enumerate(outputs) if not output.extra]
    finest = min((output for _, output in own), key=lambda output: output.stride)
    found = []
    for number, output in own:
        sizes = [finest.size]
        for _ in range(round(math.log2(output.stride / finest.stride))):
            sizes.append(half(sizes[-1]))
        found.append(Ladder(output=number, sizes=tuple(sizes[:0:-1] or sizes), target=finest.size))
    return tuple(found)
