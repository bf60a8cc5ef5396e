"""Parameters under which a tracker shows a search and its trainings; they follow from what is in the keys, so they never change."""

import json
from collections.abc import Mapping
from typing import Any

from spnas_core.arch import ArchError
from spnas_core.job import Job, ReigniteJob, TrainJob
from spnas_core.report.ancestry import edits
from spnas_core.run.crew import Label
from spnas_core.run.plan import Plan
from spnas_core.run.register import flat
from spnas_core.search.ledger import Trial
from spnas_core.search.net import Net, net_of

_DETERMINING: tuple[str, ...] = ("arch", "seed", "device_target", "objectives", "detector", "space", "budget", "fine_tune")
_DETERMINING += ("serial", "reignite", "parallel", "full_train")  # settings that are in the keys of the stages
Parameters = dict[str, str | int | float]


def search_parameters(plan: Plan) -> Parameters:
    """Return the settings that determine the results, so one that goes on has the same; of what lies somewhere, the fingerprint."""
    more = ("structures",) if plan.settings.structures else ()  # others have had no such parameter
    found = flat(plan.settings.model_dump(mode="json", include={*_DETERMINING, *more}))
    found |= {"data.fingerprint": plan.data.fingerprint, "checkpoint.sha256": plan.checkpoint_sha256, "reignite.data": plan.images}
    return _texts(found | {f"images.{name}": getattr(plan.counts, name) for name in ("train", "val", "test")})


def training_parameters(plan: Plan, label: Label, job: Job, parent: Trial | None) -> Parameters:
    """Return what a training is of: its net, its place in the search, how it came from its `parent`, its costs, its recipe."""
    assert isinstance(job, TrainJob | ReigniteJob)
    found: dict[str, Any] = {"stage": label.stage, "role": label.role, "arch": job.arch}
    found |= {"neck": job.detector.neck.text, "stem": job.detector.stem}
    found |= {"net": label.net} if label.net else {}
    net = net_of(job.arch, job.detector, plan.settings.detector)
    if label.role == "candidate":
        found |= {"round": label.round, "candidate": label.index + 1}
    if parent:
        found |= {"parent": _place(parent), "mutation": _mutation(parent, net)}
    if label.role != "reignite":
        cost = plan.cost_of(net)
        found |= {"params": cost.params, "macs": cost.macs}
    return _texts(found | {"seed": job.seed} | flat(job.recipe.model_dump(mode="json", exclude={"data"}), "recipe."))


def _place(trial: Trial) -> str:
    return f"{trial.stage} r{trial.round} c{trial.index + 1}" if trial.round else "start net"


def _mutation(parent: Trial, child: Net) -> str:
    try:
        found = edits(parent.net.arch, child.arch)
    except ArchError:
        return "unknown"
    return "; ".join(f"{one.kind}: {one.words}" for one in found) or "none"


def _texts(parameters: Mapping[str, Any]) -> Parameters:
    """Return parameters with lists and the like as texts."""
    return {name: value if isinstance(value, str | int | float) else json.dumps(value) for name, value in parameters.items()}
