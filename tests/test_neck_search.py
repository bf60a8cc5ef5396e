"""The search of necks: its operators reach valid pyramids only, its proposers, and a small whole search, in which cells are inherited."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nas_fpn import pyramids

from flows import presets
from flows.spnas import spnas
from spnas_core.errors import UserError
from spnas_core.job import Weights
from spnas_core.necks.nas_fpn import FOUND_CELLS, INPUTS, LEVELS, Cell, NasFpn, cells_text, parse_cells
from spnas_core.report.ancestry import gene_edits
from spnas_core.report.pyramids import cell_edits, draw_pyramid
from spnas_core.run.opening import open_plan
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord, read_stage
from spnas_core.run.replay import known_results, replay
from spnas_core.search.bounds import cost_bounds
from spnas_core.search.costs import candidate_cost
from spnas_core.search.ledger import Trial
from spnas_core.search.neck_mutation import change_cell, draw_cells
from spnas_core.search.net import Net, gene_words, net_of
from spnas_core.search.propose import propose_serial
from spnas_core.settings.base import key_document
from spnas_core.settings.run import Run

SEEDS = st.integers(0, 2**32)
NECK = "detector.neck={kind: nas_fpn, channels: 8, stacks: 1}"
PLAIN = ("parallel.taps=[]", NECK, "serial.search=[neck]")


def run_of(*sets: str) -> Run:
    return presets.load_preset("smoke", (*PLAIN, *sets))


def cost_of(net: Net) -> Any:
    return candidate_cost(net.arch, net.detector(run_of().detector), 3)


def trial(cells: str, ap: float, number: int, macs: int = 1) -> Trial:
    """Finished trial with these cells, as child number `number` of round 1; number 0 is the start net."""
    run = run_of()
    net = replace(net_of(run.arch, run.detector), neck=NasFpn(channels=8, stacks=1, cells=cells))
    digest = f"{number:064x}"
    stage: Any = "serial" if number else "fine_tune"
    weights = Weights(kind="train", digest=digest, arch=str(net.arch))
    metrics = {"AP": ap, "macs": macs, "params": 1}
    return Trial(net, stage, 1 if number else 0, max(0, number - 1), None, digest, metrics, weights=weights, score=ap)


@given(pyramids(), SEEDS)
def test_a_change_is_one_cell_of_a_valid_pyramid(cells: tuple[Cell, ...], seed: int) -> None:
    found = change_cell(cells, np.random.default_rng(seed))
    assert parse_cells(cells_text(found)) == found
    changed = [(a, b) for a, b in zip(cells, found, strict=True) if a != b]
    assert len(changed) in (1, 2)
    if len(changed) == 2:  # two outputs have exchanged their levels
        (a, b), (c, d) = changed
        assert (a.level, c.level) == (d.level, b.level)
        assert [one._replace(level=0) for one in (a, c)] == [one._replace(level=0) for one in (b, d)]
        return
    ((a, b),) = changed
    assert (a.level != b.level) + (a.attention != b.attention) + ({a.first, a.second} != {b.first, b.second}) == 1
    assert len({a.first, a.second} & {b.first, b.second}) >= 1
    assert found == change_cell(cells, np.random.default_rng(seed))


@given(st.integers(5, 12), SEEDS)
def test_drawn_pyramids_are_valid(count: int, seed: int) -> None:
    found = draw_cells(count, np.random.default_rng(seed))
    assert parse_cells(cells_text(found)) == found
    assert all(cell.level in (4, 5, 6, 7) for cell in found[:-INPUTS])


def test_changes_and_draws_are_spread_evenly() -> None:
    """One of seven cells, one of three kinds; and every input, level and order of outputs is drawn."""
    rng, start, kinds, draws = np.random.default_rng(0), parse_cells(FOUND_CELLS), Counter[str](), 6000
    for _ in range(draws):
        pairs = [(n, a, b) for n, (a, b) in enumerate(zip(start, change_cell(start, rng), strict=True)) if a != b]
        n, a, b = pairs[0]
        kinds["level" if a.level != b.level else "operation" if a.attention != b.attention else "input"] += 1
        kinds[f"cell {n}"] += len(pairs) == 1
    assert all(abs(kinds[kind] - draws / 3) < 150 for kind in ("level", "operation", "input"))
    assert all(abs(kinds[f"cell {n}"] - draws / 7) < 120 for n in (0, 1))
    drawn = [draw_cells(7, rng) for _ in range(1500)]
    assert len({tuple(cell.level for cell in cells[-5:]) for cells in drawn}) == 120
    assert {(cells[0].first, cells[0].second) for cells in drawn} == {(a, b) for b in range(5) for a in range(b)}
    assert Counter(cells[0].level for cells in drawn).keys() == set(LEVELS[1:])


@settings(deadline=None)
@given(SEEDS)
def test_a_child_has_the_backbone_of_its_parent_and_one_changed_cell(seed: int) -> None:
    run = run_of("serial.mutation={num_mutate: 1}", "serial.candidates=5", f"seed={seed}")
    parent = trial(FOUND_CELLS, 0.5, 0)
    children = propose_serial([parent], run, 1, cost_of)
    assert len(children) == 5
    assert len({child.net.identity for child in children} | {parent.net.identity}) == 6
    for child in children:
        assert replace(child.net, neck=parent.net.neck) == parent.net
        edits = gene_edits(parent.net.detector(run.detector), child.net.detector(run.detector))
        assert [edit.kind for edit in edits] == ["cells"]
        assert isinstance(child.net.neck, NasFpn)
        assert f"cells {child.net.neck.cells}" == gene_words(child.net, parent.net)


def test_both_parts_change_together_or_in_turn() -> None:
    start = trial(FOUND_CELLS, 0.5, 0)
    together = propose_serial([start], run_of("serial.search=[backbone, neck]", "serial.candidates=30"), 1, cost_of)
    changed = Counter((child.net.arch != start.net.arch, child.net.neck != start.net.neck) for child in together)
    assert changed[True, True] > 10
    in_turn = run_of("serial.search=[neck, backbone]", "serial.in_turn=true", "serial.candidates=10", "serial.rounds=2")
    for number, backbone in ((1, False), (2, True)):
        for child in propose_serial([start], in_turn, number, cost_of):
            assert (child.net.arch != start.net.arch, child.net.neck != start.net.neck) == (backbone, not backbone)


def parents(sets: Sequence[str], ledger: Sequence[Trial]) -> Counter[int]:
    """How often each trial is the parent of a child of round 2."""
    run = run_of("serial.candidates=200", "serial.rounds=2", "serial.mutation={num_mutate: 3}", *sets)
    children = propose_serial(ledger, run, 2, cost_of)
    assert len(children) == 200
    return Counter(int(child.parent.digest, 16) for child in children)


def test_proposers_differ_in_their_parents() -> None:
    """Pareto: the two best. Ageing: the last four, the best of them most. Random: all of them evenly, and cells that are drawn anew."""
    rng = np.random.default_rng(0)
    ledger = [trial(FOUND_CELLS, 0.9, 0, macs=2)]
    ledger += [trial(cells_text(draw_cells(7, rng)), ap, number, macs=9) for number, ap in enumerate((0.1, 0.2, 0.3, 0.5, 0.4), start=1)]
    assert parents(["serial.max_optimal=2"], ledger).keys() == {0, 4}
    ageing = parents(["serial.proposer=ageing", "serial.ageing={population: 4, tournament: 3}"], ledger)
    assert ageing.keys() == {4, 5}  # tournaments of three among the last four
    assert ageing[4] == pytest.approx(150, abs=25)
    assert ageing[5] == pytest.approx(50, abs=25)
    drawn = parents(["serial.proposer=random"], ledger)
    assert drawn.keys() == {0, 1, 2, 3, 4, 5}
    assert max(drawn.values()) < 55
    run = run_of("serial.proposer=random", "serial.candidates=50", "serial.mutation={num_mutate: 1}")
    children = [child.net.neck for child in propose_serial(ledger[:1], run, 1, cost_of)]
    assert np.mean([len(cell_edits(NasFpn(channels=8, stacks=1), neck)) for neck in children if isinstance(neck, NasFpn)]) > 5


def test_bounds_have_the_start_nets_backbone_and_the_cheapest_and_dearest_cells() -> None:
    run = run_of("parallel.candidates=0")
    small, large = cost_bounds(run, cost_of)
    assert (str(small.net.neck), str(large.net.neck)) != (str(large.net.neck), str(small.net.neck))
    assert {str(bound.net.arch) for bound in (small, large)} == {"b_1111-2111_0-0"}
    rng = np.random.default_rng(0)
    for _ in range(200):
        neck = NasFpn(channels=8, stacks=1, cells=cells_text(draw_cells(7, rng)))
        assert small.cost.macs <= cost_of(replace(small.net, neck=neck)).macs <= large.cost.macs
    with pytest.raises(UserError, match="budget: expected limits that some net of the space meets"):
        cost_bounds(run_of("budget={gmacs: [null, 0.0001]}"), cost_of)
    six = cost_bounds(run_of("serial.search=[backbone, neck]", "serial.rounds=9"), cost_of)
    assert max(len(bound.net.arch.stages) for bound in six) <= 6


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["detector.neck={kind: fpn, channels: 8}"], "expected detector.neck.kind nas_fpn or nas_fcos with neck in serial.search, got fpn"),
        (["serial.search=[neck, neck]"], "expected each part once in search, got ['neck', 'neck']"),
        (["serial.search=[]"], "serial.search"),
        (["serial.search=[head]"], "serial.search"),
        (["parallel.taps=[[1, 1]]"], "expected detector.neck.kind fpn with parallel.taps, got nas_fpn"),
        (["fine_tune.batch=1"], "expected a batch above 1, or images above 128 px, under a NAS-FPN, got fine_tune.batch 1 at (64, 64)"),
        (["serial.evaluator=supernet"], "expected serial.search [backbone] with serial.evaluator: supernet, got ['neck']"),
    ],
)
def test_what_cannot_be_searched_is_one_line(sets: list[str], said: str) -> None:
    _, mistakes = presets.read_preset("smoke", (*PLAIN, *sets))
    assert mistakes
    assert all(said in mistake for mistake in mistakes)


def test_settings_of_before_have_the_keys_of_before() -> None:
    document = key_document(presets.load_preset("smoke").serial)
    assert not document.keys() & {"search", "in_turn", "proposer", "ageing"}


def test_edits_say_what_has_changed() -> None:
    start = NasFpn()
    assert cell_edits(start, NasFpn(cells="5a1_3-4s1_5-3s0_6-4s6_7-5a7_8-7a6_9-6a9_10")) == ["cell 1: level 4 to 5"]
    assert cell_edits(start, NasFpn(cells="4s1_3-4s1_5-3s0_6-4s6_7-5a7_8-7a6_9-6a9_10")) == ["cell 1: a sum for attention"]
    assert cell_edits(start, NasFpn(cells="4a1_3-4a1_5-3s0_6-4s2_7-5a7_8-7a6_9-6a9_10")) == [
        "cell 2: attention for a sum",
        "cell 4: reads P5 instead of cell 2",
    ]
    assert cell_edits(start, start) == []


@given(pyramids(), pyramids())
def test_a_drawing_has_a_node_for_every_input_and_cell(ours: tuple[Cell, ...], theirs: tuple[Cell, ...]) -> None:
    neck, parent = (NasFpn(cells=cells_text(cells)) for cells in (ours, theirs))
    drawing = draw_pyramid(neck, parent)
    assert sum(path.count("M") for path in drawing.bars.values()) == INPUTS + len(ours)
    assert drawing.bars.get("new", "").count("M") == len(set(enumerate(ours)) - set(enumerate(theirs)))
    assert "new" not in draw_pyramid(neck).bars
    assert len(drawing.links) >= 2 * len(ours)
    assert sum(path.count("a5 5") for path in drawing.bars.values()) == 2 * sum(cell.attention for cell in ours)


SETTINGS = (
    *PLAIN,
    "serial.search=[neck, backbone]",
    "serial.in_turn=true",
    "serial.rounds=2",
    "serial.candidates=2",
    "parallel.candidates=0",
)


@pytest.fixture(scope="module")
def searched(prefect_server: None, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, StageRecord, dict[str, Any]]:
    store = (tmp_path_factory.mktemp("necks") / "store").as_uri()
    chosen = presets.load_preset("smoke", (*SETTINGS, "serial.mutation={num_mutate: 1}", "final.choose=best"))
    summary = spnas(chosen, str(tiny_data), store)
    plan = open_plan(chosen, str(tiny_data), store)
    return plan, read_stage(plan.store, plan.keys["full_train"]), summary


@pytest.mark.training
def test_a_search_of_necks_and_backbones(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    """Round 1 changes one cell of each child, round 2 the backbones; all else is inherited, and costs are those of the nets."""
    plan, final, summary = searched
    assert summary["failed"] == 0
    assert [(one.stage, one.round) for one in final.ledger] == [("fine_tune", 0), *[("serial", n) for n in (1, 1, 2, 2)]]
    trials = {one.digest: one for one in final.ledger}
    for one in final.ledger[1:]:
        cost, parent = plan.cost_of(one.net), trials[one.parent or ""]
        assert ((one.metrics or {})["params"], (one.metrics or {})["macs"]) == (cost.params, cost.macs)
        audit = json.loads(plan.store.fetch("train", one.digest, "audit.json").read_text())
        new = {name.split(".")[3] for name in audit["new"] if name.startswith("neck.stacks.")}
        assert isinstance(one.net.neck, NasFpn)
        assert isinstance(parent.net.neck, NasFpn)
        changed = {str(n) for n, pair in enumerate(zip(one.net.neck.graph, parent.net.neck.graph, strict=True)) if pair[0] != pair[1]}
        assert new == changed
        assert bool(changed) == (one.round == 1)
        assert audit["copied_params"] + audit["new_params"] == cost.params
    assert not final.reignited


@pytest.mark.training
def test_its_replay_is_the_search_and_it_computes_nothing_again(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, summary = searched
    assert replay(plan, known_results(plan)).ledger == final.ledger
    folder = Path(plan.store.local or "")
    trained = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/manifest.json")}
    for key in (plan.keys["serial"], plan.keys["full_train"], plan.after(1).keys["serial"]):
        (folder / "stage" / key / "manifest.json").unlink(missing_ok=True)
    again = spnas(plan.settings, plan.data.url, plan.store.url)
    assert {name: value for name, value in again.items() if name != "timing"} == {n: value for n, value in summary.items() if n != "timing"}
    assert all(path.stat().st_mtime_ns == time for path, time in trained.items() if path.parent.parent.name != "stage")


@pytest.mark.training
def test_its_report_draws_the_pyramids_and_tells_the_edits(searched: tuple[Plan, StageRecord, dict[str, Any]]) -> None:
    plan, final, _ = searched
    page = (Path(plan.store.local or "") / "runs" / "smoke" / "report.html").read_text()
    assert page.count("<b>cells</b>") == 2
    assert page.count(f"<title>1 times {FOUND_CELLS}</title>") >= 1
    for one in final.ledger[1:3]:
        assert isinstance(one.net.neck, NasFpn)
        assert f"cells {one.net.neck.cells}" in page
