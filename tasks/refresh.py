"""Recomputation of finished stages: their artifacts are set aside, each once per Prefect run and its retries.

`runs/NAME/refreshed.json` lists the artifacts set aside, so a run that fails and is retried keeps what it has recomputed.
"""

import json
from collections.abc import Callable, Sequence

from prefect.runtime import flow_run

from spnas_core.run.plan import Plan
from spnas_core.settings.run import StageName

NOTE = "refreshed.json"


def renewer(plan: Plan, stage: StageName, refresh: Sequence[StageName]) -> Callable[[str, str], None] | None:
    """Create the function that sets an artifact aside during `stage`, by kind and digest; None if the stage is not one of `refresh`.

    The records of the stage are set aside at once. Those of a stage after a refreshed one are too, but its jobs' artifacts stay.
    """
    stages = plan.settings.stages
    asked = [stages.index(name) for name in refresh if name in stages]
    place = stages.index(stage)
    if not asked or place < min(asked):
        return None
    path, me = f"runs/{plan.settings.name}/{NOTE}", str(flow_run.id)
    try:
        note = json.loads(plan.store.read(path))
        done = list(map(str, note["done"])) if note["run"] == me else []
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):  # no file, or not one that this module wrote
        done = []

    def renew(kind: str, digest: str) -> None:
        name = f"{kind}/{digest}"
        if name not in done:
            plan.store.set_aside(kind, digest, f"stage {stage} is refreshed")
            done.append(name)
            plan.store.write(path, json.dumps({"run": me, "done": done}).encode())

    if stage in ("structures", "serial"):
        for number in range(1, plan.rounds(stage) + 1):  # each round has a record
            renew("stage", plan.after(number, stage).keys[stage])
    renew("stage", plan.keys[stage])
    return renew if place in asked else None
