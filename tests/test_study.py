import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import SPNAS
from conftest import linux
from hypothesis import given
from hypothesis import strategies as st
from nets import smoke_document
from scipy import stats
from test_search import SMALL, cost_of, start, trial
from typer.testing import CliRunner

from flows import presets
from flows.cli.app import app
from spnas_core.arch import parse
from spnas_core.errors import UserError
from spnas_core.job import Data
from spnas_core.monitor.housekeeping import garbage
from spnas_core.monitor.inventory import take_inventory
from spnas_core.run.plan import Plan
from spnas_core.run.register import announce
from spnas_core.search.propose import levelled, propose_children, propose_serial
from spnas_core.settings.run import Run
from spnas_core.settings.search import Serial
from spnas_core.settings.task import DETECTION, SEGMENTATION, Task, TaskName
from spnas_core.settings.training import Recipe, Reignite
from spnas_core.store.artifacts import Store
from spnas_core.study.methods import (
    METHODS,
    Arrival,
    Difference,
    Forecast,
    Method,
    Outcome,
    arrival,
    bootstrap_interval,
    deal,
    paired_difference,
    search_epochs,
)
from spnas_core.study.report import report_arrivals, report_forecasts, report_outcomes
from spnas_core.study.report_form import entries_csv
from spnas_core.study.studies import Study, open_study, publish_entries, publish_report, stored_entries

RUN = Run(arch="b_11-21-21-21", detector=SMALL, seed=3, serial=Serial(candidates=4))


# Budgets and proposals


@given(st.integers(0, 500), st.integers(1, 60))
def test_epochs_are_dealt_out_to_the_last(total: int, least: int) -> None:
    lengths = deal(total, least)
    assert sum(lengths) == total
    assert not lengths or max(lengths) - min(lengths) <= 1
    assert all(length >= min(least, total) for length in lengths)
    assert len(lengths) == (max(1, total // least) if total else 0)


def test_the_budget_counts_all_epochs_of_the_search() -> None:
    settings = RUN.model_copy(update={"reignite": Reignite(epochs=5), "fine_tune": Recipe(epochs=12)})
    settings = settings.model_copy(update={"serial": Serial(recipe=Recipe(epochs=4))})
    trained = trial(0.4, number=1)
    shorter = replace(trial(0.2, number=2), rung=1)
    failed = trial(None, number=2, index=1, failure="diverged")
    assert search_epochs([start(), trained, shorter, failed], settings, reignitions=2) == 12 + 4 + 1 + 4 + 2 * 5


def test_random_search_draws_its_parents_uniformly_and_the_search_does_not() -> None:
    arches = ("b_11-21-21-21", "b_111-21-21-21", "b_11-211-21-21", "b_11-21-211-21")
    ledger = [trial(0.1 * (4 - n), 100 + n, number=n > 0, index=n, arch=arch) for n, arch in enumerate(arches)]
    ledger.append(trial(None, index=9, arch="b_11-21-21-211", failure="crashed"))
    drawn, ranked = Counter(), Counter()
    for seed in range(100):
        run = RUN.model_copy(update={"seed": seed})
        drawn.update(parent.index for _, parent in propose_children(ledger, run, 2, 4, cost_of))
        ranked.update(parent.index for _, parent in propose_serial(ledger, run, 2, cost_of))
    assert set(drawn) == set(ranked) == {0, 1, 2, 3}
    assert all(70 < count < 130 for count in drawn.values())  # 100 each; the standard deviation is 9
    assert ranked[0] > 150 > 60 > ranked[3]
    assert {t.digest for _, t in propose_children(ledger, RUN, 2, 4, cost_of)} <= {t.digest for t in ledger}
    assert levelled(ledger)[4] == ledger[4]


def test_children_of_the_start_net_begin_with_the_first_round_of_the_search() -> None:
    many = [child.net.arch for child in propose_children([start()], RUN, 1, 9, cost_of)]
    assert many[:4] == [child.net.arch for child in propose_serial([start()], RUN, 1, cost_of)]
    assert len(set(many)) == 9
    assert propose_children([start()], RUN, 1, 0, cost_of) == []


# Statistics


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=24))
def test_differences_are_those_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = np.array(pairs).T
    found = paired_difference(ours, theirs)
    values = ours - theirs
    assert found.mean == pytest.approx(values.mean())
    if values.std() > 1e-6:
        low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3, abs=1e-6)
        significant = stats.ttest_rel(ours, theirs).pvalue
        assert found.tie == (significant > 0.05) or abs(significant - 0.05) < 1e-4


def test_verdicts() -> None:
    assert paired_difference([0.5, 0.6, 0.7], [0.1, 0.21, 0.29]).verdict == "better"
    assert paired_difference([0.1, 0.21, 0.29], [0.5, 0.6, 0.7]).verdict == "worse"
    assert paired_difference([0.5, 0.6, 0.7], [0.4, 0.7, 0.6]).verdict == "tie"
    assert paired_difference([0.5, 0.6], [0.5, 0.6]).tie  # the same nets


def test_bootstrap_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = bootstrap_interval(lambda rows: float(rows.mean()), values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert bootstrap_interval(lambda rows: float(rows.mean()), values) == (low, high)


def test_arrival_is_the_first_evaluation_that_reaches_the_target() -> None:
    scores = ((1, 0.2), (2, 0.5), (3, 0.4), (4, 0.6))
    timing = {"compile": 30.0, "evaluation": 5.0}
    history = [{"epoch": n, "AP50": score, "timing": {**timing, "data": 1.0 * n, "steps": 9.0 * n}} for n, score in scores]
    assert arrival(history, 0.5) == (2, 20.0)
    assert arrival(history, 0.55) == (4, 40.0)
    assert arrival(history, 0.7) is None
    assert arrival([{"epoch": 1, "timing": timing}], 0.0) is None


# Reports


def outcomes(task: Task = DETECTION, methods: Collection[Method] = tuple(METHODS), **test: tuple[float, ...]) -> list[Outcome]:
    found = []
    for method in methods:
        for seed, ap in enumerate(test.get(method, (0.40, 0.41, 0.42))):
            scores = {task.scores[0]: ap, task.scores[1]: ap + 0.3}
            name = f"train/{method[0] * 64}"
            counts = {"nets": 5, "failed": 0, "epochs": 48, "minutes": 1.5, "params": 861_547, "macs": 10**8}
            one = Outcome(method=method, seed=seed, arch="b_11-21-21-21", artifacts=(name,), val=scores, test=scores, **counts)
            found.append(one)
    return found


def cells(table: Any, row: int) -> dict[str, str]:
    return dict(zip(table[0], table[row], strict=True))


def test_the_table_marks_ties_as_ties() -> None:
    report = report_outcomes(outcomes(start=(0.30, 0.32, 0.31), scratch=(0.50, 0.52, 0.51), random=(0.45, 0.35, 0.43)))
    table, compared = report.parts[1], report.parts[3]
    assert [cells(table, row)["SP-NAS is"] for row in (1, 2, 3, 4)] == ["better", "worse", "tie", ""]
    assert cells(table, 1)["AP test"] == "31.0 ± 1.0"
    pairs = {compared[row][0]: cells(compared, row)["AP test"] for row in range(1, 7)}
    assert pairs["SP-NAS - random search, inherited"].endswith(" (tie)")
    assert pairs["SP-NAS - start net, trained longer"] == "+10.0 [+7.5, +12.5]"
    found = {(one["a"], one["b"]): one["verdict"] for one in report.computed["differences"]["AP test"]}
    assert found["spnas", "start"] == "better"
    assert found["spnas", "random"] == "tie"
    assert found["scratch", "start"] == "better"
    assert len({line.count("|") for line in report.markdown().splitlines() if line.startswith("| random")}) == 2
    assert report.picture.startswith(b"\x89PNG")


def test_segmentation_is_compared_by_its_own_scores_and_with_the_methods_that_were_asked_for() -> None:
    start, ours = (outcomes(SEGMENTATION, [method], start=(0.30, 0.32, 0.31)) for method in ("start", "spnas"))
    behind = {"behind": Difference(0.1, 0.02, 0.2), "all_behind": Difference(0.1, -0.01, 0.2)}
    report = report_outcomes([*(one.model_copy(update=behind) for one in start), *ours], SEGMENTATION)
    table, compared, gains = report.parts[1], report.parts[3], report.parts[5]
    assert [row[0] for row in table[1:]] == ["start net, trained longer", "SP-NAS"]
    assert {"mIoU test", "pixel accuracy test", "mIoU val"} < set(table[0])
    assert cells(table, 1)["mIoU test"] == "31.0 ± 1.0"
    assert cells(table, 1)["pixel accuracy test"] == "61.0 ± 1.0"
    assert len(compared) == 2
    assert cells(gains, 1) == {
        "SP-NAS minus": "start net, trained longer",
        **{f"seed {seed}": "+10.0 [+2.0, +20.0]" for seed in range(3)},
        "mean of the seeds": "+10.0 [-1.0, +20.0] (tie)",
    }
    assert report.computed["on_images"] == {"start": {"mean": 0.1, "low": -0.01, "high": 0.2, "verdict": "tie"}}
    assert not re.search(r"\bAP\d*\b", report.markdown())


@pytest.mark.parametrize("task", [DETECTION, SEGMENTATION], ids=lambda task: task.name)
def test_reports_speak_of_the_scores_of_their_task(task: Task) -> None:
    """None of segmentation says AP, none of detection mIoU; all name the score that they are about."""
    child = {"arch": "b_11-21-21-21", "artifacts": ()}
    epochs = {"inherited_epochs": 4, "inherited_seconds": 4.0, "scratch_epochs": 8, "scratch_seconds": 8.0, "scratch_length": 8}
    nets = [Forecast(**child, short=a, long=b, short50=a) for a, b in ((0.3, 0.5), (0.31, 0.49), (0.35, 0.52))]
    nets = [net.model_copy(update={"opinions": {"macs": 1.0, "entropy": 2.0, "gammas": 3.0, "AP_inherited": None}}) for net in nets]
    texts = [
        report_forecasts(nets, task).markdown(),
        report_arrivals([Arrival(**child, target=0.8, reached=True, **epochs)], task).markdown(),
    ]
    other = r"mIoU|pixel accuracy" if task is DETECTION else r"\bAP\d*\b"
    for text in texts:
        assert not re.search(other, text)
        assert re.search(r"\bAP50\b" if task is DETECTION else r"\bmIoU\b", text)


def test_a_comparison_with_fewer_methods_is_another_study_and_one_with_all_is_that_of_ever(tmp_path: Path) -> None:
    plans = (Plan(RUN, Store(str(tmp_path)), Data(url="/data", fingerprint="f" * 64), 1),)
    whole, fewer = Study("baselines", plans, 0), Study("baselines", plans, 0, ("start",))
    assert whole.key == "829e772142a6498ac474f8c2c325ae3cc6e3347da9a2365c8bf1d6192726af2d"  # as before there was a choice
    assert fewer.key != whole.key
    assert fewer.name == whole.name


def test_the_csv_has_a_line_per_outcome() -> None:
    rows = list(csv.DictReader(io.StringIO(entries_csv(outcomes()))))
    assert len(rows) == 12
    assert [float(row["test.AP"]) for row in rows[:3]] == [0.40, 0.41, 0.42]
    assert "artifacts" not in rows[0]


def test_the_proxy_is_judged_by_ranks_and_by_what_its_choice_costs() -> None:
    pairs = [(0.30, 0.50), (0.31, 0.49), (0.35, 0.52), (0.36, 0.53), (0.40, 0.51)]
    report = report_forecasts([Forecast(arch="b_11-21-21-21", artifacts=(), short=a, long=b) for a, b in pairs])
    assert report.computed["tau"] == pytest.approx((7 - 3) / 10)  # of 10 pairs 7 in order, 3 not
    assert report.computed["low"] <= report.computed["tau"] <= report.computed["high"]
    assert report.computed["regret"] == pytest.approx(0.02)
    assert [row[3] for row in report.parts[3][1:]] == ["53.0", "52.0", "51.0", "50.0", "49.0"]


def test_the_proxys_report_sets_second_opinions_beside_both_scores() -> None:
    """Twelve nets whose long score rises with their MACs, and whose entropy falls; two bands of six."""
    longs = [0.30, 0.32, 0.31, 0.34, 0.33, 0.36, 0.50, 0.52, 0.51, 0.54, 0.53, 0.56]
    nets = [
        Forecast(
            arch="b_11-21-21-21",
            artifacts=(),
            short=0.2 - n / 100,
            long=long,
            opinions={"macs": 1e9 + n, "entropy": -long, "gammas": 8.0, "AP_inherited": None},
        )
        for n, long in enumerate(longs)
    ]
    report = report_forecasts(nets)
    (macs, entropy, gammas, before, fifty, estimate, own) = report.computed["opinions"]
    assert macs["short"] == {"tau": -1.0, "low": -1.0, "high": -1.0}
    assert macs["long"]["tau"] == pytest.approx((62 - 4) / 66)
    assert macs["long"]["low"] > 0.5
    assert macs["long_in_bands"]["tau"] == pytest.approx((13 - 2) / 15)
    assert entropy["long"]["tau"] == pytest.approx(-1)
    assert gammas["long"]["tau"] is None
    assert (before["nets"], before["long"]["tau"]) == (0, None)
    assert own["long"] == estimate["long"]  # without settings that ask for more
    assert own["long"]["tau"] == -macs["long"]["tau"]
    assert fifty["nets"] == 0
    json.dumps(report.computed, allow_nan=False)
    table = report.parts[-1]
    assert [row[0] for row in table[1:]] == [
        "MACs",
        "entropy (MAE-DET)",
        "sum of |γ| (BN-NAS)",
        "AP before training",
        "AP50 short",
        "estimate",
        "AP short",
    ]
    assert table[4][1:] == ("0", "-", "-", "-", "-")
    assert "Second opinions" in report.markdown()
    old = report_forecasts([net.model_copy(update={"opinions": {}}) for net in nets])
    assert old.computed["opinions"] == []
    assert "Second opinions" not in old.plain()


def test_ratios_of_children_that_never_arrived_are_lower_bounds() -> None:
    common = {
        "arch": "b_11-21-21-21",
        "artifacts": (),
        "target": 0.8,
        "inherited_epochs": 4,
        "inherited_seconds": 40.0,
        "scratch_length": 32,
    }
    times = [(12, 100.0, True), (20, 180.0, True), (32, 320.0, False)]
    report = report_arrivals([Arrival(scratch_epochs=e, scratch_seconds=s, reached=r, **common) for e, s, r in times])
    assert report.computed == {"median_ratio_epochs": 5.0, "median_ratio_minutes": 4.5, "never_reached": 1}
    table = report.parts[1]
    assert [row[4] for row in table[1:]] == ["3.0", "5.0", "> 8.0"]


# In the store


def test_a_finished_study_is_found_by_what_determines_it_and_its_needs_are_no_garbage(tmp_path: Path) -> None:
    def study_of(run: Run, count: int = 8) -> Study:
        return Study("proxy", (Plan(run, store, Data(url="/data", fingerprint="f" * 64), 1),), count)

    store = Store(str(tmp_path / "store"))
    (tmp_path / "out").mkdir()
    for digest in ("a" * 64, "b" * 64, "c" * 64):
        store.publish_record("train", digest, {"kind": "train"}, tmp_path / "out", {}, 1.0)
    mine = study_of(RUN)
    entries = tuple(Forecast(arch="b_11-21-21-21", artifacts=(f"train/{d * 64}",), short=s, long=s) for d, s in (("a", 0.1), ("b", 0.2)))
    assert stored_entries(mine) is None
    publish_entries(mine, entries, 1.0)
    assert stored_entries(mine) == entries
    assert stored_entries(study_of(RUN, 9)) is None
    assert stored_entries(study_of(RUN.model_copy(update={"seed": 4}))) is None
    assert stored_entries(study_of(RUN.model_copy(update={"threads": 7}))) == entries
    announce(store, mine.name, {"proxy": mine.key})
    summary = publish_report(mine, entries)
    assert json.loads(store.read("runs/run-proxy/report.json")) == summary
    assert {f"runs/run-proxy/report.{ending}" for ending in ("md", "csv", "json", "png")} <= store.files().keys()
    assert garbage(take_inventory(store), ["run-proxy"]).keys() == {f"train/{'c' * 64}"}
    equal = tuple(one.model_copy(update={"short": 0.1}) for one in entries)
    assert publish_report(mine, equal)["tau"] is None  # of equal scores
    publish_report(mine, entries)
    announce(store, mine.name, {"proxy": study_of(RUN, 9).key})
    assert json.loads(store.read("runs/run-proxy-1/report.json")) == summary
    assert take_inventory(store).finished == {"run-proxy-1"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["baselines", "--seeds", "1"], "--seeds"),
        (["proxy", "--nets", "2"], "--nets"),
        (["proxy", "--set", "checkpoint=a.pth"], "expected settings without a checkpoint"),
        (["inheritance", "nothing"], "expected one of"),
        (["baselines", "--against", "luck"], "--against"),
        (["noise", "seg_study", "--set", "serial.evaluator=supernet"], "expected neither serial.evaluator supernet"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, tiny_data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["study", *words, "--data", str(tiny_data), "--store", str(tmp_path)])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_baselines_need_a_test_split(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    (tmp_path / "data" / "images").symlink_to(tiny_data / "images")
    for split in ("train", "val"):
        name = f"annotations/instances_{split}.json"
        (tmp_path / "data" / name).symlink_to(tiny_data / name)
    with pytest.raises(UserError, match="expected a test split"):
        open_study("baselines", presets.load_preset("smoke"), str(tmp_path / "data"), str(tmp_path / "store"), seeds=2)


# Whole


class Command:
    """`spnas study ...` in a process group of its own."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            quiet = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
            heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell has what it starts behind it ignore Ctrl-C
            command = [*SPNAS, "study", *words]
            self.process = subprocess.Popen(command, start_new_session=True, preexec_fn=heed, **quiet)

    def wait_for(self, text: str, times: int = 1) -> None:
        end = time.monotonic() + 120
        while self.log.read_text().count(text) < times:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def end(self) -> tuple[int, str]:
        out, _ = self.process.communicate(timeout=900)
        return self.process.returncode, out


def survivors(store: Path) -> list[str]:
    """Command lines of processes that have to do with the store, or with Prefect's server of a study on it."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and f"STUDY_STORE={store}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


def tiny_settings(folder: Path, task: TaskName = "detection", **changes: Any) -> str:
    settings = smoke_document(task)
    for name, epochs in changes.items():
        recipe = settings[name] if name in ("fine_tune", "full_train") else settings[name]["recipe"]
        recipe["epochs"] = epochs
    path = folder / "tiny.yml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


@pytest.mark.training
@pytest.mark.long
@linux
def test_an_interrupted_study_goes_on_and_a_finished_one_is_only_looked_up(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    monkeypatch.setenv("STUDY_STORE", str(store))
    settings = tiny_settings(tmp_path, fine_tune=80)
    words = ["inheritance", settings, "--data", str(tiny_data), "--store", str(store), "--children", "1", "--json"]
    first = Command(words, tmp_path / "first")
    first.wait_for(": epoch 5 of 80")
    first.process.send_signal(signal.SIGTERM)
    assert first.end() == (128 + signal.SIGTERM, "")
    assert survivors(store) == []
    assert not (store / "study").exists()
    second = Command(words, tmp_path / "second")
    status, out = second.end()
    assert status == 0
    assert ": epoch 5 of 80" not in second.log.read_text()
    (child,) = json.loads(out)["entries"]
    assert child["inherited_epochs"] == 1
    assert child["scratch_length"] in (2, 4, 8)
    assert len(child["artifacts"]) == 2
    begun = time.monotonic()
    third = Command(words, tmp_path / "third")
    assert third.end() == (0, out)
    assert time.monotonic() - begun < 5
    assert third.log.read_text() == ""
    assert survivors(store) == []


@pytest.mark.training
@pytest.mark.long
@linux
def test_the_whole_study_interrupted_again_and_again_ends_as_one_left_alone(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def baselines(store: Path, log: str) -> Command:
        monkeypatch.setenv("STUDY_STORE", str(store))
        words = ["baselines", settings, "--data", str(tiny_data), "--store", str(store), "--seeds", "2", "--json"]
        return Command(words, tmp_path / f"{log}.log")

    settings = tiny_settings(tmp_path, fine_tune=20, serial=10, parallel=10, full_train=6)
    status, out = baselines(tmp_path / "alone", "alone").end()
    assert status == 0
    alone = json.loads(out)
    for number, (kind, text) in enumerate(
        [
            (signal.SIGTERM, "fine_tune s1: epoch"),
            (signal.SIGINT, "serial r1 c2"),
            (signal.SIGTERM, "parallel"),
            (signal.SIGKILL, "start s0"),
            (signal.SIGTERM, "study: random search, seed 1"),
            (signal.SIGINT, "final SP-NAS, seed 1: done"),
        ]
    ):
        one = baselines(tmp_path / "often", f"often{number}")
        one.wait_for(text)
        os.kill(one.process.pid, kind)
        assert one.end()[0] != 0
        time.sleep(2 if kind == signal.SIGKILL else 0)  # until the kernel has told the workers
        assert survivors(tmp_path / "often") == []
    status, out = baselines(tmp_path / "often", "last").end()
    assert status == 0
    often = json.loads(out)
    for found in (alone, often):
        del found["folder"], found["text"]
        for entry in found["entries"]:
            del entry["minutes"]
    assert often == alone
    entries = alone["entries"]
    assert {(one["method"], one["seed"]) for one in entries} == {(method, seed) for method in METHODS for seed in (0, 1)}
    for seed in (0, 1):
        assert len({one["epochs"] for one in entries if one["seed"] == seed}) == 1
    assert all(parse(one["arch"]) == parse("b_1111-2111") for one in entries if one["method"] == "start")
    trainings = [path for path in (tmp_path / "often" / "train").iterdir() if path.is_dir()]
    assert len(trainings) == len(list((tmp_path / "alone" / "train").iterdir()))


@pytest.mark.training
@pytest.mark.long
def test_the_proxy_is_measured_on_trainings(tiny_data: Path, tmp_path: Path) -> None:
    """Eight children, each trained briefly and then, from the weights of that, to its end: the record has their scores."""
    store = tmp_path / "store"
    words = ["proxy", tiny_settings(tmp_path, full_train=2), "--data", str(tiny_data), "--store", str(store), "--json"]
    status, out = Command(words, tmp_path / "log").end()
    assert status == 0
    found = json.loads(out)
    assert len({entry["arch"] for entry in found["entries"]}) == 8
    for entry in found["entries"]:
        short, long = (json.loads((store / name / "manifest.json").read_text()) for name in entry["artifacts"])
        assert (entry["short"], entry["long"]) == (short["metrics"]["AP"], long["metrics"]["AP"])
        assert entry["arch"] == short["job"]["arch"] == long["job"]["arch"]
        assert long["job"]["weights"][0]["digest"] == short["digest"]
        assert long["job"]["recipe"]["epochs"] == 2
    scores = np.array([(entry["short"], entry["long"]) for entry in found["entries"]])
    tau = stats.kendalltau(scores[:, 0], scores[:, 1]).statistic
    assert found["scores"]["AP short"]["tau"] == pytest.approx(tau, nan_ok=True)


@pytest.mark.training
@pytest.mark.parametrize("task", [SEGMENTATION, pytest.param(DETECTION, marks=pytest.mark.long)], ids=lambda task: task.name)
def test_the_search_is_compared_with_the_start_net_alone(task: Task, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Two seeds, equal epochs: what the record says is what the evaluations in the store say, and a second start only looks it up."""
    store, data = tmp_path / "store", request.getfixturevalue("tiny_masks" if task is SEGMENTATION else "tiny_data")
    settings = tiny_settings(tmp_path, task.name, fine_tune=20 if task is DETECTION else 1)
    words = ["baselines", settings, "--data", str(data), "--store", str(store), "--json", "--seeds", "2", "--against", "start"]
    status, out = Command(words, tmp_path / "log").end()
    assert status == 0, (tmp_path / "log").read_text()
    found = json.loads(out)
    by_place = {(one["method"], one["seed"]): one for one in found["entries"]}
    assert by_place.keys() == {(method, seed) for method in ("start", "spnas") for seed in (0, 1)}
    manifests = [json.loads(path.read_text()) for path in (store / "evaluate").glob("*/manifest.json")]
    scores = {one["job"]["weights"][0]["digest"]: one["metrics"] for one in manifests if one["job"]["split"] == "test"}
    for one in found["entries"]:
        test = scores[one["artifacts"][-1].split("/")[1]]
        assert one["test"] == {name: test[name] for name in task.scores}
    gains = []
    for seed in (0, 1):
        ours, theirs = by_place["spnas", seed], by_place["start", seed]
        assert ours["epochs"] == theirs["epochs"]
        assert (ours["behind"], ours["all_behind"]) == (None, None)
        gains.append(ours["test"][task.score] - theirs["test"][task.score])
        assert theirs["behind"]["mean"] == pytest.approx(gains[-1], abs=1e-9)
        assert theirs["behind"]["low"] <= theirs["behind"]["high"]
        assert theirs["all_behind"] == {key: value for key, value in found["on_images"]["start"].items() if key != "verdict"}
    assert found["on_images"]["start"]["mean"] == pytest.approx(np.mean(gains), abs=1e-9)
    assert [one["mean"] for one in found["differences"][f"{task.score} test"]] == [pytest.approx(np.mean(gains), abs=1e-9)]
    assert re.search(r"SP-NAS minus +seed 0 +seed 1 +mean of the seeds", found["text"])
    again = Command(words, tmp_path / "again")
    assert again.end() == (0, out)
    assert (tmp_path / "again").read_text() == ""


@pytest.mark.training
@pytest.mark.long
@pytest.mark.parametrize(("kind", "size"), [("proxy", "--nets"), ("noise", "--nets"), ("inheritance", "--children"), ("front", "--seeds")])
def test_every_study_serves_segmentation(kind: str, size: str, tiny_masks: Path, tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, "segmentation", fine_tune=10, serial=2, full_train=2)
    count = {"proxy": 8, "noise": 2, "inheritance": 1, "front": 2}[kind]
    words = [kind, settings, "--data", str(tiny_masks), "--store", str(tmp_path / "store"), "--json", size, str(count)]
    status, out = Command([*words, *(["--seeds", "2"] if kind == "noise" else [])], tmp_path / "log").end()
    assert status == 0, (tmp_path / "log").read_text()
    found = json.loads(out)
    assert "mIoU" in found["text"]
    assert not re.search(r"\bAP\d*\b", found["text"])
    assert len(found["entries"]) == {"proxy": 8, "noise": 4, "inheritance": 1, "front": 6}[kind]
    read: dict[str, Callable[[Any], list[float]]] = {
        "proxy": lambda entry: [entry["short"], entry["long"], entry["short50"]],
        "noise": lambda entry: [*entry["plain"], *entry["averaged"]],
        "inheritance": lambda entry: [entry["target"]],
        "front": lambda entry: [point[split] for point in entry["points"] for split in ("val", "test")],
    }
    assert all(0 < score <= 1 for entry in found["entries"] for score in read[kind](entry))
