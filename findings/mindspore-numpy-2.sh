#!/usr/bin/env bash
# mindspore 2.10.0: its metadata admit numpy 2, but it is compiled for numpy 1, and bilinear `ops.interpolate` raises SystemError with numpy 2.
#
# Expected (metadata of the wheel: "Requires-Dist: numpy>=1.25.0"; 2.8.0 and 2.9.0 still had "numpy<2.0.0"): what pip installs without
# complaint works. Documentation of `mindspore.ops.interpolate`: for a 4-D tensor, mode "bilinear" with a `size` gives the resized tensor.
# Seen with mindspore 2.10.0 on the CPU and numpy 2.0.2, 2.3.5 or 2.4.6: "ImportError: numpy.core.multiarray failed to import" (numpy: "A
# module that was compiled using NumPy 1.x cannot be run in NumPy 2.4.6"), then "SystemError: ... returned a result with an exception set".
# The import of mindspore and mode "nearest" raise nothing. With numpy 1.26.4 both modes work.
#
# Consequence for this project: pyproject.toml keeps numpy below 2. Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > probe.py <<'PY'
import mindspore
import numpy as np
from mindspore import Tensor, ops

mindspore.set_device("CPU")
images = Tensor(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4))
seen = []
for mode in ("nearest", "bilinear"):
    try:
        seen.append(f"{mode} {ops.interpolate(images, size=(8, 8), mode=mode).shape}")
    except SystemError:
        seen.append(f"{mode} SystemError")
print(f"numpy {np.__version__}:", ", ".join(seen))
PY
python3.11 -m venv venv
for numpy in 2.4.6 1.26.4; do
  venv/bin/python -m pip install --quiet --disable-pip-version-check mindspore==2.10.0 "numpy==$numpy"
  venv/bin/python -m pip check  # pip finds no conflict
  GLOG_v=3 venv/bin/python probe.py 2>/dev/null | tee -a seen
done
diff <(grep ^numpy seen) - <<'END'
numpy 2.4.6: nearest (1, 1, 8, 8), bilinear SystemError
numpy 1.26.4: nearest (1, 1, 8, 8), bilinear (1, 1, 8, 8)
END
