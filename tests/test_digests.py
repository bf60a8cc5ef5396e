"""Digests of jobs and keys of stages as the version of 27 November 2026 (05e37c1) had them: a store that it left is still a full hit.

`digests.json` holds, for every preset and some settings more, the first 16 digits of the stages' keys and of the digests of all jobs that a
replay asks for, in their order.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from flows import presets
from spnas_core.job import Data, digest
from spnas_core.run.plan import Plan
from spnas_core.run.replay import replay
from spnas_core.store.artifacts import Store

KEPT: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("digests.json").read_text())
DATA, TEST = Data(url="/data", fingerprint="f" * 64), Data(url="/data", fingerprint="e" * 64)


@pytest.mark.parametrize("name", KEPT)
def test_a_run_asks_for_the_jobs_that_it_always_asked_for(name: str) -> None:
    kept = KEPT[name]
    settings = presets.load_preset(kept["preset"], kept["set"])
    checkpoint, images = "d" * 64 if settings.checkpoint else None, "c" * 64 if settings.reignite.data else None
    plan = Plan(settings, Store("memory://digests"), DATA, 7, TEST, checkpoint, images)
    assert {stage: key[:16] for stage, key in plan.keys.items()} == kept["keys"]
    assert [digest(step.job)[:16] for step in replay(plan, lambda _: None).steps] == kept["jobs"]
