"""Settings of the one-stage heads: towers of convolutions that judge every place of every level.

The defaults are torchvision's, but for `FcosHead.first_distance`.
Sources: torchvision `models/detection/retinanet.py` and `fcos.py`; norms for each level: mmdetection `dense_heads/retina_sepbn_head.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from spnas_core.cost import Cost, Size, dense_head_cost
from spnas_core.settings.base import Settings


class OneStageHead(Settings):
    """Two towers over all levels, one for the classes and one for the boxes."""

    kind: str
    depth: PositiveInt = Field(4, description="3x3 convolutions of each of the two towers")
    focal_alpha: float = Field(0.25, ge=0, le=1, description="weight of the objects in the focal loss; the background has the rest")
    focal_gamma: float = Field(2.0, ge=0, description="exponent of the focal loss: the larger, the less count easy examples")
    candidates: PositiveInt = Field(1000, description="most scores of a level that enter NMS")

    @property
    def groups(self) -> int:
        """Groups of the group norm that follows each convolution of the towers; 0: none follows."""
        return 0

    @property
    def shapes(self) -> int:
        """Boxes at each place."""
        return 1

    @property
    def box_outputs(self) -> int:
        """Numbers at each place that the box tower ends in."""
        return 4 * self.shapes

    def tower_params(self, levels: int) -> int:
        """Parameters of a channel of a tower's convolution besides its weights, for so many levels: a bias, or what a norm has."""
        return 1

    def cost(self, channels: int, sizes: Sequence[Size], classes: int) -> Cost:
        """Cost in inference on maps of `channels` and these sizes, in cells; `classes` without the background."""
        return dense_head_cost(channels, self.depth, self.tower_params(len(sizes)), (classes * self.shapes, self.box_outputs), sizes)


class RetinaNetHead(OneStageHead):
    """RetinaNet: boxes by their difference from anchors."""

    later: ClassVar[frozenset[str]] = frozenset({"level_norms"})
    loss_names: ClassVar[tuple[str, ...]] = ("classification", "box")
    kind: Literal["retinanet"] = Field("retinanet", description="names this head")
    anchor_scale: PositiveFloat = Field(4.0, description="side of the smallest square anchor, in strides of its level")
    anchor_octave: PositiveInt = Field(3, description="sizes of anchors from one level to the next, which has twice the size")
    anchor_ratios: tuple[PositiveFloat, ...] = Field(
        (0.5, 1.0, 2.0), min_length=1, description="height / width of the anchors at each place"
    )
    foreground_iou: float = Field(0.5, gt=0, le=1, description="least IoU of an anchor with the object that it learns")
    background_iou: float = Field(0.4, gt=0, le=1, description="IoU with all objects below which an anchor learns the background")
    box_loss: Literal["l1", "giou"] = Field("l1", description="L1 distance of the deltas, or generalised IoU of the boxes")
    level_norms: bool = Field(
        False, description="a batch norm of its own for each level, always trained, follows each convolution of the towers"
    )

    @property
    def shapes(self) -> int:
        """Anchors at each place."""
        return self.anchor_octave * len(self.anchor_ratios)

    def tower_params(self, levels: int) -> int:
        """Count gamma and beta of each level, or a bias."""
        return 2 * levels if self.level_norms else 1

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.background_iou > self.foreground_iou:
            raise ValueError(f"expected background_iou of at most foreground_iou, {self.foreground_iou:g}, got {self.background_iou:g}")
        return self


class FcosHead(OneStageHead):
    """FCOS: boxes by the distances of their sides from a point, and how central that point is (centerness)."""

    loss_names: ClassVar[tuple[str, ...]] = ("classification", "box", "centerness")
    anchor_scale: ClassVar[float] = 1.0  # points are placed as the centres of squares, with a side of one stride
    anchor_octave: ClassVar[int] = 1
    anchor_ratios: ClassVar[tuple[float, ...]] = (1.0,)
    level_norms: ClassVar[bool] = False
    kind: Literal["fcos"] = Field("fcos", description="names this head")
    centre_radius: PositiveFloat = Field(
        1.5, description="points of an object are at most so many strides of their level away from its centre, in x and in y"
    )
    norm_groups: PositiveInt = Field(32, description="groups of the norms in the towers; the channels of the neck are a multiple of it")
    first_distance: float = Field(
        1.0,
        ge=0,
        description="distances of a box's sides from their point before the training, in strides; with torchvision's 0 a training may end "
        "without a box: ReLU holds distances that fall below 0, and their gradient, at 0",
    )

    @property
    def groups(self) -> int:
        """Groups of the norms."""
        return self.norm_groups

    def tower_params(self, levels: int) -> int:
        """Count a bias, and gamma and beta of all levels."""
        return 3

    @property
    def box_outputs(self) -> int:
        """Distances and centerness."""
        return 5


_PYRAMID = {"first_level": 1, "extra_levels": "p5"}
_DETECTOR: dict[str, dict[str, Any]] = {
    "retinanet": {"detections": 300},
    "fcos": {"score_threshold": 0.2, "box_nms": 0.6},
}  # torchvision's, where they differ from those of Faster R-CNN


def with_head_defaults(values: Any) -> Any:
    """Add the defaults that a one-stage head has for its detector and its pyramid, where the settings of a detector do not say others.

    A neck that is a value already stays as it is; anything but a mapping is returned as it is.
    """
    if not isinstance(values, Mapping):
        return values
    head = values.get("head")
    kind = head.get("kind") if isinstance(head, Mapping) else getattr(head, "kind", None)
    if not isinstance(kind, str) or kind not in _DETECTOR:
        return values
    neck = values.get("neck", {})
    if isinstance(neck, Mapping) and neck.get("kind", "fpn") == "fpn":
        neck = {"kind": "fpn", **_PYRAMID, **neck}
    return {**_DETECTOR[kind], **values, "neck": neck}
