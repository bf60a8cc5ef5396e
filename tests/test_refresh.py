"""Stages that are computed anew on request."""

import logging
from pathlib import Path
from typing import Any

import pytest

from flows import presets
from flows.spnas import spnas
from spnas_core.errors import UserError
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import read_stage
from spnas_core.settings.run import STAGE_NAMES, Run
from tasks.refresh import renewer


class Started(logging.Handler):
    """Labels of the jobs that have started a process."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.labels: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        label, event = getattr(record, "progress", ("", {}))
        if event.get("event") == "start":
            self.labels.append(label)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Any:
    handler, logger = Started(), logging.getLogger("spnas_core.jobs.progress")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.labels
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.mark.training
@pytest.mark.long
def test_a_refreshed_stage_is_computed_anew_and_no_other(finished_copy: Plan, started: list[str]) -> None:
    plan = finished_copy
    before = [read_stage(plan.store, plan.keys[name]) for name in STAGE_NAMES]
    spnas(plan.settings, plan.data.url, plan.store.url, refresh=("parallel",))
    assert [label.split()[0] for label in started] == ["parallel"]
    assert [read_stage(plan.store, plan.keys[name]) for name in STAGE_NAMES] == before
    aside = Path(plan.store.local or "") / "aside"
    assert sorted(path.name for path in aside.iterdir()) == ["stage", "train"]
    assert len(list((aside / "stage").iterdir())) == 2  # its own, and that of the stage after it
    spnas(plan.settings, plan.data.url, plan.store.url)
    assert len(started) == 1


def test_a_retry_keeps_what_the_run_has_computed_anew(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = open_plan(presets.load_preset("smoke"), str(tiny_data), str(tmp_path / "store"))
    store, kept = plan.store, []
    (tmp_path / "out").mkdir()
    for run in ("a", "a", "b"):
        for kind, digest in (("train", "0" * 64), ("stage", plan.keys["serial"]), ("stage", plan.keys["parallel"])):
            store.publish_record(kind, digest, {}, tmp_path / "out", {}, 1.0)
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", run)
        assert renewer(plan, "fine_tune", ("serial",)) is None
        renew = renewer(plan, "serial", ("serial",))
        assert renew
        renew("train", "0" * 64)
        assert renewer(plan, "parallel", ("serial",)) is None
        kept.append(
            [store.find("train", "0" * 64) is not None, *(store.find("stage", plan.keys[n]) is not None for n in ("serial", "parallel"))]
        )
    assert kept == [[False] * 3, [True] * 3, [False] * 3]
    assert renewer(plan, "serial", ()) is None
    for note in (b"[]", b"null", b'"x"', b"{}", b'{"run": "b"}', b'{"run": "b", "done": 1}', b"{"):
        store.write(f"runs/{plan.settings.name}/refreshed.json", note)
        assert renewer(plan, "serial", ("serial",))


def test_time_outs_by_kind_and_stages_to_refresh() -> None:
    assert Run(timeout_minutes=2).timeout("train") == 120
    run = Run(timeout_minutes={"train": 5, "evaluate": 1})
    assert [run.timeout(kind) for kind in ("train", "evaluate", "reignite")] == [300, 60, 36000]
    assert presets.load_preset("smoke", ["refresh=serial"]).refresh == ("serial",)
    assert presets.load_preset("smoke", ["refresh=[serial, parallel]"]).refresh == ("serial", "parallel")
    with pytest.raises(UserError, match="smoke: refresh"):
        presets.load_preset("smoke", ["refresh=seriall"])
