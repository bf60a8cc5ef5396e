"""Run a stage as a Prefect task whose cache key is the key of the stage's artifact."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy

from spnas_core.config import STAGE_NAMES, StageName
from spnas_core.jobs.progress import log_line
from spnas_core.plan import Plan
from spnas_core.stages import Stage, publish_stage, read_stage
from tasks.jobs import Site
from tasks.page import show_stage
from tasks.refresh import renewer
from tasks.results import artifact_key, result_storage

Work = Callable[[Plan, Site, Any], Stage]  # the last is the stage before, None for the first


@task(
    name="stage",
    task_run_name="{name}",
    cache_policy=CacheKeyFnPolicy(cache_key_fn=artifact_key),
    persist_result=True,
    result_serializer="json",
)
def _run_stage(key: str, name: StageName, plan: Plan, site: Site, before: Stage | None, work: Work) -> str:
    """Do a stage and leave its artifact; what Prefect keeps is no more than its key."""
    begun = time.monotonic()
    if plan.store.find("stage", plan.keys[name]) is None:
        publish_stage(plan, work(plan, site, before), time.monotonic() - begun)
    return key


def run_stage(plan: Plan, site: Site, name: StageName, before: Stage | None, work: Work) -> Stage:
    """Return what stage `name` leaves: from the store where it is finished, else by doing `work`."""
    site = replace(site, renew=renewer(plan, name, site.refresh))
    there = plan.store.find("stage", plan.keys[name]) is not None
    log_line(f"stage {name}: {'finished before' if there else 'begins'}")
    stage = _run_stage.with_options(result_storage=result_storage(plan.store.url), refresh_cache=not there, tags=[name])
    stage(f"stage/{plan.keys[name]}", name, plan, site, before, work)
    found = read_stage(plan.store, plan.keys[name])
    if not there or name == STAGE_NAMES[-1]:
        show_stage(plan, found)
    return found
