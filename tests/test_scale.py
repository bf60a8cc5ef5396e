"""A thousand trials: seconds of proposing, replay, status, report, doctor and plan, and their growth; a small part in make test.

Figures are printed: `pytest tests/test_scale.py -m long -s`. CPU seconds are those of a process of its own, its start included.
"""

import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import SPNAS
from many_trials import make_data, make_many, settings_of

from spnas_core.monitor.status import Watcher
from spnas_core.report.inputs import reopen
from spnas_core.report.page import report_html
from spnas_core.run.plan import Plan
from spnas_core.run.register import plan_of, read_run
from spnas_core.run.replay import Replay, known_results, replay, replays
from spnas_core.search.ledger import best, volumes
from spnas_core.search.propose import course_of, propose_next, propose_parallel
from spnas_core.store.artifacts import Store
from spnas_core.store.storage import Storage
from spnas_core.track.view import SearchView

FEW, MANY = 40, 160
SIZES = (50, 100, 200, 400, 700, 1000)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("many") / "data")


@pytest.fixture(scope="module")
def plans(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Plan]:
    folder = tmp_path_factory.mktemp("runs")
    return {trials: make_many(folder / str(trials), data, settings_of(trials)) for trials in (FEW, MANY)}


def calls(work: Callable[[], Any]) -> int:
    """Count of all function calls of some work; the same each time, however busy the machine is."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined,no-any-return]


@pytest.mark.training
def test_work_grows_no_faster_than_the_trials(plans: dict[int, Plan]) -> None:
    """Replay, status and report of four times the trials take at most five times the calls; nets that grow have more blocks each."""
    works: dict[str, Callable[[Plan], Any]] = {
        "replay": lambda plan: replay(plan, known_results(plan)),
        "status": lambda plan: Watcher(plan.store, "many").look(),
        "what a tracker is told": lambda plan: [run.version for run in SearchView(plan).look("running")],
        "report": lambda plan: report_html(reopen(plan.store, "many")),
        "volumes": lambda plan: volumes(replay(plan, known_results(plan)).ledger, plan.settings.objectives),
    }
    for plan in plans.values():  # what is kept by value is there, whichever comes first
        [work(plan) for work in works.values()]
    for name, work in works.items():
        few, many = (calls(lambda plan=plan, work=work: work(plan)) for plan in plans.values())
        assert many < 1.3 * MANY / FEW * few, (name, few, many)


@pytest.mark.training
def test_the_store_is_asked_twice_for_each_trial(plans: dict[int, Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    for name in ("read", "sizes", "files", "sha256"):
        method = getattr(Storage, name)

        def counted(self: Storage, *values: Any, method: Any = method, name: str = name) -> Any:
            asked[name] += 1
            return method(self, *values)

        monkeypatch.setattr(Storage, name, counted)
    counts = []
    for plan in plans.values():
        asked.clear()
        Watcher(plan.store, "many").look()
        counts.append(asked.copy())
    failed = (MANY - FEW) // 10
    for name in ("read", "sizes"):  # a trial that failed is in the record of its round
        assert MANY - FEW - failed <= counts[1][name] - counts[0][name] <= MANY - FEW
    assert counts[0]["files"] == counts[1]["files"] <= 4


@pytest.mark.training
def test_the_page_of_many_trials_stays_small(plans: dict[int, Plan]) -> None:
    text = report_html(reopen(plans[MANY].store, "many"))
    assert len(text.encode()) < 5e6 * MANY / 1000
    assert text.count("data-digest=") == MANY
    assert text.count('class="net"') > MANY  # each trial is drawn in the family


def groups_of(played: Replay) -> list[Any]:
    return [[(str(step.label), step.key, step.ended, step.sure, step.epochs) for step in group] for group in played.groups]


@pytest.mark.parametrize("most", [1, 20, 40, None])
def test_replays_together_are_replays_one_by_one(most: int | None, data: Path, tmp_path: Path) -> None:
    plan = make_many(tmp_path / "store", data, settings_of(40), most)
    known = known_results(plan)
    for play, found in enumerate(replays(plan, known, 3)):
        alone = replay(plan, known, play)
        assert groups_of(found) == groups_of(alone)
        assert found.ledger == alone.ledger


@pytest.mark.training
def test_a_round_is_proposed_alike_from_the_course_and_from_the_ledger(plans: dict[int, Plan]) -> None:
    plan = plans[FEW]
    serial = [trial for trial in replay(plan, known_results(plan)).ledger if trial.stage != "parallel"]
    course = course_of((), plan.settings)
    for number in range(serial[-1].round + 1):
        course.add([trial for trial in serial if trial.round == number])
    fresh = course_of(serial, plan.settings)
    number = serial[-1].round + 1
    assert propose_next(course, plan.settings, number, plan.cost_of) == propose_next(fresh, plan.settings, number, plan.cost_of)


def seconds_of(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def command(*words: object) -> tuple[float, float]:
    """Seconds on the clock and CPU seconds of a command in a process of its own."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*SPNAS, *map(str, words)], capture_output=True, text=True, env=os.environ)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    assert done.returncode in (0, 1), done.stderr
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


MEASURE = """
import json, sys
from pathlib import Path
from test_scale import measured
print(json.dumps(measured(Path(sys.argv[1]), Path(sys.argv[2]))))
"""


def measured(data: Path, folder: Path) -> dict[str, float]:
    """CPU seconds, those on the clock of commands, and megabytes of the page, of the run in `folder`, in a process that has seen no net."""
    place = Store(str(folder / "store"))
    plan = plan_of(read_run(place, "many"), place)
    store, settings = plan.store.url, plan.settings
    config, page = folder / "many.yml", folder / "many.html"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    known = known_results(plan)
    found = {"replay": seconds_of(lambda: replay(plan, known))}
    ledger = replay(plan, known).ledger
    serial = [trial for trial in ledger if trial.stage != "parallel"]
    number = serial[-1].round + 1
    found["serial round"] = seconds_of(lambda: propose_next(course_of(serial, settings), settings, number, plan.cost_of))
    found["parallel round"] = seconds_of(
        lambda: propose_parallel(best(serial, settings.parallel.parents, settings.objectives), settings, plan.cost_of, ledger=serial)
    )
    found["hyper-volume"] = seconds_of(lambda: volumes(ledger, settings.objectives))
    commands: dict[str, tuple[object, ...]] = {
        "status": ("status", "many"),
        "status of all": ("status",),
        "report": ("report", "many", "--out", page),
        "doctor": ("doctor", "many"),
        "plan": ("plan", config, "--data", data, "--no-measure"),
    }
    for name, words in commands.items():
        clock, cpu = zip(*(command(*words, "--store", store) for _ in range(2)), strict=True)
        found |= {name: min(cpu), f"{name}, clock": min(clock)}
    return {**found, "page, MB": page.stat().st_size / 1e6}


@pytest.mark.long
def test_a_thousand_trials(data: Path, tmp_path: Path) -> None:
    start = min(command("--help")[1] for _ in range(3))
    table = {}
    for trials in SIZES:
        folder = tmp_path / str(trials)
        make_many(folder / "store", data, settings_of(trials))
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(data), str(folder)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((*sys.path, str(Path.cwd())))},
        )
        assert done.returncode == 0, done.stderr
        table[trials] = json.loads(done.stdout.splitlines()[-1])
        print(trials, " ".join(f"{name} {value:.3f}" for name, value in table[trials].items()), flush=True)
    counts = np.array(SIZES, float)
    for name in table[1000]:
        values = np.array([row[name] for row in table.values()])
        square, slope, base = np.polyfit(counts, values, 2)
        print(f"{name}: {base:.3f} + {1000 * slope:.3f} n/1000 + {1e6 * square:.3f} (n/1000)^2, start of a command {start:.2f} s")
    replayed = np.array([row["replay"] for row in table.values()])
    power = np.polyfit(np.log(counts[1:]), np.log(replayed[1:]), 1)[0]
    print(f"replay: n^{power:.2f}")
    last = table[1000]
    assert power < 1.3
    assert last["status"] < 2
    assert last["serial round"] < 1
    assert last["parallel round"] < 1
    assert last["report"] < 10
    assert last["page, MB"] < 5
