#!/usr/bin/env bash
# mindspore 2.8.0: `import mindspore` makes protobuf pure Python in programs that it starts, though these never load MindSpore.
#
# Expected (protobuf's documentation, https://protobuf.dev/reference/python/python-generated/: upb is the default implementation): a program
# that does not ask for another implementation parses with upb.
# Seen with mindspore 2.8.0, protobuf 7.36.2, onnx 1.23.2: the import sets PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python in os.environ, which
# children inherit. There an ONNX graph of 3,000 nodes takes 39 times as long to make, 441 to write and 711 to parse; one of 300 nodes and a
# tensor of 40 MB is written and parsed in 0.03 and 0.05 s by both.
# Why: the messages of mindspore are generated for protobuf 3, which upb refuses; so in MindSpore's own process it must be so.
#
# Consequence for this project: none to mend. Its graphs have some hundred nodes: that of ResNet-50-FPN (169 MB) is written in 0.9 s of CPU, and
# quantised in as long by both; a point of five curves takes 0.2 ms instead of 0.05. `export/graph.py` and `jobs/curves.py`
# load MindSpore or set the same first, since a process has one implementation. Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check mindspore==2.8.0 'numpy<2' protobuf==7.36.2 onnx==1.23.2 setuptools
cat > child.py <<'PY'
import json
import time

import onnx
from google.protobuf.internal import api_implementation
from onnx import TensorProto, helper


def seconds(call):
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def build():
    nodes = [helper.make_node("Add", [f"x{n}", "x0"], [f"x{n + 1}"], name=f"node{n}") for n in range(3000)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x0", "x3000")]
    return helper.make_model(helper.make_graph(nodes, "chain", ends[:1], ends[1:]))


making, model = min((seconds(build) for _ in range(3)), key=lambda one: one[0])
writing, content = min((seconds(model.SerializeToString) for _ in range(3)), key=lambda one: one[0])
parsing, _ = min((seconds(lambda: onnx.load_from_string(content)) for _ in range(3)), key=lambda one: one[0])
print(json.dumps({"implementation": api_implementation.Type(), "make": making, "write": writing, "parse": parsing}))
PY
cat > probe.py <<'PY'
import json
import os
import subprocess
import sys

NAME = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"


def child():
    return json.loads(subprocess.run([sys.executable, "child.py"], check=True, capture_output=True, text=True).stdout)


assert NAME not in os.environ
before = child()
import mindspore  # noqa: E402, F401

after = child()
for text, one in (("before", before), ("after", after)):
    print(text, "import mindspore:", ", ".join(f"{k} {v if isinstance(v, str) else f'{1e3 * v:.2f} ms'}" for k, v in one.items()))
slower = {name: after[name] / before[name] for name in ("make", "write", "parse")}
print("times slower:", {name: round(factor) for name, factor in slower.items()})
as_described = (before["implementation"], after["implementation"], os.environ.get(NAME)) == ("upb", "python", "python")
raise SystemExit(0 if as_described and min(slower.values()) > 5 else 1)
PY
env -u PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION venv/bin/python -W ignore probe.py
