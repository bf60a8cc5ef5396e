import contextlib
import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_core import job as jobs
from spnas_core.errors import MissingArtifactError, UserError
from spnas_core.job import Data, TrainJob
from spnas_core.names import check_name, check_path
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe
from spnas_core.store.artifacts import Store
from spnas_core.store.storage import Storage


def job(seed: int = 0) -> TrainJob:
    data = Data(url="file:///somewhere", fingerprint="f" * 8)
    return TrainJob(arch="b_11-21-21-21", detector=Detector(), recipe=Recipe(), data=data, seed=seed)


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Store:
    return Store(store_url, cache=tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    (out / "weights.safetensors").write_bytes(b"w" * 1000)
    (out / "history.json").write_text("[]")
    return out


def test_publish_then_find_then_fetch(store: Store, folder: Path) -> None:
    key = jobs.digest(job())
    assert store.find("train", key) is None
    made = store.publish(job(), folder, {"AP": 0.5}, 1.23)
    assert store.find("train", key) == made
    assert (made.kind, made.digest, made.metrics, made.seconds) == ("train", key, {"AP": 0.5}, 1.23)
    assert TrainJob.model_validate(made.job) == job()
    assert set(made.files) == {"weights.safetensors", "history.json"}
    assert {"mindspore", "numpy", "python"} <= set(made.versions)
    assert store.fetch("train", key, "weights.safetensors").read_bytes() == b"w" * 1000
    assert store.fetch("train", key, "weights.safetensors").read_bytes() == b"w" * 1000


def test_the_first_of_two_publishers_stays(store: Store, folder: Path) -> None:
    first = store.publish(job(), folder, {"AP": 0.5}, 1.0)
    (folder / "history.json").write_text("[1]")
    assert store.publish(job(), folder, {"AP": 0.6}, 2.0) == first


@pytest.mark.parametrize("place", ["local", pytest.param("s3", marks=pytest.mark.training)])
def test_many_publishers_at_once_leave_one_whole_artifact(
    place: str, request: pytest.FixtureRequest, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have looked, and found nothing, before any of them writes."""
    url = str(tmp_path / "store") if place == "local" else f"{request.getfixturevalue('s3_url')}/{uuid.uuid4().hex}"
    found, together, put = [], threading.Barrier(8), Storage.put_folder
    here = threading.local()

    def put_together(self: Storage, *parts: Any) -> bool:
        if not hasattr(here, "waited"):
            here.waited = together.wait(60)
        return put(self, *parts)

    monkeypatch.setattr(Storage, "put_folder", put_together)
    threads = [threading.Thread(target=lambda n=n: found.append(Store(url).publish(job(), folder, {"n": n}, 1.0))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store(url, tmp_path / "cache")
    there = store.find("train", jobs.digest(job()))
    assert len(found) == 8
    assert all(manifest == there for manifest in found)
    assert store.fetch("train", jobs.digest(job()), "weights.safetensors").read_bytes() == b"w" * 1000
    assert {path.split("/")[0] for path in store.files()} == {"train"}
    assert not [path for path in store.files() if "partial" in path]


def test_bytes_that_changed_take_the_artifact_aside(store: Store, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = jobs.digest(job())
    store.publish(job(), folder, {}, 1.0)
    Storage(store.url).write(f"train/{key}/weights.safetensors", b"x" * 1000)
    with pytest.raises(MissingArtifactError, match="corrupt"):
        store.fetch("train", key, "weights.safetensors")
    assert "set aside" in caplog.text
    assert key in caplog.text
    assert store.find("train", key) is None
    assert Storage(store.url).read(f"aside/train/{key}.0/weights.safetensors") == b"x" * 1000
    store.publish(job(), folder, {}, 1.0)
    assert store.fetch("train", key, "weights.safetensors").read_bytes() == b"w" * 1000


@pytest.mark.parametrize("fault", ["missing", "short", "torn manifest", "other manifest", "name", "nan"])
def test_a_corrupt_artifact_is_missing_and_set_aside(store: Store, folder: Path, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    key = jobs.digest(job())
    storage = Storage(store.url)
    store.publish(job(), folder, {}, 1.0)
    path = f"train/{key}/manifest.json"
    text = storage.read(path)
    if fault == "missing":
        storage.remove(f"train/{key}/history.json")
    elif fault == "short":
        storage.write(f"train/{key}/weights.safetensors", b"w")
    elif fault == "torn manifest":
        storage.write(path, text[:-20])
    elif fault == "other manifest":
        storage.write(path, text.replace(key.encode(), b"0" * 64))
    elif fault == "name":
        storage.write(path, text.replace(b"history.json", b"../../../secret"))
    else:
        storage.write(path, text.replace(b'"seconds":1.0', b'"seconds":NaN'))
    assert store.find("train", key) is None
    assert "set aside" in caplog.text
    assert storage.read(f"aside/train/{key}.0/manifest.json")


@pytest.mark.parametrize("fault", ["short", "bytes"])
def test_many_who_find_the_same_corrupt_artifact_set_it_aside_once(tmp_path: Path, folder: Path, fault: str) -> None:
    """And none of them touches what another has computed anew meanwhile."""
    store, key, together = Store(str(tmp_path / "store")), jobs.digest(job()), threading.Barrier(8)

    def use(_: int) -> None:
        together.wait(60)
        if fault == "short":
            store.find("train", key)
        else:
            with contextlib.suppress(MissingArtifactError):
                store.fetch("train", key, "weights.safetensors")
        store.publish(job(), folder, {}, 1.0)
        store.fetch("train", key, "weights.safetensors")

    for number in range(8):
        store.publish(job(), folder, {}, 1.0)
        (tmp_path / "store" / "train" / key / "weights.safetensors").write_bytes(b"x" * (1 if fault == "short" else 1000))
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(use, range(8))) == [None] * 8
        assert len(list((tmp_path / "store" / "aside" / "train").iterdir())) == number + 1


@pytest.mark.parametrize("fault", ["short", "bytes"])
def test_who_is_late_leaves_what_was_computed_anew(store: Store, folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key, late = jobs.digest(job()), Store(store.url, cache=folder.parent / "other")
    store.publish(job(), folder, {}, 1.0)
    Storage(store.url).write(f"train/{key}/weights.safetensors", b"x" * (1 if fault == "short" else 1000))
    sizes = Storage.sizes

    def overtaken(self: Storage, path: str) -> dict[str, int]:
        if self is late._storage and path.startswith("aside/") and not sizes(self, path):
            monkeypatch.undo()
            store.set_aside("train", key, "another has found it")
            store.publish(job(), folder, {}, 1.0)
        return sizes(self, path)

    monkeypatch.setattr(Storage, "sizes", overtaken)
    with pytest.raises(MissingArtifactError):
        late.fetch("train", key, "weights.safetensors")
    assert Storage.sizes is sizes
    assert store.fetch("train", key, "weights.safetensors").read_bytes() == b"w" * 1000


def test_what_vanishes_while_it_is_fetched_is_missing(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, find = jobs.digest(job()), Store.find
    store.publish(job(), folder, {}, 1.0)

    def gone(self: Store, kind: str, digest: str) -> Any:
        found = find(self, kind, digest)
        self.remove(f"{kind}/{digest}")
        return found

    monkeypatch.setattr(Store, "find", gone)
    with pytest.raises(MissingArtifactError, match="found none"):
        store.fetch("train", key, "weights.safetensors")


def test_a_flipped_digit_in_a_manifest_is_found(store: Store, folder: Path) -> None:
    key, storage = jobs.digest(job()), Storage(store.url)
    path = f"train/{key}/manifest.json"
    store.publish(job(), folder, {"AP": 0.51}, 1.0)
    text = storage.read(path)
    for old, new in ((b'"AP":0.51', b'"AP":0.91'), (b'"seed":0', b'"seed":1'), (b'"seconds":1.0', b'"seconds":7.0')):
        assert old in text
        storage.write(path, text.replace(old, new))
        assert store.manifest(f"train/{key}") == "its manifest has another sha256"
    assert store.find("train", key) is None
    assert store.publish(job(), folder, {"AP": 0.51}, 1.0) == store.find("train", key)


def test_a_manifest_that_was_written_without_a_sha256_of_its_own_is_read(store: Store, folder: Path) -> None:
    key, storage = jobs.digest(job()), Storage(store.url)
    made = store.publish(job(), folder, {"AP": 0.51}, 1.0)
    document = json.loads(storage.read(f"train/{key}/manifest.json"))
    assert document.pop("sha256")
    storage.write(f"train/{key}/manifest.json", json.dumps(document).encode())
    assert store.find("train", key) == made.model_copy(update={"sha256": None})
    assert store.fetch("train", key, "weights.safetensors").read_bytes() == b"w" * 1000


def test_the_first_manifest_of_a_folder_stays(store_url: str, folder: Path) -> None:
    """Also where both have looked before either wrote."""
    storage = Storage(store_url)
    put = [storage.put_folder("train/x", folder, ["history.json"], text) for text in (b"first", b"second")]
    assert put == [True, False]
    assert storage.read("train/x/manifest.json") == b"first"


def test_a_half_written_artifact_is_missing_and_set_aside_by_the_next_writer(store: Store, folder: Path) -> None:
    key = jobs.digest(job())
    Storage(store.url).write(f"train/{key}/weights.safetensors", b"half")
    assert store.find("train", key) is None
    with pytest.raises(MissingArtifactError):
        store.fetch("train", key, "weights.safetensors")
    store.publish(job(), folder, {}, 1.0)
    assert store.find("train", key)
    assert Storage(store.url).read(f"aside/train/{key}.0/weights.safetensors") == b"half"


def test_links_are_no_files(tmp_path: Path, folder: Path) -> None:
    store = Store(str(tmp_path / "store"))
    (tmp_path / "secret").write_bytes(b"w" * 1000)
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="link"):
        store.publish(job(), folder, {}, 1.0)
    (folder / "link").unlink()
    store.publish(job(), folder, {}, 1.0)
    place = tmp_path / "store" / "train" / jobs.digest(job()) / "weights.safetensors"
    place.unlink()
    place.symlink_to(tmp_path / "secret")
    assert store.find("train", jobs.digest(job())) is None


def test_the_cached_copy_of_a_remote_file_is_verified(tmp_path: Path, folder: Path) -> None:
    store = Store(f"memory://{tmp_path.name}", cache=tmp_path / "cache")
    manifest = store.publish(job(), folder, {}, 1.0)
    path = store.fetch("train", manifest.digest, "history.json")
    assert path.is_relative_to(tmp_path / "cache")
    path.write_text("poison")
    assert store.fetch("train", manifest.digest, "history.json").read_text() == "[]"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "", ".", "..", ".hidden", "a\\b", "a\0b", "a\n", "é", "x" * 300])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="name in the store"):
        check_name(name)


@given(st.text(max_size=30))
def test_no_accepted_path_leaves_its_root(text: str) -> None:
    try:
        check_path(text)
    except UserError:
        return
    assert Path("/root", text).resolve().is_relative_to("/root")
    assert "//" not in text


@pytest.mark.parametrize("url", ["/dev/null/store", "file:///proc/spnas", "nonsense://x"])
def test_a_place_that_cannot_be_written_is_a_users_mistake(url: str) -> None:
    with pytest.raises(UserError, match="store"):
        Store(url).writable()


def test_a_place_that_can_be_written_stays_empty(store: Store) -> None:
    store.writable()
    assert store.find("train", "0" * 64) is None
    if store.local:
        assert list(store.local.iterdir()) == []


def test_the_newest_whole_checkpoint_wins(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key, folder = "a" * 64, tmp_path / "resume"
    checkpoints = store.checkpoints("train", key)
    assert not checkpoints.load(folder)
    for step in range(4):
        (folder / "checkpoint.safetensors").write_bytes(bytes([step]) * 10)
        (folder / "checkpoint.json").write_text(json.dumps(step))
        checkpoints.save(folder)
    assert Storage(store.url).folders(f"checkpoints/train/{key}") == ["000002", "000003"]

    def loaded(name: str) -> str:
        assert checkpoints.load(tmp_path / name)
        return (tmp_path / name / "checkpoint.json").read_text()

    assert loaded("one") == "3"
    Storage(store.url).write(f"checkpoints/train/{key}/000003/checkpoint.safetensors", b"y" * 10)
    assert loaded("two") == "2"
    assert "passed over" in caplog.text
    Storage(store.url).remove(f"checkpoints/train/{key}/000002/manifest.json")
    assert not checkpoints.load(tmp_path / "three")
    Storage(store.url).write(f"checkpoints/train/{key}/mine/notes.txt", b"x")  # no checkpoint
    checkpoints.save(tmp_path / "two")
    assert loaded("four") == "2"
    checkpoints.drop()
    assert Storage(store.url).folders(f"checkpoints/train/{key}") == []


def test_a_path_and_its_url_are_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("store").url == Store(f"file://{tmp_path}/store/").url == f"file://{tmp_path}/store"
