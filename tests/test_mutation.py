from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_arch import archs

from spnas_core.arch import ArchError, check_space, parse
from spnas_core.config import Mutation, Space
from spnas_core.mutation import add_stage, expand, mutate, operation, swap

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
    # DESIGN 9: it was unreachable in the old program
    assert str(add_stage(RESNET_50)) == "r_111-2111-211111-211-1_0-0-0-0-0"


def test_probabilities_are_what_they_say():
    rng, draws = generator(1), 20_000
    kinds: Counter[str] = Counter()
    for _ in range(draws):
        child = operation(RESNET_50, rng, Mutation(add_stage=0.05, swap=0.3), Space())
        grown = len(child.digits) - len(RESNET_50.digits)
        kinds["add" if grown == 1 else "expand" if grown == 2 else "swap"] += 1
    for kind, probability in (("add", 0.05), ("swap", 0.95 * 0.3), ("expand", 0.95 * 0.7)):
        assert kinds[kind] / draws == pytest.approx(probability, abs=4 * (0.25 / draws) ** 0.5)


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
        child = mutate(arch, rng, Mutation(), Space())
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
    child = mutate(arch, generator(seed), Mutation(), space)
    assert child == mutate(arch, generator(seed), Mutation(), space)
    assert child != arch.serial()
    assert not any(child.parallel)
    assert check_space(child) == child


def test_a_parent_without_a_child_is_an_error():
    with pytest.raises(ArchError, match="expected a child in the space"):
        mutate(parse("1" * 60), generator(0), Mutation(), Space())
    with pytest.raises(ArchError, match="expected 8 to 60 blocks"):
        mutate(parse("1111"), generator(0), Mutation(), Space())
