"""Settings of the detector: all of it but its backbone."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, model_validator

from spnas_core.cost import Cost, Size, Stem, head_cost, rpn_cost
from spnas_core.necks import Neck
from spnas_core.necks.fpn import Fpn
from spnas_core.settings.base import Settings, key_document
from spnas_core.settings.one_stage import FcosHead, RetinaNetHead, with_head_defaults
from spnas_core.settings.segmentation import SemanticFpnHead
from spnas_core.settings.task import DETECTION, SEGMENTATION, Task


class TwoStageHead(Settings):
    """Region proposals and what judges them; the defaults are torchvision's."""

    loss_names: ClassVar[tuple[str, ...]] = ("classifier", "box", "objectness", "rpn_box")
    kind: str
    head_channels: PositiveInt = Field(1024, description="width of the box head's two layers")
    anchor_scale: PositiveFloat = Field(8.0, description="side of a square anchor, in strides of its level")
    anchor_ratios: tuple[PositiveFloat, ...] = Field(
        (0.5, 1.0, 2.0), min_length=1, description="height / width of the anchors at each place"
    )
    rpn_batch: PositiveInt = Field(256, description="anchors per image that enter the RPN losses")
    proposals_train: PositiveInt = Field(2000, description="per level before and per image after NMS, in training")
    proposals_test: PositiveInt = Field(1000, description="the same in inference")
    rpn_nms: float = Field(0.7, gt=0, le=1, description="largest IoU of two proposals")
    roi_batch: PositiveInt = Field(512, description="regions per image that enter the box head's losses")

    def cost(self, channels: int, sizes: Sequence[Size], classes: int) -> Cost:
        """Cost in inference on maps of `channels` and these sizes, in cells; `classes` without the background."""
        proposals = rpn_cost(channels, len(self.anchor_ratios), sizes)
        return proposals + head_cost(classes, channels, self.head_channels, self.proposals_test, self.kind == "cascade_rcnn")


class FasterRcnnHead(TwoStageHead):
    """Faster R-CNN: one box head, a box for each class."""

    kind: Literal["faster_rcnn"] = Field("faster_rcnn", description="names this head")


class CascadeRcnnHead(TwoStageHead):
    """Cascade R-CNN: three box heads, for IoU 0.5, 0.6, 0.7, each on the boxes of the one before."""

    kind: Literal["cascade_rcnn"] = Field("cascade_rcnn", description="names this head")


Head = Annotated[FasterRcnnHead | CascadeRcnnHead | RetinaNetHead | FcosHead | SemanticFpnHead, Field(discriminator="kind")]
HEADS_BY_KIND: dict[str, Any] = {head.model_fields["kind"].default: head for head in get_args(get_args(Head)[0])}
HEAD_KINDS = tuple(HEADS_BY_KIND)
_FORMER_HEAD = tuple(name for name in TwoStageHead.model_fields if name != "kind")
_FORMER_NECK = {"fpn_channels": "channels", "taps": "taps"}
_BOOLEAN: TypeAdapter[bool] = TypeAdapter(bool)


class Detector(Settings):
    """The detector at a fixed size of the network input; the defaults are torchvision's, but for trained norms."""

    image_size: tuple[PositiveInt, PositiveInt] = Field((800, 1344), description="height and width of the network input, px")
    base_width: PositiveInt = Field(64, description="channels after the stem")
    stem: Stem = Field("7x7", description="7x7 stride 2 + max-pool, or two 3x3 stride-2 convolutions")
    norm: Literal["frozen", "train"] = Field("train", description="batch norm: trained, or frozen statistics and scale")
    norm_epsilon: float = Field(1e-5, ge=0, description="0.0 for torchvision's released COCO weights")
    frozen_stages: int = Field(0, ge=0, description="0: all is trained; n: the stem and the first n-1 stages are not")
    share_weights: bool = Field(True, description="a parallel copy uses the main stage's weights")
    neck: Neck = Field(Fpn(), description="what merges the stages' outputs: a feature pyramid")
    head: Head = Field(
        FasterRcnnHead(),
        description="what finds objects: faster_rcnn, cascade_rcnn with three box heads, retinanet or fcos; or gives every pixel a class: "
        "semantic_fpn",
    )
    other_heads: tuple[Head, ...] = Field(
        (), description="heads, each with its settings, that a search may take instead (serial.mutation.head)"
    )
    max_boxes: PositiveInt = Field(100, description="padding of the ground truth; more boxes in an image are reported and left out")
    score_threshold: float = Field(0.05, ge=0, lt=1, description="least score of a detection")
    box_nms: float = Field(0.5, gt=0, le=1, description="largest IoU of two detections of one class")
    soft_nms: Literal["linear", "gaussian"] | None = Field(
        None, description="lower the scores of boxes that overlap better ones (linear: from `box_nms` on) instead of removing them"
    )
    soft_nms_sigma: PositiveFloat = Field(0.5, description="of the gaussian")
    detections: PositiveInt = Field(100, description="most detections of one image")

    @property
    def task(self) -> Task:
        """What a net with these settings is for."""
        return SEGMENTATION if isinstance(self.head, SemanticFpnHead) else DETECTION

    @model_validator(mode="before")
    @classmethod
    def _former_keys(cls, values: Any) -> Any:
        return with_head_defaults(current_form(values))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.head, FcosHead) and self.neck.channels % self.head.norm_groups:
            raise ValueError(
                f"expected neck.channels to be a multiple of head.norm_groups, {self.head.norm_groups}, got {self.neck.channels}"
            )
        kinds = [self.head.kind, *(head.kind for head in self.other_heads)]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"expected each kind of head once in head and other_heads, got {', '.join(kinds)}")
        if len({isinstance(head, SemanticFpnHead) for head in (self.head, *self.other_heads)}) > 1:
            raise ValueError(f"expected heads of one task in head and other_heads, got {', '.join(kinds)}")
        return self

    def head_of(self, kind: str) -> Head:
        """Return the settings of the head of a kind: the own ones, those of another head, or, between heads of two stages, the own ones."""
        found: Any = next((head for head in (self.head, *self.other_heads) if head.kind == kind), None)
        chosen: Head = found or HEADS_BY_KIND[kind].model_validate({**self.head.model_dump(), "kind": kind})
        return chosen

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy with other values, by present or former keys; unlike pydantic's own it is validated, and so always deep."""
        return type(self).model_validate({**self.model_dump(), **(update or {})})

    def former_document(self) -> dict[str, Any]:
        """Give the settings as JSON by the keys of the versions whose heads and necks had no kinds: digests are made with these.

        A head or a neck that those versions had not stays as it is.
        """
        document = self.model_dump(mode="json", exclude={"other_heads"})  # choices of a search are no part of a detector
        if isinstance(self.neck, Fpn):
            neck = document.pop("neck")
            document |= {former: neck[name] for former, name in _FORMER_NECK.items()}
            if changed := {name: neck[name] for name in sorted(Fpn.later) if neck[name] != Fpn.model_fields[name].default}:
                document["neck"] = changed
        if isinstance(self.head, FasterRcnnHead | CascadeRcnnHead):
            head = document.pop("head")
            document |= {name: head[name] for name in _FORMER_HEAD} | {"cascade": head["kind"] == "cascade_rcnn"}
        else:
            document["head"] = key_document(self.head)
        return document


def two_stage(settings: Detector) -> TwoStageHead:
    """Return the settings of a two-stage head; TypeError for another head."""
    if not isinstance(settings.head, TwoStageHead):
        raise TypeError(f"expected a two-stage head, got {settings.head.kind}")
    return settings.head


def one_stage(settings: Detector) -> RetinaNetHead | FcosHead:
    """Return the settings of a one-stage head; TypeError for another head."""
    if not isinstance(settings.head, RetinaNetHead | FcosHead):
        raise TypeError(f"expected a one-stage head, got {settings.head.kind}")
    return settings.head


def detection_head(settings: Detector) -> TwoStageHead | RetinaNetHead | FcosHead:
    """Return the settings of a head that finds objects; TypeError for one that gives every pixel a class."""
    return settings.head if isinstance(settings.head, TwoStageHead) else one_stage(settings)


def current_form(values: Any, task: Any = DETECTION.name) -> Any:
    """Move former keys of a detector (`fpn_channels`, `taps`, `cascade`, those of a two-stage head) into its neck and head.

    A former key replaces what neck or head say; anything but a mapping is returned as it is. One without a kind is that of the `task`.
    """
    if not isinstance(values, Mapping):
        return values
    found = dict(values)
    neck = {name: found.pop(former) for former, name in _FORMER_NECK.items() if former in found}
    head = {name: found.pop(name) for name in _FORMER_HEAD if name in found}
    if "cascade" in found:
        head["kind"] = _kind(found.pop("cascade"))
    own = "semantic_fpn" if task == SEGMENTATION.name else "faster_rcnn"
    for part, moved, kind in (("neck", neck, "fpn"), ("head", head, own)):
        given = found.get(part, {})
        given = given.model_dump() if isinstance(given, BaseModel) else given
        if isinstance(given, Mapping) and (part in found or moved):
            found[part] = {"kind": kind, **given, **moved}
    return found


def _kind(cascade: Any) -> Any:
    """Kind of head that the former `cascade` names; what is no boolean is returned as it is."""
    try:
        return "cascade_rcnn" if _BOOLEAN.validate_python(cascade) else "faster_rcnn"
    except ValidationError:
        return cascade
