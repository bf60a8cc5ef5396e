#!/usr/bin/env bash
# openvino 2026.4.1: `import openvino` alone forks the process, from a thread, to tell Google Analytics, and leaves an identity in the home folder.
#
# Expected (https://docs.openvino.ai/2026/about-openvino/additional-resources/telemetry.html): usage data are collected by default, and what
# collects is listed: the model conversion API and tools such as the Model Converter, Accuracy Checker and Post-Training Optimization Toolkit.
# Seen with openvino 2026.4.1, openvino-telemetry 2025.2.0: a program that only imports openvino, to run a model, forks from a thread of its own;
# the child connects to www.google-analytics.com; ~/intel/openvino_ga_cid is there afterwards. Without the package openvino-telemetry, which
# openvino requires but does without, nothing of this happens.
# (The test is a proxy on the loopback: nothing is sent. With CI in the environment, or after `opt_in_out --opt_out`, nothing happens either.)
#
# Consequence for this project: MindSpore's process has threads, and a fork of it may wait for their locks. `import_openvino` of
# spnas_core/export/shipped/detect.py imports it as if the telemetry were not installed. Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check openvino==2026.4.1 openvino-telemetry==2025.2.0 'numpy<2'
cat > child.py <<'PY'
import sys
import threading

if sys.argv[1] == "without":
    sys.modules["openvino_telemetry"] = None
seen = []


def note(event, _):
    if event == "os.fork":
        seen.append("main thread" if threading.current_thread() is threading.main_thread() else "another thread")


sys.addaudithook(note)
import openvino  # noqa: E402, F401
import time  # noqa: E402

time.sleep(2)
print("forks by:", ", ".join(seen) or "none")
PY
cat > probe.py <<'PY'
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path


def probe(kind):
    home, asked = Path(kind), []
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def listen():
            while True:
                try:
                    client, _ = proxy.accept()
                except OSError:
                    return
                with client:
                    asked.append(client.recv(1000).split(b"\r\n")[0].decode())

        threading.Thread(target=listen, daemon=True).start()
        place = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment = {name: value for name, value in os.environ.items() if name not in ("CI", "no_proxy", "NO_PROXY")}
        environment |= {"HOME": str(home.absolute()), "https_proxy": place, "HTTPS_PROXY": place}
        done = subprocess.run([sys.executable, "child.py", kind], env=environment, check=True, capture_output=True, text=True)
        proxy.shutdown(socket.SHUT_RDWR)
    left = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    print(f"{kind} openvino-telemetry: {done.stdout.strip()}; asked of the proxy: {asked or 'nothing'}; files in the home folder: {left or 'none'}")
    return done.stdout.strip(), asked, left


forks, asked, left = probe("with")
told = forks == "forks by: another thread" and any("google-analytics.com" in one for one in asked) and "intel/openvino_ga_cid" in left
raise SystemExit(0 if told and probe("without") == ("forks by: none", [], []) else 1)
PY
venv/bin/python probe.py
