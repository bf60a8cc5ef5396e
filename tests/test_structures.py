"""The structural search: its genes, what children inherit over heads and necks, its choice of structures, and whole runs from its store."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_again import measured
from many_trials import make_data, make_many
from pydantic import ValidationError
from test_channels import TINY, made
from trials import trial_of

from flows.spnas import spnas
from spnas_core.arch import ArchError
from spnas_core.cost import Cost
from spnas_core.job import Data, digest
from spnas_core.report.inputs import reopen
from spnas_core.report.page import report_html
from spnas_core.run.plan import FRONT, STOCK, Plan
from spnas_core.run.record import newest_round, read_stage
from spnas_core.run.replay import known_results, replay, replays, where_time_went
from spnas_core.run.supernet import search_bounds
from spnas_core.search.costs import candidate_cost, within
from spnas_core.search.ledger import Trial, pareto_front, spread_best
from spnas_core.search.mutation import mutate
from spnas_core.search.net import Net, gene_words, net_of, parse_net
from spnas_core.search.pareto import spread
from spnas_core.search.structures import chosen_structures, families, propose_structures
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run
from spnas_core.weights.inherit import inherit
from spnas_core.weights.net_shapes import net_shapes

OTHERS: list[dict[str, Any]] = [
    {"kind": "cascade_rcnn", "head_channels": 16, "proposals_test": 10},
    {"kind": "retinanet", "depth": 1},
    {"kind": "fcos", "depth": 1, "norm_groups": 4},
]
GENES = {"head": 0.2, "neck": 0.15, "proposals": 0.1, "base_width": 0.1, "image_size": 0.1, "neck_channels": 0.1, "shrink": 0.1}
SPACE: dict[str, Any] = {
    "block_types": ["b", "r"], "min_blocks": 5, "base_widths": [4, 12], "image_sizes": [[48, 64], [160, 192]], "neck_channels": [4, 12],
    "necks": ["nasfpn8x1", "nasfpn12x2"], "proposals": [5, 20],
}  # fmt: skip
OWN = Detector(**TINY, other_heads=OTHERS)
HEADS = {"faster_rcnn", "cascade_rcnn", "retinanet", "fcos"}


def run_of(**more: Any) -> Run:
    rules = {"rounds": 3, "candidates": 5, "mutation": {"num_mutate": 3, "add_stage": 0.0, "change_type": 0.1, **GENES}}
    return Run.model_validate(
        {"arch": "b_11-211-21", "detector": OWN, "space": SPACE, "objectives": ["AP50", "latency_ms"], "structures": rules, **more}
    )


RUN = run_of()
DATA = Data(url="x", fingerprint="0")


def cost_of(net: Net) -> Cost:
    return candidate_cost(net.arch, net.detector(OWN), 3)


def child_of(net: Net, seed: int) -> Net:
    assert RUN.structures
    return mutate(net, np.random.Generator(np.random.PCG64(seed)), RUN.structures.mutation, RUN.space, RUN.detector)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_children_have_a_text_and_cost_and_inherit_what_their_weights_say(seed: int) -> None:
    """Over all heads and necks: the pyramid has the levels that its head reads."""
    net = net_of(RUN.arch, OWN)
    for number in range(4):
        child = child_of(net, seed + number)
        assert child != net
        assert parse_net(str(child)) == child
        detector = child.detector(OWN)
        assert net_of(child.arch, detector, OWN) == child
        assert detector.other_heads == ()
        if child.neck.kind == "fpn":
            assert (child.neck.text.endswith("@1-p5")) == (child.head in ("retinanet", "fcos"))
        assert child.proposals in ({None, 5, 20} if child.head.endswith("rcnn") else {None})
        shapes = net_shapes(child.arch, detector, 3)
        assert cost_of(child).params == sum(int(np.prod(shape)) for name, shape in shapes.items() if ".moving_" not in name)
        weights, fresh = (made(one.arch, one.detector(OWN), number) for number, one in enumerate((net, child)))
        found, audit = inherit(net.arch, child.arch, weights, fresh, leaves_out=True)
        assert {name: array.shape for name, array in found.items()} == shapes
        assert audit.copied_params + audit.new_params == cost_of(child).params
        if child.arch.block_type == net.arch.block_type:
            assert any(name.startswith("backbone.blocks.") for name in audit.copied)
        net = child


def test_all_values_of_all_genes_come_up() -> None:
    net, seen = net_of(RUN.arch, OWN), Counter[Any]()
    for seed in range(300):
        net = child_of(net, seed)
        seen.update([net.head, net.neck.kind, net.size, net.width, net.proposals, net.arch.block_type.text])
    assert {*HEADS, "fpn", "nas_fpn", (48, 64), (160, 192), 4, 12, 5, 20, "b", "r"} <= seen.keys()


def test_words_of_a_structure() -> None:
    start = net_of(RUN.arch, OWN)
    net = parse_net("b_11-211-21_0-0-0+nasfpn12x2+7x7+fcos+w12+48x64")
    assert gene_words(net, start) == "fcos, neck nasfpn12x2, base width 12, input 48x64"
    assert gene_words(replace(start, proposals=5), start) == "5 proposals"


def test_spread_takes_what_adds_most() -> None:
    """By hand: (0.6, 0.4) has 0.36, then (0.9, 0.9) adds 0.03, (0.2, 0.1) 0.06, (0.59, 0.39) 0.0059, of boxes that end at 1."""
    points = [(0.59, 0.39), (0.9, 0.9), (0.6, 0.4), (0.2, 0.1)]
    assert spread(points, 3, (0.0, 1.0)) == [2, 3, 1]
    assert spread(points, 2, (0.0, 1.0), kept=[(0.6, 0.4)]) == [3, 1]
    assert spread(points, 9, (0.0, 1.0)) == [2, 3, 1, 0]


def trial(number: int, ap: float, latency: float, stage: Any = "structures", parent: str | None = None) -> Trial:
    metrics = {"AP": ap, "AP50": ap, "latency_ms": latency, "macs": int(1e6 * latency), "params": 1000}
    made = trial_of(
        "b_" + "1" * (number + 5) + "-21-21", stage, int(stage != "fine_tune"), number, parent, f"{number}", metrics, detector=OWN
    )
    return replace(made, digest=f"{number:064d}")


def test_structures_are_spread_over_the_front_and_families_part_there() -> None:
    ledger = [trial(0, 0.5, 50, "fine_tune"), trial(1, 0.6, 52), trial(2, 0.3, 10), trial(3, 0.29, 9.9), trial(4, 0.1, 60)]
    run = run_of(structures={"chosen": 2})
    assert [one.index for one in chosen_structures(ledger, run)] == [1, 2]
    children = [trial(5, 0.53, 52, "serial", ledger[1].digest), trial(6, 0.4, 10, "serial", ledger[2].digest)]
    children.append(trial(7, 0.41, 10, "parallel", children[1].digest))
    assert [[one.index for one in members] for members in families([*ledger, *children], run)] == [[1, 5], [2, 6, 7]]
    ranks = [rank for rank, _ in spread_best(ledger, 5, run.objectives)]
    assert ranks == sorted(ranks)
    assert {one.digest for _, one in spread_best(ledger, 4, run.objectives)} >= {one.digest for one in pareto_front(ledger, run.objectives)}


def test_proposals_are_new_in_the_budget_and_the_same_again() -> None:
    run = run_of(budget={"params_m": [None, 0.2]}, structures={**dict(RUN.structures or {}), "candidates": 12})
    ledger = [trial(0, 0.5, 50, "fine_tune")]
    found = propose_structures(ledger, run, 1, cost_of)
    assert found == propose_structures(ledger, run, 1, cost_of)
    assert found != propose_structures(ledger, run, 2, cost_of)
    assert len({one.net.identity for one in found}) == len(found) == 12
    assert all(within(cost_of(one.net), run.budget) for one in found)
    assert len({one.net.head for one in found}) >= 3


def test_the_bounds_hold_for_children() -> None:
    low, high = search_bounds(RUN, cost_of)
    net = net_of(RUN.arch, OWN)
    for seed in range(60):
        try:
            net = child_of(net, seed) if seed % 6 else net_of(RUN.arch, OWN)
        except ArchError:
            continue
        assert low.cost.macs <= cost_of(net).macs <= high.cost.macs, str(net)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"detector": Detector(**TINY)}, "expected detector.other_heads with structures.mutation.head, got none"),
        ({"space": {**SPACE, "necks": []}}, "expected space.necks with structures.mutation.neck, got none"),
        ({"space": {**SPACE, "proposals": []}}, "expected space.proposals with structures.mutation.proposals, got none"),
        ({"space": {**SPACE, "necks": ["nasfpn10x1"]}}, "multiples of detector.other_heads.norm_groups, 4, got 10"),
        ({"space": {**SPACE, "necks": ["ring8"]}}, "neck: expected a text such as fpn256"),
        ({"folds": 3}, "expected neither serial.evaluator, pilot and proposer nor folds nor parallel.taps to be set with structures"),
        ({"detector": {**TINY, "other_heads": [*OTHERS, {"kind": "faster_rcnn"}]}}, "expected each kind of head once"),
    ],
)
def test_settings_that_cannot_be(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        run_of(**more)


def whole(candidates: int, name: str = "many") -> Run:
    assert RUN.structures
    rules = {**RUN.structures.model_dump(), "rounds": 4, "candidates": candidates // 4, "recipe": {"epochs": 5}}
    short = {"recipe": {"epochs": 5}, "candidates": 2}
    parts = {"serial": {**short, "rounds": 2, "n_stuck": 1, "max_reignite": 1}, "parallel": short, "final": {"choose": "best"}}
    return run_of(name=name, structures=rules, **parts)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("structures")
    return make_many(folder / "store", make_data(folder / "data"), whole(24))


def test_a_run_has_both_searches_and_the_family_in_one_ledger(searched: Plan) -> None:
    final = read_stage(searched.store, searched.keys["full_train"])
    counts = Counter(one.stage for one in final.ledger)
    assert counts == {
        "fine_tune": 1,
        "structures": 24,
        "serial": 8,
        "parallel": 2,
    }  # 2 rounds, 2 structures, 2 each
    roots = chosen_structures(final.ledger, searched.settings)
    assert len(roots) == 2
    for number in (1, 2):
        serial = [one for one in final.ledger if (one.stage, one.round) == ("serial", number)]
        assert [one.index for one in serial] == [0, 1, 2, 3]
        for root, own in zip(families(final.ledger, searched.settings), (serial[:2], serial[2:]), strict=True):
            assert {one.digest for one in own} <= {one.digest for one in root}
            assert all(one.net.head == root[0].net.head and one.net.size == root[0].net.size for one in own)
    assert len({one.net.identity for one in final.ledger}) == len(final.ledger)
    names = list(final.results)
    assert {"final", "start", f"{FRONT}1", f"{FRONT}2", f"{FRONT}3", f"{STOCK}start", f"{STOCK}input 48x64"} <= set(names)
    assert all(one.costs["latency_ms"] > 0 for one in final.results.values())
    front = {one.digest for one in pareto_front(final.ledger, searched.settings.objectives)}
    assert len(front) < 4 or all(
        searched.store.manifest(f"train/{final.results[f'{FRONT}{n}'].digest}").job["weights"][0]["digest"] in front  # type: ignore[union-attr]
        for n in (1, 2, 3)
    )


def test_all_nets_of_a_front_and_of_the_end_are_measured_again(searched: Plan) -> None:
    final = read_stage(searched.store, searched.keys["full_train"])
    nets = measured(searched.store.url, ["many"])
    before = {(job.arch, plan.measured(found)[0]["latency_ms"]) for _, plan, job, found in nets}
    front = pareto_front(final.ledger, searched.settings.objectives)
    assert before == {(one.arch, one.value("latency_ms")) for one in front} | {
        (one.arch, one.costs["latency_ms"]) for one in final.results.values()
    }
    assert len({digest(job) for _, _, job, _ in nets}) == len(nets) > len(front)


def test_its_replay_is_the_search_whatever_is_known(searched: Plan) -> None:
    final = read_stage(searched.store, searched.keys["full_train"])
    played = replay(searched, known_results(searched))
    assert played.ledger == final.ledger
    assert all(step.sure and step.ended is not None for step in played.steps)
    assert list(where_time_went(played.steps)) == list(searched.settings.stages)
    nothing = replay(searched, lambda _job: None)
    assert [step.stage for step in nothing.steps if step.sure] == ["fine_tune"]


@pytest.mark.parametrize(
    ("stage", "number", "rounds"), [("structures", 2, {"structures": 2}), ("serial", 1, {"structures": 4, "serial": 1})]
)
def test_what_is_known_is_played_once(searched: Plan, stage: str, number: int, rounds: dict[str, int]) -> None:
    """Of a search that is in the round after `number` of a stage, two replays share all that is sure."""
    final, stored = read_stage(searched.store, searched.keys["full_train"]), known_results(searched)
    later = {one.digest for one in final.ledger if one.stage == stage and one.round > number}
    first, second = replays(searched, lambda job: None if digest(job) in later else stored(job), 2)
    assert {name: last.number for name, last in first.sure.rounds.items()} == rounds
    sure = [[step.key for step in one.steps if step.sure] for one in (first, second)]
    assert sure[0] == sure[1] == [step.key for step in replay(searched, stored).steps][: len(sure[0])]
    assert [step.key for step in first.steps] != [step.key for step in second.steps]


def test_the_record_of_a_round_is_where_a_killed_search_goes_on(searched: Plan) -> None:
    start = read_stage(searched.store, searched.keys["fine_tune"])
    number, record = newest_round(searched, start, "structures")
    assert (number, record.name, len(record.ledger)) == (4, "structures", 25)
    assert newest_round(searched.after(2, "structures"), start, "structures")[0] == 2
    longer = searched.after(5, "structures")
    assert newest_round(longer, start, "structures")[0] == 4
    assert searched.after(4, "structures").keys == searched.keys


def test_choices_after_the_search_leave_its_key() -> None:
    one, two = (Plan(run, None, DATA, 3) for run in (RUN, run_of(structures={**dict(RUN.structures or {}), "chosen": 5, "finals": 0})))  # type: ignore[arg-type]
    assert one.keys["structures"] == two.keys["structures"]
    assert one.keys["serial"] != two.keys["serial"]


@pytest.mark.training
def test_the_page_shows_both_fronts(searched: Plan) -> None:
    page = report_html(reopen(searched.store, "many"))
    words = "Hyper-volume of AP50 on val and latency, ms: found", "stock: 0.5 x width", "structural search"
    for text in ('id="fronts"', 'href="#mark-structures"', *words):
        assert text in page, text
    assert report_html(reopen(searched.store, "many")) == page


@pytest.mark.training
@pytest.mark.long  # its bounds are those of an idle machine
@pytest.mark.parametrize(("structures", "seconds"), [(20, 30), (200, 60)])
def test_structures_of_the_store_take_less_than_a_third_of_a_second(
    prefect_server: str, tmp_path: Path, structures: int, seconds: float
) -> None:
    """The whole flow again, with all its jobs in the store and none of its stages."""
    plan = make_many(tmp_path / "store", make_data(tmp_path / "data"), whole(structures), failing=0.0)
    before = read_stage(plan.store, plan.keys["full_train"])
    for key in [*plan.keys.values(), *(plan.after(n, "structures").keys["structures"] for n in range(1, 4)), plan.after(1).keys["serial"]]:
        (tmp_path / "store" / "stage" / key / "manifest.json").unlink()
    begun = time.monotonic()
    spnas(plan.settings, plan.data.url, plan.store.url)
    taken = time.monotonic() - begun
    after = read_stage(plan.store, plan.keys["full_train"])
    assert after.ledger == before.ledger
    print(f"{structures} structures, {len(before.ledger)} trials: {taken:.1f} s")
    assert taken < seconds
