import contextlib
import errno
import os
import tempfile
import threading
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError
from data_sets import make
from faulty import FaultyFileSystem, errors
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_core.data import crops, files, fingerprints, splits
from spnas_core.errors import MissingArtifactError, StoreError, UserError
from spnas_core.store import retries
from spnas_core.store.artifacts import Store
from spnas_core.store.claims import Lease
from spnas_core.store.manifest import Manifest
from spnas_core.store.retries import insist, passes
from spnas_core.store.storage import Storage

KEYS = ["a" * 64, "b" * 64]
AT_ONCE = (0.0,) * 7
DEEDS = ["publish", "fetch", "find", "save", "load", "spoil"]


def content(key: str, name: str) -> bytes:
    return f"{key} {name} ".encode() * 20


def publish(store: Store, key: str, scratch: Path) -> Manifest:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    for name in ("weights", "history"):
        (folder / name).write_bytes(content(key, name))
    return store.publish_record("train", key, {"key": key}, folder, {"AP": 0.5}, 1.0)


def save(store: Store, key: str, scratch: Path, step: int) -> None:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    (folder / "one").write_bytes(b"%d" % step * 50)
    (folder / "two").write_bytes(b"%d" % step * 70)
    store.checkpoints("train", key).save(folder)


def load(store: Store, key: str, scratch: Path) -> int | None:
    """Step of the checkpoint that is loaded; both of its files must be of that step."""
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "resume"
    if not store.checkpoints("train", key).load(folder):
        return None
    step = int((folder / "one").read_bytes()[:1])
    assert (folder / "one").read_bytes() == b"%d" % step * 50
    assert (folder / "two").read_bytes() == b"%d" % step * 70
    return step


def never_wrong(seed: int, rate: float, deeds: list[tuple[str, str]]) -> None:
    """Do `deeds` with a store that fails: what is served is right; when the faults are over, all can be had."""
    FaultyFileSystem.begin(seed, rate)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        store = Store("faulty://bucket/store", scratch / "cache", AT_ONCE)
        saved: dict[str, list[int]] = {key: [] for key in KEYS}
        for number, (deed, key) in enumerate(deeds):
            try:
                if deed == "publish":
                    publish(store, key, scratch)
                elif deed == "fetch":
                    assert store.fetch("train", key, "weights").read_bytes() == content(key, "weights")
                elif deed == "find":
                    assert (found := store.find("train", key)) is None or found.job == {"key": key}
                elif deed == "save":
                    saved[key].append(number % 10)
                    save(store, key, scratch, number % 10)
                elif deed == "load":
                    assert load(store, key, scratch) in {None, *saved[key]}
                elif path := next((p for p in FaultyFileSystem.store if f"train/{key}/weights" in p), None):
                    with FaultyFileSystem.store[path].getbuffer() as buffer:
                        buffer[:1] = b"?"
            except (MissingArtifactError, StoreError):
                pass
        FaultyFileSystem.rate = 0.0
        for key in KEYS:
            for _ in range(2):  # the first may find a spoilt one and set it aside
                publish(store, key, scratch)
                try:
                    path = store.fetch("train", key, "weights")
                except MissingArtifactError:
                    continue
            assert path.read_bytes() == content(key, "weights")


deed = st.tuples(st.sampled_from(DEEDS), st.sampled_from(KEYS))


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.3, 0.6]), st.lists(deed, max_size=12))
def test_nothing_wrong_is_ever_served(seed: int, rate: float, deeds: list[tuple[str, str]]) -> None:
    never_wrong(seed, rate, deeds)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([0.1, 0.3, 0.6]))
def test_a_data_set_is_read_right_or_not_at_all(seed: int, rate: float) -> None:
    """Its listings, annotations and images, and the listing of a whole store: each is right, or a StoreError says who did not answer."""
    FaultyFileSystem.begin(seed, 0.0)
    make("faulty://bucket/set")
    make("faulty://bucket/set", split="val", folder="deep/val")
    Storage("faulty://bucket/store").write("runs/one/report.md", b"x")
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPNAS_CACHE", name)
        patch.setattr(retries.time, "sleep", lambda _: None)
        right, crop = splits.open_split("faulty://bucket/set", "train"), crops.fingerprint_folder("faulty://bucket/set/deep")
        full = fingerprints.fingerprint_splits([right], full=True)
        FaultyFileSystem.rate = rate
        answers = [
            lambda: splits.open_split("faulty://bucket/set", "train").digest == right.digest,
            lambda: fingerprints.fingerprint_splits([right], full=True) == full,
            lambda: fingerprints.verify_images(right) is None,
            lambda: crops.fingerprint_folder("faulty://bucket/set/deep") == crop,
            lambda: Storage("faulty://bucket", AT_ONCE).files("store") == {"runs/one/report.md": 1},
        ]
        served = 0
        for answer in answers:
            with contextlib.suppress(StoreError):
                assert answer()
                served += 1
        assert served or rate > 0.3
        FaultyFileSystem.rate = 0.0
        assert all(answer() for answer in answers)


def test_what_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FaultyFileSystem.begin(0, 0.0)
    make("faulty://bucket/set")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    for action, deed in (("list", "ls"), ("read", "cat_file")):
        with monkeypatch.context() as patch:
            patch.setattr(FaultyFileSystem, deed, forbidden)
            with pytest.raises(UserError, match=f"not allowed to {action} it: Access Denied"):
                splits.open_split("faulty://bucket/set", "train")


@pytest.mark.long
@settings(max_examples=3000)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.9]), st.lists(deed, max_size=25))
def test_nothing_wrong_is_ever_served_in_many_more_cases(seed: int, rate: float, deeds: list[tuple[str, str]]) -> None:
    never_wrong(seed, rate, deeds)


@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
def test_what_passes_is_tried_again_and_in_the_end_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passes(error)
    FaultyFileSystem.begin(0, 0.0)
    storage, tries = Storage("faulty://bucket/store", AT_ONCE), []

    def pipe(*_: object, **__: object) -> None:
        tries.append(1)
        if len(tries) <= most:
            raise error

    monkeypatch.setattr(FaultyFileSystem, "pipe_file", pipe)
    most = 3
    storage.write("runs/x", b"x")
    assert len(tries) == 4
    tries, most = [], 100
    with pytest.raises(StoreError, match=r"store faulty://bucket/store: write: expected an answer, got: .+") as caught:
        storage.write("runs/x", b"x")
    assert "\n" not in str(caught.value)
    assert len(tries) == len(AT_ONCE) + 1


@pytest.mark.parametrize(
    "error", [PermissionError("no"), FileNotFoundError("x"), KeyError("x"), OSError(errno.EINVAL, "x"), UserError("x")]
)
def test_what_does_not_pass(error: Exception) -> None:
    assert not passes(error)


def test_missing_credentials_are_one_line_at_once() -> None:
    def ask() -> None:
        raise NoCredentialsError

    with pytest.raises(
        StoreError, match=r"^s3://bucket: list: expected credentials in the environment, got: Unable to locate credentials$"
    ):
        insist(ask, "s3://bucket: list", (1000.0,))


def test_a_claim_whose_answer_was_lost_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    FaultyFileSystem.begin(0, 0.0)
    store, pipe, failed = Store("faulty://bucket/store", delays=AT_ONCE), FaultyFileSystem.pipe_file, []

    def lost(self: FaultyFileSystem, *args: object, **options: object) -> None:
        pipe(self, *args, **options)
        if not failed:
            failed.append(1)
            raise TimeoutError

    monkeypatch.setattr(FaultyFileSystem, "pipe_file", lost)
    with store.claim("train", KEYS[0], Lease(60, 60, 0.01)) as claim:
        assert claim.acquire(lambda: None, threading.Event(), lambda: pytest.fail("it waits for itself")) is None
    assert failed


def test_a_claim_that_another_held_for_a_moment_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, "At least one of the pre-conditions you specified did not hold") from Exception("(PreconditionFailed)")

    FaultyFileSystem.begin(0, 0.0)
    monkeypatch.setattr(FaultyFileSystem, "pipe_file", refuse)
    assert not Storage("faulty://bucket/store", AT_ONCE).create("claims/x", b"mine")


@pytest.mark.parametrize("url", ["faulty://bucket/store", ""])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FaultyFileSystem.begin(0, 0.0)
    store = Store(url or str(tmp_path / "store"), tmp_path / "cache")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if url:
        monkeypatch.setattr(FaultyFileSystem, "full", True)
    else:
        monkeypatch.setattr("spnas_core.store.storage.shutil.copyfile", full)
        monkeypatch.setattr("spnas_core.store.storage.os.fsync", full)
    with pytest.raises(StoreError, match=r"expected space for it, got: no space left"):
        publish(store, KEYS[0], tmp_path)
    with pytest.raises(StoreError, match=r"expected space for it, got: no space left"):
        store.write("runs/x/report.md", b"x")
    with pytest.raises(UserError, match="no space left"):
        store.writable()
    assert store.find("train", KEYS[0]) is None
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/x",
        "s3://key:sec/ret@bucket",
        "sftp://me:s3cret@host:22/x",
        "simplecache::s3://key:sec:ret@b/x",
        "memory://:pw@x",
        "s3://key:1234/sec@bucket/x",
        "simplecache::S3A://key:12@sec@bucket",
        "sftp://me:123456/sec@host/x",
        "abfss://key:443/sec@account/x?sec",
        "s3://key:sec?sec@bucket",
        "https://key:sec@sec@host/x",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    for refuse in (Store, files.open_url):
        with pytest.raises(UserError, match=r"\*\*\*@") as caught:
            refuse(url)
        assert not [word for word in ("key", "sec", "s3cret", "pw") if word in str(caught.value)]


@pytest.mark.parametrize(
    "query", ["sas_token=s3cret", "a=b&X-Amz-Signature=s3cret", "sig=s3cret", "AWSAccessKeyId=s3cret", "b=1&client_secret=s3cret"]
)
def test_a_secret_in_a_query_is_refused_and_not_repeated(query: str) -> None:
    for refuse in (Store, files.open_url):
        with pytest.raises(UserError, match=r"'https://host:9000/x\?\*\*\*'") as caught:
            refuse(f"https://host:9000/x?{query}")
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("memory://a@b/c:d", "memory://host:9000/a@b", "memory://host:9000/", "file:///a:b@c"),
        *("memory://b/a?version=3&part=token", "memory://b/a&key=1"),
    ],
)
def test_a_url_without_a_password_is_taken(url: str) -> None:
    Store(url)


def test_links_lead_nowhere(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    publish(store, KEYS[0], tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "manifest.json").write_text("secret")
    (tmp_path / "store" / "train" / KEYS[1]).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "store" / "runs").symlink_to(tmp_path / "elsewhere")
    for deed in (lambda: store.find("train", KEYS[1]), lambda: publish(store, KEYS[1], tmp_path), lambda: store.write("runs/x", b"x")):
        with pytest.raises(UserError, match="no symbolic links"):
            deed()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["manifest.json"]
