"""Make the golden values of test_level_norms.py: ``mmdetection_retina.py OUT.json``, in the environment of mmdetection_nas_fpn.py.

Of mmdetection's `RetinaSepBNHead` the towers and all that follows in `forward` are its own. Its base class needs `mmcv.ops`, and so stands
here with what `RetinaSepBNHead` reads of it: sizes alone.
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from mmdetection_nas_fpn import load
from weight_rule import rule

CHANNELS, CLASSES, ANCHORS, DEPTH, FINEST, BATCH = 8, 3, 9, 2, 32, 2  # cells on a side of P3


class AnchorHead(torch.nn.Module):
    """Sizes of a head."""

    def __init__(self, num_classes: int, in_channels: int, feat_channels: int, init_cfg: None) -> None:
        super().__init__()
        self.cls_out_channels, self.num_base_priors = num_classes, ANCHORS
        self.in_channels, self.feat_channels = in_channels, feat_channels
        self._init_layers()  # type: ignore[operator]


def maps() -> list[torch.Tensor]:
    """P3 to P7, each with another mean and deviation, as its norms have to tell."""
    shapes = [(BATCH, CHANNELS, FINEST >> level, FINEST >> level) for level in range(5)]
    return [torch.from_numpy(rule(f"map{n}.bias", shape) * 10 * (n + 1) + n).requires_grad_() for n, shape in enumerate(shapes)]


def main(out: str) -> None:
    """Write the predictions in inference; in training their sum weighted by the rule, and the norms of its gradients."""
    registry: Any = types.ModuleType("mmdet.registry")
    registry.MODELS = types.SimpleNamespace(register_module=lambda: lambda one: one)
    typing: Any = types.ModuleType("mmdet.utils")
    typing.OptMultiConfig = typing.OptConfigType = Any
    base: Any = types.ModuleType("mmdet.models.dense_heads.anchor_head")
    base.AnchorHead = AnchorHead
    sys.modules |= {"mmdet.registry": registry, "mmdet.utils": typing, base.__name__: base}
    head = load("mmdet.models.dense_heads.retina_sepbn_head").RetinaSepBNHead(
        CLASSES, 5, CHANNELS, stacked_convs=DEPTH, norm_cfg={"type": "BN"}, feat_channels=CHANNELS
    )
    own = {name for name, _ in (*head.named_parameters(), *head.named_buffers())}  # shared convolutions once
    made = {name: torch.from_numpy(rule(name, tuple(old.shape))) for name, old in head.state_dict().items() if name in own and old.ndim}
    head.load_state_dict(made, strict=False)
    found: dict[str, Any] = {"names": list(made), "shapes": [list(old.shape) for old in made.values()]}
    with torch.no_grad():
        for kind, outputs in zip(("score", "delta"), head.eval()(maps()), strict=True):
            found[kind] = [x.numpy()[:, ::4, ::7, ::7].round(6).tolist() for x in outputs]
    given = maps()
    outputs = [x for kind in head.train()(given) for x in kind]
    total = sum((x * torch.from_numpy(rule(f"output{n}.weight", tuple(x.shape)))).sum() for n, x in enumerate(outputs))
    total.backward()  # type: ignore[union-attr]
    found["total"] = float(total.detach())  # type: ignore[union-attr]
    found["gradients"] = [float(x.grad.norm()) for x in given]  # type: ignore[union-attr]
    found["weight_gradients"] = {name: float(one.grad.norm()) for name, one in head.named_parameters() if one.grad is not None}
    Path(out).write_text(json.dumps(found) + "\n")
    print(head.__class__, [len(one) for one in found.values() if isinstance(one, list | dict)], total)


if __name__ == "__main__":
    main(sys.argv[1])
