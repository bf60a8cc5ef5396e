import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import trial_of

from spnas_core import job as jobs
from spnas_core.job import Data, TrainJob, Weights
from spnas_core.jobs.progress import duration, line
from spnas_core.metrics import STATS
from spnas_core.report import markdown, pareto_png, plain, publish_run, report_md, rows, table_of, trials_csv
from spnas_core.run.plan import Plan, inherited, short
from spnas_core.run.record import Result, StageRecord, ended_trial
from spnas_core.run.rounds import rounds
from spnas_core.search.ledger import Trial
from spnas_core.search.net import net_of
from spnas_core.settings.run import STAGE_NAMES, Run
from spnas_core.store.artifacts import Store


def metrics(ap: float, macs: int = 10**9) -> dict[str, Any]:
    return {**dict.fromkeys(STATS, ap), "AP_large": -1.0, "params": 11_176_512, "macs": macs, "per_class": {"red": {"AP": ap, "AP50": ap}}}


def ledger() -> tuple[Trial, ...]:
    return (
        trial_of("b_11-21-21-21_0-0-0-0", "fine_tune", 0, 0, None, "a" * 64, metrics(0.2, 4 * 10**9)),
        trial_of("b_111-21-21-21_0-0-0-0", "serial", 1, 0, "a" * 64, "b" * 64, metrics(0.3, 5 * 10**9)),
        trial_of("b_11-211-21-21_0-0-0-0", "serial", 1, 1, "a" * 64, "c" * 64, failure="killed"),
        trial_of("b_111-21-21-21_0-1-0-0", "parallel", 1, 0, "b" * 64, "d" * 64, metrics(0.25, 6 * 10**9)),
    )


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(Run(name="mine"), Store(str(tmp_path / "store")), Data(url="/data", fingerprint="f" * 64), 1)


@pytest.fixture
def final(plan: Plan, tmp_path: Path) -> StageRecord:
    """The last stage of a run whose final net is in the store."""
    job = TrainJob(arch="b_111-21-21-21_0-1-0-0", detector=plan.settings.detector, recipe=plan.settings.full_train, data=plan.data)
    out = tmp_path / "out"
    out.mkdir()
    (out / "weights.safetensors").write_bytes(b"weights")
    (out / "model.json").write_text(json.dumps({"arch": job.arch, "classes": []}))
    plan.store.publish(job, out, {}, 1.0)
    results = {
        "start": Result(arch="b_11-21-21-21_0-0-0-0", digest="a" * 64, scores={"val": metrics(0.4)}),
        "final": Result(arch=job.arch, digest=jobs.digest(job), scores={"val": metrics(0.5), "test": metrics(0.45)}),
    }
    reignited = {"b" * 64: Weights(kind="reignite", digest="e" * 64, arch="b_111-21-21-21")}
    more = {"results": results, "notes": ("Mind this.",), "reignited": reignited, "top1": {"b" * 64: 0.875}}
    return StageRecord(name="full_train", key=plan.keys["full_train"], ledger=ledger(), **more)


def test_the_table_names_the_nets_in_order(final: StageRecord) -> None:
    table = rows(final)
    nets = ["start net", "best serial", "best parallel", "start net, full training", "final", "final, test split"]
    assert [row.net for row in table] == nets
    assert table[1].cells() == ("best serial", "b_111-21-21-21", "11.18 M", "5.00", "30.0", "30.0", "30.0", "30.0", "-")
    assert len({len(text.split("|")) for text in markdown(table).splitlines()}) == 1
    assert len(plain(table).splitlines()) == 7


def test_a_stage_without_parallel_nets_has_no_such_row(final: StageRecord) -> None:
    assert "best parallel" not in [row.net for row in rows(final.model_copy(update={"ledger": ledger()[:3]}))]


def test_trials_as_csv() -> None:
    found = list(csv.DictReader(io.StringIO(trials_csv(ledger()))))
    assert [row["failure"] for row in found] == ["", "", "killed", ""]
    assert [row["pareto"] for row in found] == ["1", "1", "0", "0"]
    assert [float(row["AP"]) for row in found if row["AP"]] == [0.2, 0.3, 0.25]
    first, second = 0.2 * (1 - 4 / 6.6), 0.1 * (1 - 5 / 6.6)  # of the box up to AP 1 and 1.1 times 6 GMACs
    expected = [first, *[first + second] * 3]
    assert [float(row["hypervolume"]) for row in found] == pytest.approx(expected, abs=1e-6)


def test_trials_as_csv_by_other_objectives() -> None:
    trials = tuple(replace(one, metrics={**(one.metrics or {}), "latency_ms": 10.0 - n}) for n, one in enumerate(ledger()))
    found = list(csv.DictReader(io.StringIO(trials_csv(trials, ("AP50", "latency_ms")))))
    assert [row["latency_ms"] for row in found] == ["10.0", "9.0", "8.0", "7.0"]
    assert [row["pareto"] for row in found] == ["0", "1", "0", "1"]


def test_the_picture_is_the_same_every_time() -> None:
    picture = pareto_png(ledger())
    assert picture.startswith(b"\x89PNG")
    assert pareto_png(ledger()) == picture
    assert pareto_png(ledger()[2:3]).startswith(b"\x89PNG")


def test_a_run_is_published_whole_and_again(plan: Plan, final: StageRecord) -> None:
    summary = publish_run(plan, final)
    folder = Path(plan.store.local or "") / "runs" / "mine"
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    names = {
        "run.json",
        "config.yml",
        "report.html",
        "report.md",
        "trials.csv",
        "pareto.png",
        "summary.json",
        "model/weights.safetensors",
        "model/model.json",
    }
    assert set(files) == names | {"run.json", "stages.json"}
    assert publish_run(plan, final) == summary
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files
    assert (summary["trials"], summary["failed"], summary["notes"]) == (4, 1, ["Mind this."])
    assert [(one["stage"], one["round"], one["trials"], one["failed"]) for one in summary["rounds"]] == [
        ("fine_tune", 0, 1, 0), ("serial", 1, 2, 1), ("parallel", 1, 1, 0),
    ]  # fmt: skip
    assert summary["reignited"] == [{"arch": "b_111-21-21-21_0-0-0-0", "top1": 0.875}]
    assert plain(table_of(summary)) == plain(rows(final))
    report = report_md(plan, final)
    assert "Mind this." in report
    assert "serial r1 c2" in report
    assert "| red | 50.0 | 50.0 |" in report
    assert "| serial | 1 | 2 | 1 | 0 | 0.1030 |  |" in report
    assert "- reignited: `b_111-21-21-21_0-0-0-0`, top-1 87.5 %" in report


def test_the_rounds_tell_when_a_net_was_reignited(plan: Plan) -> None:
    start, better, _, copies = ledger()
    more = [replace(better, round=n, index=0, digest=f"{n}" * 64, metrics=metrics(0.1, 9 * 10**9)) for n in (2, 3, 4)]
    settings = Run.model_validate({**plan.settings.model_dump(), "serial": {"rounds": 4, "n_stuck": 1}})
    found = rounds((start, better, *more, copies), settings)
    assert [one["reignited"] for one in found] == [None, None, better.arch, start.arch, None, None]  # the last round has none after it
    assert [one["round"] for one in found] == [0, 1, 2, 3, 4, 1]


def test_an_ended_job_becomes_a_trial_without_times(plan: Plan, tmp_path: Path) -> None:
    job = plan.train("b_11-21-21-21", plan.settings.detector, plan.settings.fine_tune)
    (tmp_path / "none").mkdir()
    manifest = plan.store.publish(job, tmp_path / "none", {**metrics(0.1), "seconds": 12.5}, 13.0)
    trial = ended_trial(plan, "serial", 2, 3, "p", job, manifest)
    assert (trial.net, trial.stage, trial.round, trial.index) == (net_of(job.arch, job.detector), "serial", 2, 3)
    assert (trial.parent, trial.digest, trial.metrics, trial.score) == ("p", jobs.digest(job), metrics(0.1), 0.1)
    assert trial.weights == Weights(kind="train", digest=jobs.digest(job), arch=job.arch)


def test_stage_keys_follow_what_determines_them(plan: Plan) -> None:
    def changed(**update: Any) -> list[str]:
        settings = Run.model_validate(plan.settings.model_dump() | update)
        other = Plan(settings, plan.store, plan.data, 1)
        return [name for name in STAGE_NAMES if other.keys[name] != plan.keys[name]]

    assert changed(name="other", devices=(0, 1, 2), threads=7, timeout_minutes=5.0, memory_gb=1.0, retries={"killed": 0}) == []
    assert changed(device_target="Ascend") == list(STAGE_NAMES)
    assert changed(seed=1) == list(STAGE_NAMES)
    assert changed(serial=plan.settings.serial.model_dump() | {"rounds": 9}) == list(STAGE_NAMES[1:])
    assert changed(reignite={"epochs": 99}) == list(STAGE_NAMES[1:])
    assert changed(parallel={"candidates": 9}) == list(STAGE_NAMES[3:])
    assert changed(objectives=("AP", "params")) == list(STAGE_NAMES[1:])
    assert changed(space={"block_types": ["r", "b"]}) == list(STAGE_NAMES[1:])
    assert changed(reignite={"schedule": "step"}) == list(STAGE_NAMES[1:])
    assert changed(full_train={"epochs": 99}) == ["full_train"]
    moved = Plan(plan.settings, plan.store, plan.data.model_copy(update={"url": "s3://elsewhere"}), 1)
    assert moved.keys == plan.keys
    grown = Plan(plan.settings, plan.store, plan.data.model_copy(update={"fingerprint": "g" * 64}), 1)
    assert not set(grown.keys.values()) & set(plan.keys.values())


def test_trainings_do_not_depend_on_what_trials_are_ranked_by(plan: Plan) -> None:
    """Another run with other objectives but the same candidates reuses every training."""
    update = {"objectives": ("AP50", "params"), "budget": {"gmacs": (None, 9.0)}, "serial": {"rounds": 9, "n_stuck": 1}}
    other = Plan(Run.model_validate(plan.settings.model_dump() | update), plan.store, plan.data, 1)
    one = trial_of("b_11-21-21-21_0-0-0-0", "serial", 1, 0, None, "a" * 64, metrics(0.2))
    for make in (
        lambda p: p.train("b_111-21-21-21", p.settings.detector, p.settings.serial.recipe, (inherited(one),)),
        lambda p: p.reignite(one),
    ):
        assert jobs.digest(make(plan)) == jobs.digest(make(other))


def test_short_names_of_nets() -> None:
    assert short("b_11-21-21-21_0-0-0-0") == "b_11-21-21-21"
    assert short("b_11-21-21-21_0-0-2-0") == "b_11-21-21-21_0-0-2-0"
    assert short("r_111-2111-21111111111111111111111-211_0-0-0-0") == "r_111-2111-2111111111111111…"


def test_lines_of_progress() -> None:
    event = {"event": "epoch", "epoch": 2, "epochs": 4, "loss": 0.5123, "AP": 0.31, "seconds_left": 245.2}
    assert line("serial r1 c2", event) == "serial r1 c2: epoch 2 of 4, loss 0.512, AP 0.310, 4 min 05 s left"
    assert line("x", {"event": "compile"}) == "x: compile"
    assert line("x", {"event": "failed", "reason": "diverged", "message": "loss is nan\nat 3"}) == "x: failed, diverged: loss is nan"
    assert [duration(s) for s in (0.2, 59.4, 60, 7800)] == ["0 s", "59 s", "1 min 00 s", "2 h 10 min"]


@given(
    st.dictionaries(
        st.sampled_from(["event", "epoch", "loss", "AP", "seconds_left", "reason", "message"]), st.none() | st.text() | st.integers()
    )
)
def test_any_event_makes_one_line(event: dict[str, Any]) -> None:
    assert line("x", event).startswith("x: ")
