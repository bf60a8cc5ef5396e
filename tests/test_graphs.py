"""Folders of compiled graphs: their names, and which of them stay."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from spnas_core.job import Data, EvaluateJob, ReigniteJob, TrainJob, Weights
from spnas_core.jobs import graphs
from spnas_core.settings.detector import Detector
from spnas_core.settings.training import Recipe, Reignite

PARENT = Weights(kind="train", digest="0" * 64, arch="b_1111-1111")
COMMON: dict[str, Any] = {"arch": "b_1111-2111", "detector": Detector(), "data": Data(url="here", fingerprint="f"), "weights": (PARENT,)}
TRAIN = TrainJob(recipe=Recipe(), **COMMON)
FROZEN = TrainJob(recipe=Recipe(), **{**COMMON, "detector": Detector(norm="frozen")})
REIGNITE = ReigniteJob(recipe=Reignite(), **COMMON)
EVALUATE = EvaluateJob(split="val", **COMMON)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPNAS_CACHE", str(tmp_path))
    return tmp_path / "graphs"


@pytest.mark.parametrize(
    ("job", "same"),
    [
        (TRAIN, {"seed": 1, "recipe": Recipe(lr=0.1, epochs=9, flip=False), "data": Data(url="there", fingerprint="f")}),
        (TRAIN, {"weights": (PARENT.model_copy(update={"digest": "1" * 64}),)}),
        (TRAIN, {"weights": ()}),
        (TRAIN, {"weights": (), "checkpoint": "resnet.pth"}),
        (TRAIN, {"weights": (PARENT.model_copy(update={"arch": "b_1111-111"}),)}),
        (FROZEN, {"weights": (PARENT.model_copy(update={"digest": "1" * 64}),)}),
        (FROZEN.model_copy(update={"weights": (), "checkpoint": "a.pth"}), {"checkpoint": "b.pth"}),
        (REIGNITE, {"recipe": Reignite(lr=1.0, mixup=0.0)}),
        (EVALUATE, {"split": "test"}),
    ],
)
def test_jobs_that_share_their_graphs(job: Any, same: dict[str, Any]) -> None:
    assert graphs.key(job) == graphs.key(job.model_copy(update=same))


def test_jobs_that_do_not() -> None:
    changes: list[dict[str, Any]] = [
        {"arch": "b_1111-1211"},
        {"recipe": Recipe(batch=3)},
        {"recipe": Recipe(weight_decay=0.0)},
        {"recipe": Recipe(freeze_inherited=True)},
        {"detector": Detector(score_threshold=0.01)},
        {"data": Data(url="here", fingerprint="g")},
    ]
    origins: list[dict[str, Any]] = [
        {"weights": ()},
        {"weights": (), "checkpoint": "resnet.pth"},
        {"weights": (PARENT.model_copy(update={"arch": "b_1111-111"}),)},
    ]  # new tensors are trained even where others are frozen
    jobs = [TRAIN, REIGNITE, EVALUATE, FROZEN, *(TRAIN.model_copy(update=change) for change in changes)]
    jobs += [FROZEN.model_copy(update=change) for change in origins]
    both = [job.model_copy(update={"device_target": target}) for job in jobs for target in ("CPU", "Ascend")]
    assert len({graphs.key(job) for job in both} | {graphs.key(TRAIN, 2)}) == 2 * len(jobs) + 1


def test_a_change_of_any_module_of_the_core_is_another_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(graphs.SOURCE, tmp_path / "spnas_core")
    monkeypatch.setattr(graphs, "SOURCE", copy)
    keys = set()
    for name in ("", "arch.py", "models/backbone.py", "jobs/train.py"):
        if name:
            (copy / name).write_text((copy / name).read_text() + "\n")
        graphs._source.cache_clear()
        keys.add(graphs.key(TRAIN))
    graphs._source.cache_clear()
    assert len(keys) == 4


def test_the_graphs_used_last_stay(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_KEPT", 2)
    for number, name in enumerate("abc"):
        folder = tmp_path / f"job-{name}"
        graphs.borrow(name, folder)
        assert list(folder.iterdir()) == []
        (folder / "graph").write_text(name)
        graphs.keep(name, folder)
        os.utime(place / name, (number, number))
        if name == "b":
            graphs.borrow("a", tmp_path / "again")
            assert (tmp_path / "again" / "graph").read_text() == "a"
    assert {path.name for path in place.iterdir()} == {"a", "c"}
    graphs.keep("c", tmp_path / "job-a")
    assert (place / "c" / "graph").read_text() == "c"


def test_a_folder_with_more_graphs_replaces_one_with_fewer(tmp_path: Path, place: Path) -> None:
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / str(number)).write_text(str(count))
        graphs.keep("a", folder)
        assert {path.name: path.read_text() for path in (place / "a").iterdir()} == {str(number): str(count) for number in range(count)}
    assert [path.name for path in place.iterdir()] == ["a"]


def test_a_cache_that_fails_costs_no_job(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that is replaced while it is copied, one that another job drops, a full disk, a home that cannot be written."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "graph").write_text("x")
    graphs.keep("a", folder)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def replaced(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "half").write_text("x")
        raise shutil.Error([(str(source / "graph"), str(target / "graph"), "no such file")])

    for name, broken in (
        ("shutil.copytree", replaced),
        ("shutil.copytree", fail),
        ("Path.iterdir", fail),
        ("Path.rglob", fail),
        ("Path.mkdir", fail),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"spnas_core.jobs.graphs.{name}", broken)
            caplog.clear()
            graphs.keep("b", folder)
            assert "graphs are not kept" in caplog.text
            if name == "shutil.copytree":
                graphs.borrow("a", taken := tmp_path / f"{broken.__name__}")
                assert list(taken.iterdir()) == []
                assert "graphs are not taken" in caplog.text
        assert not [path for path in place.iterdir() if path.name.startswith(".")]
    monkeypatch.setenv("SPNAS_CACHE", "/dev/null/cache")
    graphs.keep("c", folder)
    graphs.borrow("c", tmp_path / "taken")
    assert list((tmp_path / "taken").iterdir()) == []
