#!/usr/bin/env bash
# mindspore 2.8.0, CPU, PyNative: mindspore.runtime.launch_blocking() has no effect once an operator has run, and says nothing.
#
# Expected (documentation of `mindspore.runtime.launch_blocking`: "When this interface is called, the operator is executed in a synchronized
# manner on the device"): it switches whenever it is called. Other switches of mindspore.runtime raise when they come too late.
# Seen: called before the first operator, 2,000 small operators take the CPU seconds of one thread; called after one operator, they take those
# of the launch ahead, as if it had not been called: more than 1.3 times as many, since a thread that has nothing to launch waits in a busy loop.
# With convolutions of two threads, which wait in such loops for each other as well, a batch of a detector's inference took 0.43 s for 0.06.
#
# Consequence for this project: spnas_core/jobs/cpu.py calls it before anything runs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > probe.py <<'PY'
import sys
import time

import mindspore
import numpy as np
from mindspore import Tensor, ops

mindspore.set_device("CPU")
mindspore.device_context.cpu.op_tuning.threads_num(1)
mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
numbers = Tensor(np.ones((8, 16, 32, 32), np.float32))
relu = ops.ReLU()
if sys.argv[1] == "early":
    mindspore.runtime.launch_blocking()
relu(numbers).asnumpy()
if sys.argv[1] == "late":
    mindspore.runtime.launch_blocking()
found = numbers
begun = time.process_time()
for _ in range(2000):
    found = relu(found)
found.asnumpy()
print(time.process_time() - begun)
PY

python3.11 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check mindspore==2.8.0 numpy==1.26.4
measure() { for _ in 1 2 3; do env GLOG_v=3 OMP_NUM_THREADS=1 venv/bin/python probe.py "$1" | tail -n 1; done | sort -g | head -n 1; }
early=$(measure early) late=$(measure late) never=$(measure never)
echo "mindspore 2.8.0, CPU seconds of 2,000 operators: launch_blocking() early $early, after one operator $late, never $never"
awk -v early="$early" -v late="$late" -v never="$never" 'BEGIN { exit !(late > 1.3 * early && never > 1.3 * early) }'
