"""Measure how long the network of this folder takes on this device, or each of the networks in the folders below it.

    python benchmark.py [--out latency.json] [--threads N] [--provider NAME] [--device NAME] [--rounds 5] [--seconds 2] [--pause 1] [--busy]

One image at a time, non-maximum suppression included, reading not. The networks take turns: in each round every one is opened anew, warmed
up, and given images for so many seconds after a pause, so that a device that grows hot or busy does so for all. A round counts by its
median, a network by the median of its rounds; `spread_ms` are the fastest and the slowest round. Needs onnxruntime and numpy alone.
`spnas latency import latency.json --name NAME` takes the result.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FORM = "spnas-latency-1"
IMAGES = 4  # different ones, in turns
WARM_UP, LEAST = 5, 10  # images before those that are timed, and fewest of these
AWAY = "AzureExecutionProvider"  # comes first in onnxruntime's lists, and runs no network of ours


def networks(folder: Path) -> list[Path]:
    """Folders with a network: this one, or those below it."""
    return [one for one in (folder, *sorted(folder.iterdir())) if (one / "model.onnx").is_file()]


def open_session(folder: Path, threads: int, provider: str | None) -> Any:
    """Open a network with so many threads (0: as many as onnxruntime takes), in a provider (None: the first that is there)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = [provider] if provider else [name for name in onnxruntime.get_available_providers() if name != AWAY]
    return onnxruntime.InferenceSession(folder / "model.onnx", options, providers=providers)


def pictures(height: int, width: int) -> list[dict[str, Any]]:
    """Make inputs of the network: noise, the same every time."""
    rng = np.random.default_rng(0)
    size = np.array([[height, width]], np.float32)
    return [{"images": rng.standard_normal((1, 3, height, width), np.float32), "image_hw": size} for _ in range(IMAGES)]


def one_round(session: Any, inputs: list[dict[str, Any]], seconds: float, pause: float, now: Callable[[], float]) -> list[float]:
    """Milliseconds of the images of one round, by the timer `now`."""
    for number in range(WARM_UP):
        session.run(None, inputs[number % len(inputs)])
    time.sleep(pause)
    session.run(None, inputs[0])
    taken: list[float] = []
    while len(taken) < LEAST or sum(taken) < 1e3 * seconds:
        begun = now()
        session.run(None, inputs[len(taken) % len(inputs)])
        taken.append(1e3 * (now() - begun))
    return taken


def processor() -> str:
    """Name of the processor or the board, as the system tells it."""
    for file, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name"), ("/proc/cpuinfo", "Hardware")):
        try:
            lines = Path(file).read_text(errors="replace").strip("\0\n").splitlines()
        except OSError:
            continue
        for line in lines:
            if not key or line.startswith(key):
                return line.partition(":")[2].strip() if key else line
    return platform.processor() or platform.machine()


def measure(folders: list[Path], given: argparse.Namespace) -> dict[str, Any]:
    """Measure networks in turns; the document that is written."""
    cards = [json.loads((folder / "model.json").read_text()) for folder in folders]
    rounds: list[list[float]] = [[] for _ in folders]
    now = time.process_time if given.busy else time.perf_counter
    counts, providers, threads = [0] * len(folders), [""], given.threads
    for number in range(given.rounds):
        for place, (folder, card) in enumerate(zip(folders, cards, strict=True)):
            session = open_session(folder, threads, given.provider)
            providers = session.get_providers()
            taken = one_round(session, pictures(*card["detector"]["image_size"]), given.seconds, given.pause, now)
            rounds[place].append(statistics.median(taken))
            counts[place] += len(taken)
            print(f"round {number + 1} of {given.rounds}, {folder.name}: {rounds[place][-1]:.2f} ms", file=sys.stderr)
    nets = [
        {
            "folder": folder.name,
            "arch": card["arch"],
            "detector": card["detector"],
            "classes": len(card["classes"]),
            "int8": bool(card.get("int8")),
            "latency_ms": statistics.median(found),
            "spread_ms": [min(found), max(found)],
            "rounds_ms": found,
            "images": count,
        }
        for folder, card, found, count in zip(folders, cards, rounds, counts, strict=True)
    ]
    facts = {"device": given.device or processor(), "threads": threads, "provider": providers[0]}
    facts["timer"] = "processor" if given.busy else "clock"
    return {"form": FORM, **facts, "runtime": f"onnxruntime {onnxruntime.__version__}", "system": platform.platform(), "nets": nets}


def main() -> None:
    """Measure, and write the result as JSON."""
    parser = argparse.ArgumentParser(description="Measure how long the networks of this folder take on this device, one image at a time.")
    parser.add_argument("--out", default="latency.json", help="file for the result")
    parser.add_argument("--threads", type=int, default=0, help="threads of one operator; 0: as many as onnxruntime takes")
    parser.add_argument("--provider", help="of onnxruntime, such as CUDAExecutionProvider; else the first that is there")
    parser.add_argument("--device", help="name of the device; else that of its processor")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all networks")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a network in a round")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds before each of these")
    parser.add_argument("--busy", action="store_true", help="the device does other work: count the processor's time; needs --threads 1")
    given = parser.parse_args()
    folders = networks(Path(__file__).parent)
    if not folders:
        parser.exit(2, f"{Path(__file__).parent}: expected model.onnx here or in the folders here, found none\n")
    if given.provider and given.provider not in onnxruntime.get_available_providers():
        parser.exit(2, f"--provider: expected one of {', '.join(onnxruntime.get_available_providers())}, got {given.provider}\n")
    if min(given.rounds, given.threads + 1) < 1:
        parser.exit(2, f"expected at least 1 round and 0 threads, got {given.rounds} and {given.threads}\n")
    if given.busy and given.threads != 1:
        parser.exit(2, f"--busy: expected --threads 1, since the time of several threads adds up, got {given.threads}\n")
    found = measure(folders, given)
    Path(given.out).write_text(json.dumps(found, indent=1) + "\n")
    for one in found["nets"]:
        low, high = one["spread_ms"]
        print(f"{one['latency_ms']:8.2f} ms ({low:.2f} to {high:.2f})  {one['folder']}  {one['arch']}")
    print(f"written to {given.out}: {found['device']}, {found['provider']}, {found['threads'] or 'default'} threads")


if __name__ == "__main__":
    main()
