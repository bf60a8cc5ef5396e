"""The nets whose graphs are looked at, those of a run's settings, and the request to compile one."""

from typing import Literal

from spnas_core import arch as architecture
from spnas_core.settings.base import ArchText, Settings
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run
from spnas_core.settings.training import Recipe, Reignite

GraphKind = Literal["training", "detection", "detection in float16", "reignition", "classification"]
CLASSES = 80


class AuditedNet(Settings):
    """One net: its architecture, and the settings that its graphs depend on."""

    arch: ArchText
    detector: Detector
    recipe: Recipe
    reignite: Reignite
    classes: int = CLASSES

    @property
    def kinds(self) -> tuple[GraphKind, ...]:
        """Kinds of its graphs: those that jobs compile."""
        half: tuple[GraphKind, ...] = ("detection in float16",) if self.recipe.mixed_precision else ()
        return ("training", "detection", *half, "reignition", "classification")


class CompileRequest(Settings):
    """Request to `compiling.py`: compile the graphs of a net, built for a kind of device, and leave their texts in a folder."""

    net: AuditedNet
    target: str
    folder: str


def nets_of(settings: Run) -> tuple[AuditedNet, ...]:
    """Nets that stand for all of a run: its start net of each block type, and with a copy of each stage; by each different recipe."""
    start = architecture.parse(settings.arch)
    kinds = settings.space.block_types or (start.block_type.text,)
    texts = [f"{kind}_{start.serial_text}" for kind in kinds]
    texts.append(str(start.with_parallel((1,) * len(start.stages))))
    recipes = {
        (one.batch, one.mixed_precision, one.clip_norm, one.weight_decay, one.decay_norm_and_bias): one
        for one in (settings.fine_tune, settings.serial.recipe, settings.parallel.recipe, settings.full_train)
    }
    return tuple(
        AuditedNet(arch=text, detector=settings.detector, recipe=recipe, reignite=settings.reignite)
        for text in texts
        for recipe in recipes.values()
    )
