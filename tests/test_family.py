"""Families of nets around a start net, and their members as the inputs of a supernet: properties, without any net."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_core.arch import Arch, blocks, levels, parse
from spnas_core.errors import UserError
from spnas_core.search.costs import candidate_cost
from spnas_core.search.family import Family, Place
from spnas_core.search.paths import Bands, change_genes, cross, draw_member, gene_entropy, switches, widths
from spnas_core.settings.detector import Detector

STARTS = ("b_11-21-21-21", "r_111-2111-211111-211", "b_11-12-11-1-1", "b_1111-2111", "x(4x16d)_11-12-111-21")
DETECTOR = Detector(image_size=(64, 64), base_width=16)


def macs_of(arch: Arch) -> int:
    return candidate_cost(arch, DETECTOR, 2).macs


@st.composite
def families(draw: st.DrawFn) -> Family:
    inner = draw(st.sampled_from([(8,), (4, 8), (6, 8, 12)]))
    numbers = (draw(st.integers(0, 2)) for _ in range(3))
    return Family(parse(draw(st.sampled_from(STARTS))).serial(), *numbers, inner)


@given(families(), st.integers(0, 2**32))
def test_members_are_nets_of_the_space_that_lead_back_to_their_genes(family: Family, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = draw_member(family, rng), draw_member(family, rng, 0.9)
    for arch in (one, other, change_genes(family, one, rng, 0.1), cross(family, one, other, rng)):
        genes = family.genes(arch)
        assert genes
        assert family.member(genes) == arch == parse(str(arch))
        assert 8 <= len(arch.digits) <= 60
        assert arch.digits.count("2") == family.start.digits.count("2")
        assert {arch.eighths(stage) for stage in range(len(arch.stages))} <= set(family.inner)


@given(families(), st.integers(0, 2**32))
def test_a_path_has_each_block_once_at_a_place_with_its_stage_stride_and_channels(family: Family, seed: int) -> None:
    arch = draw_member(family, np.random.default_rng(seed))
    path, own, union = family.path(arch), blocks(arch, 16), blocks(family.union, 16)
    assert len({place.slot for place in path}) == len(path) == len(own)
    assert set(path) <= set(family.places)
    for place, block in zip(path, own, strict=True):
        slot = union[place.slot]
        assert (place.stage, place.first) == (block.stage, block.stride == 2)
        assert (slot.in_channels, slot.out_channels) == (block.in_channels, block.out_channels)
    gates, masks = switches(family, arch, 16)
    assert gates[: len(family.places)].sum() == len(path)
    assert gates[len(family.places) :].sum() == len(arch.stages)
    assert all(level.channels <= most.channels for level, most in zip(levels(arch, 16), levels(family.union, 16), strict=True))
    inner = {(place.stage, family.slots[place.slot].run): block.inner_channels for place, block in zip(path, own, strict=True)}
    first = 0
    for stage, run in widths(family):
        count = family.start.block_type.inner(16 << run, family.widths[-1])
        if (stage, run) in inner:
            assert masks[first : first + count].sum() == inner[stage, run]
        first += count
    assert first == len(masks)


@settings(max_examples=20)
@given(families())
def test_the_places_are_those_of_all_members(family: Family) -> None:
    """Found stage by stage; here all members of a small family are listed, with no limit of the number of blocks."""
    wide = Family(family.start, family.fewer, family.more, min(family.shift, 1), family.inner[:1] if family.inner == (8,) else (8,), 1, 99)
    if len(wide.start.stages) > 4:
        return
    used: set[Place] = set()
    for values in product(*wide.domains):
        if arch := wide.member(wide.split(values)):
            genes = wide.genes(arch)
            assert genes
            used |= set(wide.path(arch))
    assert used <= set(wide.places)
    if wide.start.digits.count("2") == len(wide.start.stages) - 1:  # else shifts and depths may stand for each other
        assert used == set(wide.places)


def test_the_demo_start_net_has_the_places_counted_by_hand() -> None:
    """b_11-21-21-21, one block fewer or more, `-` moved by one: of 3 slots, stage 1 may borrow the last two of stage 0 and the next `2`."""
    family = Family(parse("b_11-21-21-21").serial())
    assert str(family.union) == "b_1112-112-112-11_0-0-0-0"
    assert [(place.slot, place.first) for place in family.places if place.stage == 1] == [
        (1, True), (2, True), (3, True), (3, False), (4, True), (4, False), (5, False), (6, False),
    ]  # fmt: skip
    assert [(end.stage, end.run) for end in family.ends] == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3)]
    assert family.path(parse("b_1-12-121-211_0-0-0-0"))[1:3] == (Place(1, 1, True), Place(1, 3, False))


def test_a_family_without_its_start_net_is_refused() -> None:
    for family in (lambda: Family(parse("b_1111-2111").serial(), inner=(4,)), lambda: Family(parse("b_1111-2111_1-0"))):
        with pytest.raises(UserError, match="expected a family with the start net b_1111-2111"):
            family()
    with pytest.raises(UserError, match="expected a net of the family around"):
        Family(parse("b_1111-2111").serial()).path(parse("b_11111111-2111_0-0"))


@pytest.mark.training
def test_draws_are_even_over_bands_of_cost() -> None:
    bands, rng = Bands(Family(parse("b_11-21-21-21").serial(), more=2, inner=(4, 6, 8)), macs_of, 7), np.random.default_rng(0)
    counts = Counter(bands.band(bands.draw(rng)) for _ in range(700))
    assert sorted(counts) == list(range(7))
    assert min(counts.values()) > 50  # 100 expected; drawn without bands, the outer ones have none
    plain = Counter(bands.band(draw_member(bands.family, rng)) for _ in range(700))
    assert min(plain[band] for band in range(7)) < 5
    assert macs_of(bands.smallest) < macs_of(bands.family.start) < macs_of(bands.largest)


def test_the_entropy_of_genes_falls_to_zero_when_all_members_are_equal() -> None:
    family = Family(parse("b_11-21-21-21").serial(), inner=(4, 8))
    rng = np.random.default_rng(0)
    assert gene_entropy(family, [family.start] * 9) == 0
    assert gene_entropy(family, [draw_member(family, rng) for _ in range(200)]) > 6
    two = [parse("b_11-21-21-21_0-0-0-0"), parse("b_111-21-21-21_0-0-0-0")]
    assert gene_entropy(family, two) == pytest.approx(np.log(2))
