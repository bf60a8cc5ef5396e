"""Children of random mutations, in chains: each inherits what the one before it has learnt, is built, and trains a step."""

import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from trials import mutate_arch

from spnas_core import arch as architecture
from spnas_core.jobs import initial_weights
from spnas_core.models.build import build
from spnas_core.models.detector import DetectorNet
from spnas_core.models.step import TrainStep, get_weights, set_weights
from spnas_core.search.costs import candidate_cost
from spnas_core.settings.detector import Detector
from spnas_core.settings.search import Mutation, Space
from spnas_core.weights import inherit
from spnas_core.weights.lineage import lineage

pytestmark = pytest.mark.training
SETTINGS = Detector(
    image_size=(64, 64), base_width=4, stem="3x3", fpn_channels=8, head_channels=16, rpn_batch=16, proposals_train=20,
    roi_batch=8, max_boxes=4,
)  # fmt: skip
MUTATION = Mutation(add_stage=0.1, change_type=0.1, move_double=0.1)
SPACE = Space(block_types=("b", "r", "x(2x32d)"), max_blocks=20)


def train_a_step(net: DetectorNet, number: int) -> np.ndarray:
    """Losses of one step on two images of noise (a last stage of one cell has no variance over one image) with four boxes each."""
    rng = np.random.default_rng(number)
    pictures = rng.standard_normal((2, 3, 64, 64)).astype(np.float32)
    corner = rng.random((2, 4, 2)) * 30
    truth = np.concatenate((corner, corner + 15), -1).astype(np.float32)
    labels = np.tile(np.array([1, 2, 1, 2], np.int32), (2, 1))
    batch = (pictures, np.full((2, 2), 64, np.float32), truth, labels, *net.draws(truth, labels, 0, number))
    step = TrainStep(net, 0.9, initial_weights.decays(net, 1e-4, True), 10.0).set_train()
    return np.asarray(step(Tensor(np.float32(0.01)), *map(Tensor, batch)).asnumpy())


def check_chain(seed: int, count: int) -> None:
    """`count` generations from the start net, each of one mutation (three operations)."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(seed)
    rng = np.random.default_rng(seed)
    parent = architecture.parse(("b_1111-2111", "r_111-2111-11")[seed % 2])
    weights = get_weights(build(parent, SETTINGS, 2))
    for number in range(count):
        child = mutate_arch(parent, rng, MUTATION, SPACE)
        net = build(child, SETTINGS, 2)
        before, audit = inherit.inherit(parent, child, weights, get_weights(net))
        assert audit.copied_params + audit.new_params == candidate_cost(child, SETTINGS, 2).params
        assert len([source for source in lineage(parent, child) if source is not None]) == len(parent.digits)
        set_weights(net, before)
        initial_weights.freeze(net, child, SETTINGS)
        assert np.isfinite(train_a_step(net, number)).all(), str(child)
        weights, parent = get_weights(net), child
        moved = {name for name in weights if not np.array_equal(weights[name], before[name])}
        assert {name.split(".")[0] for name in moved} == {"backbone", "neck", "rpn", "head"}, str(child)
        assert {name.split(".")[2] for name in moved if ".blocks." in name} == {str(i) for i in range(len(child.digits))}, str(child)
        assert all(np.isfinite(array).all() for array in weights.values()), str(child)


def test_children_of_mutations_build_and_train_a_step() -> None:
    """One generation of another seed, in which the block type changes, a `2` moves, and a stage is added."""
    check_chain(346, 1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_300_children_of_mutations_build_and_train_a_step(seed: int) -> None:
    """Each chain in a process of its own: MindSpore keeps about 100 MB of each graph that it has compiled."""
    done = subprocess.run([sys.executable, __file__, str(100 + seed)], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    check_chain(int(sys.argv[1]), 5)
