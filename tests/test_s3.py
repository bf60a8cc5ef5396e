"""The store on a real S3 server that is overloaded, cut off, killed and started again."""

import http.client
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
from command_line import SPNAS
from nets import SMOKE
from s3_server import KEYS, serve_bucket

from flows import presets
from flows.spnas import spnas
from spnas_core.data import fingerprints
from spnas_core.errors import JobError, MissingArtifactError, StoreError, UserError
from spnas_core.job import Data, TrainJob
from spnas_core.jobs import runner
from spnas_core.jobs.runner import run_job
from spnas_core.monitor.housekeeping import garbage, verify_artifacts
from spnas_core.monitor.inventory import take_inventory
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store
from spnas_core.store.listing import list_entries
from spnas_core.store.storage import Storage

pytestmark = pytest.mark.training
KEY = "a" * 64


class Between(BaseHTTPRequestHandler):
    """Passes requests on to the server; with the probability `rate` it answers 500 or 503, cuts the line, or is slow."""

    protocol_version = "HTTP/1.1"
    endpoint: ClassVar[str] = ""
    rate: ClassVar[float] = 0.0
    rng: ClassVar[random.Random] = random.Random(0)

    def handle_any(self) -> None:
        """Pass one request on, or not."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.rng.choice(["500", "503", "cut before", "cut after", "torn", "slow"]) if self.rng.random() < self.rate else ""
        if fault in ("500", "503"):
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.close_connection = fault in ("cut before", "cut after", "torn")
        if fault == "cut before":
            return
        time.sleep(0.3 if fault == "slow" else 0)
        line = http.client.HTTPConnection(urlsplit(self.endpoint).netloc, timeout=60)
        line.request(self.command, self.path, body, dict(self.headers))
        answer = line.getresponse()
        content = answer.read()
        line.close()
        if fault == "cut after":  # the deed is done, the answer is lost
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "torn" else content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def between(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a store behind a line that is bad."""
    Between.endpoint, Between.rate = os.environ["AWS_ENDPOINT_URL"], 0.0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Between)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield f"{s3_url}/{os.urandom(8).hex()}"
    server.shutdown()
    thread.join()
    server.server_close()


def publish(store: Store, number: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "weights").write_bytes(b"%d" % number * 5000)
        store.publish_record("train", f"{number:064d}", {"number": number}, Path(name), {}, 1.0)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_nothing_wrong_comes_over_a_bad_line(between: str, tmp_path: Path, seed: int) -> None:
    Between.rng, Between.rate = random.Random(seed), 0.2
    store = Store(between, tmp_path / "cache", delays=(0.01,) * 7)
    served = 0
    for number in range(6):
        try:
            publish(store, number)
            assert (found := store.find("train", f"{number:064d}")) is None or found.job == {"number": number}
            assert store.fetch("train", f"{number:064d}", "weights").read_bytes() == b"%d" % number * 5000
            assert Storage(between, (0.01,) * 7).create(f"claims/train/{number:064d}/000001", b"mine")
            served += 1
        except (StoreError, MissingArtifactError):
            pass
    assert served >= 4
    Between.rate = 0.0
    for number in range(6):
        publish(store, number)
        assert store.fetch("train", f"{number:064d}", "weights").read_bytes() == b"%d" % number * 5000


def test_a_server_that_is_killed_loses_nothing_and_is_waited_for(tmp_path: Path) -> None:
    with serve_bucket(tmp_path / "s3", "other") as server:
        store = Store("s3://other/store", tmp_path / "cache")
        publish(store, 0)
        server.kill()
        back = threading.Timer(1.0, server.start)
        back.start()
        assert store.fetch("train", f"{0:064d}", "weights").read_bytes() == b"0" * 5000
        back.join()
        server.kill()
        with pytest.raises(StoreError, match=r"store s3://other/store: read: expected an answer, got: .*"):
            Store("s3://other/store", tmp_path / "cache", delays=()).find("train", KEY)
        with pytest.raises(UserError, match="expected a place that can be written"):
            Store("s3://other/store", delays=()).writable()


def test_a_wrong_key_is_one_line_without_the_key(s3_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "quite-another-secret")
    with pytest.raises(UserError, match="expected a place that can be written") as caught:
        Store(s3_url).writable()
    for secret in (*KEYS.values(), "quite-another-secret"):
        if secret not in ("us-east-1", "127.0.0.1"):
            assert secret not in str(caught.value) + caplog.text


def test_no_key_is_in_anything_that_a_job_leaves(s3_url: str, tmp_path: Path) -> None:
    url, events = f"{s3_url}/{os.urandom(8).hex()}", []
    job = TrainJob(arch="b_11-21-21-21", detector=Detector(), recipe=Recipe(), data=Data(url=str(tmp_path), fingerprint="f"))
    with pytest.raises(UserError, match=r"expected annotations") as caught:
        run_job(job, url, on_progress=events.append)
    store = Store(url, tmp_path / "cache")
    publish(store, 0)
    paths = [path for path in store.files() if not path.endswith("/weights")]
    assert {path.split("/")[0] for path in paths} == {"claims", "logs", "train"}
    left = [str(caught.value), str(events), *(store.read(path).decode() for path in paths)]
    assert not [text for text in left if "secretsecret" in text or "AWS_" in text]


@pytest.mark.long
def test_a_training_outlives_its_server_and_goes_on_after_a_kill(tiny_data: Path, tmp_path: Path) -> None:
    """The server is killed in mid-training and comes back, then the worker is: the weights are those of a training left alone."""
    data = fingerprints.data_of(str(tiny_data))
    job = TrainJob(arch="b_1111-2111", detector=SMOKE, recipe=Recipe(epochs=150, batch=4, warmup_steps=0), data=data)
    alone = run_job(job, str(tmp_path / "alone"))
    pids, saved, resumed = [], [], []

    def disturb(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            pids.append(event["pid"])
        if event["event"] == "resume":
            resumed.append(event["done"])
        if event["event"] == "checkpoint":
            saved.append(event["done"])
            if len(saved) == 2:
                server.kill()
                threading.Timer(1.0, server.start).start()
            if len(saved) == 4:
                os.kill(pids[0], signal.SIGKILL)

    with serve_bucket(tmp_path / "s3", "other") as server:
        with pytest.raises(JobError, match="killed: it died of SIGKILL"):
            run_job(job, "s3://other/store", checkpoint_seconds=0.2, on_progress=disturb)
        again = run_job(job, "s3://other/store", checkpoint_seconds=0.2, on_progress=disturb)
        assert resumed == [saved[3]]
        assert again.files["weights.safetensors"] == alone.files["weights.safetensors"]
        assert {path.split("/")[0] for path in Store("s3://other/store").files()} == {"train", "logs"}


@pytest.mark.long
def test_no_secret_is_in_anything_that_a_run_leaves(s3_url: str, tiny_data: Path, tmp_path: Path) -> None:
    """Not in the store, on the terminal, in the database of the embedded Prefect server, or in any other file."""
    places = {"PREFECT_HOME": str(tmp_path / "prefect"), "SPNAS_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
    secret, url = KEYS["AWS_SECRET_ACCESS_KEY"], f"{s3_url}/{os.urandom(8).hex()}"
    command = [*SPNAS, "run", "smoke", "--data", str(tiny_data), "--store", url, "--set", "serial.candidates=1"]
    ended = subprocess.run(command, env={**os.environ, **places, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    store = Store(url, tmp_path / "cache")
    local = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "prefect.db" in {path.name for path in local}
    left = {str(path): path.read_bytes() for path in local} | {path: store.read(path) for path in store.files()}
    left["terminal"] = (ended.stdout + ended.stderr).encode()
    assert not [name for name, content in left.items() if secret.encode() in content]


@pytest.mark.long
def test_a_whole_run_on_s3(s3_url: str, prefect_server: None, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{s3_url}/{os.urandom(8).hex()}"
    settings = presets.load_preset("smoke")
    summary = spnas(settings, str(tiny_data), url)
    store = Store(url)
    inventory = take_inventory(store)
    assert inventory.finished == {"smoke"}
    assert {fault for _, fault in verify_artifacts(store, inventory)} == {""}
    assert garbage(inventory, ["smoke"]) == {}
    left = [store.read(path).decode(errors="replace") for path in store.files() if path.endswith((".json", ".txt", ".yml", ".md", ".csv"))]
    assert not [text for text in left if "secretsecret" in text]
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *_, **__: pytest.fail("a job was started"))
    assert spnas(settings, str(tiny_data), url) == summary


def test_what_another_client_deleted_is_not_listed(s3_url: str) -> None:
    """The server goes on to name the folder of the last key that was deleted (findings/seaweedfs-empty-prefix.sh)."""
    import s3fs

    root = f"{s3_url}/{os.urandom(8).hex()}"
    store = Store(root)
    store.write("train/x/one", b"1")
    store.write("logs/y", b"2")
    other = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    place = root.removeprefix("s3://")
    other.rm_file(f"{place}/train/x/one")
    system = s3fs.S3FileSystem(skip_instance_cache=True)
    assert {path.removeprefix(f"{place}/") for path in list_entries(system, place)} == {"logs/y"}
    assert list_entries(system, f"{place}/train") == list_entries(system, f"{place}/train/x") == {}
    assert not take_inventory(Store(root)).artifacts
