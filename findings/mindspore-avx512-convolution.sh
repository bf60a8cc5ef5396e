#!/usr/bin/env bash
# mindspore 2.10.0 (and 2.9.0), CPU: with AVX-512 a plain 3x3 convolution falls back to oneDNN's reference code; without AVX-512 it is fast.
#
# Expected (documentation of oneDNN, "CPU Dispatcher Control": by default the newest instructions that the processor has are used, and
# ONEDNN_MAX_CPU_ISA "limits processor features oneDNN is able to detect"): fewer instructions make nothing faster; and 2.10.0 convolves as fast
# as 2.8.0 on the same processor.
# Seen on processors with the feature avx512f (x86-64), float32, NCHW, 3x3, 64 to 64 channels, 1x64x40x40:
# - mindspore 2.8.0 brings oneDNN 2.2.0, whose verbose output says `gemm:jit`;
# - mindspore 2.9.0 and 2.10.0 bring oneDNN 3.10.1, which says `jit_uni_ncsp:conv+ref:any`, and take more than 10 times as long;
# - 2.10.0 with ONEDNN_MAX_CPU_ISA=AVX2 says `x64:gemm:jit` and is about as fast as 2.8.0.
# Why: MindSpore gives oneDNN weights in plain layout. `jit_uni_ncsp_convolution_fwd_t` (oneDNN 3, only with avx512_core) reorders the images to
# NHWC and looks for a convolution that takes those and the plain weights; only the reference has such.
#
# Consequence for this project: spnas_core/jobs/cpu_variables.py sets ONEDNN_MAX_CPU_ISA=AVX2 from MindSpore 2.9 on.
# Exit status 0: as described; 77: this processor has no AVX-512.
set -euo pipefail
grep -qw avx512f /proc/cpuinfo || { echo "no avx512f in /proc/cpuinfo"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > probe.py <<'PY'
import time

import mindspore
import numpy as np
from mindspore import Tensor, ops

mindspore.set_context(mode=mindspore.PYNATIVE_MODE, device_target="CPU")
rng = np.random.default_rng(0)
images, weights = (Tensor(rng.standard_normal(shape).astype(np.float32)) for shape in ((1, 64, 40, 40), (64, 64, 3, 3)))
convolve = ops.Conv2D(64, 3, pad_mode="pad", pad=1)
convolve(images, weights).asnumpy()
times = []
for _ in range(5):
    begun = time.process_time()
    convolve(images, weights).asnumpy()
    times.append(time.process_time() - begun)
print(f"seconds {min(times):.5f}")
PY

measure() {  # mindspore of the environment $1, oneDNN held to $2: the code that convolves, CPU seconds of one convolution
  env DNNL_VERBOSE=1 ONEDNN_VERBOSE=1 GLOG_v=3 OMP_NUM_THREADS=1 ${2:+ONEDNN_MAX_CPU_ISA=$2} "$1/bin/python" probe.py > log
  code=$(sed -n 's/.*,exec,cpu,convolution,\([^,]*\),forward.*/\1/p' log | sort -u)
  echo "$code" "$(sed -n 's/^seconds //p' log)"
}

for version in 2.8.0 2.10.0; do
  python3.11 -m venv "$version"
  "$version/bin/python" -m pip install --quiet --disable-pip-version-check "mindspore==$version" "numpy==1.26.4"
done
read -r old_code old_seconds < <(measure 2.8.0 "")
read -r new_code new_seconds < <(measure 2.10.0 "")
read -r held_code held_seconds < <(measure 2.10.0 AVX2)
echo "mindspore 2.8.0: $old_code, $old_seconds s"
echo "mindspore 2.10.0: $new_code, $new_seconds s"
echo "mindspore 2.10.0, ONEDNN_MAX_CPU_ISA=AVX2: $held_code, $held_seconds s"
[ "$old_code" = gemm:jit ] && [ "$new_code" = jit_uni_ncsp:conv+ref:any ] && [ "$held_code" = x64:gemm:jit ]
awk -v a="$new_seconds" -v b="$held_seconds" 'BEGIN { exit !(a > 10 * b) }'
