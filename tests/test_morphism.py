import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_arch import archs
from test_mutation import SEEDS, generator
from trials import mutate_arch

from spnas_core.arch import ArchError, blocks, levels, parse
from spnas_core.errors import UserError
from spnas_core.search.costs import candidate_cost
from spnas_core.search.mutation import change_type, expand, move_double, swap
from spnas_core.settings.detector import Detector
from spnas_core.settings.search import Mutation, Space
from spnas_core.weights.adopt import adopt, load_same
from spnas_core.weights.inherit import inherit, trainable_when_frozen
from spnas_core.weights.lineage import lineage

WIDTH, FPN, HEAD = 4, 4, 5
ANY_TYPE = Space(block_types=("b", "r", "x(2x32d)"))
STATISTICS = ("moving_mean", "moving_variance")


def shapes(arch, classes=2, share=True, width=WIDTH, cascade=False):
    """Names and shapes of the built net, as the parts of the program agree on them."""
    found = {}

    def norm(name, channels):
        found.update({f"{name}.{part}": (channels,) for part in ("gamma", "beta", *STATISTICS)})

    def block(name, b):
        middle = (b.inner_channels, b.inner_channels // arch.block_type.groups, 3, 3)
        if arch.block_type.expansion == 1:
            convs = [(b.inner_channels, b.in_channels, 3, 3), (b.out_channels, b.inner_channels, 3, 3)]
        else:
            convs = [(b.inner_channels, b.in_channels, 1, 1), middle, (b.out_channels, b.inner_channels, 1, 1)]
        for number, shape in enumerate(convs, start=1):
            found[f"{name}.conv{number}.weight"] = shape
            norm(f"{name}.bn{number}", shape[0])
        if b.projection:
            found[f"{name}.shortcut.conv.weight"] = (b.out_channels, b.in_channels, 1, 1)
            norm(f"{name}.shortcut.bn", b.out_channels)

    def layer(name, *shape):
        found.update({f"{name}.weight": shape, f"{name}.bias": (shape[0],)})

    found["backbone.stem.conv.weight"] = (width, 3, 7, 7)
    norm("backbone.stem.bn", width)
    plan = blocks(arch, width)
    for b in plan:
        block(f"backbone.blocks.{b.index}", b)
    for stage, copies in enumerate(arch.parallel):
        members = [b for b in plan if b.stage == stage]
        for number in range(copies):
            if not share:
                for position, b in enumerate(members):
                    block(f"backbone.copies.{stage}.{number}.{position}", b)
            if not (share and number):
                found[f"backbone.connect.{stage}.{number}.conv.weight"] = (members[0].in_channels, members[-1].out_channels, 1, 1)
                norm(f"backbone.connect.{stage}.{number}.bn", members[0].in_channels)
    for stage, level in enumerate(levels(arch, width)):
        layer(f"neck.inner.{stage}", FPN, level.channels, 1, 1)
        layer(f"neck.layer.{stage}", FPN, FPN, 3, 3)
    layer("rpn.conv", FPN, FPN, 3, 3)
    layer("rpn.score", 3, FPN, 1, 1)
    layer("rpn.delta", 12, FPN, 1, 1)
    for head in [f"head.stages.{stage}" for stage in range(3)] if cascade else ["head"]:
        layer(f"{head}.fc1", HEAD, FPN * 49)
        layer(f"{head}.fc2", HEAD, HEAD)
        layer(f"{head}.score", classes + 1, HEAD)
        layer(f"{head}.delta", 4 if cascade else 4 * (classes + 1), HEAD)
    return found


def weights_of(arch, seed=0, **keys):
    rng = generator(seed)
    found = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes(arch, **keys).items()}
    return found | {name: np.ones_like(value) for name, value in found.items() if name.endswith("gamma")}


def pair(parent, child, base_width=WIDTH, **keys):
    parent, child = parse(parent), parse(child)
    weights, fresh = weights_of(parent, 1, width=base_width, **keys), weights_of(child, 2, width=base_width, **keys)
    return weights, fresh, *inherit(parent, child, weights, fresh)


def parameters(weights):
    return sum(value.size for name, value in weights.items() if not name.endswith(STATISTICS))


def narrow(**more):
    return archs(max_blocks=14, doubles=3, types=st.sampled_from("br"), **more)


@settings(deadline=None, max_examples=30)
@given(narrow(), st.booleans(), st.booleans())
def test_the_cost_counts_these_weights(arch, share, cascade):
    sizes = {"base_width": WIDTH, "fpn_channels": FPN, "head_channels": HEAD, "proposals_test": 9}
    cost = candidate_cost(arch, Detector(image_size=(64, 64), share_weights=share, cascade=cascade, **sizes), 2)
    found = shapes(arch, share=share, cascade=cascade)
    assert sum(np.prod(shape) for name, shape in found.items() if not name.endswith(STATISTICS)) == cost.params


def check_line(parent, child):
    line = lineage(parent, child)
    old = [index for index in line if index is not None]
    assert len(line) == len(child.digits)
    assert old == list(range(len(parent.digits)))  # each block of the parent once, in order
    assert all(child.digits[i] == ("1" if index is None else parent.digits[index]) for i, index in enumerate(line))
    ours, theirs = blocks(parent), blocks(child)
    for i, index in enumerate(line):
        if index is not None:
            assert (ours[index].in_channels, ours[index].out_channels) == (theirs[i].in_channels, theirs[i].out_channels)
    return line


@settings(deadline=None, max_examples=60)
@given(archs(max_blocks=40, parallel=False), SEEDS, st.integers(0, 4))
def test_lineage_of_expansions(arch, seed, times):
    rng, child = generator(seed), arch
    for _ in range(times):
        child = expand(child, rng)
    check_line(arch, child)


@settings(deadline=None, max_examples=60)
@given(archs(max_blocks=40, parallel=False, min_stages=2), SEEDS)
def test_lineage_of_any_child(arch, seed):
    rng = generator(seed)
    child = mutate_arch(arch, rng, Mutation(add_stage=0.2), Space())
    line = check_line(arch, child)
    if child.digits == arch.digits:
        assert line == tuple(range(len(arch.digits)))  # moving a `-` renames nothing


@pytest.mark.parametrize(
    ("parent", "child", "line"),
    [
        ("r_111-2111-211111-211", "r_111-2111-211111-211", list(range(16))),
        ("r_111-21", "r_111-21-1", [0, 1, 2, 3, 4, None]),  # an added stage is new
        ("r_111-21", "r_1111-21", [0, 1, 2, None, 3, 4]),  # the first block keeps its channels
        ("r_111-111", "r_111-1111", [0, 1, 2, 3, 4, 5, None]),  # the first block of a stage keeps its stride
        ("r_111-111", "r_1111-111", [0, 1, 2, None, 3, 4, 5]),
        ("r_111-121", "r_11111-121", [0, 1, 2, None, None, 3, 4, 5]),
        ("r_11-21-11", "r_1-1211-1-1", [0, 1, 2, 3, None, 4, 5]),
        ("b_2111", "b_21111", [0, 1, 2, 3, None]),
    ],
)
def test_lineage_keeps_channels_then_strides_then_stages(parent, child, line):
    assert lineage(parse(parent), parse(child)) == tuple(line)


@pytest.mark.parametrize("child", ["r_111-211-2", "r_11121", "r_111-11", "b_111-22"])
def test_lineage_refuses_strangers(child):
    with pytest.raises(ArchError, match="expected a descendant of 'r_111-21_0-0'"):
        lineage(parse("r_111-21"), parse(child))


@settings(deadline=None, max_examples=60)
@given(archs(max_blocks=40, parallel=False), SEEDS)
def test_lineage_over_a_moved_double_and_another_type(arch, seed):
    """The blocks between the old and the new place of the `2` change their channels, and no others."""
    moved = move_double(arch, generator(seed))
    assert lineage(arch, moved) == tuple(range(len(arch.digits)))
    places = [i for i, (a, b) in enumerate(zip(arch.digits, moved.digits, strict=True)) if a != b]
    ours, theirs = blocks(arch), blocks(moved)
    changed = [i for i in range(len(ours)) if ours[i].layers(arch.block_type) != theirs[i].layers(arch.block_type)]
    assert changed == places
    assert lineage(arch, change_type(moved, generator(seed), ["b", "r", "x(32x4d)"])) == tuple(range(len(arch.digits)))


@settings(deadline=None, max_examples=25)
@given(narrow(min_stages=2), SEEDS, st.booleans())
def test_inheritance_accounts_for_every_tensor(arch, seed, share):
    parent = arch.serial()
    child = mutate_arch(parent, generator(seed), Mutation(add_stage=0.2, change_type=0.2, move_double=0.2), ANY_TYPE)
    weights, fresh = weights_of(parent, 1, share=share), weights_of(child, 2, share=share)
    before = {name: value.copy() for name, value in weights.items()}
    result, audit = inherit(parent, child, weights, fresh)
    assert list(result) == list(fresh)
    assert all(result[name].shape == fresh[name].shape for name in fresh)
    assert set(audit.copied) | set(audit.new) == set(fresh)
    assert not set(audit.copied) & set(audit.new)
    assert audit.copied_params + audit.new_params == parameters(fresh)
    assert parameters(weights) == audit.copied_params + audit.dropped_params
    assert 0 < audit.share <= 1
    assert all(not result[name].any() for name in audit.zero)
    assert all(np.array_equal(result[name], fresh[name]) for name in set(audit.new) - set(audit.zero))
    used = {value.tobytes() for value in weights.values()}
    assert all(result[name].tobytes() in used for name in audit.copied)
    assert all(np.array_equal(before[name], weights[name]) for name in weights)
    assert not any(np.shares_memory(result[name], other[name]) for other in (weights, fresh) for name in result if name in other)
    for name in weights:  # the heads and the stem, by name
        if name.startswith(("rpn.", "head.", "backbone.stem.", "neck.layer.")):
            assert np.array_equal(result[name], weights[name])
    index = [i for i, source in enumerate(lineage(parent, child)) if source is not None]
    for i, (ours, theirs) in enumerate(zip(blocks(parent, WIDTH), (blocks(child, WIDTH)[j] for j in index), strict=True)):
        mine, its = ours.layers(parent.block_type), theirs.layers(child.block_type)
        for layer in mine:  # inherited where its shape stays, else dropped
            assert (f"backbone.blocks.{i}.{layer}" in parts(audit.dropped)) == (mine[layer] != its.get(layer))
        for layer in its:  # and else new
            assert (f"backbone.blocks.{theirs.index}.{layer}" in parts(audit.new)) == (its[layer] != mine.get(layer))


def parts(names):
    """Layers of blocks to which these tensors belong."""
    return {".".join(name.split(".")[:4]).replace(".bn", ".conv") for name in names}


@pytest.mark.parametrize(("kind", "last"), [("b", "bn2"), ("r", "bn3"), ("x(2x32d)", "bn3")])
def test_a_new_block_is_the_identity_and_can_learn(kind, last):
    # the old public program zeroed all norms of an inserted block, so that it could not learn
    _, fresh, result, audit = pair(f"{kind}_111-2111", f"{kind}_1111-21111")
    assert set(audit.zero) == {f"backbone.blocks.{index}.{last}.{part}" for index in (3, 8) for part in ("gamma", "beta")}
    assert {name.split(".")[2] for name in audit.new} == {"3", "8"}
    assert audit.dropped == ()
    assert all(np.array_equal(result[name], fresh[name]) for name in audit.new if name not in audit.zero)
    assert (result["backbone.blocks.3.bn1.gamma"] == 1).all()


@settings(deadline=None, max_examples=25)
@given(narrow(), SEEDS)
def test_a_swap_keeps_all_weights_of_blocks_neck_and_heads(arch, seed):
    parent = arch.serial()
    child = swap(parent, generator(seed))
    weights, fresh = weights_of(parent, 1), weights_of(child, 2)
    result, audit = inherit(parent, child, weights, fresh)
    assert not audit.zero
    moved = {name for name in fresh if ".shortcut." in name}
    resized = {f"neck.inner.{i}.weight" for i, pair in enumerate(zip(levels(parent), levels(child), strict=True)) if pair[0] != pair[1]}
    assert set(audit.new) <= moved | resized
    for name in fresh.keys() - moved - resized:
        assert np.array_equal(result[name], weights[name])


def test_a_swap_keeps_all_blocks_and_tells_of_projections():
    weights, fresh, result, audit = pair("b_111-111", "b_11-1111")
    assert {".".join(name.split(".")[:4]) for name in audit.new} == {"backbone.blocks.2.shortcut"}
    assert {".".join(name.split(".")[:4]) for name in audit.dropped} == {"backbone.blocks.3.shortcut"}
    assert (result["backbone.blocks.2.shortcut.bn.gamma"] == 1).all()
    assert all(np.array_equal(result[name], weights[name]) for name in audit.copied)
    assert np.array_equal(result["backbone.blocks.2.shortcut.conv.weight"], fresh["backbone.blocks.2.shortcut.conv.weight"])


def test_another_block_type_inherits_the_layers_whose_shapes_stay():
    _, _, result, audit = pair("r_111-211", "x(2x32d)_111-211")  # 64 = 2 * 32: only the 3x3 convolution is another
    assert parts(audit.new) == parts(audit.dropped) == {f"backbone.blocks.{index}.conv2" for index in range(6)}
    assert audit.zero == ()
    _, fresh, result, audit = pair("r_111-211", "x(32x4d)_111-211", base_width=64)
    assert parts(audit.new) == {f"backbone.blocks.{index}.conv{n}" for index in range(6) for n in (1, 2, 3)}
    plain = {index for index, block in enumerate(blocks(parse("r_111-211"))) if not block.projection}
    assert {name.rsplit(".", 1)[0] for name in audit.zero} == {f"backbone.blocks.{index}.bn3" for index in plain}
    assert all(np.array_equal(result[name], fresh[name]) for name in audit.new if name not in audit.zero)


def test_a_moved_double_changes_two_blocks():
    _, _, _, audit = pair("b_1111-2111", "b_1111-1211")
    layers = ("4.conv1", "4.conv2", "4.shortcut", "5.conv1", "5.shortcut")
    assert parts(audit.new) == {f"backbone.blocks.{layer}" for layer in layers}
    assert parts(audit.dropped) == parts(audit.new) - {"backbone.blocks.5.shortcut"}
    names = shapes(parse("b_1111-1211"))
    trained = trainable_when_frozen(parse("b_1111-2111"), parse("b_1111-1211"), names, WIDTH)
    assert {name.split(".")[2] for name in trained if name.startswith("backbone.blocks")} == {"4", "5"}


def test_a_neck_whose_level_changes_width_is_new_there():
    _, _, _, audit = pair("b_111-211", "b_1112-11")
    assert [name for name in audit.new if name.startswith("neck")] == ["neck.inner.0.weight"]
    assert [name for name in audit.dropped if name.startswith("neck")] == ["neck.inner.0.weight"]


@pytest.mark.parametrize(("ours", "theirs"), [(0, 1), (1, 0), (2, 1), (1, 1)])
def test_levels_that_a_pyramid_does_not_merge_are_dropped_and_new(ours, theirs):
    parent, child = parse("b_111-211-21"), parse("b_111-211-21_0-1-0")
    weights, fresh = weights_of(parent, 1), weights_of(child, 2)
    for found, first in ((weights, ours), (fresh, theirs)):
        for name in [name for name in found if name.startswith(tuple(f"neck.inner.{level}." for level in range(first)))]:
            del found[name]
    _, audit = inherit(parent, child, weights, fresh)
    both = {f"neck.inner.{level}.{part}" for level in range(max(ours, theirs), 3) for part in ("weight", "bias")}
    assert both == {name for name in audit.copied if name.startswith("neck.inner")}
    assert {name for name in audit.new if name.startswith("neck")} == {n for n in fresh if n.startswith("neck.inner")} - both
    assert {name for name in audit.dropped if name.startswith("neck")} == {n for n in weights if n.startswith("neck.inner")} - both
    del weights["neck.inner.2.bias"]
    with pytest.raises(UserError, match=r"\+neck.inner.2.bias"):
        inherit(parent, child, weights, fresh)


def test_a_checkpoint_gives_a_pyramid_the_levels_that_it_merges():
    arch = parse("b_111-211-21")
    weights = weights_of(arch, 1)
    fresh = {name: value for name, value in weights_of(arch, 2).items() if not name.startswith("neck.inner.0.")}
    result, audit = adopt(fresh, weights)
    assert all(np.array_equal(result[name], weights[name]) for name in fresh)
    assert (audit.share, audit.dropped) == (1.0, ("neck.inner.0.bias", "neck.inner.0.weight"))
    with pytest.raises(UserError, match=r"\+neck.inner.0.bias"):
        adopt(weights, fresh)


def test_an_added_stage_has_a_new_neck():
    _, _, _, audit = pair("b_111-211", "b_111-211-1")
    new = {".".join(name.split(".")[:3]) for name in audit.new}
    assert new == {"backbone.blocks.6", "neck.inner.2", "neck.layer.2"}
    assert audit.zero == ()


def test_a_parallel_net_starts_as_its_serial_net():
    for share in (True, False):
        weights, _, result, audit = pair("b_111-211", "b_111-211_0-2", share=share)
        assert set(audit.zero) == {f"backbone.connect.1.{k}.bn.{part}" for k in range(1 if share else 2) for part in ("gamma", "beta")}
        assert all(name.startswith("backbone.connect.") for name in audit.new)
        assert all(np.array_equal(result[name], weights[name]) for name in weights)
        if not share:
            for number, (i, j) in ((n, p) for n in range(2) for p in enumerate((3, 4, 5))):
                for rest in ("conv1.weight", "bn2.gamma", "bn1.moving_mean"):
                    assert np.array_equal(result[f"backbone.copies.1.{number}.{i}.{rest}"], weights[f"backbone.blocks.{j}.{rest}"])


def test_copies_are_inherited_where_the_serial_part_is_equal():
    weights, _, result, audit = pair("b_111-211_0-1", "b_111-211_1-1", share=False)
    assert all(np.array_equal(result[name], weights[name]) for name in weights)
    assert all(name.startswith("backbone.connect.0.0") for name in audit.new)
    _, _, _, audit = pair("b_111-211_0-1", "b_111-211", share=False)
    assert audit.new == ()
    assert all(name.startswith(("backbone.copies", "backbone.connect")) for name in audit.dropped)
    _, _, result, audit = pair("b_111-211_0-1", "b_111-2111_0-1", share=False)
    assert "backbone.copies.1.0.3.bn2.gamma" in audit.zero
    assert not result["backbone.copies.1.0.3.bn2.gamma"].any()
    assert np.array_equal(result["backbone.copies.1.0.0.conv1.weight"], result["backbone.blocks.3.conv1.weight"])


def test_other_classes_need_a_new_head():
    arch = parse("b_111-211")
    weights, fresh = weights_of(arch, 1, classes=2), weights_of(arch, 2, classes=4)
    with pytest.raises(UserError) as caught:
        inherit(arch, arch, weights, fresh)
    for part in ("+head.score.weight (5, 5)", "-head.score.weight (3, 5)", "+head.delta.bias (20,)", "-head.delta.bias (12,)"):
        assert part in str(caught.value)
    result, audit = inherit(arch, arch, weights, fresh, replace_head=True)
    assert audit.new == audit.dropped == ("head.delta.bias", "head.delta.weight", "head.score.bias", "head.score.weight")
    assert np.array_equal(result["head.fc1.weight"], weights["head.fc1.weight"])


@pytest.mark.parametrize("name", sorted(shapes(parse("b_111-211_0-1"))))
def test_nothing_is_skipped_in_silence(name):
    arch = parse("b_111-211_0-1")
    weights, fresh = weights_of(arch, 1), weights_of(arch, 2)
    lost = {other: value for other, value in weights.items() if other != name}
    wrong = weights | {name: weights[name].astype(np.float64)}
    shaped = weights | {name: weights[name][..., None]}
    for given_weights, shows in ((lost, "+"), (wrong, "-"), (shaped, "-")):
        for call in (lambda w=given_weights: inherit(arch, arch, w, fresh), lambda w=given_weights: load_same(fresh, w)):
            with pytest.raises(UserError) as caught:
                call()
            assert f"{shows}{name} " in str(caught.value)
            assert "\n" not in str(caught.value)
    for stranger in ("backbone.blocks.99.conv1.weight", "neck.inner.7.weight", "unknown"):
        with pytest.raises(UserError, match=f"-{stranger}"):
            load_same(fresh, weights | {stranger: fresh[name]})


STAGES = [f"head.stages.{stage}" for stage in range(3)]
PARTS = ("weight", "bias")


@pytest.mark.parametrize("move", ["inherit", "adopt"])
def test_the_stages_of_a_cascade_start_from_a_single_head_and_that_from_the_first(move):
    arch = parse("b_111-211")
    single, cascade = weights_of(arch, 1), weights_of(arch, 2, cascade=True)

    def moved(weights, fresh):
        return inherit(arch, arch, weights, fresh) if move == "inherit" else adopt(fresh, weights)

    result, audit = moved(single, cascade)
    assert set(audit.new) == {f"{head}.delta.{part}" for head in STAGES for part in PARTS}
    assert set(audit.dropped) == {f"head.delta.{part}" for part in PARTS}
    for head in STAGES:
        for layer in ("fc1", "fc2", "score"):
            assert all(np.array_equal(result[f"{head}.{layer}.{part}"], single[f"head.{layer}.{part}"]) for part in PARTS)
    result, audit = moved(cascade, single)
    assert set(audit.new) == {f"head.delta.{part}" for part in PARTS}
    assert set(audit.dropped) == {name for name in cascade if name.startswith((*STAGES[1:], "head.stages.0.delta."))}
    for layer in ("fc1", "fc2", "score"):
        assert all(np.array_equal(result[f"head.{layer}.{part}"], cascade[f"head.stages.0.{layer}.{part}"]) for part in PARTS)
    result, audit = moved(cascade, weights_of(arch, 3, cascade=True))
    assert all(np.array_equal(result[name], cascade[name]) for name in cascade)
    assert (audit.new, audit.dropped) == ((), ())


@pytest.mark.parametrize("stranger", ["head.stages.3.fc1.weight", "head.stages.0.fc3.weight", "head.fc1.scale", "head.more"])
def test_a_stranger_in_a_box_head_is_an_error(stranger):
    arch = parse("b_111-211")
    single, cascade = weights_of(arch), weights_of(arch, cascade=True)
    more = {stranger: np.zeros(1, np.float32)}
    for weights, fresh in ((cascade, cascade), *(((single, cascade), (single, single)) if "stages" not in stranger else ())):
        with pytest.raises(UserError, match=rf"-{stranger}"):
            inherit(arch, arch, weights | more, fresh)
        with pytest.raises(UserError, match=rf"-{stranger}"):
            adopt(fresh, weights | more)


def test_a_cascade_for_other_classes_has_new_last_layers():
    arch = parse("b_111-211")
    last = {f"{head}.{layer}.{part}" for head in STAGES for layer in ("score", "delta") for part in PARTS}
    for weights in (weights_of(arch, 1, cascade=True), weights_of(arch, 1)):
        fresh = weights_of(arch, 2, classes=5, cascade=True)
        assert set(inherit(arch, arch, weights, fresh, replace_head=True)[1].new) == last
        assert set(adopt(fresh, weights)[1].new) == last


STRANGERS = [
    "unknown",
    "rpn.more",
    "backbone.stem.conv2.weight",
    "neck.inner.7.weight",
    "neck.inner",
    "backbone.blocks.99.shortcut.x",
    "backbone.blocks.shortcut",
    "backbone.blocks.1.shortcut.conv.weight",
    "backbone.copies.1.0.0.conv1.weight",
    "backbone.connect.9.0.conv.weight",
    "backbone.connect",
]


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_tensor_that_the_parent_cannot_have_is_an_error(stranger):
    arch = parse("b_111-211")
    weights = weights_of(arch)
    with pytest.raises(UserError, match=f"-{stranger}"):
        inherit(arch, arch, weights | {stranger: np.zeros(1, np.float32)}, weights)


def test_a_long_error_is_cut():
    fresh = weights_of(parse("b_111-211"))
    with pytest.raises(UserError, match=f"and {len(fresh) - 12} more$"):
        load_same(fresh, {})


def test_loading_is_exact():
    arch = parse("r_111-21")
    weights, fresh = weights_of(arch, 1), weights_of(arch, 2)
    result, audit = load_same(fresh, weights)
    assert all(np.array_equal(result[name], weights[name]) for name in fresh)
    assert (audit.share, audit.new, audit.dropped) == (1.0, (), ())
    classifier = {name: value for name, value in fresh.items() if name.startswith("backbone.")} | {
        "classifier.weight": np.zeros((3, 4), np.float32)
    }
    result, audit = load_same(classifier, weights, prefix="backbone.")
    assert audit.new == ("classifier.weight",)
    assert all(name.startswith(("neck.", "rpn.", "head.")) for name in audit.dropped)
    assert np.array_equal(result["backbone.stem.conv.weight"], weights["backbone.stem.conv.weight"])
    assert audit.model["share"] == audit.share
    assert audit.model["new"] == ("classifier.weight",)


def test_what_trains_when_the_inherited_is_frozen():
    parent, child = parse("b_111-2111"), parse("b_11-12111_0-1")
    names = shapes(child, share=False)
    parts = {".".join(name.split(".")[:3]) for name in trainable_when_frozen(parent, child, names)}
    assert {part for part in parts if part.startswith("backbone")} == {
        "backbone.blocks.2",  # now at a stride
        "backbone.blocks.3",  # no more at a stride
        "backbone.connect.1",
        "backbone.copies.1",
    }
    assert {part.split(".")[0] for part in parts} == {"backbone", "neck", "rpn", "head"}
    same = trainable_when_frozen(child, child, names)
    assert {name.split(".")[1] for name in same if name.startswith("backbone")} == {"connect"}
    grown = trainable_when_frozen(parent, parse("b_1111-2111"), shapes(parse("b_1111-2111")))
    assert {name.split(".")[2] for name in grown if name.startswith("backbone")} == {"3"}


@given(archs(max_blocks=20, parallel=False), SEEDS)
def test_a_swap_trains_the_blocks_whose_stride_changed(arch, seed):
    child = swap(arch, generator(seed))
    changed = {a.index for a, b in zip(blocks(arch), blocks(child), strict=True) if a.stride != b.stride}
    names = [f"backbone.blocks.{index}.conv1.weight" for index in range(len(arch.digits))]
    assert trainable_when_frozen(arch, child, names) == {names[index] for index in changed}
