"""Evolution among paths, on scores that a formula gives: what it proposes, and that it finds better paths than draws do."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from flows import presets
from spnas_core.arch import Arch, parse
from spnas_core.cost import Cost
from spnas_core.errors import UserError
from spnas_core.job import Data, PathsJob, SupernetJob, TrainJob
from spnas_core.monitor.forecast import job_bytes, job_seconds
from spnas_core.monitor.speed import Line, Speed
from spnas_core.report.tables import path_rows, paths_md
from spnas_core.run.plan import Counts, Plan
from spnas_core.run.record import StageRecord
from spnas_core.run.replay import replay
from spnas_core.run.supernet import search_bounds
from spnas_core.search.costs import candidate_cost, within
from spnas_core.search.evolve import ScoredPath, best_paths, propose_paths
from spnas_core.search.family import Family
from spnas_core.search.net import net_of
from spnas_core.search.paths import Bands, gene_entropy
from spnas_core.settings.detector import Detector
from spnas_core.settings.search import Budget, Objectives
from spnas_core.settings.supernet import Evolution
from spnas_core.store.artifacts import Store

FAMILY = Family(parse("b_11-21-21-21").serial(), inner=(4, 6, 8))
DETECTOR = Detector(image_size=(64, 64), base_width=16)


def cost(arch: Arch) -> Cost:
    return candidate_cost(arch, DETECTOR, 2)


BANDS = Bands(FAMILY, lambda arch: cost(arch).macs, 7)


def score(arch: Arch) -> float:
    """Rises with some genes and falls with others, and two of them matter together only."""
    genes = FAMILY.genes(arch)
    assert genes
    depths, shifts, inner = genes
    return 0.2 + 0.05 * depths[2] - 0.03 * depths[0] + 0.04 * shifts[0] + 0.005 * (shifts[1] == -1) * inner[1] - 0.01 * abs(inner[3] - 6)


def scored(archs: list[Arch]) -> list[ScoredPath]:
    return [ScoredPath(arch, {"AP": score(arch), "AP50": 1.0, "macs": cost(arch).macs, "params": cost(arch).params}) for arch in archs]


def evolve(settings: Evolution, objectives: Objectives, seed: int, fits: Callable[[Arch], bool] = lambda _: True) -> list[list[ScoredPath]]:
    found: list[list[ScoredPath]] = []
    for _ in range(settings.generations):
        before = [path for generation in found for path in generation]
        found.append(scored(propose_paths(BANDS, before, settings, objectives, seed, fits)))
    return found


def test_paths_are_new_within_the_budget_and_the_same_again() -> None:
    budget = Budget(gmacs=(None, cost(FAMILY.start).macs / 1e9))
    settings = Evolution(generations=5, draws=12, population=20)

    def fits(arch: Arch) -> bool:
        return within(cost(arch), budget)

    runs = [evolve(settings, ("AP", "macs"), 1, fits) for _ in range(2)]
    paths = [path.arch for generation in runs[0] for path in generation]
    assert runs[0] == runs[1]
    assert runs[0] != evolve(settings, ("AP", "macs"), 2, fits)
    assert paths[0] == FAMILY.start
    assert len(set(paths)) == len(paths) == 60
    assert all(fits(arch) and FAMILY.genes(arch) for arch in paths)
    best = best_paths([path for generation in runs[0] for path in generation], 3, ("AP",), FAMILY.start)
    assert all(a.values["AP"] >= b.values["AP"] for a, b in pairwise(best))


@pytest.mark.parametrize("seed", range(3))
def test_evolution_finds_better_paths_than_as_many_draws(seed: int) -> None:
    found = evolve(Evolution(generations=8, draws=12, population=30), ("AP",), seed)
    drawn = scored(propose_paths(BANDS, [], Evolution(draws=96), ("AP",), seed, lambda _: True))
    assert len(drawn) == sum(map(len, found)) == 96
    tops = [sorted(path.values["AP"] for path in paths)[-10:] for paths in ((path for one in found for path in one), drawn)]
    assert np.mean(tops[0]) > np.mean(tops[1]) + 0.02  # the ten best; of the single best, draws have a good one now and then
    means = [float(np.mean([path.values["AP"] for path in generation])) for generation in found]
    assert means[-1] > means[0] + 0.05


def test_a_generation_scores_fewer_paths_where_the_population_agrees() -> None:
    counts = [len(paths) for paths in evolve(Evolution(generations=12, draws=40, population=24, entropy=3.0), ("AP",), 0)]
    assert counts[0] == 40
    assert counts[-1] < counts[1] <= 40
    agreed = scored([FAMILY.start] * 5)
    assert gene_entropy(FAMILY, [path.arch for path in agreed]) == 0
    assert len(propose_paths(BANDS, agreed, Evolution(entropy=1.0), ("AP",), 0, lambda _: True)) == 1


def test_finalists_leave_out_the_start_net_and_paths_without_a_score() -> None:
    paths = [FAMILY.start, *(parse(f"b_11-21-21-2{ones}_0-0-0-0") for ones in ("11",)), parse("b_111-21-21-21_0-0-0-0")]
    values = [{"AP": 0.9, "macs": 1.0}, {"AP": -1.0, "macs": 1.0}, {"AP": 0.1, "macs": 9.0}]
    found = [ScoredPath(arch, one) for arch, one in zip(paths, values, strict=True)]
    assert [path.arch for path in best_paths(found, 3, ("AP", "macs"), FAMILY.start)] == [paths[2]]


def plan_of(*settings: str) -> Plan:
    chosen = presets.load_preset("demo", ["serial.evaluator=supernet", *settings])
    counts = Counts(train=240, val=60, boxes=700, crops=700)
    return Plan(chosen, Store("memory://evolve"), Data(url="/data", fingerprint="f" * 64), 7, counts=counts)


def test_a_run_with_a_supernet_asks_for_it_for_paths_and_for_the_best_of_them() -> None:
    plan = plan_of("serial.supernet.evolution={generations: 3, draws: 5}", "serial.supernet.finalists=2")
    found = replay(plan, lambda _: None)
    kinds = [step.job.kind for step in found.steps if step.stage == "serial"]
    assert kinds == ["supernet", "paths", "paths", "paths", "train", "train"]
    jobs = [step.job for step in found.steps]
    supernet, paths = jobs[1], [job for job in jobs if isinstance(job, PathsJob)]
    assert isinstance(supernet, SupernetJob)
    assert [len(job.members) for job in paths] == [5, 5, 5]
    trials = [trial for trial in found.ledger if trial.stage == "serial"]
    members = {member for job in paths for member in job.members}
    assert len(trials) == 2
    assert all(trial.arch in members and trial.metrics and 0 < trial.metrics["path_AP"] < 1 for trial in trials)
    trainings = [step.job for step in found.steps if step.label.role == "candidate" and step.stage == "serial"]
    assert {weights.kind for job in trainings if isinstance(job, TrainJob) for weights in job.weights} == {"supernet"}
    speed = Speed(1.0, Line(0, 0.5), Line(0, 3.0), Line(0, 0.2), Line(0, 1.0), Line(0, 0), 0.001, Line(0, 0))
    seconds = [job_seconds(plan, job, step.epochs, speed) for step in found.steps[:3] for job in [step.job]]
    assert seconds[1] > seconds[0]  # the supernet's training
    assert seconds[2] < 5 * seconds[0] / 8
    assert job_bytes(plan, supernet) > 4 * plan.cost_of(trials[0].net).params


def test_the_report_ranks_finalists_as_paths_and_as_they_were_trained() -> None:
    found = replay(plan_of("serial.supernet.finalists=3"), lambda _: None)
    stage = StageRecord(name="serial", key="", ledger=found.ledger)
    rows = path_rows(stage)
    assert [row.path_rank for row in rows] == [1, 2, 3] == sorted(row.rank for row in rows)
    assert [row.path for row in rows] == sorted((row.path for row in rows), reverse=True)
    trained = {trial.arch: trial.score for trial in found.ledger}
    assert {row.arch: row.trained for row in rows}.items() <= trained.items()
    assert min(rows, key=lambda row: row.rank).trained == max(row.trained for row in rows if row.trained)
    assert paths_md(stage).count("\n| serial r1 c") == 3
    assert paths_md(stage.model_copy(update={"ledger": found.ledger[:1]})) == ""


def test_settings_that_a_supernet_cannot_have_are_refused() -> None:
    for setting, words in (
        ("serial.supernet.family.inner=[4]", "expected the start net's inner widths [8] in serial.supernet.family.inner, got [4]"),
        ("serial.race={}", "expected no serial.halving, race, control or pilot"),
        ("serial.supernet.recipe={mixed_precision: true}", "expected recipe.mixed_precision to be False for a supernet, got True"),
        ("arch=b_11-21-21-21_1-0-0-0", "expected a serial start net"),
    ):
        with pytest.raises(UserError) as caught:
            plan_of(setting)
        assert words in str(caught.value)


def test_the_bounds_of_a_search_are_those_of_the_family_and_a_budget_outside_is_refused() -> None:
    plan = plan_of("serial.supernet.family={inner: [4, 8]}")
    small, large = search_bounds(plan.settings, plan.cost_of)
    start = plan.cost_of(net_of(plan.settings.arch, plan.settings.detector)).macs
    assert small.cost.macs < start < large.cost.macs
    assert (len(small.net.arch.digits), small.net.arch.inner, large.net.arch.parallel) == (8, (4, 4, 4, 4), (2, 2, 2, 2))
    limited = plan_of(f"budget={{gmacs: [null, {start / 1e9}]}}")
    assert search_bounds(limited.settings, limited.cost_of)[1].cost.macs == start
    for limits in ("[null, 0.001]", "[900, null]"):
        wrong = plan_of(f"budget={{gmacs: {limits}}}")
        with pytest.raises(UserError, match="expected limits that some net of the supernet's family meets"):
            search_bounds(wrong.settings, wrong.cost_of)
