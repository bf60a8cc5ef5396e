import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_core import job as jobs
from spnas_core.errors import MissingArtifactError, UserError
from spnas_core.job import Data, TrainJob
from spnas_core.names import check_name, check_path
from spnas_core.settings import Detector, Recipe
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


def test_many_publishers_at_once_leave_one_whole_artifact(tmp_path: Path, folder: Path) -> None:
    store = Store(str(tmp_path / "store"))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: found.append(store.publish(job(), folder, {"n": n}, 1.0))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = store.find("train", jobs.digest(job()))
    assert len(found) == 8
    assert all(manifest == there for manifest in found)
    assert not [p for p in (tmp_path / "store" / "train").iterdir() if p.name.startswith(".")]


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
    checkpoints.drop()
    assert Storage(store.url).folders(f"checkpoints/train/{key}") == []


def test_a_path_and_its_url_are_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("store").url == Store(f"file://{tmp_path}/store/").url == f"file://{tmp_path}/store"
