"""Prefect tasks: thin adapters between the flow and `spnas_core`."""

import logging

logging.getLogger("spnas_core").setLevel(logging.INFO)  # Prefect leaves extra loggers at NOTSET: their lines would not be seen
