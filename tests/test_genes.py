"""What a search may change of a whole net, and what makes it smaller: children stay in the space, are costed and inherited as they are."""

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_channels import TINY, made
from trials import trial_of

from spnas_core.arch import check_space, parse
from spnas_core.cost import Cost
from spnas_core.errors import UserError
from spnas_core.job import Data, digest
from spnas_core.report.ancestry import edits, gene_edits
from spnas_core.run.plan import Plan, short
from spnas_core.search.bounds import cost_bounds
from spnas_core.search.costs import candidate_cost
from spnas_core.search.mutation import mutate
from spnas_core.search.net import Net, gene_words, net_of, parse_net
from spnas_core.search.propose import Proposal, propose_serial
from spnas_core.settings.detector import Detector
from spnas_core.settings.run import Run
from spnas_core.store.artifacts import Store
from spnas_core.weights.gammas import inserted_uses
from spnas_core.weights.inherit import inherit, trainable_when_frozen
from spnas_core.weights.net_shapes import net_shapes

ALL = {"shrink": 0.2, "inner_width": 0.15, "base_width": 0.1, "image_size": 0.1, "neck_channels": 0.1}
SPACE: dict[str, Any] = {
    "inner_widths": [4, 6, 12], "base_widths": [4, 12], "image_sizes": [[48, 64], [96, 96]], "neck_channels": [4, 12], "min_blocks": 6,
}  # fmt: skip
OWN = Detector(**TINY)
SEEDS = st.integers(0, 2**32 - 1)


def run_of(**more: Any) -> Run:
    serial = {"rounds": 2, "candidates": 5, "mutation": {"num_mutate": 3, "add_stage": 0.05, **ALL}}
    return Run.model_validate({"arch": "b_11-211-21-21", "detector": OWN, "space": SPACE, "serial": serial, **more})


def cost_of(net: Net) -> Cost:
    return candidate_cost(net.arch, net.detector(OWN), 3)


def child_of(net: Net, seed: int, run: Run) -> Net:
    return mutate(net, np.random.Generator(np.random.PCG64(seed)), run.serial.mutation, run.space, run.detector)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_children_stay_in_the_space_have_a_text_and_cost_what_their_weights_say(seed: int) -> None:
    run = run_of()
    net = net_of(run.arch, OWN)
    for number in range(4):
        child = child_of(net, seed + number, run)
        assert child != net
        assert child == child_of(net, seed + number, run)
        assert check_space(child.arch, 6) is child.arch
        assert set(child.arch.inner) <= {4, 6, 8, 12}
        assert child.width in (None, 4, 12)
        assert child.size in (None, (48, 64), (96, 96))
        assert child.neck.channels in (4, 8, 12)
        assert child.arch.digits[0] == "1"
        assert parse_net(str(child)) == child
        assert net_of(child.arch, child.detector(OWN), OWN) == child
        shapes = net_shapes(child.arch, child.detector(OWN), 3)
        assert cost_of(child).params == sum(int(np.prod(shape)) for name, shape in shapes.items() if ".moving_" not in name)
        net = child


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sampled_from(["b", "r", "x(4x16d)"]))
def test_children_inherit_all_that_fits_and_account_for_the_rest(seed: int, kind: str) -> None:
    run = run_of(arch=f"{kind}_11-211-21-21")
    parent = child_of(net_of(run.arch, OWN), seed, run)
    child = child_of(parent, seed + 1, run)
    weights, fresh = (made(net.arch, net.detector(OWN), number) for number, net in enumerate((parent, child)))
    found, audit = inherit(parent.arch, child.arch, weights, fresh, leaves_out=True)
    assert {name: array.shape for name, array in found.items()} == net_shapes(child.arch, child.detector(OWN), 3)
    assert audit.copied_params + audit.new_params == cost_of(child).params
    assert audit.dropped_params >= sum(lost for what, lost in audit.narrowed.items() if what != "blocks")
    new = len(child.arch.digits) - len(parent.arch.digits)
    assert len({name.split(".")[2] for name in audit.new if ".blocks." in name and ".conv1." in name}) >= new
    assert set(audit.resized) <= set(audit.copied)
    trainable_when_frozen(parent.arch, child.arch, found, leaves_out=True)
    again, _ = inherit(parent.arch, child.arch, weights, fresh, leaves_out=True)
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_every_operator_has_its_probability() -> None:
    run = run_of(serial={"mutation": {"num_mutate": 1, "add_stage": 0.0, "swap": 0.0, **ALL}})
    start = net_of("b_111-2111-211-211_0-0-0-0_8-6-8-8", OWN)  # every operator has a neighbour to go to
    rng, counts, draws = np.random.Generator(np.random.PCG64(0)), Counter[str](), 4000
    for _ in range(draws):
        child = mutate(start, rng, run.serial.mutation, run.space, OWN)
        kinds = [edit.kind for edit in (*edits(start.arch, child.arch, True), *gene_edits(OWN, child.detector(OWN)))]
        counts.update(kinds)
        assert len(kinds) == 1
    names = {**{name: name.replace("_", " ") for name in ALL}, "expand": "expand"}
    for name, chance in {**ALL, "expand": 1 - sum(ALL.values())}.items():
        assert counts[names[name]] / draws == pytest.approx(chance, abs=4 * (0.25 / draws) ** 0.5), name


@pytest.mark.parametrize("text", ["b_11-211-21-21", "r_11-21-21-21"])
def test_no_child_is_cheaper_or_dearer_than_the_bounds_say(text: str) -> None:
    run = run_of(arch=text)
    low, high = cost_bounds(run, cost_of)
    rng = np.random.Generator(np.random.PCG64(3))
    for _ in range(150):
        net = net_of(run.arch, OWN)
        for _ in range(run.serial.rounds):
            net = mutate(net, rng, run.serial.mutation, run.space, OWN)
            assert low.cost.macs <= cost_of(net).macs <= high.cost.macs, str(net)


def test_a_search_proposes_new_nets_by_genes_too() -> None:
    run = run_of(
        serial={"candidates": 12, "mutation": {"num_mutate": 1, "add_stage": 0.0, "change_type": 0.0, "base_width": 0.5, "image_size": 0.5}}
    )
    start = trial_of(run.arch, "fine_tune", 0, 0, None, "s", {"AP": 0.1, "macs": 1, "params": 1}, detector=OWN)
    children = [one.net for one in propose_serial([start], run, 1, cost_of)]
    assert {(net.width, net.size) for net in children} == {(4, None), (12, None), (None, (48, 64)), (None, (96, 96))}
    assert len(children) == 4
    assert all(net.arch == start.net.arch for net in children)


def test_only_a_child_whose_blocks_would_be_matched_otherwise_has_a_digest_of_its_own() -> None:
    plain, shrinks = (Plan(run, Store("memory://genes"), Data(url="/d", fingerprint="f" * 64), 3) for run in (run_of(serial={}), run_of()))
    start = trial_of("b_11-21-21-21", "fine_tune", 0, 0, None, "s", {"AP": 0.1, "macs": 1, "params": 1}, detector=OWN)
    for text, same in (("b_111-21-21-21", True), ("b_1-21-21-21", True), ("b_1-21-121-121", False)):
        child = Proposal(net_of(text, OWN), start)
        jobs = [plan.short_training(plan.settings.serial.recipe, child, {})[0] for plan in (plain, shrinks)]
        assert (digest(jobs[0]) == digest(jobs[1])) is same


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"space": {**SPACE, "base_widths": []}}, r"expected space.base_widths with serial.mutation.base_width, got none"),
        ({"arch": "x(32x4d)_11-211-21-21", "detector": {**TINY, "base_width": 16}}, "1 channel per group"),
        ({"serial": {"mutation": {**ALL, "shrink": 0.9}}}, "add up to at most 1, got 1.4"),
    ],
)
def test_a_space_that_cannot_be_is_refused_before_the_search(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        run_of(**more)


@pytest.mark.training
def test_a_budget_below_the_cheapest_net_is_refused() -> None:
    with pytest.raises(UserError, match="expected limits that some net of the space meets"):
        cost_bounds(run_of(budget={"params_m": [None, 1e-6]}), cost_of)


def test_words_of_edits_and_genes() -> None:
    start = net_of("b_11-21-21-21", OWN)
    child = parse_net("b_1-21-121-121_0-0-0-0_8-8-6-8+fpn12+7x7+faster_rcnn+w4+48x64")
    found = [tuple(edit) for edit in (*edits(start.arch, child.arch, True), *gene_edits(OWN, child.detector(OWN)))]
    assert found == [
        ("expand", "1 new block in stage 3, 1 new block in stage 4"),
        ("shrink", "1 block of stage 1 taken out"),
        ("inner width", "stage 3: 8/8 to 6/8"),
        ("base width", "8 to 4 channels after the stem"),
        ("image size", "input 64x64 to 48x64 px"),
        ("neck channels", "pyramid of 8 to 12 channels"),
    ]
    assert gene_words(child, start) == "base width 4, input 48x64, pyramid of 12 channels"
    assert gene_words(start, start) == ""


def test_names_of_jobs_tell_inner_widths_apart() -> None:
    texts = [f"b_11-21-21-21_0-0-0-0_{a}-8-8-{b}" for a, b in product((4, 6), (4, 6))]
    assert len({short(text, 60) for text in texts}) == 4
    assert short(str(parse("b_11-21-21-21_0-0-0-0_8-8-8-8"))) == "b_11-21-21-21"


def test_the_use_of_blocks_is_told_of_those_that_were_put_in() -> None:
    parent, child = parse("b_11-21-21-21"), parse("b_1-21-121-121")
    gammas = [1.0, 1.0, 1.0, 0.01, 1.0, 1.0, 0.4, 1.0, 1.0]
    assert inserted_uses(parent, child, gammas, True) == ()  # both begin a stage, with a projection
    longer = parse("b_1-211-21-211")
    found = inserted_uses(parent, longer, [1.0, 1.0, 1.0, 0.01, 1.0, 1.0, 1.0, 1.0, 0.4], True)
    assert [(one.stage, one.position, one.is_unused) for one in found] == [(2, 3, True), (4, 3, False)]
