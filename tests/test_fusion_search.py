"""The search of a NAS-FCOS's cells: operators that reach valid necks only, all proposers, bounds, words, drawings, and a whole run."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nas_fcos import ALL, fusions

from flows import presets
from flows.spnas import spnas
from spnas_core.job import Weights
from spnas_core.necks.cells import cells_text
from spnas_core.necks.nas_fcos import OPERATIONS, SEPARABLE_CELLS, STAGE_INPUTS, Fusion, NasFcos, parse_fusions
from spnas_core.necks.nas_fpn import NasFpn
from spnas_core.report.ancestry import gene_edits
from spnas_core.report.pyramids import cell_edits, draw_pyramid
from spnas_core.run.opening import open_plan
from spnas_core.run.record import read_stage
from spnas_core.run.replay import known_results, replay
from spnas_core.search.bounds import cost_bounds
from spnas_core.search.costs import candidate_cost
from spnas_core.search.fusion_mutation import change_fusion, draw_fusions
from spnas_core.search.ledger import Trial
from spnas_core.search.net import Net, gene_words, net_of, parse_net
from spnas_core.search.propose import propose_serial
from spnas_core.settings.run import Run

SEEDS = st.integers(0, 2**32)
PLAIN = ("parallel.taps=[]", "detector.neck={kind: nas_fcos, channels: 8}", "serial.search=[neck]")


def run_of(*sets: str) -> Run:
    return presets.load_preset("smoke", (*PLAIN, *sets))


def cost_of(net: Net) -> Any:
    return candidate_cost(net.arch, net.detector(run_of().detector), 3)


def trial(cells: str, ap: float, number: int) -> Trial:
    """Finished trial with these cells, as child number `number` of round 1; number 0 is the start net."""
    run = run_of()
    net = replace(net_of(run.arch, run.detector), neck=NasFcos(channels=8, cells=cells))
    digest = f"{number:064x}"
    stage: Any = "serial" if number else "fine_tune"
    weights = Weights(kind="train", digest=digest, arch=str(net.arch))
    metrics = {"AP": ap, "macs": 1, "params": 1}
    return Trial(net, stage, 1 if number else 0, max(0, number - 1), None, digest, metrics, weights=weights, score=ap)


def differences(before: Fusion, after: Fusion) -> tuple[int, int, bool]:
    """How many nodes and operations of the inputs differ, in the order in which they differ less; whether the merging does."""
    orders = ((after.first, after.second), (after.second, after.first))
    pairs = [list(zip((before.first, before.second), order, strict=True)) for order in orders]
    counts = [(sum(a.node != b.node for a, b in one), sum(a.operation != b.operation for a, b in one)) for one in pairs]
    return (*min(counts, key=sum), before.concatenates != after.concatenates)


@given(fusions(), SEEDS)
def test_a_change_is_one_cell_of_a_valid_neck(cells: tuple[Fusion, ...], seed: int) -> None:
    found = change_fusion(cells, np.random.default_rng(seed))
    assert parse_fusions(cells_text(found)) == found
    ((a, b),) = [(a, b) for a, b in zip(cells, found, strict=True) if a != b]
    assert sum(differences(a, b)) == 1
    assert found == change_fusion(cells, np.random.default_rng(seed))


@given(st.integers(3, 12), SEEDS)
def test_drawn_necks_are_valid(count: int, seed: int) -> None:
    found = draw_fusions(count, np.random.default_rng(seed))
    assert len(found) == count
    assert parse_fusions(cells_text(found)) == found


def test_changes_and_draws_reach_everything_about_evenly() -> None:
    rng, start, kinds, draws = np.random.default_rng(0), parse_fusions(ALL), Counter[Any](), 4000
    for _ in range(draws):
        ((number, a, b),) = [(n, a, b) for n, (a, b) in enumerate(zip(start, change_fusion(start, rng), strict=True)) if a != b]
        nodes, operations, merging = differences(a, b)
        kinds.update([number, "node" if nodes else "operation" if operations else "merging"])
        assert nodes + operations + merging == 1
    assert all(abs(kinds[kind] - draws / 3) < draws / 12 for kind in ("node", "operation", "merging"))  # some nodes would leave two outputs
    assert all(abs(kinds[number] - draws / 6) < draws / 24 for number in range(6))
    drawn = [draw_fusions(7, rng) for _ in range(600)]
    inputs = Counter(one for cells in drawn for cell in cells for one in (cell.first, cell.second))
    assert {one.operation for one in inputs} == set(OPERATIONS)
    assert {one.node for one in inputs} >= set(range(STAGE_INPUTS + 5))
    letters = Counter(letter for (_, letter), count in inputs.items() for _ in range(count))
    assert max(letters.values()) < 1.2 * min(letters.values())
    assert 0.4 < np.mean([cell.concatenates for cells in drawn for cell in cells]) < 0.6


@settings(deadline=None)
@given(SEEDS)
def test_a_child_has_the_backbone_of_its_parent_and_one_changed_cell(seed: int) -> None:
    run = run_of("serial.mutation={num_mutate: 1}", "serial.candidates=5", f"seed={seed}")
    parent = trial(SEPARABLE_CELLS, 0.5, 0)
    children = propose_serial([parent], run, 1, cost_of)
    assert len({child.net.identity for child in children} | {parent.net.identity}) == 6
    for child in children:
        assert replace(child.net, neck=parent.net.neck) == parent.net
        assert parse_net(str(child.net)) == child.net
        edits = gene_edits(parent.net.detector(run.detector), child.net.detector(run.detector))
        assert [edit.kind for edit in edits] == ["cells"]
        assert isinstance(child.net.neck, NasFcos)
        assert f"cells {child.net.neck.cells}" == gene_words(child.net, parent.net)


@pytest.mark.parametrize("proposer", ["pareto", "ageing", "random"])
def test_all_proposers_change_one_part_or_both(proposer: str) -> None:
    start = trial(SEPARABLE_CELLS, 0.5, 0)
    sets = (f"serial.proposer={proposer}", "serial.candidates=30")
    together = propose_serial([start], run_of("serial.search=[backbone, neck]", *sets), 1, cost_of)
    changed = Counter((child.net.arch != start.net.arch, child.net.neck != start.net.neck) for child in together)
    assert changed[True, True] > 5
    alone = propose_serial([start], run_of(*sets, "serial.mutation={num_mutate: 1}"), 1, cost_of)
    counts = [len(cell_edits(NasFcos(channels=8), child.net.neck)) for child in alone if isinstance(child.net.neck, NasFcos)]
    assert len(counts) == 30
    assert (np.mean(counts) > 6) if proposer == "random" else (set(counts) == {1})


@pytest.mark.parametrize("channels", [4, 8, 64])
def test_bounds_are_the_cheapest_and_the_dearest_cells(channels: int) -> None:
    """With few channels the 1x1 convolutions that read more stages cost more than finer maps, with many they do not."""
    run = run_of("parallel.candidates=0", f"detector.neck.channels={channels}")
    small, large = cost_bounds(run, lambda net: candidate_cost(net.arch, net.detector(run.detector), 3))
    assert {str(bound.net.arch) for bound in (small, large)} == {"b_1111-2111_0-0"}
    rng = np.random.default_rng(0)
    for _ in range(200):
        net = replace(small.net, neck=NasFcos(channels=channels, cells=cells_text(draw_fusions(7, rng))))
        assert small.cost.macs < candidate_cost(net.arch, net.detector(run.detector), 3).macs <= large.cost.macs


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["parallel.taps=[[1, 1]]"], "expected detector.neck.kind fpn with parallel.taps, got nas_fcos"),
        (
            ["fine_tune.batch=1", "detector.image_size=[32, 32]"],
            "expected a batch above 1, or images above 32 px, under a NAS-FCOS, got fine_tune.batch 1 at (32, 32)",
        ),
        (["detector.neck={kind: nas_fcos, stacks: 2}"], "stacks"),
    ],
)
def test_what_cannot_be_is_one_line(sets: list[str], said: str) -> None:
    _, mistakes = presets.read_preset("smoke", (*PLAIN, *sets))
    assert mistakes
    assert all(said in mistake for mistake in mistakes)


def test_edits_say_what_has_changed() -> None:
    start = NasFcos(cells=ALL)
    for cells, words in (
        ("c0s_1d-c2w_3k-p3s_4k-c0d_5w-p2k_2s-c1s_4w", ["cell 1: a concatenation for a sum"]),
        (
            "p0w_1d-c2w_3k-p3s_4k-p0d_5w-p2k_2s-c1s_4w",
            [
                "cell 1: reads C2 by separable 5x5 of dilation 6 instead of C2 by separable 3x3",
                "cell 4: a sum for a concatenation",
            ],
        ),
        ("p0s_1d-c2w_3k-p3s_4k-c0d_5w-p2s_5k-c1s_4w", ["cell 5: reads cell 2 instead of C4"]),
        (ALL, []),
    ):
        assert cell_edits(start, NasFcos(cells=cells)) == words
    assert cell_edits(start, NasFpn()) == []


@given(fusions(), fusions())
def test_a_drawing_has_a_node_for_every_input_and_cell(ours: tuple[Fusion, ...], theirs: tuple[Fusion, ...]) -> None:
    neck, parent = (NasFcos(cells=cells_text(cells)) for cells in (ours, theirs))
    drawing = draw_pyramid(neck, parent)
    assert sum(path.count("M") for path in drawing.bars.values()) == STAGE_INPUTS + len(ours)
    assert drawing.bars.get("new", "").count("M") == len(set(enumerate(ours)) - set(enumerate(theirs)))
    assert "new" not in draw_pyramid(neck).bars
    assert len(drawing.links) == 2 * len(ours)
    assert sum(path.count("a5 5") for path in drawing.bars.values()) == 2 * sum(cell.concatenates for cell in ours)


@pytest.mark.training
def test_a_search_of_cells_and_backbones(prefect_server: None, tiny_data: Path, tmp_path: Path) -> None:
    """Children inherit all cells but the changed ones; costs are those of the nets; a replay gives the same; the report draws and tells."""
    store = (tmp_path / "store").as_uri()
    sets = ("serial.search=[backbone, neck]", "serial.rounds=1", "serial.candidates=2", "parallel.candidates=0", "final.choose=best")
    chosen = presets.load_preset("smoke", (*PLAIN, *sets, "serial.mutation={num_mutate: 3}"))
    summary = spnas(chosen, str(tiny_data), store)
    assert summary["failed"] == 0
    plan = open_plan(chosen, str(tiny_data), store)
    final = read_stage(plan.store, plan.keys["full_train"])
    trials, changes = {one.digest: one for one in final.ledger}, 0
    for one in final.ledger[1:]:
        cost, parent = plan.cost_of(one.net), trials[one.parent or ""]
        assert ((one.metrics or {})["params"], (one.metrics or {})["macs"]) == (cost.params, cost.macs)
        audit = json.loads(plan.store.fetch("train", one.digest, "audit.json").read_text())
        new = {int(name.split(".")[2]) for name in audit["new"] if name.startswith("neck.fusions.")}
        assert isinstance(one.net.neck, NasFcos)
        assert isinstance(parent.net.neck, NasFcos)
        pairs = zip(one.net.neck.graph, parent.net.neck.graph, strict=True)
        assert new == {number for number, (ours, theirs) in enumerate(pairs) if ours != theirs}
        assert audit["copied_params"] + audit["new_params"] == cost.params
        changes += len(new)
    assert changes
    assert replay(plan, known_results(plan)).ledger == final.ledger
    page = (tmp_path / "store" / "runs" / "smoke" / "report.html").read_text()
    assert f"<title>{SEPARABLE_CELLS}</title>" in page
    assert "<b>cells</b>" in page
