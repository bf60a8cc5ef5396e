"""How often a failed job is started again, and where Prefect keeps results: without any server."""

from pathlib import Path

import pytest

from spnas_core.errors import JobError, MissingArtifactError, StoreError, UserError
from spnas_core.settings.run import Retries
from tasks.jobs import is_tried_again
from tasks.results import artifact_key, result_storage


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (JobError("killed", ""), 2),
        (JobError("crashed", ""), 1),
        (JobError("timeout", ""), 0),
        (JobError("out_of_memory", ""), 0),
        (JobError("diverged", ""), 0),
        (StoreError("store x: no answer"), 2),
        (UserError("wrong"), 0),
        (MissingArtifactError("gone"), 0),
        (ValueError("a bug"), 0),
    ],
)
def test_how_often_a_job_is_started_again(error: Exception, again: int) -> None:
    """As often as the settings say, by how it failed at last; a mistake or a bug never."""
    assert [is_tried_again(Retries(), attempts, error) for attempts in (1, 2, 3)] == [attempts <= again for attempts in (1, 2, 3)]
    if isinstance(error, JobError):
        assert is_tried_again(Retries(**{error.reason: 5}), 5, error)
        assert not is_tried_again(Retries(**{error.reason: 0}), 1, error)


def test_keys_and_places_of_results(tmp_path: Path) -> None:
    assert artifact_key(None, {"key": "train/abc", "job": 1}) == "cache/train/abc"
    assert result_storage(tmp_path.as_uri()) == tmp_path / "results"
