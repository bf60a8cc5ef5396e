"""The net in checkpoint files as other programs write them: prefixes, nested dictionaries, several nets; and the plan that reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import torch_files
from command_line import spnas
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from flows import presets
from spnas_core.arch import parse
from spnas_core.errors import UserError
from spnas_core.models.build import build
from spnas_core.models.step import get_weights
from spnas_core.run.opening import open_plan
from spnas_core.settings.detector import Detector
from spnas_core.weights.checkpoint import read_checkpoint, start_from_file
from spnas_core.weights.net_shapes import empty_weights, net_shapes
from spnas_core.weights.peeling import find_net
from spnas_core.weights.torchvision_names import to_torchvision

Arrays = dict[str, np.ndarray]
CASES = Path(__file__).parents[2] / "shared" / "cases" / "32-checkpoint-prefixes"
ARCH = parse("b_1-2")
WIDTH = 2


def random_net(text: str = "b_1-2", detector: bool = False, seed: int = 0) -> Arrays:
    """A net under torchvision's names, of random numbers, with a counter of batches."""
    settings = Detector(base_width=WIDTH, fpn_channels=4, head_channels=4)
    arch, rng = parse(text), np.random.default_rng(seed)
    ours = {name: shape for name, shape in net_shapes(arch, settings, 3).items() if detector or name.startswith("backbone.")}
    names = to_torchvision(arch, ours)
    made = {names[name]: rng.standard_normal(shape).astype(np.float32) for name, shape in ours.items()}
    return made | {"backbone.body.bn1.num_batches_tracked" if detector else "bn1.num_batches_tracked": np.array(7)}


def torch_file(path: Path, value: Any) -> Path:
    """A file of torch.save with arrays anywhere in nested dictionaries."""
    data: dict[str, bytes] = {}

    def code(thing: Any) -> bytes:
        if isinstance(thing, dict):
            return torch_files.dictionary({key: code(one) for key, one in thing.items()})
        if not isinstance(thing, np.ndarray):
            return torch_files.value(thing)
        key = str(len(data))
        data[key] = thing.tobytes()
        strides = tuple(stride // thing.itemsize for stride in thing.strides)
        place = torch_files.storage(torch_files.TYPES[thing.dtype.str[1:]], key, thing.size)
        return torch_files.tensor(place, 0, thing.shape, strides)

    return torch_files.write_zip(path, code(value), data)


def equal(found: Arrays, expected: Arrays) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


PREFIXES = (
    *("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "student.", "teacher.", "model_ema.", "encoder_q."),
    *("module._orig_mod.", "_orig_mod.module.", "module.module.", "model.module.", "model.backbone.", "student.module.backbone."),
    "img_backbone.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("detector", [False, True])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_prefixes(prefix: str, detector: bool, kind: str, tmp_path: Path) -> None:
    net = random_net(detector=detector)
    named, path = {prefix + name: array for name, array in net.items()}, tmp_path / f"net.{kind}"
    save_file(named, path) if kind == "safetensors" else torch_file(path, named)
    found = read_checkpoint(path, "it")
    assert equal(found.arrays, net)
    assert found.peeled == f"{prefix!r} taken off the names"


NESTS = ("state_dict", "model", "model_state_dict", "net", "weights", "ema", "model_ema", "params", "detector")


@pytest.mark.parametrize("detector", [False, True])
@pytest.mark.parametrize("nest", [(one,) for one in NESTS] + [("ema", "state_dict"), ("model", "state_dict"), ("state_dict", "params")])
def test_nested_dictionaries(nest: tuple[str, ...], detector: bool, tmp_path: Path) -> None:
    """Beside an optimizer's state, which is named by numbers or as the net is, and counts of epochs."""
    net = random_net(detector=detector)
    value: Any = {f"module.{name}": array for name, array in net.items()}
    for key in reversed(nest):
        value = {key: value}
    states = {name: {"exp_avg": array} for name, array in net.items()}
    whole = {"epoch": 3, **value, "optimizer": {"state": {0: {"momentum": np.ones(3)}}}, "optim": {"exp_avg": net, "state": states}}
    found = read_checkpoint(torch_file(tmp_path / "net.pth", whole), "it")
    assert equal(found.arrays, net)
    prefix = "".join(f"{key}." for key in (*nest, "module"))
    assert found.peeled == f"{prefix!r} taken off the names; tensors beside the net left out: {2 * len(net)}"


def test_a_file_that_is_the_net_is_told_of_nothing(tmp_path: Path) -> None:
    for detector in (False, True):
        save_file(net := random_net(detector=detector), tmp_path / "net.safetensors")
        found = read_checkpoint(tmp_path / "net.safetensors", "it")
        assert (equal(found.arrays, net), found.peeled) == (True, "")


@pytest.mark.parametrize(
    ("taken", "other"),
    [
        ("model.", "model_ema."),
        ("state_dict.", "ema."),
        ("student.backbone.", "teacher.backbone."),
        ("module.encoder_q.", "module.encoder_k."),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_several_nets_the_trained_one_is_taken_and_told(taken: str, other: str, turned: bool, tmp_path: Path) -> None:
    nets = {taken: random_net(seed=1), other: random_net(seed=2)}
    order = sorted(nets, reverse=turned)
    save_file({prefix + name: array for prefix in order for name, array in nets[prefix].items()}, tmp_path / "two.safetensors")
    found = read_checkpoint(tmp_path / "two.safetensors", "it")
    assert equal(found.arrays, nets[taken])
    assert found.peeled == f"{taken!r} taken off the names; other nets in the file left out: {other!r}"


def test_of_several_nets_the_architecture_decides_first(tmp_path: Path) -> None:
    nets = {
        "student.": random_net("b_1-2"),
        "teacher.": random_net("r_1-2-1"),
        "rgb.": random_net("b_1-21"),
        "depth.": random_net("b_1-21"),
    }
    save_file({prefix + name: array for prefix, net in nets.items() for name, array in net.items()}, tmp_path / "nets.safetensors")
    for text, prefix in (("b_1-2", "student."), ("r_1-2-1", "teacher."), ("r_1-2-1_1-0-0", "teacher.")):
        assert equal(read_checkpoint(tmp_path / "nets.safetensors", "it", parse(text)).arrays, nets[prefix])
    with pytest.raises(UserError, match=r"checkpoint it: expected one net, got several: 'depth\.', 'rgb\.'; "):
        read_checkpoint(tmp_path / "nets.safetensors", "it", parse("b_1-21"))


def test_wrappers_inside_of_the_names() -> None:
    names = {name: array.shape for name, array in random_net(detector=True).items()}
    wrapped = {name.replace("body.", "body._orig_mod.").replace("layer1.", "layer1._checkpoint_wrapped_module."): name for name in names}
    found = find_net({f"model.{name}": names[own] for name, own in wrapped.items()})
    assert found.names == {own: f"model.{name}" for name, own in wrapped.items()}
    with pytest.raises(UserError, match=r"expected one tensor layer1\.0\.conv1\.weight, got"):
        find_net(dict.fromkeys(("layer1.0.conv1.weight", "layer1.0.module.conv1.weight"), (1,)))


@given(
    st.lists(st.sampled_from(["module", "_orig_mod", "model", "net", "state_dict", "ema", "encoder", "thing"]), max_size=5), st.booleans()
)
def test_any_prefix_is_taken_off_and_nothing_else(words: list[str], detector: bool) -> None:
    shapes = {name: array.shape for name, array in random_net(detector=detector).items()}
    prefix = "".join(f"{word}." for word in words)
    found = find_net({prefix + name: shape for name, shape in shapes.items()} | {"epoch.of.training": ()} if words else shapes)
    assert found.names == {name: prefix + name for name in shapes}


def test_parts_of_other_detectors_stay_out(tmp_path: Path) -> None:
    """A backbone in a detector of another program is taken, and its neck is not mistaken for one of here."""
    net = random_net()
    others = {"neck.inner.0.weight": np.ones(3, np.float32), "rpn_head.conv.weight": np.ones(3, np.float32)}
    path = torch_file(
        tmp_path / "net.pth", {"state_dict": {f"backbone.{name}": array for name, array in net.items()} | others, "meta": {"a": 1}}
    )
    found = read_checkpoint(path, "it")
    assert equal(found.arrays, net)
    assert found.peeled.endswith("; tensors beside the net left out: 2")


@pytest.mark.training
def test_a_conversion_tells_what_it_took(tmp_path: Path) -> None:
    """The same bytes, whatever stood before the names; a file without a net is refused in a line that says so."""
    net = random_net()
    save_file(net, tmp_path / "plain.safetensors")
    torch_file(tmp_path / "nested.pth", {"model_state_dict": {f"module.{name}": array for name, array in net.items()}, "epoch": 1})
    assert spnas("convert", tmp_path / "plain.safetensors", "--out", tmp_path / "plain")[0] == 0
    status, text, _ = spnas("convert", tmp_path / "nested.pth", "--out", tmp_path / "nested")
    assert status == 0
    assert "of the file   'model_state_dict.module.' taken off the names\n" in text
    made = [load_file(tmp_path / kind / "weights.safetensors") for kind in ("plain", "nested")]
    assert equal(*({name: one[name] for name in one if name.startswith("backbone.")} for one in made))
    status, text, _ = spnas("convert", tmp_path / "nested.pth", "--out", tmp_path / "again", "--json")
    assert '"peeled": "\'model_state_dict.module.\' taken off the names"' in text
    save_file({"model.visual.proj": np.ones(3, np.float32)}, tmp_path / "other.safetensors")
    status, _, error = spnas("convert", tmp_path / "other.safetensors", "--out", tmp_path / "other")
    assert (status, error.count("\n")) == (2, 1)
    assert "below any prefix, got 1 other tensors, such as 'visual.proj'" in error


START = "b_1111-2111"  # of the preset smoke


def smoke(tiny_data: Path, folder: Path, *changes: str) -> Any:
    words = [f"arch={START}", "checkpoint_coverage=0.05", "detector.base_width=2", "detector.stem=7x7", *changes]
    return open_plan(presets.load_preset("smoke", words), str(tiny_data), str(folder / "store"))


def spoilt(net: Arrays, change: Callable[[Arrays], Any]) -> Arrays:
    change(net)
    return net


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda net: None, ("checkpoint_coverage=0.9",), r"expected at least 90% \(checkpoint_coverage\) of the net's parameters, got"),
        (lambda net: None, ("arch=b_1111-2112",), "cannot start from the checkpoint: weights differ"),
        (lambda net: None, ("detector.base_width=4",), "cannot start from the checkpoint: weights differ"),
        (lambda net: None, ("detector.norm=frozen", "detector.norm_epsilon=0.001"), "expected detector.norm_epsilon=1e-05"),
        (lambda net: net.pop("layer1.0.conv2.weight"), (), r"found \(-\): \+backbone.blocks.0.conv2.weight"),
        (lambda net: net.update(more=np.ones(1)), (), "expected names of b_1111-2111_0-0 in torchvision's spelling, got 'more'"),
    ],
)
def test_a_plan_refuses_a_checkpoint_that_its_training_would(
    change: Callable[[Arrays], Any], settings: tuple[str, ...], message: str, tiny_data: Path, tmp_path: Path
) -> None:
    save_file(spoilt(random_net(START), change), tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=message) as error:
        smoke(tiny_data, tmp_path, f"checkpoint={tmp_path / 'net.safetensors'}", *settings)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"checkpoint {tmp_path / 'net.safetensors'}: ")


def test_a_plan_reads_the_checkpoint(tiny_data: Path, tmp_path: Path) -> None:
    for name, content in (("text.pth", b"no weights"), ("cut.pth", b"PK\x03\x04 cut"), ("empty.safetensors", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"checkpoint {tmp_path / name}: expected a"):
            smoke(tiny_data, tmp_path, f"checkpoint={tmp_path / name}")
    path = torch_file(tmp_path / "net.pth", {"net": {f"_orig_mod.{name}": array for name, array in random_net(START).items()}, "epoch": 2})
    assert smoke(tiny_data, tmp_path, f"checkpoint={path}").checkpoint_sha256


@pytest.mark.skipif(not CASES.exists(), reason="no shared data")
def test_the_shared_files() -> None:
    settings = Detector(base_width=WIDTH, fpn_channels=4, head_channels=4)
    fresh = empty_weights(ARCH, settings, 3)
    starts = [start_from_file(str(path), ARCH, settings, fresh, 0.05) for path in sorted(CASES.iterdir())]
    assert len(starts) == 9
    for start in starts:
        assert start.copied == starts[0].copied
        assert equal(*({own: one.weights[theirs] for own, theirs in one.copied.items()} for one in (start, starts[0])))


@pytest.mark.training
@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("b_11-21", {}),
        ("r_11-21-21-11", {"stem": "3x3"}),
        ("r_1-2-1_1-2-0", {"share_weights": False}),
        ("r_1-2-1_2-0-1", {}),
        ("x(4x16d)_1-2-1_0-2-0", {"taps": [1, 1, 2], "cascade": True}),
    ],
)
def test_shapes_are_those_of_the_built_net(text: str, changes: dict[str, Any]) -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    settings = Detector.model_validate({"base_width": 8, "fpn_channels": 16, "head_channels": 32, **changes})
    built, counted = get_weights(build(parse(text), settings, 3)), empty_weights(parse(text), settings, 3)
    assert {name: (array.shape, array.dtype) for name, array in built.items()} == {
        name: (array.shape, array.dtype) for name, array in counted.items()
    }
