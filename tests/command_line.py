"""The command `spnas`, in this process and in one of its own."""

import sys

from typer.testing import CliRunner

from flows.cli.app import app

SPNAS = [sys.executable, "-m", "flows.cli.app"]  # in a process of its own


def spnas(*words: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `spnas` with `words`, in this process."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr
