"""Records that the version of 27 November 2026 (05e37c1) left of a real run of the smoke preset: this version reads them as its own.

Their trials have an architecture, taps and a stem where those of now have a net, and neither weights nor score; their settings have the
former keys of a detector.
"""

import json
import shutil
from pathlib import Path

import pytest

from spnas_core.errors import UserError
from spnas_core.monitor.inventory import take_inventory
from spnas_core.run.record import StageRecord, read_stage
from spnas_core.run.register import plan_of, read_run
from spnas_core.settings.run import STAGE_NAMES
from spnas_core.store.artifacts import Store

OLD = Path(__file__).with_name("old_store")
KEYS = json.loads((OLD / "runs/smoke/stages.json").read_text())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(shutil.copytree(OLD, tmp_path / "store")))


def test_the_keys_of_the_stages_are_those_of_before(store: Store) -> None:
    assert plan_of(read_run(store, "smoke"), store).keys == KEYS


def test_the_trials_have_nets_weights_and_scores(store: Store) -> None:
    ledger = read_stage(store, KEYS["full_train"]).ledger
    written = json.loads((OLD / f"stage/{KEYS['full_train']}/stage.json").read_text())["ledger"]
    assert [one.arch for one in ledger] == [one["arch"] for one in written]
    assert [str(one.net).split("+")[1:] for one in ledger] == [["fpn8", "7x7", "faster_rcnn"]] * 3 + [["fpn8(1-1)", "3x3", "faster_rcnn"]]
    assert [one.score for one in ledger] == [one["metrics"]["AP"] for one in written]
    for one in ledger:
        assert one.weights
        assert (one.weights.kind, one.weights.digest, one.weights.arch) == ("train", one.digest, one.arch)


def test_a_record_written_again_is_read_as_the_same(store: Store) -> None:
    record = read_stage(store, KEYS["full_train"])
    assert StageRecord.model_validate_json(record.model_dump_json()) == record


def test_the_inventory_knows_what_the_stages_name(store: Store) -> None:
    named = take_inventory(store).runs["smoke"]
    assert named.keys() == set(STAGE_NAMES)
    assert {f"train/{one.digest}" for one in read_stage(store, KEYS["full_train"]).ledger} <= named["full_train"]


def test_a_corrupt_record_is_told_by_its_sum(store: Store) -> None:
    path = f"stage/{KEYS['full_train']}/stage.json"
    store.write(path, store.read(path).replace(b'"AP":', b'"Ap":'))
    assert "full_train" not in take_inventory(store).runs["smoke"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'{"ledger": 3}',
        b'{"ledger": [{"arch": "b_2"}]}',
        b'{"ledger": [{"arch": 5}]}',
        b'{"ledger": [{"arch": "b_1", "digest": "d", "metrics": []}]}',
    ],
)
def test_what_is_no_record_is_one_line(content: bytes, store: Store, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "stage.json").write_bytes(content)
    manifest = json.loads((OLD / f"stage/{KEYS['serial']}/manifest.json").read_text())
    store.publish_record("stage", "a" * 64, manifest["job"], tmp_path / "broken", {}, 1.0)
    with pytest.raises(UserError) as caught:
        read_stage(store, "a" * 64)
    assert "\n" not in str(caught.value)
