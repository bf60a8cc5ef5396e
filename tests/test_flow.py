import base64
import csv
import hashlib
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import SPNAS
from prefect import flow
from reported import Page
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from flows.spnas import spnas
from spnas_core.errors import JobError
from spnas_core.job import digest
from spnas_core.jobs import progress_file, runner
from spnas_core.monitor.forecast import forecast, job_bytes
from spnas_core.monitor.housekeeping import needs
from spnas_core.monitor.inventory import take_inventory
from spnas_core.monitor.status import Watcher
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord, read_stage
from spnas_core.run.replay import known_results, replay
from spnas_core.search.ledger import Trial
from spnas_core.settings.run import STAGE_NAMES
from spnas_core.settings.search import Budget
from tasks.jobs import Executor
from tasks.stages import run_stage

pytestmark = pytest.mark.training


def stages(plan: Plan) -> list[StageRecord]:
    return [read_stage(plan.store, plan.keys[name]) for name in STAGE_NAMES]


def test_five_stages_leave_a_ledger_and_a_final_net(finished: tuple[Plan, dict[str, Any]]) -> None:
    plan, _ = finished
    fine_tune, serial, reignited, parallel, final = stages(plan)
    assert [(t.stage, t.round, t.index) for t in fine_tune.ledger] == [("fine_tune", 0, 0)]
    assert [(t.stage, t.round, t.index) for t in serial.ledger[1:]] == [("serial", 1, 0), ("serial", 1, 1)]
    assert len({t.arch for t in serial.ledger}) == 3
    assert all(t.parent in {other.digest for other in serial.ledger} for t in serial.ledger[1:])
    assert len(reignited.reignited) == 1
    assert plan.store.find("reignite", next(iter(reignited.reignited.values())).digest)
    (child,) = parallel.ledger[3:]
    assert child.stage == "parallel"
    assert sum(int(k) for k in child.arch.rsplit("_", 1)[1].split("-")) > 0
    assert [(t.net.neck.taps, t.net.stem) for t in parallel.ledger] == [(None, "7x7")] * 3 + [((1, 1), "3x3")]
    assert final.results["final"].arch == child.arch
    assert final.results["start"].arch == fine_tune.ledger[0].arch
    assert set(final.results["final"].scores) == {"val", "test"}
    assert "The outputs of the final net's pyramid read the merged levels 1, 1." in final.notes
    assert not [t.failure for t in final.ledger if t.failure]


def test_the_course_of_a_run_is_what_it_did(finished: tuple[Plan, dict[str, Any]]) -> None:
    """Every job of the flow is foreseen by its digest, and none besides; then nothing is left to do."""
    plan, _ = finished
    found = replay(plan, known_results(plan))
    assert all(step.sure and step.ended is not None for step in found.steps)
    asked = {f"{step.job.kind}/{digest(step.job)}" for step in found.steps}
    assert asked == {name for name, why in needs(take_inventory(plan.store)).items() if "smoke" in str(why)} - {
        f"stage/{key}" for key in plan.keys.values()
    }
    assert {step.stage for step in found.steps} == set(STAGE_NAMES)
    shares = forecast(plan, [found], None, lambda _: False)
    assert all(one.seconds == 0.0 and one.bytes == 0 and one.held == one.jobs for one in shares.values())
    for step in found.steps:
        files = plan.store.files(f"{step.job.kind}/{digest(step.job)}")
        if step.job.kind == "train":  # of nets that small an audit is as large as the weights
            assert 0.5 < job_bytes(plan, step.job) / sum(files[name] for name in ("weights.safetensors", "detections.json")) < 2


def test_the_status_of_a_finished_run(finished: tuple[Plan, dict[str, Any]]) -> None:
    plan, summary = finished
    now = Watcher(plan.store, "smoke").look()
    final = next(row for row in summary["table"] if row["net"] == "final")
    assert (now.state, now.done, now.left, now.jobs, now.failures) == ("finished", now.total, 0.0, (), ())
    assert now.best
    assert (now.best["arch"], now.best["AP"]) == (final["arch"], final["AP"])
    assert list(now.timing) == list(STAGE_NAMES)
    assert sum(sum(row.values()) for row in now.timing.values()) == pytest.approx(now.spent, rel=0.01)
    assert all(now.timing["full_train"][phase] > 0 for phase in ("compile", "data", "steps", "evaluation", "other"))
    shown = CliRunner().invoke(app, ["status", "smoke", "--store", plan.store.url])
    assert "smoke: finished" in shown.stdout
    every = json.loads(CliRunner().invoke(app, ["status", "--store", plan.store.url, "--json"]).stdout)
    assert ("smoke", "finished") in [(one["name"], one["state"]) for one in every]
    for job in (step.job for step in Watcher(plan.store, "smoke").steps()):
        assert progress_file.read_progress(plan.store, job.kind, digest(job))["event"] == "done"
        curves = [path for path in plan.store.files("logs") if digest(job) in path and "tfevents" in path]
        assert bool(curves) == (job.kind in ("train", "reignite"))


def test_the_status_of_a_run_that_goes_on(finished_copy: Plan) -> None:
    """Its last stage is taken away; then it has stopped, goes on, and fails."""
    store, keys = finished_copy.store, finished_copy.keys
    last = [step for step in Watcher(store, "smoke").steps() if step.stage == "full_train"]
    for step in last:
        store.remove(f"{step.job.kind}/{digest(step.job)}")
    store.remove(f"stage/{keys['full_train']}")
    store.remove("logs")  # else it was just heard of
    watcher = Watcher(store, "smoke")
    now = watcher.look()
    assert (now.state, now.stage) == ("not running", "full_train")
    assert [one.state for one in now.jobs] == ["waiting", "waiting"]
    assert now.left
    assert now.best
    assert now.best["label"].startswith(("fine_tune", "serial", "parallel"))
    final = last[0].job
    with store.claim(final.kind, digest(final)) as claim:
        claim.acquire(lambda: None, threading.Event(), lambda: None)
        told = progress_file.ProgressFile(store, final)
        told({"event": "start", "pid": 1})
        told({"event": "compile"})
        told._written = 0.0  # as if some seconds had passed
        told({"event": "step", "epoch": 1, "epochs": 4, "step": 1, "steps": 2, "loss": 0.75, "seconds_left": 1000.0})
        now = watcher.look()
        assert (now.state, now.jobs[0].state, now.jobs[1].state) == ("running", "running", "waiting")
        assert now.left
        assert 900 < now.left < 1300
        shown = CliRunner().invoke(app, ["status", "smoke", "--store", store.url]).stdout
        assert "epoch 1 of 4, step 1 of 2, loss 0.750" in shown
        told.close(JobError("out_of_memory", "it needed more\nthan there is"))
    assert progress_file.read_progress(store, final.kind, digest(final))["message"] == "out_of_memory: it needed more"
    now = watcher.look()
    assert now.failures == (f"{last[0].label}: out_of_memory",)
    assert now.state in ("failed", "running")  # what was just heard of may go on again


def test_children_train_on_what_they_inherit(finished: tuple[Plan, dict[str, Any]]) -> None:
    plan, _ = finished
    ledger = stages(plan)[-1].ledger
    kinds = {}
    for one in ledger:
        manifest = plan.store.find("train", one.digest)
        assert manifest
        kinds[one.stage] = [weights["kind"] for weights in manifest.job["weights"]]
        assert [weights["digest"] for weights in manifest.job["weights"]][:1] == ([one.parent] if one.parent else [])
    assert kinds == {"fine_tune": [], "serial": ["train"], "parallel": ["train", "reignite"]}


def test_the_run_leaves_what_a_person_reads(finished: tuple[Plan, dict[str, Any]]) -> None:
    plan, summary = finished
    folder = Path(plan.store.local or "") / "runs" / "smoke"
    files = {"run.json", "stages.json", "config.yml", "report.html", "report.md", "trials.csv", "pareto.png", "summary.json", "model"}
    assert {p.name for p in folder.iterdir()} == files
    assert json.loads((folder / "stages.json").read_text()) == plan.keys
    assert presets.load_preset(str(folder / "config.yml")) == plan.settings
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert len(rows) == 4
    page = Page((folder / "report.html").read_text())
    shared = ("digest", "AP", "AP50", "macs", "params")  # the page has second opinions too
    assert [{name: cells[name] for name in shared} for cells in page.trials] == [{name: row[name] for name in shared} for row in rows]
    assert len([uri for uri in page.all("href") if uri.startswith("data:image/jpeg")]) == 3
    report = (folder / "report.md").read_text()
    assert "best parallel" in report
    ((digest, weights),) = stages(plan)[-1].reignited.items()
    manifest = plan.store.find("reignite", weights.digest)
    assert manifest
    top1 = manifest.metrics["top1"]
    assert 0 <= top1 <= 1
    assert summary["reignited"] == [{"arch": weights.arch, "top1": top1}]
    assert stages(plan)[-1].top1 == {digest: top1}
    assert f"- reignited: `{weights.arch}`, top-1 {100 * top1:.1f} %" in report
    assert [(one["stage"], one["trials"]) for one in summary["rounds"]] == [("fine_tune", 1), ("serial", 2), ("parallel", 1)]
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "summary.json").read_text()) == summary
    card = json.loads((folder / "model" / "model.json").read_text())
    assert {"arch", "detector", "classes", "preprocessing", "scores"} <= set(card)
    assert (card["detector"]["neck"]["taps"], card["detector"]["stem"]) == ([1, 1], "3x3")
    weights = (folder / "model" / "weights.safetensors").read_bytes()
    assert card["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert [row["net"] for row in summary["table"]][:5] == [
        "start net", "best serial", "best parallel", "start net, full training", "final",
    ]  # fmt: skip


def test_a_finished_run_started_again_computes_nothing(finished: tuple[Plan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, summary = finished
    monkeypatch.setattr(runner, "start", lambda *_: pytest.fail("a job was started"))
    begun = time.process_time()  # other tests may run beside this one
    assert spnas(plan.settings, plan.data.url, plan.store.url) == summary
    assert time.process_time() - begun < 10


def test_the_command_line_shows_a_finished_run_at_once(finished_copy: Plan, tiny_data: Path) -> None:
    """With the start of Python and no server, as a person waits for it; the best of three, since other tests may run beside it."""
    command = [*SPNAS, "run", "smoke", "--data", str(tiny_data), "--store", finished_copy.store.url, "--json"]
    seconds = []
    while len(seconds) < 3 and not (seconds and min(seconds) < 10):
        begun = time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds.append(time.monotonic() - begun)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["key"] == finished_copy.keys["full_train"]
        assert "compile" not in ended.stderr
    assert min(seconds) < 10


def test_a_stage_that_was_lost_is_made_of_its_trainings(finished: tuple[Plan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is that Prefect has kept of these, such as an object of another version of the program."""
    plan, summary = finished
    before, folder = stages(plan), Path(plan.store.local or "")
    (folder / "stage" / plan.keys["serial"] / "manifest.json").unlink()
    records = [path for path in (folder / "results" / "cache" / "train").iterdir() if path.is_file()]
    assert records
    for record in records:
        record.write_text(json.dumps(json.loads(record.read_text()) | {"result": json.dumps({"__class__": "gone.Manifest", "data": {}})}))
    monkeypatch.setattr(runner, "start", lambda *_: pytest.fail("a job was started"))
    assert spnas(plan.settings, plan.data.url, plan.store.url) == summary
    assert stages(plan) == before


def test_a_poisoned_result_is_a_miss_and_runs_nothing(finished: tuple[Plan, dict[str, Any]], tmp_path: Path) -> None:
    plan, summary = finished

    class Poison:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    records = [p for p in (Path(plan.store.local or "") / "results" / "cache" / "stage").iterdir() if p.is_file()]
    assert len(records) == 5
    for record in records:
        document = json.loads(record.read_text())
        document["metadata"]["serializer"] = {"type": "pickle"}
        document["result"] = base64.encodebytes(pickle.dumps(Poison())).decode()
        record.write_text(json.dumps(document))
    assert spnas(plan.settings, plan.data.url, plan.store.url) == summary
    assert not (tmp_path / "owned").exists()


def test_another_run_with_other_objectives_reuses_every_training(
    finished: tuple[Plan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, summary = finished
    serial = plan.settings.serial.model_copy(update={"n_stuck": 9, "max_optimal": 7})
    update = {"name": "other", "objectives": ("AP", "params"), "serial": serial, "budget": Budget(gmacs=(None, 1000.0))}
    monkeypatch.setattr(runner, "start", lambda *_: pytest.fail("a job was started"))
    found = spnas(plan.settings.model_copy(update=update), plan.data.url, plan.store.url)
    assert found["key"] != summary["key"]
    assert found["table"] == summary["table"]


class _Killer(logging.Handler):
    """Kills the process of every job with a label that begins so."""

    def __init__(self, label: str) -> None:
        super().__init__(logging.DEBUG)
        self.label, self.killed = label, 0

    def emit(self, record: logging.LogRecord) -> None:
        label, event = getattr(record, "progress", ("", {}))
        if label.startswith(self.label) and event["event"] == "start":
            self.killed += 1
            os.kill(event["pid"], signal.SIGKILL)


def test_a_killed_candidate_is_a_typed_failed_trial(finished_copy: Plan, tiny_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = finished_copy.settings.model_copy(update={"devices": (0,)})
    plan = open_plan(settings, str(tiny_data), finished_copy.store.url)
    start, serial = stages(plan)[:2]
    victim, survivor = serial.ledger[1:]
    folder = Path(plan.store.local or "")
    (folder / "train" / victim.digest / "manifest.json").unlink()
    (folder / "stage" / plan.keys["serial"] / "manifest.json").unlink()
    executor = Executor(plan.store.url)
    killer = _Killer("serial r1 c1 ")
    logger = logging.getLogger("spnas_core.jobs.progress")
    logger.addHandler(killer)
    logger.setLevel(logging.DEBUG)

    @flow(name="serial-only")
    def serial_only() -> StageRecord:
        return run_stage(plan, executor, "serial", start)

    try:
        ledger = serial_only().ledger
    finally:
        logger.removeHandler(killer)
        logger.setLevel(logging.NOTSET)
    assert killer.killed == 3  # it was tried again, twice
    assert (ledger[1].arch, ledger[1].failure, ledger[1].metrics) == (victim.arch, "killed", None)
    assert ledger[2] == survivor


class _Interrupter(logging.Handler):
    """Interrupts this process, once, when a job has made its graph."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.pids: list[int] = []
        self.interrupted = False

    def emit(self, record: logging.LogRecord) -> None:
        _, event = getattr(record, "progress", ("", {}))
        if event.get("event") == "start":
            self.pids.append(event["pid"])
        if event.get("event") == "compile" and not self.interrupted:
            self.interrupted = True
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_run_ends_its_job_and_begins_no_other(prefect_server: str, tiny_data: Path, tmp_path: Path) -> None:
    plan = open_plan(presets.load_preset("smoke", ["devices=[0]"]), str(tiny_data), str(tmp_path / "store"))
    jobs = [
        plan.train("b_1111-2111", plan.settings.detector, plan.settings.fine_tune).model_copy(update={"seed": seed}) for seed in (1, 2, 3)
    ]
    handler, logger = _Interrupter(), logging.getLogger("spnas_core.jobs.progress")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)

    @flow(name="jobs-only")
    def jobs_only() -> None:
        Executor(plan.store.url, plan.settings).do([(f"seed {job.seed}", job) for job in jobs])

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the runner of several tests at once ends at once by its own
    try:
        with pytest.raises(KeyboardInterrupt):
            jobs_only()
    finally:
        signal.signal(signal.SIGINT, before)
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    (pid,) = handler.pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_finished_search_gets_more_rounds(finished: tuple[Plan, dict[str, Any]], finished_copy: Plan) -> None:
    """`spnas extend`: only what the new round brings is trained; `spnas resume` shows both runs and trains nothing."""
    plan, summary = finished_copy, finished[1]
    before = stages(plan)[1].ledger

    def do(*command: str) -> tuple[dict[str, Any], str]:
        found = CliRunner().invoke(app, [*command, "--store", plan.store.url, "--json"])
        assert found.exit_code == 0, found.stderr
        return json.loads(found.stdout), found.stderr

    longer, lines = do("extend", "smoke", "--rounds", "1")
    assert "'smoke' of" in lines
    assert "(serial.rounds 1, now 2): what it left is now run 'smoke-1'" in lines
    assert re.search(r"serial r2 c1 .*: compile", lines)
    assert "serial r1" not in lines
    assert "fine_tune b" not in lines
    ledger = read_stage(plan.store, longer["key"]).ledger
    assert ledger[: len(before)] == before
    assert [(t.stage, t.round) for t in ledger[len(before) :]] == [("serial", 2), ("serial", 2), ("parallel", 1)]
    for name, expected in (("smoke", longer), ("smoke-1", summary)):
        again, lines = do("resume", name)
        assert (again["name"], again["key"], again["table"]) == (name, expected["key"], expected["table"])
        assert "compile" not in lines


def test_trials_of_a_ledger_survive_json(finished: tuple[Plan, dict[str, Any]]) -> None:
    plan, _ = finished
    one = stages(plan)[-1]
    assert StageRecord.model_validate_json(one.model_dump_json()) == one
    assert all(isinstance(t, Trial) for t in StageRecord.model_validate_json(one.model_dump_json()).ledger)
