"""Make the golden values of test_nas_fpn.py: ``mmdetection_nas_fpn.py OUT.json``, in an environment with PyTorch, mmdetection and mmcv.

Made with mmdet 3.3.0, mmcv-lite 2.2.0, mmengine 0.10.7 and PyTorch 2.13.0. mmcv-lite has the source of its operators and not their
compiled part, without which `mmcv.ops` cannot be imported; the merging cells need none, and are loaded past it. So is mmdet's neck.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from weight_rule import rule

CHANNELS, INPUTS, STACKS, SIZE, BATCH = 8, (4, 8, 16, 32), 2, 64, 2  # of the maps, of the stages, cells of stage 1 on a side, images


def load(name: str) -> Any:
    """Load a module past the `__init__` of the packages around it."""
    package, *inner = name.split(".")
    folder = Path(next(iter(importlib.util.find_spec(package).submodule_search_locations)))  # type: ignore[union-attr, arg-type]
    for depth in range(len(inner) - 1):
        around = ".".join((package, *inner[: depth + 1]))
        sys.modules[around] = types.ModuleType(around)
        sys.modules[around].__path__ = [str(folder.joinpath(*inner[: depth + 1]))]
    return importlib.import_module(name)


def stages() -> list[torch.Tensor]:
    """Outputs of a backbone's four stages."""
    shapes = [(BATCH, channels, SIZE >> stage, SIZE >> stage) for stage, channels in enumerate(INPUTS)]
    return [torch.from_numpy(rule(f"stage{stage}.weight", shape)).requires_grad_() for stage, shape in enumerate(shapes)]


def main(out: str) -> None:
    """Write maps in inference, and in training their sum weighted by the rule, and the gradients of that (of squares a norm knows all)."""
    registry: Any = types.ModuleType("mmdet.registry")
    registry.MODELS = types.SimpleNamespace(register_module=lambda: lambda one: one)
    typing: Any = types.ModuleType("mmdet.utils")
    typing.MultiConfig = typing.OptConfigType = Any
    load("mmcv.ops.merge_cells")
    sys.modules |= {"mmdet.registry": registry, "mmdet.utils": typing}
    neck = load("mmdet.models.necks.nas_fpn").NASFPN(
        list(INPUTS), CHANNELS, num_outs=5, stack_times=STACKS, start_level=1, norm_cfg={"type": "BN"}
    )
    state = {name: old for name, old in neck.state_dict().items() if old.ndim}
    made = {name: torch.from_numpy(rule(name, tuple(old.shape))) for name, old in state.items()}
    neck.load_state_dict(made, strict=False)
    found: dict[str, Any] = {"names": list(made), "shapes": [list(old.shape) for old in made.values()]}
    with torch.no_grad():
        found["maps"] = [x.numpy()[:, ::3, ::5, ::5].round(6).tolist() for x in neck.eval()(stages())]
    given = stages()
    total = sum((x * torch.from_numpy(rule(f"map{n}.weight", tuple(x.shape)))).sum() for n, x in enumerate(neck.train()(given)))
    total.backward()  # type: ignore[union-attr]
    found["total"] = float(total.detach())  # type: ignore[union-attr]
    found["gradients"] = [float(x.grad.norm()) for x in given[1:]]  # type: ignore[union-attr]
    norms = {name: float(one.grad.norm()) for name, one in neck.named_parameters() if one.grad is not None and one.ndim > 1}
    found["weight_gradients"] = norms
    Path(out).write_text(json.dumps(found) + "\n")
    print(neck.__class__, np.std(found["maps"][0]), total)


if __name__ == "__main__":
    main(sys.argv[1])
