"""The parts of a run's settings: frozen, unknown keys refused, each field described for whoever writes a preset or fills in a form."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from spnas_core import arch as architecture
from spnas_core.cost import Stem
from spnas_core.names import check_url


def _canonical(text: str) -> str:
    return str(architecture.check_space(architecture.parse(text)))


def _canonical_type(text: str) -> str:
    return architecture.parse_type(text).text


TypeText = Annotated[str, AfterValidator(_canonical_type)]
_PATTERN = r"^((b|r|x\([1-9][0-9]*x[1-9][0-9]*d\))_)?[12]+(-[12]+)*(_[0-9]+(-[0-9]+)*)?$"  # for forms; `parse` says what is wrong
ArchText = Annotated[str, AfterValidator(_canonical), Field(json_schema_extra={"pattern": _PATTERN})]
Url = Annotated[str, AfterValidator(check_url), Field(json_schema_extra={"pattern": r"^([^:]*|[a-z0-9+]+://[^/@]*(/.*)?)$"})]
Limit = tuple[float | None, float | None]
Taps = tuple[NonNegativeInt, ...]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Detector(Settings):
    """Faster R-CNN with FPN at a fixed size of the network input; the defaults are torchvision's, but for trained norms."""

    image_size: tuple[PositiveInt, PositiveInt] = Field((800, 1344), description="height and width of the network input, px")
    base_width: PositiveInt = Field(64, description="channels after the stem")
    stem: Stem = Field("7x7", description="7x7 stride 2 + max-pool, or two 3x3 stride-2 convolutions")
    norm: Literal["frozen", "train"] = Field("train", description="batch norm: trained, or frozen statistics and scale")
    norm_epsilon: float = Field(1e-5, ge=0, description="0.0 for torchvision's released COCO weights")
    frozen_stages: int = Field(0, ge=0, description="0: all is trained; n: the stem and the first n-1 stages are not")
    share_weights: bool = Field(True, description="a parallel copy uses the main stage's weights")
    fpn_channels: PositiveInt = Field(256, description="channels of every level of the neck")
    taps: Taps | None = Field(
        None, description="merged level that each output of the pyramid reads, [1, 1, 2, 3] for example; null: its own, [0, 1, 2, 3]"
    )
    head_channels: PositiveInt = Field(1024, description="width of the box head's two layers")
    anchor_scale: PositiveFloat = Field(8.0, description="side of a square anchor, in strides of its level")
    anchor_ratios: tuple[PositiveFloat, ...] = Field(
        (0.5, 1.0, 2.0), min_length=1, description="height / width of the anchors at each place"
    )
    rpn_batch: PositiveInt = Field(256, description="anchors per image that enter the RPN losses")
    proposals_train: PositiveInt = Field(2000, description="per level before and per image after NMS, in training")
    proposals_test: PositiveInt = Field(1000, description="the same in inference")
    rpn_nms: float = Field(0.7, gt=0, le=1, description="largest IoU of two proposals")
    cascade: bool = Field(False, description="Cascade R-CNN: three box heads, for IoU 0.5, 0.6, 0.7, each on the boxes of the one before")
    roi_batch: PositiveInt = Field(512, description="regions per image that enter the box head's losses")
    max_boxes: PositiveInt = Field(100, description="padding of the ground truth; more boxes in an image are reported and left out")
    score_threshold: float = Field(0.05, ge=0, lt=1, description="least score of a detection")
    box_nms: float = Field(0.5, gt=0, le=1, description="largest IoU of two detections of one class")
    soft_nms: Literal["linear", "gaussian"] | None = Field(
        None, description="lower the scores of boxes that overlap better ones (linear: from `box_nms` on) instead of removing them"
    )
    soft_nms_sigma: PositiveFloat = Field(0.5, description="of the gaussian")
    detections: PositiveInt = Field(100, description="most detections of one image")


class Recipe(Settings):
    """One training: SGD with momentum, linear warm-up, then a step or cosine schedule."""

    epochs: PositiveInt = Field(12, description="times that every image is seen")
    batch: PositiveInt = Field(2, description="images of one step")
    lr: PositiveFloat = Field(0.02, description="learning rate after the warm-up")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(1e-4, ge=0, description="of SGD, coupled: added to the gradient")
    decay_norm_and_bias: bool = Field(True, description="whether weight decay reaches norm and bias parameters too")
    schedule: Literal["cosine", "step"] = Field("cosine", description="how the learning rate falls")
    milestones: tuple[float, ...] = Field((0.67, 0.92), description="step schedule: parts of the training after which lr falls to a tenth")
    warmup_steps: int = Field(50, ge=0, description="steps in which the learning rate rises")
    clip_norm: PositiveFloat | None = Field(None, description="largest L2 norm of the gradient")
    flip: bool = Field(True, description="mirror images left to right, at random")
    scales: tuple[PositiveFloat, ...] = Field((1.0,), description="multi-scale: factors of the image inside the network input")
    mixed_precision: bool = Field(False, description="backbone and neck in float16; for Ascend")
    freeze_inherited: bool = Field(False, description="train only new or moved blocks, the neck and the heads")
    eval_epochs: int = Field(0, ge=0, description="evaluate every n epochs as well as at the end; 0: only at the end")


class Mutation(Settings):
    """Operators of the serial search (SP-NAS, section 3.2)."""

    num_mutate: PositiveInt = Field(3, description="operations from parent to child")
    add_stage: float = Field(0.05, ge=0, le=1, description="probability that one operation appends a stage")
    change_type: float = Field(0.05, ge=0, le=1, description="probability that it changes the block type, where the space has several")
    move_double: float = Field(
        0.0, ge=0, le=1, description="probability that it moves a `2` past a neighbouring `1`; the authors' operators never do"
    )
    swap: float = Field(0.5, ge=0, le=1, description="probability of swap among the other operations; the rest is expand")
    max_step: PositiveInt = Field(3, description="swap: most blocks by which the end of a stage moves")

    @model_validator(mode="after")
    def _at_most_one(self) -> "Mutation":
        if (total := self.add_stage + self.change_type + self.move_double) > 1:
            raise ValueError(f"expected add_stage, change_type and move_double to add up to at most 1, got {total:g}")
        return self


class Space(Settings):
    """Limits of the search space."""

    block_types: tuple[TypeText, ...] = Field((), description="block types to choose from, such as [r, x(32x4d)]; none: the start net's")

    min_blocks: PositiveInt = Field(architecture.MIN_BLOCKS, description="fewest residual blocks")
    max_blocks: PositiveInt = Field(architecture.MAX_BLOCKS, description="most residual blocks")
    max_stages: PositiveInt = Field(architecture.MAX_STAGES, description="most stages")


class Budget(Settings):
    """Two-sided limits of a candidate's cost (detector, at the network input's size); `null` = no limit."""

    params_m: Limit = Field((None, None), description="least and most parameters, millions")
    gmacs: Limit = Field((None, None), description="least and most multiply-adds of one image, 10^9")
    latency_ms: Limit = Field((None, None), description="inference of one image, measured on the run's device")
    memory_mb: Limit = Field((None, None), description="peak of memory in it: of the device, on the CPU of the process")


class Halving(Settings):
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): the worse candidates of a round stop early."""

    rungs: tuple[PositiveInt, ...] = Field((1,), min_length=1, description="epochs after which candidates are compared, and some stop")
    keep: float = Field(0.5, gt=0, lt=1, description="share of them that goes on, rounded up")


class Candidates(Settings):
    """How many candidates there are, and their short training."""

    candidates: PositiveInt = Field(4, description="candidates of one round")
    recipe: Recipe = Field(Recipe(), description="training of a candidate")
    halving: Halving | None = Field(None, description="stop the worse candidates of a round early; null: train all to the end")

    @model_validator(mode="after")
    def _rungs_rise(self) -> "Candidates":
        steps = (0, *(self.halving.rungs if self.halving else ()), self.recipe.epochs)
        if any(a >= b for a, b in pairwise(steps)):
            raise ValueError(f"expected halving.rungs to rise and end before recipe.epochs, {self.recipe.epochs}, got {list(steps[1:-1])}")
        return self


class Serial(Candidates):
    """The serial search."""

    rounds: PositiveInt = Field(4, description="rounds of the search")
    max_optimal: PositiveInt = Field(5, description="parents are the best of the ledger by Pareto rank")
    n_stuck: PositiveInt = Field(2, description="rounds without gain before a reignition")
    max_reignite: int = Field(2, ge=0, description="most reignitions during the search")
    mutation: Mutation = Field(Mutation(), description="what makes a child of its parent")


class Reignite(Settings):
    """Training of the backbone as a classifier."""

    data: Url | None = Field(None, description="URL of a folder per class; without it, crops of the detection set")
    image_size: PositiveInt = Field(64, description="side of the classifier's input, px")
    stem: Stem | None = Field(
        None, description="stem of the classifier, and so of the detectors that start from it and of their descendants; null: as it was"
    )
    epochs: PositiveInt = Field(10, description="times that every image is seen")
    batch: PositiveInt = Field(64, description="images of one step")
    lr: PositiveFloat = Field(0.1, description="learning rate at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(1e-4, ge=0, description="of SGD, coupled: added to the gradient")
    schedule: Literal["cosine", "step"] = Field("cosine", description="how the learning rate falls")
    milestones: tuple[float, ...] = Field((0.67, 0.92), description="step schedule: parts of the training after which lr falls to a tenth")
    mixup: float = Field(0.2, ge=0, description="alpha of mix-up; 0 = none")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that goes to the other classes")


class Parallel(Candidates):
    """The parallel search."""

    parents: PositiveInt = Field(1, description="how many of the best serial nets get parallel candidates")
    max_parallel: PositiveInt = Field(3, description="most copies of one stage")
    taps: tuple[Taps, ...] = Field((), description="taps of the pyramid to draw from for each candidate; none: those of its parent")
