"""Settings of the trainings, and the learning rate as a pure function of the step."""

import math
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from spnas_core.cost import Stem
from spnas_core.settings.base import Settings, Url


class Recipe(Settings):
    """One training: SGD with momentum, linear warm-up, then a step or cosine schedule."""

    later: ClassVar[frozenset[str]] = frozenset({"ema", "scored_epochs", "keep_best", "patience", "inherited_batches"})
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
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per step of a moving average of the weights, which is evaluated and kept in their place; 0: none",
    )
    scored_epochs: PositiveInt = Field(
        1, description="nets are ranked by the mean score after each of the last n epochs instead of that at the end"
    )
    keep_best: bool = Field(False, description="keep the weights of the evaluation with the best score instead of the last ones")
    patience: int = Field(0, ge=0, description="evaluations without a better score after which the training ends early; 0: never")
    inherited_batches: int = Field(
        0,
        ge=0,
        description="score the net before its first step too, as metric AP_inherited, with the norms' statistics anew from so many "
        "training batches; 0: not",
    )

    def lasting(self, epochs: int) -> "Recipe":
        """Return the same recipe with another number of epochs."""
        return self.model_copy(update={"epochs": epochs})

    @model_validator(mode="after")
    def _evaluations(self) -> "Recipe":
        if (self.keep_best or self.patience) and not self.eval_epochs:
            raise ValueError("expected eval_epochs of at least 1 with keep_best or patience, which compare evaluations, got 0")
        if self.patience and self.scored_epochs > 1:
            raise ValueError(f"expected scored_epochs 1 with patience, which does not know the last epochs, got {self.scored_epochs}")
        if self.scored_epochs > self.epochs:
            raise ValueError(f"expected scored_epochs of at most epochs, {self.epochs}, got {self.scored_epochs}")
        return self


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


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Rate of `step` (from 0) of `total`: linear warm-up from near zero, then cosine to zero, or a tenth after each milestone."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.schedule == "cosine":
        return recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * step / total))
    return float(recipe.lr * warm * 0.1 ** sum(step >= part * total for part in recipe.milestones))
