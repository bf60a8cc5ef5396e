#!/usr/bin/env bash
# onnxruntime 1.32.0 (the package for the CPU): the provider that a session names first ran nothing of the network, and has no part in it.
#
# Expected (https://onnxruntime.ai/docs/api/python/api_summary.html): `get_available_providers` orders "from highest to lowest" priority, and a
# session takes providers "in order of decreasing precedence"; so the first one of `session.get_providers()` runs what it can of a network.
# Seen with onnxruntime 1.32.0: the first is AzureExecutionProvider, in both lists, on a machine without any account of Azure; by the profile of
# the same session all nodes ran in CPUExecutionProvider.
#
# Consequence for this project: `benchmark.py`, which tells the provider of a measurement, leaves that one out (spnas_core/export/shipped).
# Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 'numpy<2'
cat > probe.py <<'PY'
import json

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

shape = [1, 3, 8, 8]
weights = helper.make_tensor("w", TensorProto.FLOAT, [3, 3, 1, 1], [0.5] * 9)
nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Softmax", ["a"], ["y"], axis=1)]
ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in "xy"]
model = helper.make_model(helper.make_graph(nodes, "g", *ends, [weights]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model)
options = onnxruntime.SessionOptions()
options.enable_profiling = True
available = onnxruntime.get_available_providers()
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=available)
named = session.get_providers()
session.run(None, {"x": np.ones(shape, np.float32)})
with open(session.end_profiling()) as file:
    ran = [event["args"]["provider"] for event in json.load(file) if event.get("cat") == "Node" and "provider" in event["args"]]
print("available:", available)
print("of the session:", named)
print("nodes ran in:", sorted(set(ran)), f"({len(ran)} events)")
raise SystemExit(0 if available[0] == named[0] == "AzureExecutionProvider" and set(ran) == {"CPUExecutionProvider"} else 1)
PY
venv/bin/python probe.py
