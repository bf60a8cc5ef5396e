"""Learning rate as a pure function of the step."""

import math

from spnas_core.settings import Recipe


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Rate of `step` (from 0) of `total`: linear warm-up from near zero, then cosine to zero, or a tenth after each milestone."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.schedule == "cosine":
        return recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * step / total))
    return float(recipe.lr * warm * 0.1 ** sum(step >= part * total for part in recipe.milestones))
