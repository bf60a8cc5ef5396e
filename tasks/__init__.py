"""Prefect tasks: thin adapters between the flow and `spnas_core`."""

import logging

_log = logging.getLogger("spnas_core")
if _log.level == logging.NOTSET:  # Prefect leaves extra loggers so: their lines would not be seen
    _log.setLevel(logging.INFO)
