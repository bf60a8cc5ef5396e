"""Names of torchvision's weights and ours."""

import pytest

from spnas_core.arch import parse
from spnas_core.errors import UserError
from spnas_core.weights.torchvision_names import to_module, to_spnas, to_torchvision

NET = parse("r_111-2111-211111-211")
PAIRS = {
    "backbone.body.conv1.weight": "backbone.stem.conv.weight",
    "backbone.body.bn1.running_var": "backbone.stem.bn.moving_variance",
    "backbone.body.layer1.0.conv1.weight": "backbone.blocks.0.conv1.weight",
    "backbone.body.layer2.0.downsample.0.weight": "backbone.blocks.3.shortcut.conv.weight",
    "backbone.body.layer2.0.downsample.1.weight": "backbone.blocks.3.shortcut.bn.gamma",
    "backbone.body.layer4.2.bn3.bias": "backbone.blocks.15.bn3.beta",
    "backbone.fpn.inner_blocks.3.0.bias": "neck.inner.3.bias",
    "backbone.fpn.layer_blocks.0.0.weight": "neck.layer.0.weight",
    "rpn.head.conv.0.0.weight": "rpn.conv.weight",
    "rpn.head.cls_logits.bias": "rpn.score.bias",
    "rpn.head.bbox_pred.weight": "rpn.delta.weight",
    "roi_heads.box_head.fc6.weight": "head.fc1.weight",
    "roi_heads.box_head.fc7.bias": "head.fc2.bias",
    "roi_heads.box_predictor.cls_score.weight": "head.score.weight",
    "roi_heads.box_predictor.bbox_pred.bias": "head.delta.bias",
}


def test_a_detector_both_ways() -> None:
    assert to_spnas(NET, PAIRS) == PAIRS
    assert to_torchvision(NET, PAIRS.values()) == {ours: theirs for theirs, ours in PAIRS.items()}


def test_a_classifier_both_ways() -> None:
    pairs = {name.removeprefix("backbone.body."): ours for name, ours in PAIRS.items() if ".body." in name}
    pairs |= {"fc.weight": "score.weight", "fc.bias": "score.bias"}
    assert to_spnas(NET, pairs) == pairs
    assert to_torchvision(NET, pairs.values()) == {ours: theirs for theirs, ours in pairs.items()}


def test_spellings_of_released_files() -> None:
    old = {
        "backbone.body.conv1.weight": "backbone.stem.conv.weight",
        "backbone.fpn.inner_blocks.3.bias": "neck.inner.3.bias",
        "backbone.fpn.layer_blocks.0.weight": "neck.layer.0.weight",
        "rpn.head.conv.weight": "rpn.conv.weight",
    }
    assert to_spnas(NET, [*old, "backbone.body.layer1.0.bn1.num_batches_tracked"]) == old


@pytest.mark.parametrize("name", ["layer5.0.conv1.weight", "layer1.3.conv1.weight", "roi_heads.mask_head.0.weight", "bn1.variance", "x"])
def test_a_name_without_a_place(name: str) -> None:
    with pytest.raises(UserError, match="torchvision weights: expected"):
        to_spnas(NET, [name])


@pytest.mark.parametrize("name", ["backbone.connect.0.0.conv.weight", "backbone.stem.conv1.weight", "backbone.blocks.99.conv1.weight"])
def test_what_torchvision_has_no_place_for(name: str) -> None:
    with pytest.raises(UserError, match="torchvision weights: expected"):
        to_torchvision(NET, [name])


def test_names_of_the_module_that_an_export_ships() -> None:
    arch = parse("r_111-2111-211111-211_0-2-0-1")
    beyond = {
        "backbone.body.conv1.weight": "backbone.stem.conv1.weight",
        "backbone.body.bn2.running_mean": "backbone.stem.bn2.moving_mean",
        "backbone.body.connect.1.1.0.weight": "backbone.connect.1.1.conv.weight",
        "backbone.body.connect.3.0.1.bias": "backbone.connect.3.0.bn.beta",
        "backbone.body.copies.1.1.3.conv3.weight": "backbone.copies.1.1.3.conv3.weight",
        "backbone.body.copies.3.0.0.downsample.1.weight": "backbone.copies.3.0.0.shortcut.bn.gamma",
    }
    assert to_module(arch, beyond.values()) == {ours: theirs for theirs, ours in beyond.items()}
    assert to_module(arch, PAIRS.values()) == {ours: theirs for theirs, ours in PAIRS.items()}
    for name in ("backbone.copies.1.2.0.conv1.weight", "backbone.copies.1.0.1.shortcut.bn.gamma", "head.stages.0.fc1.weight"):
        with pytest.raises(UserError, match="with a plain pyramid and one box head"):
            to_module(arch, [name])
