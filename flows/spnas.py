"""SP-NAS (Jiang et al., CVPR 2020) as a Prefect flow of five stages: fine_tune, serial, reignite, parallel, full_train.

A structural search, as in SM-NAS, is one more, after fine_tune, where the settings have `structures`.

Every training is a job in its own process, every stage publishes an artifact, and artifacts in the store are never recomputed.
"""

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows import presets
from flows.parameters import DataUrl, Preset, RunName, StoreUrl
from flows.presets.places import check_places
from spnas_core.report import publish_run
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord
from spnas_core.run.register import announce_run
from spnas_core.settings.run import Run, StageName
from spnas_core.track.following import open_trackers, tracked
from tasks.jobs import Executor
from tasks.page import show_result
from tasks.stages import run_stage


def run_name() -> str:
    """Name of the Prefect run, from the search's name and its data: `cells on s3://bucket/cells`."""
    given = flow_run.parameters
    settings = given.get("settings", "")
    name = given.get("name") or (settings if isinstance(settings, str) else Run.model_validate(settings).name)
    return f"{name} on {given.get('data', '')}"


@flow(name="spnas", flow_run_name=run_name)
def spnas(
    settings: Run | Preset, data: DataUrl, store: StoreUrl, name: RunName | None = None, refresh: tuple[StageName, ...] = ()
) -> dict[str, Any]:
    """Search a detector in stages, and return the summary, which is also in `runs/NAME/summary.json` of the store.

    Args:
        settings: Name of a preset, or all settings of a run; `spnas settings PRESET --set KEY=VALUE` prints them.
        data: Data set in any layout that spnas check knows: an absolute path or any fsspec URL; `demo` creates its own.
        store: Store of all results: any fsspec URL, `file:///...` or `s3://...`. Existing artifacts are reused.
        name: Name of the run and of its folder below `runs/` of the store; by default the name in the settings.
        refresh: Finished stages to recompute; a retry of the same run keeps what it has recomputed.
    """
    run = presets.load_preset(settings) if isinstance(settings, str) else check_places(settings)
    refresh = refresh or run.refresh
    run = run.model_copy(update={"name": name or run.name, "refresh": ()})  # `refresh` applies to this start only
    trackers = open_trackers(run)
    plan = open_plan(run, data, store)
    announce_run(plan)
    with tracked(plan, trackers):
        executor = Executor(plan.store.url, plan.settings, refresh)
        final = run_stage(plan, executor, "full_train", search(plan, executor))
        summary = publish_run(plan, final)
    show_result(summary)
    return summary


def search(plan: Plan, executor: Executor) -> StageRecord:
    """Run the stages of the search, and return the record of the last one."""
    record = run_stage(plan, executor, "fine_tune", None)
    for name in plan.settings.stages[1:-1]:
        record = run_stage(plan, executor, name, record)
    return record
