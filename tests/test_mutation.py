from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_arch import archs
from trials import mutate_arch

from spnas_core.arch import ArchError, check_space, parse
from spnas_core.search.mutation import add_stage, change_type, expand, move_double, operation, swap
from spnas_core.settings.run import Run
from spnas_core.settings.search import Mutation, Space
from spnas_core.weights.lineage import lineage

RESNET_50 = parse("111-2111-211111-211")
SEEDS = st.integers(0, 2**32 - 1)


def generator(seed):
    return np.random.Generator(np.random.PCG64(seed))


def ends(arch):
    return np.cumsum([len(stage) for stage in arch.stages])[:-1]


@given(archs(), SEEDS, st.integers(1, 4))
def test_swap_moves_ends_and_never_digits(arch, seed, max_step):
    child = swap(arch, generator(seed), max_step)
    assert child.digits == arch.digits
    assert len(child.stages) == len(arch.stages)
    assert all(child.stages)
    lengths = [len(stage) for stage in arch.stages]
    reach = [min(max_step, max(pair)) for pair in pairwise(lengths)]
    assert all(-m <= step < m for m, step in zip(reach, ends(child) - ends(arch), strict=True))
    assert child == swap(arch, generator(seed), max_step)


@given(archs(max_blocks=50), SEEDS)
def test_expand_inserts_two_ones(arch, seed):
    child = expand(arch, generator(seed))
    assert len(child.digits) == len(arch.digits) + 2
    assert child.digits.count("2") == arch.digits.count("2")
    assert len(child.stages) == len(arch.stages)
    rest = iter(child.serial_text)
    assert all(character in rest for character in arch.serial_text)  # a subsequence
    assert child.serial_text[0] == arch.serial_text[0]


def test_expand_reaches_every_place():
    rng = generator(0)
    children = {expand(parse("b_12-12-11-11"), rng).serial_text for _ in range(3000)}
    assert {"1112-12-11-11", "12-1112-11-11", "1211-12-11-11", "12-12-11-1111", "12-112-11-111"} <= children


def test_add_stage_appends():
    # it was unreachable in the old public program
    assert str(add_stage(RESNET_50)) == "r_111-2111-211111-211-1_0-0-0-0-0"


ALL = {"add_stage": 0.05, "change_type": 0.1, "move_double": 0.15, "swap": 0.3}
TYPES = ("b", "r", "x(32x4d)")


def kind_of(parent, child):
    """Which operator made `child` of `parent`."""
    if child.block_type != parent.block_type:
        return "change_type"
    grown = len(child.digits) - len(parent.digits)
    if grown:
        return "expand" if grown == 2 else "add_stage"
    return "swap" if child.digits == parent.digits else "move_double"


@pytest.mark.parametrize(
    ("chances", "space", "expected"),
    [
        ({"add_stage": 0.05, "swap": 0.3}, {}, {"add_stage": 0.05, "swap": 0.95 * 0.3, "expand": 0.95 * 0.7}),
        (
            ALL,
            {"block_types": TYPES},
            {"add_stage": 0.05, "change_type": 0.1, "move_double": 0.15, "swap": 0.7 * 0.3, "expand": 0.7 * 0.7},
        ),
        (ALL, {"block_types": ("r",)}, {"add_stage": 0.05, "move_double": 0.15, "swap": 0.8 * 0.3, "expand": 0.8 * 0.7}),
        (ALL, {"max_stages": 4, "block_types": TYPES}, {"change_type": 0.1, "move_double": 0.15, "swap": 0.75 * 0.3, "expand": 0.75 * 0.7}),
        (ALL, {"max_blocks": 17}, {"add_stage": 0.05, "move_double": 0.15, "swap": 0.8}),
        ({"add_stage": 1.0, "change_type": 0.0}, {}, {"add_stage": 1.0}),
        ({}, {}, {"add_stage": 0.05, "swap": 0.95 * 0.5, "expand": 0.95 * 0.5}),
    ],
)
def test_probabilities_are_what_they_say(chances, space, expected):
    """In the old public program 0.3 meant 0.7; here an operator that is not possible leaves its share to swap and expand."""
    rng, draws = generator(1), 20_000
    settings, limits = Mutation(**chances), Space(**space)
    kinds = Counter(kind_of(RESNET_50, operation(RESNET_50, rng, settings, limits)) for _ in range(draws))
    assert set(kinds) == set(expected)
    for kind, probability in expected.items():
        assert kinds[kind] / draws == pytest.approx(probability, abs=4 * (0.25 / draws) ** 0.5)


def test_all_operators_are_reached_by_mutate():
    """Whole children, not single operations: over many draws each operator shows in one that only it can have made."""
    rng, settings, space = generator(4), Mutation(num_mutate=1, add_stage=0.2, change_type=0.2, move_double=0.2), Space(block_types=TYPES)
    kinds = Counter(kind_of(RESNET_50, mutate_arch(RESNET_50, rng, settings, space)) for _ in range(500))
    assert set(kinds) == {"add_stage", "change_type", "move_double", "swap", "expand"}
    assert min(kinds.values()) > 40


def test_other_types_are_equally_likely():
    rng, draws = generator(5), 4000
    counts = Counter(change_type(RESNET_50, rng, TYPES).block_type.text for _ in range(draws))
    assert set(counts) == {"b", "x(32x4d)"}
    assert counts["b"] / draws == pytest.approx(0.5, abs=4 * (0.25 / draws) ** 0.5)


@given(archs(), SEEDS)
def test_moving_a_double_keeps_all_but_one_pair(arch, seed):
    child = move_double(arch, generator(seed))
    assert (child.block_type, [len(stage) for stage in child.stages]) == (arch.block_type, [len(stage) for stage in arch.stages])
    changed = [place for place, (a, b) in enumerate(zip(arch.digits, child.digits, strict=True)) if a != b]
    assert changed == ([] if "2" not in arch.digits else [changed[0], changed[0] + 1])
    assert sorted(child.digits) == sorted(arch.digits)


def test_moving_a_double_is_uniform():
    rng, draws = generator(6), 6000
    counts = Counter(move_double(parse("b_1211-1121"), rng).serial_text for _ in range(draws))
    assert set(counts) == {"2111-1121", "1121-1121", "1211-1211", "1211-1112"}
    assert all(count / draws == pytest.approx(0.25, abs=4 * (0.25 / draws) ** 0.5) for count in counts.values())


def test_by_default_neither_type_nor_digits_change():
    """As the authors' operators: only `-` moves and `1` appears."""
    rng = generator(7)
    for _ in range(2000):
        child = mutate_arch(RESNET_50, rng, Mutation(), Space())
        assert child.block_type == RESNET_50.block_type
        assert child.digits.count("2") == 3
        assert lineage(RESNET_50, child).count(None) == len(child.digits) - 16


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"space": {"block_types": ["b", "q"]}}, "expected b, r or x"),
        ({"arch": "r_11-21-21-21", "space": {"block_types": ["b"]}}, "expected the start net's block type 'r'"),
        ({"arch": "b_11-21-21-21", "detector": {"base_width": 8}, "space": {"block_types": ["b", "x(32x4d)"]}}, "1 channel per group"),
        ({"serial": {"mutation": {"add_stage": 0.5, "change_type": 0.4, "move_double": 0.2}}}, "add up to at most 1, got 1.1"),
    ],
)
def test_settings_of_a_space_that_cannot_be(keys, message):
    with pytest.raises(ValidationError, match=message):
        Run.model_validate(keys)


def test_swap_steps_are_uniform():
    rng, draws = generator(2), 6000
    steps = Counter(int(step) for _ in range(draws) for step in ends(swap(parse("1111111-2111111-2111111"), rng)) - (7, 14))
    assert set(steps) == set(range(-3, 3))
    assert all(count / (2 * draws) == pytest.approx(1 / 6, abs=0.02) for count in steps.values())


def test_300_random_mutations_stay_in_the_space():
    rng, arch, texts = generator(3), RESNET_50, set()
    for step in range(300):
        if step % 25 == 0:
            arch = RESNET_50
        child = mutate_arch(arch, rng, Mutation(), Space())
        assert child != arch
        assert check_space(parse(str(child))) == child
        texts.add(str(child))
        arch = child
    assert len(texts) > 250
    assert {len(parse(text).stages) for text in texts} >= {4, 5, 6}


@given(archs(), SEEDS)
def test_children_are_serial_nets_in_the_space(arch, seed):
    space = Space()
    if len(arch.digits) == space.max_blocks and len(arch.stages) == 1:
        return
    child = mutate_arch(arch, generator(seed), Mutation(), space)
    assert child == mutate_arch(arch, generator(seed), Mutation(), space)
    assert child != arch.serial()
    assert not any(child.parallel)
    assert check_space(child) == child


def test_a_parent_without_a_child_is_an_error():
    with pytest.raises(ArchError, match="expected a child in the space"):
        mutate_arch(parse("1" * 60), generator(0), Mutation(), Space())
    with pytest.raises(ArchError, match="expected 8 to 60 blocks"):
        mutate_arch(parse("1111"), generator(0), Mutation(), Space())
