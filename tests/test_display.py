"""What standard error shows of a run."""

import importlib
import logging
from collections.abc import Iterator

import pytest

import tasks

LOG = logging.getLogger("spnas_core")


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    before = LOG.level
    yield
    LOG.setLevel(before)


@pytest.mark.parametrize(("before", "after"), [(logging.NOTSET, logging.INFO), (logging.DEBUG, logging.DEBUG)])
def test_the_flow_that_is_loaded_leaves_the_bars_their_single_steps(before: int, after: int) -> None:
    """The bars of a terminal ask for the level before the flow is loaded."""
    LOG.setLevel(before)
    importlib.reload(tasks)
    assert LOG.level == after
