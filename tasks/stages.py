"""Stages as Prefect tasks; a task's cache key is the key of the stage's artifact."""

import time
from dataclasses import replace

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy

from spnas_core.jobs.progress import log_line
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord, publish_stage, read_stage
from spnas_core.run.stages import STAGES
from spnas_core.settings.run import STAGE_NAMES, StageName
from tasks.jobs import Executor
from tasks.page import show_stage
from tasks.refresh import renewer
from tasks.results import artifact_key, result_storage


@task(
    name="stage",
    task_run_name="{name}",
    cache_policy=CacheKeyFnPolicy(cache_key_fn=artifact_key),
    persist_result=True,
    result_serializer="json",
)
def _run_stage(key: str, name: StageName, plan: Plan, executor: Executor, before: StageRecord | None) -> str:
    """Run a stage and publish its artifact; Prefect stores only its key."""
    begun = time.monotonic()
    if plan.store.find("stage", plan.keys[name]) is None:
        publish_stage(plan, STAGES[name](plan, executor, before), time.monotonic() - begun)
    return key


def run_stage(plan: Plan, executor: Executor, name: StageName, before: StageRecord | None) -> StageRecord:
    """Return the record of stage `name`: from the store if it is finished, else by running the stage."""
    executor = replace(executor, renew=renewer(plan, name, executor.refresh))
    there = plan.store.find("stage", plan.keys[name]) is not None
    log_line(f"stage {name}: {'finished before' if there else 'begins'}")
    stage = _run_stage.with_options(result_storage=result_storage(plan.store.url), refresh_cache=not there, tags=[name])
    stage(f"stage/{plan.keys[name]}", name, plan, executor, before)
    found = read_stage(plan.store, plan.keys[name])
    if not there or name == STAGE_NAMES[-1]:
        show_stage(plan, found)
    return found
