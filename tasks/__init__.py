"""Prefect tasks: thin adapters between the flows and `spnas_core`."""

import logging

_log = logging.getLogger("spnas_core")
if _log.level == logging.NOTSET:  # Prefect does not set the level of extra loggers, so their INFO lines would be lost
    _log.setLevel(logging.INFO)
