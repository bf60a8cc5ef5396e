"""Blocks left out of a net: which, and that the real net's outputs stay the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor
from nets import SIZES
from safetensors.numpy import save_file
from typer.testing import CliRunner

from flows.cli.app import app
from spnas_core.arch import Arch, parse
from spnas_core.jobs.detection import model_document
from spnas_core.models.build import build
from spnas_core.models.step import get_weights, set_weights
from spnas_core.settings.detector import Detector
from spnas_core.weights.gammas import block_gammas, last_norm
from spnas_core.weights.net_shapes import empty_weights
from spnas_core.weights.pruning import unused_blocks, without_blocks
from spnas_core.weights.tensor_names import AFFINE, STATISTICS, Arrays

SMALL = Detector(**SIZES, stem="3x3")


def weaken(arch: Arch, weights: Arrays, shares: dict[int, float]) -> None:
    """Multiply gamma and beta of the last norms of blocks, and of their copies with weights of their own."""
    starts = np.cumsum([0, *map(len, arch.stages)])
    for index, share in shares.items():
        stage = int(np.searchsorted(starts, index, "right")) - 1
        for name in weights:
            parts = name.split(".")
            own = name.startswith(f"backbone.blocks.{index}.")
            copy = parts[1] == "copies" and (int(parts[2]), int(parts[4])) == (stage, index - starts[stage])
            if (own or copy) and f".{last_norm(arch)}" in name and name.endswith(AFFINE):
                weights[name] = weights[name] * np.float32(share)


def random_weights(net: object, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    found = get_weights(net)
    for name, array in found.items():
        if name.endswith((*AFFINE, STATISTICS[0])):
            found[name] = rng.normal(0.3, 0.3, array.shape).astype(np.float32)
        elif name.endswith(STATISTICS[1]):
            found[name] = rng.uniform(0.5, 2, array.shape).astype(np.float32)
    return found


@pytest.mark.training
@pytest.mark.parametrize(
    ("text", "shared", "after"),
    [
        ("b_1111-21111-211_0-0-0", True, "b_111-2111-211_0-0-0"),
        ("r_1111-21111-211_0-1-0", True, "r_111-2111-211_0-1-0"),
        ("b_1111-21111-211_1-2-0", False, "b_111-2111-211_1-2-0"),
        ("b_1111-21111-211_0-0-0_8-4-8", True, "b_111-2111-211_0-0-0_8-4-8"),
    ],
)
def test_a_net_without_unused_blocks_gives_the_same(text: str, shared: bool, after: str) -> None:
    arch = parse(text)
    settings = SMALL.model_copy(update={"share_weights": shared})
    net = build(arch, settings, 2)
    weights = random_weights(net)
    weaken(arch, weights, {2: 0.0, 6: 0.0})
    set_weights(net, weights)
    left_out = unused_blocks(arch, weights, 0.01)
    assert left_out == (2, 6)
    smaller, fewer = without_blocks(arch, weights, left_out)
    assert str(smaller) == after or smaller == parse(after)
    other = build(smaller, settings, 2)
    assert {name: one.shape for name, one in fewer.items()} == {name: one.shape for name, one in get_weights(other).items()}
    set_weights(other, fewer)
    pictures = Tensor(np.random.default_rng(1).standard_normal((1, 3, 64, 64)).astype(np.float32))
    for a, b in zip(*(one.set_train(False).features(pictures) for one in (net, other)), strict=True):
        assert a.asnumpy().std() > 0.01
        np.testing.assert_allclose(b.asnumpy(), a.asnumpy(), rtol=1e-4, atol=1e-5)


@given(st.floats(0, 1), st.sets(st.sampled_from(range(11))))
def test_only_small_branches_without_projection_go_and_eight_blocks_stay(below: float, small: set[int]) -> None:
    arch = parse("b_1111-21111-21")
    weights = {name: array.copy() for name, array in empty_weights(arch, SMALL, 2).items()}
    for index in range(11):
        weights[f"backbone.blocks.{index}.bn2.gamma"] += np.float32(0.25 if index in small else 1.0)
    found = unused_blocks(arch, weights, below)
    assert set(found) <= small - {0, 4, 9}  # of every stage the first
    assert len(found) <= 3
    reached = [index for index in sorted(small - {0, 4, 9}) if _share(index, small) < below]
    assert len(found) == min(3, len(reached))
    smaller, fewer = without_blocks(arch, weights, found)
    assert block_gammas(smaller, fewer) == tuple(g for n, g in enumerate(block_gammas(arch, weights)) if n not in found)


def _share(index: int, small: set[int]) -> float:
    stage = next(stage for stage in (range(4), range(4, 9), range(9, 11)) if index in stage)
    return 1.0 if set(stage) <= small else 0.25


@pytest.mark.training
def test_the_command_writes_a_smaller_model_or_says_why_not(tmp_path: Path) -> None:
    arch = parse("b_1111-21111-211")
    net = build(arch, SMALL, 2)
    weights = random_weights(net)
    weaken(arch, weights, {2: 1e-4, 6: 0.05})
    (tmp_path / "model").mkdir()
    save_file(weights, tmp_path / "model" / "weights.safetensors")
    (tmp_path / "model" / "model.json").write_text(json.dumps(model_document(str(arch), SMALL, ((1, "red"), (5, "blue")))))

    def prune(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["prune", str(tmp_path / "model"), *words])
        return result.exit_code, result.output

    status, said = prune("--below", "0.000001", "--out", str(tmp_path / "none"))
    assert (status, said.count("\n")) == (2, 1)
    assert "expected a block with less than 1e-06 of the largest of its stage (--below), found none" in said
    status, said = prune("--below", "0.2", "--out", str(tmp_path / "none"), "--tolerance", "0.0001")
    assert (status, said.count("\n")) == (2, 1)
    assert "expected maps that change by at most 0.0001 deviations (--tolerance), got" in said
    assert not (tmp_path / "none").exists()
    status, said = prune("--out", str(tmp_path / "out"), "--json")
    assert status == 0
    facts = json.loads(said)
    assert facts["blocks"] == [[1, 3]]
    assert 0 < facts["change"] < 0.01
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert card["arch"] == "b_111-21111-211_0-0-0"
    status, said = prune("--out", str(tmp_path / "out"))
    assert status == 2
    shown = CliRunner().invoke(
        app, ["prune", str(tmp_path / "out"), "--out", str(tmp_path / "again"), "--below", "0.2", "--tolerance", "9"]
    )
    assert "left out    block 3 of stage 2" in shown.output  # the smaller model is a model like any other
