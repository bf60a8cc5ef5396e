from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_core.arch import ArchError, Level, blocks, check_space, copy_runs, levels, parse

OLD_SERVICE = (
    "1-11111111-2111121111-211111",
    "1-1112-1111111111121-11111112111",
    "11-111112-112-11111211",
    "1-1-1-2112112",
    "11-211-121-11111121",
)
TYPES = st.sampled_from(["b", "r", "x(32x4d)", "x(8x16d)"])


@st.composite
def archs(draw, max_blocks=60, parallel=True, widths=False, doubles=5, min_stages=1, types=TYPES):
    blocks = draw(st.integers(8, max_blocks))
    twos = draw(st.sets(st.integers(1, blocks - 1), max_size=doubles))
    digits = "".join("2" if place in twos else "1" for place in range(blocks))
    ends = sorted(draw(st.sets(st.integers(1, blocks - 1), min_size=min_stages - 1, max_size=6)))
    stages = [digits[a:b] for a, b in zip([0, *ends], [*ends, None], strict=True)]
    copies = [str(draw(st.integers(0, 3))) if parallel else "0" for _ in stages]
    inner = "_" + "-".join(str(draw(st.integers(1, 16))) for _ in stages) if widths else ""
    return parse(f"{draw(types)}_{'-'.join(stages)}_{'-'.join(copies)}{inner}")


@given(st.booleans().flatmap(lambda widths: archs(widths=widths)))
def test_the_text_is_canonical(arch):
    assert parse(str(arch)) == arch
    assert str(parse(str(arch))) == str(arch)
    assert check_space(arch) is arch
    assert arch.with_parallel(arch.parallel) == arch
    assert arch.serial().parallel == (0,) * len(arch.stages)
    assert hash(parse(str(arch))) == hash(arch)


@given(archs())
def test_resolution_changes_at_stage_ends_and_width_at_twos_only(arch):
    found = blocks(arch)
    assert [block.index for block in found] == list(range(len(arch.digits)))
    assert sum(block.stride == 2 for block in found) == len(arch.stages) - 1
    expansion = arch.block_type.expansion
    for before, block in pairwise(found):
        assert block.in_channels == before.out_channels
        assert block.out_channels == before.out_channels * int(arch.digits[block.index])
        assert block.projection == (arch.digits[block.index] == "2" or block.stage != before.stage)
    assert found[0].in_channels == 64
    assert found[-1].out_channels == 64 * expansion * 2 ** arch.digits.count("2")
    assert [level.stride for level in levels(arch)] == [2 ** (stage + 2) for stage in range(len(arch.stages))]


@given(archs(widths=True))
def test_inner_widths_change_nothing_outside_of_the_blocks(arch):
    whole = replace(arch, inner=())
    assert levels(arch) == levels(whole)
    for ours, theirs in zip(blocks(arch), blocks(whole), strict=True):
        groups = arch.block_type.groups
        assert ours.inner_channels == max(1, theirs.inner_channels // groups * arch.eighths(ours.stage) // 8) * groups
        assert replace(ours, inner_channels=theirs.inner_channels) == theirs


def test_whole_inner_widths_are_not_written():
    assert str(parse("b_11-21-21-21_0-0-0-0_8-8-8-8")) == "b_11-21-21-21_0-0-0-0"
    assert [block.inner_channels for block in blocks(parse("b_11-21-21-21_0-0-0-0_8-6-12-4"), 16)] == [16, 16, 24, 24, 96, 96, 64, 64]
    assert blocks(parse("x(32x4d)_11-21-21-21_0-0-0-0_1-8-8-8"), 16)[0].inner_channels == 32  # one channel per group is left


@pytest.mark.parametrize("text", OLD_SERVICE)
def test_texts_of_an_old_public_service(text):
    arch = check_space(parse(text))
    assert str(arch) == f"r_{text}_{'-'.join('0' * (text.count('-') + 1))}"


def test_levels_of_resnet_50():
    assert levels(parse("111-2111-211111-211")) == (Level(256, 4), Level(512, 8), Level(1024, 16), Level(2048, 32))


def test_a_two_inside_a_stage_widens_without_a_stride():
    # in the old public program it crashed the net
    third = blocks(parse("b_112-11111"))[2]
    assert (third.stride, third.in_channels, third.out_channels, third.projection) == (1, 64, 128, True)


def test_groups_of_resnext_are_as_wide_as_published():
    assert [block.inner_channels for block in blocks(parse("x(32x4d)_111-2111-211111-211"))][::5] == [128, 256, 512, 1024]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("12--1", "stage 2 is empty"),
        ("-11111111", "stage 1 is empty"),
        ("31-2", "got '3' in stage 1"),
        ("r_1111-1111_0", "expected 2 numbers of copies"),
        ("r_1111-1111_0-00", "expected 2 numbers of copies"),
        ("r_1111-1111_0--1", "expected 2 numbers of copies"),
        ("q_1111-1111", "expected block type b, r or x(32x4d)"),
        ("x(0x4d)_1111-1111", "expected block type"),
        ("r_1_1_1_1", "got 5 parts"),
        ("r_1111-1111_0-0_8", "expected 2 inner widths, each of 1 to 16 eighths, got '8'"),
        ("r_1111-1111_0-0_8-17", "expected 2 inner widths"),
        ("r_1111-1111_0-0_0-8", "expected 2 inner widths"),
        ("", "stage 1 is empty"),
        ("11111111\n", "got '\\n' in stage 1"),
        ("1111111１", "got '１' in stage 1"),
    ],
)
def test_a_bad_text_is_one_clear_line(text, says):
    with pytest.raises(ArchError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1112", "expected 8 to 60 blocks, got 4"),
        ("1" * 61, "expected 8 to 60 blocks, got 61"),
        ("-".join(["11"] * 8), "expected at most 7 stages, got 8"),
    ],
)
def test_outside_the_space(text, says):
    with pytest.raises(ArchError, match=says):
        check_space(parse(text))


def test_a_width_too_small_for_the_groups_is_refused():
    with pytest.raises(ArchError, match="at least 1 channel per group"):
        blocks(parse("x(32x4d)_1111-1111"), base_width=8)


def test_runs_of_copies_by_hand():
    """Copy 2 of the second stage takes what the last copy of the first left; with none before it, the fourth takes its own input."""
    runs = copy_runs(parse("b_11-21-21-21-1_1-3-0-2-1"))
    assert runs == (
        ((0, -1, True),),
        ((2, 0, False), (1, 0, False), (0, 0, False)),
        (),
        ((1, -1, False), (0, -1, True)),
        ((0, 0, False),),
    )
