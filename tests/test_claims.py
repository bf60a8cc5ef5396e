import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from spnas_core.errors import JobError
from spnas_core.store import claims
from spnas_core.store.artifacts import Store
from spnas_core.store.claims import Claim, Lease
from spnas_core.store.storage import Storage

KEY = "a" * 64
SHORT = Lease(seconds=1.0, heartbeat=0.1, poll=0.02)
WORKER = f"""
import os, sys, tempfile, threading, time
from pathlib import Path
from spnas_core.store import claims
from spnas_core.store.claims import Lease
from spnas_core.store.artifacts import Store
url, log, seconds, lease, machine = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
if machine:
    claims._machine = lambda: {{"boot": machine, "processes": "its own"}}
store = Store(url)
def say(word):
    with log.open("a") as file:
        file.write(f"{{word}} {{os.getpid()}} {{time.monotonic()}}\\n")
say("begins")
while len(log.read_text().splitlines()) < int(sys.argv[6]):
    time.sleep(0.01)
with store.claim("train", {KEY!r}, Lease(lease, lease / 10, 0.05)) as claim:
    found = claim.acquire(lambda: store.find("train", {KEY!r}), threading.Event(), lambda: say("waits"))
    if found is None:
        say("computes")
        time.sleep(seconds)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "x").write_text("x")
            found = store.publish_record("train", {KEY!r}, {{}}, Path(folder), {{}}, 1.0)
say("has")
"""


def start(
    count: int, url: str, folder: Path, seconds: float, lease: float, machines: bool = False
) -> tuple[list["subprocess.Popen[bytes]"], Path]:
    """Start processes that all want one artifact; each writes what it does to a common log in `folder`."""
    log = folder / "log.txt"
    log.touch()
    options = [url, str(log), str(seconds), str(lease)]
    command = [sys.executable, "-c", WORKER, *options]
    return [subprocess.Popen([*command, f"machine {n}" if machines else "", str(count)]) for n in range(count)], log


def said(log: Path, word: str) -> list[tuple[int, float]]:
    lines = [line.split() for line in log.read_text().splitlines()]
    return [(int(pid), float(when)) for what, pid, when in lines if what == word]


def wait_for(log: Path, word: str, count: int, seconds: float = 120) -> list[tuple[int, float]]:
    end = time.monotonic() + seconds
    while len(said(log, word)) < count and time.monotonic() < end:
        time.sleep(0.02)
    return said(log, word)


@pytest.fixture
def storage(store_url: str) -> Storage:
    return Storage(store_url)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.training)])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a store that several processes see."""
    return str(tmp_path / "store") if request.param == "local" else f"{request.getfixturevalue('s3_url')}/{uuid.uuid4().hex}"


def acquire(claim: Claim, done: Any = None, stopped: threading.Event | None = None, on_wait: Any = lambda: None) -> Any:
    return claim.acquire(lambda: done, stopped or threading.Event(), on_wait)


def test_of_eight_processes_one_computes(shared_url: str, tmp_path: Path) -> None:
    processes, log = start(8, shared_url, tmp_path, seconds=0.5, lease=10.0)
    assert [process.wait(120) for process in processes] == [0] * 8
    assert len(said(log, "computes")) == 1
    assert len(said(log, "has")) == 8
    assert Store(shared_url).find("train", KEY)
    assert Storage(shared_url).sizes(f"claims/train/{KEY}") == {}


@pytest.mark.training
@pytest.mark.parametrize("machines", [False, True])
def test_when_the_one_that_computes_is_killed_another_takes_over(shared_url: str, tmp_path: Path, machines: bool) -> None:
    lease = 3.0 if machines else 60.0
    processes, log = start(4, shared_url, tmp_path, seconds=3.0, lease=lease, machines=machines)
    ((first, _),) = wait_for(log, "computes", 1)
    wait_for(log, "waits", 3)
    os.kill(first, signal.SIGKILL)
    killed = time.monotonic()
    statuses = {process.pid: process.wait(120) for process in processes}
    assert statuses.pop(first) == -signal.SIGKILL
    assert set(statuses.values()) == {0}
    (_, (second, begun)) = said(log, "computes")
    assert second != first
    if machines:  # only the clock of those who wait can tell; the last heartbeat may be a tenth of a lease old
        assert begun - killed > 0.8 * lease
    else:
        assert begun - killed < lease / 4
    assert {pid for pid, _ in said(log, "has")} == set(statuses)


def test_a_claim_is_held_for_as_long_as_its_holder_says_so(storage: Storage) -> None:
    waits: list[int] = []
    stopped = threading.Event()
    with Claim(storage, f"claims/train/{KEY}", SHORT) as first:
        assert acquire(first) is None
        other = Claim(storage, f"claims/train/{KEY}", SHORT)
        threading.Timer(3 * SHORT.seconds, stopped.set).start()
        with pytest.raises(JobError, match="killed: it was stopped while it waited"), other:
            acquire(other, stopped=stopped, on_wait=lambda: waits.append(1))
    assert waits == [1]
    assert storage.sizes(f"claims/train/{KEY}") == {}


def test_what_is_there_needs_no_claim(storage: Storage) -> None:
    with Claim(storage, f"claims/train/{KEY}", SHORT) as first, Claim(storage, f"claims/train/{KEY}", SHORT) as second:
        assert acquire(first) is None
        assert acquire(second, done="artifact") == "artifact"
    assert storage.sizes(f"claims/train/{KEY}") == {}


def test_a_job_that_failed_is_free_for_the_next_at_once(storage: Storage) -> None:
    """It waits for no lease; this one is long, since a busy machine may need a second for the requests alone."""
    lease = SHORT._replace(seconds=30.0)
    for number in (1, 2):
        begun = time.monotonic()
        with contextlib.suppress(ZeroDivisionError), Claim(storage, f"claims/train/{KEY}", lease) as claim:
            assert acquire(claim) is None
            raise ZeroDivisionError
        assert time.monotonic() - begun < lease.seconds
        assert list(storage.sizes(f"claims/train/{KEY}")) == [f"{number:06d}"]


def test_a_holder_that_was_away_for_a_lease_learns_that_it_lost(storage: Storage) -> None:
    with Claim(storage, f"claims/train/{KEY}", SHORT) as first:
        assert acquire(first) is None
        assert storage.create(f"claims/train/{KEY}/000002", b"another machine")
        assert first.lost.wait(10 * SHORT.seconds)
    assert storage.read(f"claims/train/{KEY}/000002") == b"another machine"


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"null", b'{"pid": 1}', b'{"token": ' * 1000])
def test_a_claim_that_nobody_understands_is_free_after_a_lease(storage: Storage, content: bytes) -> None:
    storage.write(f"claims/train/{KEY}/000007", content)
    begun = time.monotonic()
    with Claim(storage, f"claims/train/{KEY}", SHORT) as claim:
        assert acquire(claim) is None
        assert SHORT.seconds <= time.monotonic() - begun < 5 * SHORT.seconds
        assert list(storage.sizes(f"claims/train/{KEY}")) == ["000008"]


def test_of_those_who_take_over_one_wins(shared_url: str) -> None:
    storage = Storage(shared_url)
    storage.write(f"claims/train/{KEY}/000001", b"gone")
    held, together = [], threading.Barrier(8)

    def take() -> None:
        with Claim(Storage(storage.url), f"claims/train/{KEY}", SHORT) as claim:
            together.wait()
            if claim._take(2):
                held.append(claim)
            together.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_process_that_lives_is_told_from_one_that_died() -> None:
    me = claims.whoami()
    assert claims._lives(me["pid"], me["begun"])
    assert not claims._lives(me["pid"], "0")  # another process, which had the same number before
    child = subprocess.Popen([sys.executable, "-c", ""])
    begun = claims._begun(child.pid) or ""
    end = time.monotonic() + 60
    while claims._begun(child.pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not claims._lives(child.pid, begun)  # a zombie
    child.wait()
    assert not claims._lives(child.pid, begun)


def test_a_heartbeat_outlives_any_error_of_the_store(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import NoCredentialsError

    sizes, failed = Storage.sizes, []
    with Claim(storage, f"claims/train/{KEY}", SHORT) as claim:
        assert acquire(claim) is None

        def expired(self: Storage, folder: str) -> dict[str, int]:
            if self is storage and len(failed) < 2:
                failed.append(1)
                raise NoCredentialsError
            return sizes(self, folder)

        monkeypatch.setattr(Storage, "sizes", expired)
        end = time.monotonic() + 60
        while len(failed) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        other = Claim(Storage(storage.url), f"claims/train/{KEY}", SHORT)
        before, beating = other.newest(), time.monotonic() + 60
        while other.newest() == before and time.monotonic() < beating:
            time.sleep(0.02)
        assert other.newest()[0] == before[0]
        assert other.newest() != before


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_who_lost_the_claim_since_its_last_heartbeat_leaves_that_of_its_successor(storage: Storage, error: type[Exception] | None) -> None:
    path = f"claims/train/{KEY}"
    with contextlib.suppress(ZeroDivisionError), Claim(storage, path, Lease(60, 60, 0.02)) as claim:
        assert acquire(claim) is None
        assert storage.create(f"{path}/000002", b"another machine")
        storage.remove(f"{path}/000001")
        if error:
            raise error
    assert storage.sizes(path).keys() == {"000002"}
    assert storage.read(f"{path}/000002") == b"another machine"
