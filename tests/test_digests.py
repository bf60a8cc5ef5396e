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

FILE = Path(__file__).with_name("digests.json")
KEPT: dict[str, dict[str, Any]] = json.loads(FILE.read_text())
DATA, TEST = Data(url="/data", fingerprint="f" * 64), Data(url="/data", fingerprint="e" * 64)


def digests(kept: dict[str, Any]) -> dict[str, Any]:
    """Keys of the stages and digests of the jobs of now, for a preset and some settings."""
    settings = presets.load_preset(kept["preset"], kept["set"])
    checkpoint, images = "d" * 64 if settings.checkpoint else None, "c" * 64 if settings.reignite.data else None
    plan = Plan(settings, Store("memory://digests"), DATA, 7, TEST, checkpoint, images)
    keys = {stage: key[:16] for stage, key in plan.keys.items()}
    return {**kept, "keys": keys, "jobs": [digest(step.job)[:16] for step in replay(plan, lambda _: None).steps]}


@pytest.mark.parametrize("name", KEPT)
def test_a_run_asks_for_the_jobs_that_it_always_asked_for(name: str) -> None:
    why = "finished work would be done again; where that is meant, `.venv/bin/python tests/test_digests.py` renews digests.json"
    assert digests(KEPT[name]) == KEPT[name], why


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: digests(kept) for name, kept in KEPT.items()}, indent=1) + "\n")
