#!/usr/bin/env bash
# MindSpore 2.8.0, CPU: a training step of BatchNorm2d on one value per channel makes its running variance NaN, without a word.
#
# Expected (https://www.mindspore.cn/docs, nn.BatchNorm2d: input (N, C, H, W) of any such size; no size is excluded, and the output is
# finite): a finite running variance, or an error as PyTorch's "Expected more than 1 value per channel when training".
# Seen with MindSpore 2.8.0 on the CPU: input (1, 2, 1, 1): the output of the step is beta, moving_variance is [nan, nan] (0 times n / (n - 1)),
# and from then on every output in inference is nan; nn.ReLU on the CPU then makes 0 of it. Input (2, 2, 1, 1): all is finite.
#
# Consequence for this project: a stage whose map has one cell (64x64 px at stride 64) cannot be trained with a batch of one image; such a
# training, of a net or of a supernet, ends as `diverged`, with the name of the variance that is not finite (jobs/training.py check_state).
# Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check mindspore==2.8.0 "numpy<2" "setuptools<81"
cat > probe.py <<'PY'
import mindspore
import numpy as np
from mindspore import Tensor, nn

mindspore.set_context(device_target="CPU", mode=mindspore.PYNATIVE_MODE)
print("mindspore", mindspore.__version__)
found = {}
for images in (1, 2):
    norm = nn.BatchNorm2d(2)
    x = Tensor(np.random.default_rng(0).normal(3, 2, (images, 2, 1, 1)).astype(np.float32))
    trained = norm.set_train(True)(x).asnumpy()
    later = norm.set_train(False)(x)
    values = {
        "output in training": trained,
        "moving_variance": norm.moving_variance.asnumpy(),
        "output in inference": later.asnumpy(),
        "ReLU of it": nn.ReLU()(later).asnumpy(),
    }
    found[images] = {name: bool(np.isfinite(value).all()) for name, value in values.items()}
    print(f"{images} image(s) of 2 channels and one cell:", {name: value.ravel().tolist() for name, value in values.items()})
one = {"output in training": True, "moving_variance": False, "output in inference": False, "ReLU of it": True}
raise SystemExit(0 if found == {1: one, 2: dict.fromkeys(one, True)} else 1)
PY
venv/bin/python probe.py
