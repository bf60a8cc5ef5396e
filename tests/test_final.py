"""The final net: which one it is, and what it is compared with at equal epochs."""

from dataclasses import replace
from typing import Any

import pytest
from crews import ScriptedCrew
from pydantic import ValidationError
from trials import trial_of

from spnas_core.errors import JobError
from spnas_core.job import Data, EvaluateJob, Job, TrainJob, Weights
from spnas_core.metrics import STATS
from spnas_core.run.crew import Label
from spnas_core.run.plan import EQUAL, START, Plan
from spnas_core.run.record import StageRecord
from spnas_core.run.stages import full_train
from spnas_core.search.costs import candidate_cost
from spnas_core.search.ledger import Trial, chosen_net, epochs_behind
from spnas_core.search.net import net_of
from spnas_core.search.stock import stock_family
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run
from spnas_core.settings.search import Final, Parallel, Serial
from spnas_core.settings.training import Recipe, Reignite
from spnas_core.store.artifacts import Store

RUN = Run(
    arch="b_11-21-21-21",
    detector=Detector(base_width=16, image_size=(64, 64)),
    fine_tune=Recipe(epochs=12),
    serial=Serial(recipe=Recipe(epochs=4)),
    parallel=Parallel(recipe=Recipe(epochs=3)),
    reignite=Reignite(epochs=5),
    full_train=Recipe(epochs=8),
)


def tried(name: str, score: float, macs: int, stage: Any = "serial", parent: str | None = None, rung: int | None = None) -> Trial:
    arch = {"start": "b_11-21-21-21", "wide": "b_111-21-21-21", "copied": "b_111-21-21-21_0-0-1-0"}.get(name, "b_11-211-21-21")
    number = 0 if stage == "fine_tune" else 1
    return trial_of(arch, stage, number, 0, parent, name, {**dict.fromkeys(STATS, score), "macs": macs, "params": 1}, rung=rung)


LEDGER = (
    tried("start", 0.50, 100, "fine_tune"),
    tried("wide", 0.52, 150, parent="start"),
    tried("small", 0.495, 60, parent="start"),
    tried("tiny", 0.40, 20, parent="small"),
    tried("copied", 0.51, 200, "parallel", parent="wide"),
)


@pytest.mark.parametrize(
    ("final", "name"),
    [
        (Final(), "copied"),
        (Final(choose="best"), "wide"),
        (Final(choose="cheapest"), "small"),
        (Final(choose="cheapest", margin=0.0), "start"),
        (Final(choose="cheapest", margin=0.2), "tiny"),
    ],
)
def test_the_final_net_is_the_one_that_the_settings_ask_for(final: Final, name: str) -> None:
    assert chosen_net(LEDGER, RUN.model_copy(update={"final": final}))[0].digest == name


def test_the_cheapest_net_needs_a_cost() -> None:
    with pytest.raises(ValidationError, match=r"expected a cost as second objective with final\.choose cheapest"):
        Run(objectives=("AP",), final=Final(choose="cheapest"))
    with pytest.raises(ValidationError, match=r"expected no checkpoint with final\.stock"):
        Run(checkpoint="x.pth", final=Final(stock=True))


def test_epochs_of_ancestors_and_their_reignitions_count() -> None:
    by_name = {one.digest: one for one in LEDGER}
    counts = {name: epochs_behind(LEDGER, one, RUN) for name, one in by_name.items()}
    assert counts == {"start": 0, "wide": 4, "small": 4, "tiny": 8, "copied": 7}
    assert epochs_behind(LEDGER, by_name["copied"], RUN, {"wide", "tiny"}) == 7 + 5


def test_stock_nets_differ_and_cost_what_their_names_say() -> None:
    start = net_of(RUN.arch, RUN.detector)
    family = stock_family(start, RUN.detector)
    costs = {name: candidate_cost(net.arch, net.detector(RUN.detector), 3).macs for name, net in family.items()}
    assert len(set(family.values())) == len(family) == 6
    assert costs["0.5 x width"] < costs["0.75 x width"] < costs["start"] < costs["1.25 x width"]
    assert costs["deeper"] > costs["start"]
    assert [family[f"{share} x width"].width for share in ("0.5", "0.75", "1.25")] == [8, 12, 20]
    narrow = stock_family(replace(start, width=4), RUN.detector)  # half of it would be no other net
    assert [narrow[name].width for name in narrow if "width" in name] == []


def test_the_final_net_is_compared_at_equal_epochs() -> None:
    settings = RUN.model_copy(update={"final": Final(equal_epochs=True, stock=True)})
    plan = Plan(settings, Store("memory://final"), Data(url="x", fingerprint="f"), 3, Data(url="x", fingerprint="t"))
    asked: dict[str, TrainJob] = {}

    def answer(label: Label, job: Job) -> dict[str, Any] | JobError:
        if isinstance(job, EvaluateJob):
            return dict.fromkeys(STATS, 0.6)
        assert isinstance(job, TrainJob)
        assert label.net
        assert label.ends_run == (label.net == "final")
        asked[label.net] = job
        return JobError("diverged", "x") if label.net == "stock: deeper" else {**dict.fromkeys(STATS, 0.5), "macs": 1, "params": 1}

    record = StageRecord(
        name="parallel", key="k", ledger=LEDGER, reignited={"wide": Weights(kind="reignite", digest="0" * 64, arch="b_111-21-21-21")}
    )
    ended = full_train(plan, ScriptedCrew(answer), record)
    behind = 4 + 5 + 3
    assert asked["final"].recipe.epochs == 8
    assert asked[EQUAL].recipe == settings.full_train.lasting(8 + behind)
    assert asked[EQUAL].weights == plan.full_trainings(LEDGER[0], LEDGER[0])["final"].weights
    assert START not in asked
    stock = {name: job for name, job in asked.items() if name.startswith("stock: ")}
    assert len(stock) == 6
    assert {job.recipe for job in stock.values()} == {settings.fine_tune.lasting(12 + 8 + behind)}
    assert not any(job.weights for job in stock.values())
    assert set(ended.results) == set(asked) - {"stock: deeper"}
    assert all(set(result.scores) == {"val", "test"} for result in ended.results.values())
    assert plan.keys["parallel"] == replace(plan, settings=RUN).keys["parallel"]
    assert plan.keys["full_train"] != replace(plan, settings=RUN).keys["full_train"]
